// The error of a run whose memory runs out, with what would fit.
import { CompressoError, option } from "../../core/errors.ts";
import type { Device } from "../../gpu/device.ts";
import type { MemoryShortage } from "../../gpu/shortage.ts";
import { adviceWords, adviseMemory, mebibytes, type MemoryAdvice, roomWords } from "../memory/advice.ts";
import type { ResolvedOptions } from "../options/options.ts";
import { type Allocated, memoryOptionsOf } from "../allocate.ts";

const HOW: Readonly<Record<MemoryShortage, string>> = {
  limit: "the limit does not allow what the run asks for",
  adapter: "the adapter has no more",
  lost: "the device is lost, which often is for want of memory",
};

/** An error of the GPU as what would fit, if memory is what ran out, watched or not; any other error as it is. */
export async function asShortage(
  error: unknown,
  { model, steerer, options, isSaved, step, plannedBytes, otherBytes }:
    & Pick<Allocated, "model" | "steerer" | "plannedBytes" | "otherBytes">
    & {
      readonly options: ResolvedOptions;
      /** Whether a checkpoint has the last good state. */
      readonly isSaved: boolean;
      readonly step: number;
    },
): Promise<unknown> {
  const { device } = model, { bytes } = device;
  if (!(error instanceof CompressoError) || error.code !== "gpu") return error;
  const shortage = device.shortageOf(error);
  if (shortage === null) return error;
  return new CompressoError("gpu", {
    what: `cannot go on after step ${step}`,
    rule: options.monitors.memory === null ? "a run fits the memory" : "the monitor 'memory' raises no alarm",
    value: `memory ran out: ${HOW[shortage]}; ${mebibytes(bytes)} are in use, ${
      mebibytes(plannedBytes)
    } were planned (${error.parts.what}${error.parts.value ? `: ${error.parts.value}` : ""})`,
    fix: await fixOf(device, {
      adviseFor: (memoryLimit) => adviseMemory(model.spec, memoryOptionsOf(model, options, steerer), { memoryLimit }),
      ownBytes: plannedBytes - otherBytes,
      otherBytes,
      shortage,
      isSaved,
    }),
  }, { cause: error });
}

/**
 * What leaves room: for all other things on the device under its limit, else for half of what was planned for the run itself, `ownBytes`. A run that was
 * saved goes on with its own options alone, but for `recompute`, which changes no bit.
 */
async function fixOf(
  { bytes, memoryLimit }: Device,
  { adviseFor, ownBytes, otherBytes, shortage, isSaved }: {
    readonly adviseFor: (memoryLimit: number) => ReturnType<typeof adviseMemory>;
    readonly ownBytes: number;
    readonly otherBytes: number;
    readonly shortage: MemoryShortage;
    readonly isSaved: boolean;
  },
): Promise<string> {
  const others = Math.max(otherBytes, bytes - ownBytes), isLimit = shortage === "limit";
  const room = Number.isFinite(memoryLimit) ? memoryLimit - others : ownBytes / 2;
  const advice = room > 0 ? await adviseFor(room) : [];
  const isFree = ({ options }: MemoryAdvice): boolean => Object.keys(options).every((name) => name === "recompute");
  const ways = [
    ...roomWords({ otherBytes: others, isLimit }),
    ...(isSaved ? advice.filter(isFree).map((one) => adviceWords([one], { isLimit })) : []),
  ];
  if (!isSaved) return [...ways, adviceWords(advice, { isLimit })].join(", or ");
  const goOn = ways.length > 0
    ? `${ways.join(" or ")}, and continue (${option("resume")})`
    : `continue (${option("resume")}) once more is free`;
  const anew = advice.filter((one) => !isFree(one));
  // What suffices beside the same options needs no other model.
  if (anew.length === 0 && advice.length > 0) return goOn;
  return `${goOn}; or start anew (${option("export.replace")}) and ${adviceWords(anew, { isLimit })}`;
}
