// A size as the goal of a run, in parameters or bytes of a file: the sparsity that it requires, and hard masks that
// meet it.
import { outputBiasSpec } from "../masks/baselines_bias.ts";
import { compensates } from "./methods/all.ts";
import { CompressoError, refuse } from "../core/errors.ts";
import { byteTarget, fileBytes, type FileKind } from "../units/file_size.ts";
import type { GgufWriteType } from "../formats/gguf/mixes.ts";
import type { Provenance } from "../spec/provenance.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type MaskValues, packMasks } from "../nn/mask_slots.ts";
import { type DecoderSpec, parameterCount } from "../spec/decoder.ts";
import { hardenMasks, type HardenOptions } from "../masks/harden.ts";
import type { Layout } from "../units/layout.ts";
import { shallowPlan } from "../slice/layouts.ts";
import { planSlice } from "../slice/slice.ts";
import { parameterTarget, restPerDim, targetSparsity } from "../units/target_size.ts";
import { countsOf, tableOf, type UniformCounts, uniformCounts } from "../units/uniform.ts";
import { checkReachable, checkShare, hardSparsity, selectedSpec, type SizeTarget } from "../units/selection.ts";
import { keptUnits, type UnitTable } from "../units/table.ts";
import type { RunPosition, WantedSize } from "./contract.ts";
import type { ExportOptions } from "../slice/export_options.ts";
import type { Model } from "../model/model.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { keepsLayers } from "../units/kinds/all.ts";

/** Default name of the model within a GGUF. */
export const GGUF_NAME = "pruned by Compresso";

/** A size whose file's type is known. */
export type KnownSize = WantedSize<GgufWriteType>;

/** How a run reaches a size. */
export interface SizeGoal {
  /**
   * Units of the run. If hidden dims are cut, sparsity is a share of the whole model, so that it determines the size
   * for every choice of units.
   */
  readonly table: UnitTable;
  /** The sparsity that gives the size, as far as it is known before units are chosen. */
  readonly sparsity: number;
  /** Widths of every layer at the size, if all are cut alike; null otherwise. The run learns these widths. */
  readonly counts: UniformCounts | null;
  /** {@link hardenMasks} for the size instead of the target. */
  readonly harden: typeof hardenMasks;
  /** By how much the model of hard masks exceeds the size; 0 or negative if it does not. */
  readonly excess: (masks: MaskValues) => number;
}

/** What a size is counted from; `source` for the origin that a GGUF names. */
type SizedModel = Pick<Model, "spec" | "tokenizer"> & { readonly source?: Pick<Model["source"], "provenance"> };

/** What a GGUF contains in addition to weights and its name. */
interface Content {
  readonly tokenizer: Tokenizer | null;
  readonly provenance?: Provenance | undefined;
}

/**
 * Determines what a run aims at: its units, and its size or a sparsity that is within reach. Throws as {@link sizeGoal}
 * and `checkReachable`.
 */
export function aimRun(
  model: SizedModel,
  asked: ResolvedOptions,
): { readonly options: ResolvedOptions; readonly table: UnitTable; readonly goal: SizeGoal | null } {
  // The vocabulary was already cut to the size.
  if (keepsLayers(asked.units)) return { options: asked, table: tableOf(model.spec, asked), goal: null };
  if (asked.size) {
    const goal = sizeGoal(model, asked, asked.size);
    return { options: { ...asked, sparsity: goal.sparsity }, table: goal.table, goal };
  }
  const table = tableOf(model.spec, asked);
  checkShare(table, asked.sparsity);
  // Whole rows of units limit what single units would allow.
  if (asked.layout === "uniform") uniformCounts(table, { target: asked.sparsity });
  else checkReachable(table, asked.sparsity);
  return { options: asked, table, goal: null };
}

/**
 * Whether a schedule that ended the stage early overrides the run's size. It does not if its targets had reached the
 * sparsity that the size requires, since a schedule cannot ask for more.
 */
export function goesBeforeSize(
  { leftOut, target, layerTargets }: Pick<RunPosition, "leftOut" | "target" | "layerTargets">,
  { sparsity }: Pick<ResolvedOptions, "sparsity">,
): boolean {
  if (leftOut === 0 || target === null) return false;
  const isThere = Math.abs(target - sparsity) <= ROUNDING;
  return !isThere || (layerTargets?.some((goal) => goal !== null) ?? false);
}

