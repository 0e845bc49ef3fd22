// How far the layers of a model are cut, by expectation or by hard masks.
import { kindOfMethod } from "./methods/all.ts";
import type { LayerPart, UnitTable } from "../units/table.ts";
import type { LayerState } from "../schedule/definition.ts";
import { keptBy } from "./methods/kept.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { Trainer } from "./trainer.ts";
import type { Rates, Stage } from "./contract.ts";

/** How far each layer is cut: expected, at β and noise of the last step, while masks are learned; else by the masks. */
export async function layerStates(
  { table, options: { method, rates } }: {
    readonly table: UnitTable;
    readonly options: Pick<ResolvedOptions, "method" | "rates">;
  },
  trainer: Pick<Trainer, "logAlpha" | "masks">,
  { stage, last }: {
    readonly stage: Stage;
    readonly last: Pick<Rates, "temperature" | "noise"> | null;
  },
): Promise<LayerState[]> {
  if (kindOfMethod(method) === "learned" && stage === "prune") {
    return layerShares(table, expectedCuts(await trainer.logAlpha(), last ?? rates));
  }
  return layerShares(table, keptBy(table, await trainer.masks()).map((kept) => 1 - kept));
}

/** How far each unit is cut by expectation: 1 − P(z > 0), as kernels/shared/hard_concrete.wgsl has it. */
export function expectedCuts(
  logAlpha: Float32Array,
  { temperature, noise }: Pick<Rates, "temperature" | "noise">,
): Float64Array {
  const shift = temperature * Math.log(11), scale = Math.max(noise, 0.05);
  return Float64Array.from(logAlpha, (value) => 1 / (1 + Math.exp((value + shift) / scale)));
}

/** How far each layer is cut. `cuts` [units] has the share cut of each unit; the layer's own unit cuts all others. */
export function layerShares(table: UnitTable, cuts: ArrayLike<number>): LayerState[] {
  return table.layers.map(({ attention, ffn, gate }) => {
    const left = 1 - (gate < 0 ? 0 : cuts[gate] ?? 0);
    const share = (part: LayerPart): number =>
      part.total === 0 ? 0 : 1 - left * (1 - (part.count > 0 ? sumOf(cuts, part) / part.count : 0));
    const total = attention.total + ffn.total;
    const kept = keptParameters(table, attention, cuts) + keptParameters(table, ffn, cuts);
    return { heads: share(attention), ffn: share(ffn), sparsity: total === 0 ? 0 : 1 - left * kept / total };
  });
}

function sumOf(cuts: ArrayLike<number>, { first, count }: Pick<LayerPart, "first" | "count">): number {
  let sum = 0;
  for (let unit = first; unit < first + count; unit++) sum += cuts[unit] ?? 0;
  return sum;
}

/**
 * Parameters of a part that stay, per hidden dim: Σ c·(1 − cut) + Σ_groups c·(1 − Π cut) + what no unit cuts. The same
 * formula as in kernels/shared/mask_bounds.wgsl.
 */
function keptParameters(
  { cost, groups }: UnitTable,
  { first, count, firstGroup, groupCount, fixed }: LayerPart,
  cuts: ArrayLike<number>,
): number {
  let kept = fixed;
  for (let unit = first; unit < first + count; unit++) kept += (cost[unit] ?? 0) * (1 - (cuts[unit] ?? 0));
  for (const group of groups.slice(firstGroup, firstGroup + groupCount)) {
    let dead = 1;
    for (let unit = group.first; unit < group.first + group.count; unit++) dead *= cuts[unit] ?? 0;
    kept += group.cost * (1 - dead);
  }
  return kept;
}
