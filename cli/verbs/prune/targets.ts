// The target of a run from its flags: a sparsity, parameters, bytes of a file, or the last target of a schedule.
import { option, refuse } from "../../../lib/core/errors.ts";
import { keepsLayers } from "../../../lib/units/kinds/all.ts";
import { OPTION_TABLE } from "../../../lib/run/options/table.ts";
import { checkTogether } from "../../../lib/run/options/check.ts";
import { lookAt, openSpec } from "../../../lib/local/open_model.ts";
import { openWeights } from "../../../lib/formats/open.ts";
import { ggufDtypeFor } from "../../../lib/slice/export_options.ts";
import { openSchedule } from "../../../lib/schedule/host.ts";
import { isScript } from "../../../lib/schedule/open.ts";
import { endSparsity } from "../../../lib/schedule/target.ts";
import { fallsByGroup } from "../../../lib/units/uniform.ts";
import type { DecoderSpec } from "../../../lib/spec/decoder.ts";
import type { ResolvedOptions, Target } from "../../../lib/run/options/options.ts";
import { checkSizeLayout, type SizeResult } from "../../../lib/run/size_goal.ts";
import { pruneOptionsOf, type TableFlags } from "../../options/table_flags.ts";
import { formatCount } from "../../terminal/output.ts";

/**
 * A note on a sparsity from single heads where groups of heads share K and V: slicing writes all groups of a layer with
 * one size, the cheapest. Null if heads are not cut singly, or the target is a size, which counts what is written.
 */
export function headsLine(
  spec: Pick<DecoderSpec, "layers">,
  options: Pick<ResolvedOptions, "units" | "size" | "layout">,
): string | null {
  const { units, size, layout } = options;
  const isShared = spec.layers.some(({ heads, kvHeads }) => kvHeads > 1 && heads > kvHeads);
  if (!isShared || !units.includes("heads") || size !== null || fallsByGroup(spec, options)) return null;
  const bySize = layout === "padded" ? "" : ", --target-params counts what is written";
  return "heads share K and V here: all groups of a layer are written with the same number of heads, filled up with zeros, so files may be larger " +
    `than the sparsity says (--units kv in place of heads cuts whole groups${bySize})`;
}

/**
 * Adds the sparsity at which the schedule ends, if a script is given and no target.
 *
 * @throws CompressoError("usage") if the script sets no sparsity, or follows the target of the run
 */
export async function withScheduleTarget<Flags extends TableFlags & { readonly steps: number }>(
  model: string,
  flags: Flags,
): Promise<Flags> {
  const { sparsity, targetParams, targetBytes, schedule: source, trust = false, steps } = flags;
  const isGiven = [sparsity, targetParams, targetBytes].some((value) => value !== undefined);
  if (isGiven || source === undefined || !isScript(source)) return flags;
  const { layers } = await openSpec(model);
  await using schedule = await openSchedule(source, { trust });
  return { ...flags, sparsity: await endSparsity(schedule, { steps, layers: layers.length }) };
}

/** Adds the type of the GGUF whose bytes are the target; default: that of the model. */
export async function withFileType<Flags extends TableFlags>(model: string, flags: Flags): Promise<Flags> {
  const { targetBytes, targetFile, ggufDtype = "auto", ggufSize } = flags;
  const isKnown = ggufDtype !== "auto" || ggufSize !== undefined;
  if (targetBytes === undefined || targetFile !== "gguf" || isKnown) return flags;
  const { files, path } = await lookAt(model);
  return { ...flags, ggufDtype: ggufDtypeFor(await openWeights(files, path), { ggufDtype }) };
}

/**
 * The run's target. `name` is that of the model within a GGUF.
 *
 * @throws CompressoError("usage") unless exactly one target is given, and for a size with the layout padded
 */
export function targetOf(
  flags: TableFlags,
  { name }: { readonly name: string },
): Target {
  const { sparsity, targetParams, targetBytes, targetFile, layout, dtype = "f16", ggufDtype = "auto" } = flags;
  checkTogether(pruneOptionsOf(flags), { paths: ["sparsity", "size.parameters", "size.bytes", "size.file.format"] });
  if (sparsity !== undefined) return { sparsity };
  if (targetParams === undefined && targetBytes === undefined) {
    if (keepsLayers(flags.units)) return { units: ["vocab"] };
    refuse("usage", `cannot start without ${option("sparsity")}`, {
      rule: `${option("sparsity")}, ${option("size.parameters")}, ${
        option("size.bytes")
      } or a schedule script that sets the sparsity is required`,
      value: "none was given",
      option: "sparsity",
    });
  }
  checkSizeLayout(layout ?? OPTION_TABLE.layout.default);
  if (targetParams !== undefined) return { size: { parameters: targetParams } };
  const bytes = targetBytes ?? 0;
  return {
    size: targetFile === "gguf"
      ? { bytes, file: { format: "gguf", dtype: ggufDtype }, name }
      : { bytes, file: { format: "hf", dtype } },
  };
}

/** Formats a size for the report. */
export function sizeLine({ unit, wanted, reached, file }: SizeResult): string {
  const where = file === null
    ? ""
    : ` in ${file.format === "hf" ? "model/*.safetensors" : "model.gguf"}, ${file.dtype}`;
  return `${formatCount(reached)} ${unit}${where}, wanted at most ${formatCount(wanted)}`;
}
