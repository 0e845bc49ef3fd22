// Gradual saliency: hard masks at the schedule's target, chosen anew every few steps by a running mean of squared mask gradients. Owns the mean and the choice; refuses the loop.
import { hardSelection } from "./harden.ts";
import type { Layout } from "./layouts.ts";
import { takesUniform, type UniformCounts } from "./uniform.ts";
import { selectionMasks, unitParameters, type UnitTable } from "./units.ts";
import type { MaskValues } from "../nn/masks.ts";

/** Steps between two choices. */
export const GRADUAL_EVERY = 3;
/** Weight of the past in the running mean. */
const DECAY = 0.95;

/**
 * Adds one step's dL/dz of all slots to the running mean (Σ over a unit's slots, squared, per parameter that the unit saves), in place. Where whole
 * layers are units `slots` are the z of the step: what is cut of a layer that lives is no part of what the layer is worth.
 */
export function addGradients(
  table: UnitTable,
  mean: Float32Array,
  { slotGradients, slots }: { readonly slotGradients: Float32Array; readonly slots: Float32Array | null },
): void {
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0, end = first + (table.slotCount[unit] ?? 0);
    const own = unit >= table.layerFirst ? slots?.subarray(first, end) : undefined, lives = own?.some((z) => z > 0);
    let gradient = 0;
    for (let slot = first; slot < end; slot++) {
      if (!lives || (own?.[slot - first] ?? 0) > 0) gradient += slotGradients[slot] ?? 0;
    }
    const value = gradient * gradient / unitParameters(table, unit);
    mean[unit] = DECAY * (mean[unit] ?? 0) + (1 - DECAY) * value;
  }
}

/**
 * Hard masks of the units that the mean keeps at a sparsity. Units that were cut have gradients too: they can come back. Under the layout
 * "uniform" all layers are cut alike at every step; while equal widths alone would pass the target by a row or more, nothing falls.
 */
export function gradualMasks(
  table: UnitTable,
  mean: Float32Array,
  { target, layout, counts }: {
    readonly target: number;
    readonly layout: Layout;
    /** Widths of every layer under "uniform"; default: those of the target. */
    readonly counts?: UniformCounts;
  },
): Required<MaskValues> {
  const isCut = target > 0 && (layout !== "uniform" || takesUniform(table, target));
  const aim = { target, layout, ...(counts ? { counts } : {}) };
  const kept = isCut ? hardSelection(table, mean, aim) : new Uint8Array(table.count).fill(1);
  return selectionMasks(table, kept);
}