/** {@link hardenMasks} for a run: at its size if it has one, unless a schedule overrides it. */
export function hardenAt(goal: SizeGoal | null, isOff: () => boolean): typeof hardenMasks {
  return (table, logAlpha, options) =>
    isOff()
      ? hardenMasks(table, logAlpha, withinLayers(table, options))
      : (goal?.harden ?? hardenMasks)(table, logAlpha, options);
}

/**
 * During the stage, layer targets may cut less than the target of the whole requires. If the stage ends then, only the
 * layer targets are met.
 */
function withinLayers(table: UnitTable, options: HardenOptions): HardenOptions {
  const { target, layerTargets } = options;
  if (!layerTargets || target === null) return options;
  try {
    checkReachable(table, target, { layerTargets });
    return options;
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    return { ...options, target: null };
  }
}

/** The requested and the reached size. */
export interface SizeResult {
  /** What is counted. */
  readonly unit: "parameters" | "bytes";
  /** Largest size allowed. */
  readonly wanted: number;
  /** Size of the sliced model. */
  readonly reached: number;
  /** The file whose bytes are counted. */
  readonly file: FileKind | null;
  /** What sparsity is a share of: the layers' linear weights or, if hidden dims are cut, the size of the whole model. */
  readonly sparsityOf: "layers" | "model";
}

/** Tolerance for numbers that a script has computed. */
const ROUNDING = 1e-9;
/**
 * Rounds of cutting, measuring the file, and cutting again for the size of its header. The second round nearly always
 * suffices.
 */
const ROUNDS = 8;

/** Refuses the layout "padded" for a run to a size. Throws `CompressoError("usage")`. */
export function checkSizeLayout(layout: Layout): void {
  if (layout !== "padded") return;
  refuse("usage", "cannot prune to a size with the layout padded", {
    rule: "the files hold what is kept; padded adds zeros to the widest layer",
    value: "padded",
    fix: "take the layout compact or uniform",
  });
}

/**
 * Prepares a size.
 *
 * @throws CompressoError("usage") for a size that the model already has or cannot reach, with the range, and for the
 *   layout "padded", whose zeros belong to no unit.
 * @throws CompressoError("input") for a GGUF that cannot hold the model's tokenizer.
 */
export function sizeGoal(
  { spec, tokenizer, source }: SizedModel,
  options: Pick<ResolvedOptions, "units" | "rules" | "layout" | "method">,
  wanted: KnownSize,
): SizeGoal {
  checkSizeLayout(options.layout);
  // A compensation adds biases where there were none.
  const own = compensates(options.method) ? outputBiasSpec(spec) : spec;
  const { target, exact } = counting(own, wanted, { tokenizer, provenance: source?.provenance }), most = target.most;
  const measured = (shape: DecoderSpec): number => sizeOf(shape, target);
  /** Part of the exact size that is neither in layers nor in hidden dims. */
  const outside = exact(own) - measured(own);
  const rest = options.units.includes("hidden") ? restPerDim(own, target) : 0;
  const table = tableOf(spec, { ...options, rules: { ...options.rules, rest } });
  const isUniform = options.layout === "uniform",
    sparsity = targetSparsity(table, plus(target, outside), { isUniform });
  const goal: Omit<SizeGoal, "counts" | "sparsity"> = {
    table,
    excess: (masks) => exact(planSlice(own, masks).spec) - most,
    harden(_, logAlpha, { counts: _counts, ...aim }): MaskValues {
      let extra = outside;
      for (let round = 0;; round++) {
        const masks = hardenMasks(table, logAlpha, { ...aim, size: plus(target, extra) });
        const size = exact(planSlice(own, masks).spec);
        const kept = keptUnits(table, packMasks(spec, table.layout, masks));
        const found = size - measured(selectedSpec(table, kept));
        if (found === extra || (round > ROUNDS && size <= most)) return masks;
        // If the header alternates between two lengths, take the longer one.
        extra = round < ROUNDS ? found : Math.max(found, extra);
      }
    },
  };
  // A file may need more for layers without an FFN. Check it before the first step instead of after the last.
  const masks = goal.harden(table, new Float32Array(table.count), { target: null, layout: options.layout });
  if (!isUniform) return { ...goal, sparsity, counts: null };
  const kept = keptUnits(table, packMasks(spec, table.layout, masks));
  return { ...goal, sparsity: hardSparsity(table, kept), counts: countsOf(table, kept) };
}

