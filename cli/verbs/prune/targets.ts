// How small the model is to become, as options: a share, parameters or bytes of a file. Owns their words; refuses to meet them.
import { CompressoError } from "../../../lib/core/errors.ts";
import { openSpec } from "../../../lib/disk/open_model.ts";
import { openSchedule } from "../../../lib/schedule/host.ts";
import { isScript } from "../../../lib/schedule/open.ts";
import { endSparsity } from "../../../lib/schedule/target.ts";
import type { Layout } from "../../../lib/units/layout.ts";
import { fallsByGroup } from "../../../lib/units/uniform.ts";
import type { DecoderSpec } from "../../../lib/spec/decoder.ts";
import type { PruneOptions, ResolvedOptions } from "../../../lib/run/options/options.ts";
import { checkSizeLayout, type SizeResult } from "../../../lib/run/size_goal.ts";
import type { DTYPES, GGUF_DTYPES } from "../../../lib/slice/export_options.ts";
import { formatCount } from "../../terminal/output.ts";

/** Words of `--target-file`. */
export const TARGET_FILES = ["hf", "gguf"] as const;

/** Options as parsed. */
export interface TargetSettings {
  readonly sparsity?: number | undefined;
  readonly targetParams?: number | undefined;
  readonly targetBytes?: number | undefined;
  readonly targetFile?: typeof TARGET_FILES[number] | undefined;
  readonly layout: Layout;
  readonly dtype: typeof DTYPES[number];
  readonly ggufDtype: typeof GGUF_DTYPES[number];
}

/**
 * What to know of a share that single heads are to make where groups of them share K and V: slicing writes a layer's groups in one size, the cheapest.
 * Null where heads do not fall one by one, or the goal is a size, which counts what is written.
 */
export function headsLine(
  spec: Pick<DecoderSpec, "layers">,
  options: Pick<ResolvedOptions, "units" | "size" | "layout">,
): string | null {
  const { units, size, layout } = options;
  const isShared = spec.layers.some(({ heads, kvHeads }) => kvHeads > 1 && heads > kvHeads);
  if (!isShared || !units.includes("heads") || size !== null || fallsByGroup(spec, options)) return null;
  const bySize = layout === "padded" ? "" : ", --target-params counts what is written";
  return "heads share K and V here: a layer's groups are written in one size, with heads of zeros in those that have fewer, so that files may keep " +
    `more than the sparsity says (--units kv in place of heads cuts whole groups${bySize})`;
}

/**
 * The settings with the sparsity at which their schedule ends, where a script is given and no target.
 *
 * @throws CompressoError("usage") where the script sets no sparsity, or follows the target of the run
 */
export async function withScheduleTarget<
  Settings extends TargetSettings & {
    readonly schedule?: string | undefined;
    readonly trust?: boolean | undefined;
    readonly steps: number;
  },
>(model: string, settings: Settings): Promise<Settings> {
  const { sparsity, targetParams, targetBytes, schedule: source, trust = false, steps } = settings;
  const isGiven = [sparsity, targetParams, targetBytes].some((value) => value !== undefined);
  if (isGiven || source === undefined || !isScript(source)) return settings;
  const { layers } = await openSpec(model);
  await using schedule = await openSchedule(source, { trust });
  return { ...settings, sparsity: await endSparsity(schedule, { steps, layers: layers.length }) };
}

/**
 * The run's goal. `name` is that of the model within a GGUF. Throws `CompressoError("usage")` unless exactly one is given, and for a size with
 * the layout padded.
 */
export function goalOf(
  { sparsity, targetParams, targetBytes, targetFile, layout, dtype, ggufDtype }: TargetSettings,
  { name }: { readonly name: string },
): Pick<PruneOptions, "sparsity" | "size"> {
  const given = [sparsity, targetParams, targetBytes].filter((value) => value !== undefined).length;
  if (given === 0) {
    throw new CompressoError("usage", {
      what: "cannot start without --sparsity",
      rule: "--sparsity, --target-params, --target-bytes or a schedule script that sets the sparsity is required",
      value: "none was given",
    });
  }
  if (given > 1) {
    throw new CompressoError("usage", {
      what: "cannot use these options together",
      rule: "one of --sparsity, --target-params and --target-bytes",
      value: `${given} were given`,
      fix: "leave all but one out",
    });
  }
  if (targetFile !== undefined && targetBytes === undefined) {
    throw new CompressoError("usage", {
      what: "cannot use --target-file",
      rule: "it says whose bytes --target-bytes are",
      fix: "leave it out",
      value: "no --target-bytes",
    });
  }
  if (sparsity !== undefined) return { sparsity };
  checkSizeLayout(layout);
  if (targetParams !== undefined) return { size: { parameters: targetParams } };
  const isGguf = targetFile === "gguf";
  return {
    size: isGguf
      ? { bytes: targetBytes ?? 0, file: { format: "gguf", dtype: ggufDtype }, name }
      : { bytes: targetBytes ?? 0, file: { format: "hf", dtype } },
  };
}

/** A size for the report. */
export function sizeLine({ unit, wanted, reached, file }: SizeResult): string {
  const where = file === null
    ? ""
    : ` in ${file.format === "hf" ? "model/*.safetensors" : "model.gguf"}, ${file.dtype}`;
  return `${formatCount(reached)} ${unit}${where}, wanted at most ${formatCount(wanted)}`;
}
