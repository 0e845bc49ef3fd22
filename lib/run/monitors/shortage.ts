// The error of a run that ran out of memory, with advice on what would fit.
import { CompressoError, option, refusal } from "../../core/errors.ts";
import type { Device } from "../../gpu/device.ts";
import type { MemoryShortage } from "../../gpu/shortage.ts";
import { adviceWords, adviseMemory, mebibytes, type MemoryAdvice, roomWords } from "../memory/advice.ts";
import type { ResolvedOptions } from "../options/options.ts";
import { type Allocated, plannedOptions } from "../allocate.ts";

const HOW: Readonly<Record<MemoryShortage, string>> = {
  limit: "the limit does not allow what the run asks for",
  adapter: "the adapter has no more",
  lost: "the device is lost, which often is for want of memory",
};

/**
 * Turns a GPU error caused by a lack of memory, monitored or not, into an error that says what would fit; returns other
 * errors unchanged.
 */
export async function asShortage(
  error: unknown,
  { model, steerer, options, isSaved, step, plannedBytes, otherBytes }:
    & Pick<Allocated, "model" | "steerer" | "plannedBytes" | "otherBytes">
    & {
      readonly options: ResolvedOptions;
      /** Whether a checkpoint holds the last good state. */
      readonly isSaved: boolean;
      readonly step: number;
    },
): Promise<unknown> {
  const { device } = model, { bytes } = device;
  if (!(error instanceof CompressoError) || error.code !== "gpu") return error;
  const shortage = device.shortageOf(error);
  if (shortage === null) return error;
  const { what, value } = error.partsAs(option);
  return refusal("gpu", `cannot continue after step ${step}`, {
    rule: options.monitors.memory === null ? "a run fits the memory" : "the monitor 'memory' raises no alarm",
    value: `memory ran out: ${HOW[shortage]}; ${mebibytes(bytes)} are in use, ${
      mebibytes(plannedBytes)
    } were planned (${what}${value ? `: ${value}` : ""})`,
    fix: await fixOf(device, {
      adviseFor: (memoryLimit) => adviseMemory(model.spec, plannedOptions(model, options, steerer), { memoryLimit }),
      ownBytes: plannedBytes - otherBytes,
      otherBytes,
      shortage,
      isSaved,
    }),
    cause: error,
  });
}

/**
 * Finds options that need less memory. The budget is what other uses of the device leave of its limit or, without a
 * limit, half of the run's planned `ownBytes`. A run that was saved can only change `recompute`, which changes no bit.
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
  const changes = advice.filter((one) => !isFree(one));
  // If the same options fit, no other model is needed.
  if (changes.length === 0 && advice.length > 0) return goOn;
  return `${goOn}; or start over (${option("export.replace")}) and ${adviceWords(changes, { isLimit })}`;
}