/** Refuses an export that would not have the size: a dtype, types, or a name in the GGUF, other than the size was computed for. */
export function checkExportSize(
  wanted: WantedSize | null | undefined,
  { dtype, ggufDtype, ggufSize, layout, name, formats }: Partial<
    Pick<ExportOptions, "dtype" | "ggufDtype" | "ggufSize" | "layout" | "name" | "formats">
  >,
): void {
  if (!wanted) return;
  const fail = (rule: string, value: string): never => {
    refuse("usage", "cannot export with these options", {
      rule,
      value,
      fix: "give the size for the file that is exported",
    });
  };
  if (layout === "padded") fail("the size is that of what is kept, without the zeros of the layout padded", layout);
  if ("parameters" in wanted) return;
  const { file, name: counted = GGUF_NAME } = wanted;
  if (formats && !formats.includes(file.format)) {
    fail(`the size is that of the ${file.format} file`, formats.join(", "));
  }
  const given = file.format === "hf" ? dtype : ggufDtype;
  if (given !== undefined && given !== "auto" && given !== file.dtype) {
    fail(`the size is that of the ${file.format} file as ${file.dtype}`, given);
  }
  if (file.format === "gguf" && ggufSize !== undefined) {
    fail(`the size is that of the GGUF as ${file.dtype}`, `types for ${ggufSize} bytes`);
  }
  if (file.format === "gguf" && name !== undefined && name !== counted) {
    fail(`the size is that of the GGUF with the name '${counted}'`, name);
  }
}

/** Export options that give a file the size it was computed for. */
export function exportDefaults(
  wanted: KnownSize | null,
): Partial<Pick<ExportOptions, "dtype" | "ggufDtype" | "name">> {
  if (!wanted || "parameters" in wanted) return {};
  const { file, name = GGUF_NAME } = wanted;
  return file.format === "hf" ? { dtype: file.dtype } : { ggufDtype: file.dtype, name };
}

/** What sparsity is a share of in a run to a size. */
export function sparsityBase(units: ResolvedOptions["units"]): SizeResult["sparsityOf"] {
  return units.includes("hidden") ? "model" : "layers";
}

/** Size of a sliced model. */
export function reachedSize(
  spec: DecoderSpec,
  wanted: KnownSize,
  { units, ...content }: Content & { readonly units: ResolvedOptions["units"] },
): SizeResult {
  const { target: { unit, most }, exact } = counting(spec, wanted, content);
  return {
    unit,
    wanted: most,
    reached: exact(spec),
    file: "bytes" in wanted ? wanted.file : null,
    sparsityOf: sparsityBase(units),
  };
}

interface Counting {
  readonly target: SizeTarget & { readonly unit: SizeResult["unit"] };
  readonly exact: (spec: DecoderSpec) => number;
}

function counting(spec: DecoderSpec, wanted: KnownSize, content: Content): Counting {
  if ("parameters" in wanted) {
    return { target: { ...parameterTarget(spec, wanted.parameters), unit: "parameters" }, exact: parameterCount };
  }
  const { bytes, file, name = GGUF_NAME } = wanted;
  return {
    target: { ...byteTarget(spec, bytes, file), unit: "bytes" },
    exact: (shape) => fileBytes(shallowPlan(shape).spec, file, { ...content, name }),
  };
}

/** The same target for a model that is larger by `extra`, which belongs to no unit. */
function plus(target: SizeTarget, extra: number): SizeTarget {
  const { measure } = target;
  return { ...target, measure: { ...measure, rest: (hidden) => measure.rest(hidden) + extra } };
}

function sizeOf({ layers, hidden }: DecoderSpec, { measure }: SizeTarget): number {
  return layers.reduce((sum, layer) => sum + measure.layer(layer, hidden), measure.rest(hidden));
}
