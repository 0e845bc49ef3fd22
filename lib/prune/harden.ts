// From learned log α to hard masks. Owns the threshold that meets the target exactly and the z of what stays; refuses learning.
import { type MaskValues, unpackMasks } from "../nn/masks.ts";
import { type Layout, uniformMasks } from "./layouts.ts";
import { selectionMasks, selectUnits, type UnitTable } from "./units.ts";

/** Options of {@link hardenMasks}. */
export interface HardenOptions {
  /** Sparsity that is reached at least, and by less than one unit more. */
  readonly target: number;
  /** β of hard concrete. */
  readonly temperature: number;
  /** "uniform" cuts every layer alike; other layouts do not matter here. */
  readonly layout: Layout;
}

/** Least z of a unit that stays. */
const LEAST_KEPT = 0.1;

/**
 * Masks z of the units with the highest log α. Kept hidden dims get 1, since a tied output head must not see a folded z; kept heads and FFN
 * columns the median of their hard concrete, at least 0.1, so that the model stays what LoRA was trained with.
 */
export function hardenMasks(table: UnitTable, logAlpha: Float32Array, options: HardenOptions): MaskValues {
  const { target, temperature, layout } = options;
  const kept = selectUnits(table, logAlpha, { target });
  const masks = keptMasks(table, kept, { logAlpha, temperature });
  return layout === "uniform" ? uniformMasks(table.spec, unitScores(table, logAlpha), { masks, target }) : masks;
}

function keptMasks(
  table: UnitTable,
  kept: Uint8Array<ArrayBuffer>,
  { logAlpha, temperature }: { readonly logAlpha: Float32Array; readonly temperature: number },
): MaskValues {
  const hard = selectionMasks(table, kept);
  const slots = new Float32Array(table.layout.count);
  for (let unit = 0; unit < table.hiddenFirst; unit++) {
    const stretched = 1.2 / (1 + Math.exp(-(logAlpha[unit] ?? 0) / temperature)) - 0.1;
    const z = kept[unit] ? Math.max(LEAST_KEPT, Math.min(1, stretched)) : 0;
    const first = table.slotFirst[unit] ?? 0;
    slots.fill(z, first, first + (table.slotCount[unit] ?? 0));
  }
  const soft = unpackMasks(table.spec, table.layout, slots);
  const prunesHeads = table.kinds.has("heads") || table.kinds.has("kv");
  return {
    head: prunesHeads ? soft.head : hard.head,
    ffn: table.kinds.has("ffn") ? soft.ffn : hard.ffn,
    hidden: hard.hidden,
  };
}

/** Unit scores in the layout of masks; units that are not pruned score highest. */
function unitScores(table: UnitTable, scores: Float32Array): MaskValues {
  const slots = new Float32Array(table.layout.count).fill(1e30);
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0;
    slots.fill(scores[unit] ?? 0, first, first + (table.slotCount[unit] ?? 0));
  }
  return unpackMasks(table.spec, table.layout, slots);
}
