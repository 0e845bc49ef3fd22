// From learned log α to hard masks: which units are kept, and their z.
import { CompressoError, option } from "../core/errors.ts";
import { type MaskValues, unpackMasks } from "../nn/mask_slots.ts";
import type { Layout } from "../units/layout.ts";
import { type SelectOptions, selectUnits } from "../units/selection.ts";
import { type UniformCounts, uniformCounts, uniformSelection } from "../units/uniform.ts";
import type { UnitKind } from "../units/rules.ts";
import type { Selection, UnitTable } from "../units/table.ts";

/**
 * What z a unit that stays has: 1; the median of its hard concrete, at least 0.1; or the sigmoid of 0.8 · log α / β, as Compresso's published code has
 * it, after Wang et al. 2020. Hidden dims have 1 in any case.
 */
export const KEPT_RULES = ["one", "median", "sigmoid"] as const satisfies readonly KeptRule[];
/** A rule for the z of units that stay. */
export type KeptRule = "one" | "median" | "sigmoid";

/** Options of {@link hardenMasks}. */
export interface HardenOptions extends SelectOptions {
  /** Sparsity that is reached at least, and by less than one unit more; null where layers alone have targets. */
  readonly target: number | null;
  /** β of hard concrete, from which units that stay have their z by `kept`. Default: it is 1. */
  readonly temperature?: number;
  /** By which rule. Default "median". */
  readonly kept?: Exclude<KeptRule, "one">;
  /** "uniform" keeps equally many units in every layer; other layouts do not matter here. */
  readonly layout: Layout;
  /** Widths of a uniform layout, as the run aimed at them; default: those of `uniformCounts` for the target. */
  readonly counts?: UniformCounts;
}

/** Least z of a unit that stays. */
const LEAST_KEPT = 0.1;
/** The same of the published rule, whose own log α, never below log 0.01, comes to 0.004. */
const LEAST_SIGMOID = 1e-6;

/**
 * Masks z of the units with the highest log α, which is 1; or, where a β is given, of kept heads, FFN columns and layers what {@link KEPT_RULES} says.
 * Kept hidden dims have 1 in any case, since a tied output head must not see a folded z.
 *
 * @throws CompressoError("usage") where the target cannot be met; see `selectUnits` and `uniformCounts`.
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
    throw new CompressoError("usage", {
      what: "cannot cut all layers alike",
      rule: "no layer has a target of its own",
      value: layerTargets.join(", "),
      fix: "take another layout",
    });
  }
  return uniformSelection(table, logAlpha, counts ?? uniformCounts(table, { target, size }));
}

/** Refuses to choose z of kept units where hidden dims, whose z is 1, are all that may be cut. Throws `CompressoError("usage")`. */
export function checkKept(kept: KeptRule | undefined, units: readonly UnitKind[]): void {
  if (kept === undefined || kept === "one" || units.some((kind) => kind !== "hidden")) return;
  throw new CompressoError("usage", {
    what: `cannot give kept units the z '${kept}'`,
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
  // z of a slot is the product of its unit's and its layer's.
  for (let unit = 0; unit < table.count; unit++) {
    const isHidden = unit >= table.hiddenFirst && unit < table.layerFirst;
    const z = !kept[unit] ? 0 : isHidden || temperature === null ? 1 : KEPT[rule]((logAlpha[unit] ?? 0) / temperature);
    const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
    for (let slot = first; slot < end; slot++) slots[slot] = (slots[slot] ?? 0) * z;
  }
  return unpackMasks(table.spec, table.layout, slots);
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** z by log α / β. */
const KEPT: { readonly [rule in Exclude<KeptRule, "one">]: (scaled: number) => number } = {
  median: (scaled) => Math.max(LEAST_KEPT, Math.min(1, 1.2 * sigmoid(scaled) - 0.1)),
  // One that stays is not 0, by which slicing knows those that fall: widths are aligned by blocks, whose lowest unit may lie far below the border.
  sigmoid: (scaled) => Math.max(LEAST_SIGMOID, sigmoid(0.8 * scaled)),
};
