// Gradual saliency: hard masks at the schedule's target, chosen every few steps by a running mean of squared mask
// gradients.
import { hardSelection } from "./harden.ts";
import type { Layout } from "../units/layout.ts";
import type { HeldUnits } from "../units/blocks.ts";
import type { SelectOptions } from "../units/selection.ts";
import { takesUniform, type UniformCounts } from "../units/uniform.ts";
import { selectionMasks, unitParameters, type UnitTable } from "../units/table.ts";
import type { MaskValues } from "../nn/mask_slots.ts";

/** Steps between two choices of masks. */
export const GRADUAL_EVERY = 3;
/** Weight of the past in the running mean. */
const DECAY = 0.95;

/**
 * Adds one step's dL/dz of all slots to the running mean, in place: Σ over a unit's slots, squared, per parameter that
 * the unit saves. If whole layers are units, `slots` are the z of the step: cut parts of a kept layer do not count for
 * the layer.
 */
export function addGradients(
  table: UnitTable,
  mean: Float32Array,
  { slotGradients, slots }: { readonly slotGradients: Float32Array; readonly slots: Float32Array | null },
): void {
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
    const own = unit >= table.ranges.layers.first ? slots?.subarray(first, end) : undefined,
      lives = own?.some((z) => z > 0);
    let gradient = 0;
    for (let slot = first; slot < end; slot++) {
      if (!lives || (own?.[slot - first] ?? 0) > 0) gradient += slotGradients[slot] ?? 0;
    }
    const value = gradient * gradient / unitParameters(table, unit);
    mean[unit] = DECAY * (mean[unit] ?? 0) + (1 - DECAY) * value;
  }
}

/** What {@link gradualMasks} aims at. */
export interface GradualAim extends Pick<SelectOptions, "layerTargets" | "held"> {
  readonly target: number;
  readonly layout: Layout;
  /** Widths of every layer under "uniform"; default: those of the target. */
  readonly counts?: UniformCounts | undefined;
}

/**
 * Hard masks of the units that the mean keeps at a sparsity. Units that were cut have gradients too, so they can
 * return.
 *
 * - Under the layout "uniform" all layers are cut alike at every step, except as held units prevent it. Nothing is cut
 *   while equal widths alone would exceed the target by a row or more.
 * - If held units, or targets of single layers, prevent the target of the whole, the result comes as near as possible.
 */
export function gradualMasks(table: UnitTable, mean: Float32Array, aim: GradualAim): Required<MaskValues> {
  const { target, layout, layerTargets, held } = aim, isUniform = layout === "uniform";
  const isAimed = target > 0 || (layerTargets?.some((goal) => goal !== null && goal > 0) ?? false);
  const isCut = isAimed && !(isUniform && !takesUniform(table, target));
  const scores = held && isUniform ? heldApart(mean, held) : mean;
  const kept = isCut ? hardSelection(table, scores, { ...aim, isNearest: true }) : new Uint8Array(table.count).fill(1);
  for (let unit = 0; held && unit < table.count; unit++) if (held.flags[unit]) kept[unit] = held.kept[unit] ?? 1;
  return selectionMasks(table, kept);
}

/**
 * Scores that keep held units in their state: cut ones first, kept ones last. So as many other units are cut as equal
 * widths require.
 */
function heldApart(mean: Float32Array, { flags, kept }: HeldUnits): Float32Array {
  const above = 2 * mean.reduce((most, value) => Math.max(most, value), 0) + 1;
  return mean.map((value, unit) => !flags[unit] ? value : kept[unit] ? above : -above);
}
