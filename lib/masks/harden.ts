// Turns learned log α into hard masks: which units are kept, and their z.
import { option, refuse } from "../core/errors.ts";
import { type MaskValues, unpackMasks } from "../nn/mask_slots.ts";
import type { Layout } from "../units/layout.ts";
import { type SelectOptions, selectUnits } from "../units/selection.ts";
import { type UniformCounts, uniformCounts, uniformSelection } from "../units/uniform.ts";
import { placeOfKind, type UnitKind } from "../units/kinds/all.ts";
import { placeOf, type Selection, type UnitTable } from "../units/table.ts";

/**
 * Rules for the z of a kept unit. Hidden dims have 1 in any case.
 *
 * - "one": 1.
 * - "median": the median of its hard concrete distribution, at least 0.1.
 * - "sigmoid": the sigmoid of 0.8 · log α / β, as in Compresso's published code, after Wang et al. 2020.
 */
export const KEPT_RULES = ["one", "median", "sigmoid"] as const satisfies readonly KeptRule[];
/** A rule for the z of kept units. */
export type KeptRule = "one" | "median" | "sigmoid";

/** Options of {@link hardenMasks}. */
export interface HardenOptions extends SelectOptions {
  /** Sparsity to reach, exceeded by less than one unit; null if only layers have targets. */
  readonly target: number | null;
  /** β of hard concrete, with which `kept` gives the z of kept units. Default: their z is 1. */
  readonly temperature?: number;
  /** Rule for the z of kept units. Default "median". */
  readonly kept?: Exclude<KeptRule, "one">;
  /** "uniform" keeps equally many units in every layer; other layouts have no effect here. */
  readonly layout: Layout;
  /** Widths of a uniform layout that the run aimed at; default: those of `uniformCounts` for the target. */
  readonly counts?: UniformCounts | undefined;
}

/** Least z of a kept unit. */
const LEAST_KEPT = 0.1;
/** Least z under the published rule; log α as published, at least log 0.01, gives 0.004. */
const LEAST_SIGMOID = 1e-6;

/**
 * Masks that keep the units with the highest log α. Their z is 1 or, if β is given, for heads, FFN columns and layers
 * what {@link KEPT_RULES} says. Kept hidden dims always have 1, since a tied output head must not see a folded z.
 *
 * @throws CompressoError("usage") if the target cannot be met; see `selectUnits` and `uniformCounts`.
 */
export function hardenMasks(
  table: UnitTable,
  logAlpha: ArrayLike<number>,
  { temperature, kept = "median", ...options }: HardenOptions,
): MaskValues {
  const selection = hardSelection(table, logAlpha, options);
  return keptMasks(table, selection, { logAlpha, temperature: temperature ?? null, rule: kept });
}

/** The units that {@link hardenMasks} keeps. */
export function hardSelection(
  table: UnitTable,
  logAlpha: ArrayLike<number>,
  { layout, counts, ...aim }: Omit<HardenOptions, "temperature" | "kept">,
): Selection {
  if (layout !== "uniform") return selectUnits(table, logAlpha, aim);
  const { target, size, layerTargets } = aim;
  if (layerTargets?.some((goal) => goal !== null)) {
    refuse("usage", "cannot cut all layers alike", {
      rule: "no single layer has a target",
      value: layerTargets.join(", "),
    });
  }
  return uniformSelection(table, logAlpha, counts ?? uniformCounts(table, { target, size }));
}

/** Refuses a rule for z if only hidden dims, whose z is 1, may be cut. Throws `CompressoError("usage")`. */
export function checkKept(kept: KeptRule | undefined, units: readonly UnitKind[]): void {
  if (kept === undefined || kept === "one" || units.some((kind) => placeOfKind(kind) !== "hidden")) return;
  refuse("usage", `cannot give kept units the z '${kept}'`, {
    rule: "hidden dims that stay have a z of 1",
    value: "no other units",
    fix: `leave ${option("keptMasks")} out`,
  });
}

function keptMasks(
  table: UnitTable,
  kept: Selection,
  { logAlpha, temperature, rule }: {
    readonly logAlpha: ArrayLike<number>;
    readonly temperature: number | null;
    readonly rule: Exclude<KeptRule, "one">;
  },
): Required<MaskValues> {
  const slots = new Float32Array(table.layout.count).fill(1);
  // z of a slot is the product of the z of its unit and of its layer.
  for (let unit = 0; unit < table.count; unit++) {
    const isHidden = placeOf(table, unit) === "hidden";
    const z = !kept[unit] ? 0 : isHidden || temperature === null ? 1 : KEPT[rule]((logAlpha[unit] ?? 0) / temperature);
    const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
    for (let slot = first; slot < end; slot++) slots[slot] = (slots[slot] ?? 0) * z;
  }
  return unpackMasks(table.spec, table.layout, slots);
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** z as a function of log α / β. */
const KEPT: { readonly [rule in Exclude<KeptRule, "one">]: (scaled: number) => number } = {
  median: (scaled) => Math.max(LEAST_KEPT, Math.min(1, 1.2 * sigmoid(scaled) - 0.1)),
  // z of a kept unit must not be 0, which slicing takes for a cut unit. With widths aligned to blocks, the lowest kept
  // unit may lie far below the threshold.
  sigmoid: (scaled) => Math.max(LEAST_SIGMOID, sigmoid(0.8 * scaled)),
};
