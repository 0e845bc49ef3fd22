// How far the layers of a model are cut, by expectation or by hard masks.
import type { LayerPart, UnitTable } from "../units/units.ts";
import type { LayerState } from "../schedule/definition.ts";
import { keptBy } from "./methods/kept.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { Trainer } from "./trainer.ts";
import type { Rates, Stage } from "./contract.ts";

/** How far each layer is cut: by expectation while masks are learned, at the β and noise of the last step, if there was one; else by the masks. */
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
  if (method === "compresso" && stage === "prune") {
    return layerShares(table, expectedCuts(await trainer.logAlpha(), last ?? rates));
  }
  return layerShares(table, keptBy(table, await trainer.masks()).map((kept) => 1 - kept));
}

/** How far each unit is cut by expectation: 1 − P(z > 0), as kernels/hard_concrete.wgsl has it. */
export function expectedCuts(
  logAlpha: Float32Array,
  { temperature, noise }: Pick<Rates, "temperature" | "noise">,
): Float64Array {
  const shift = temperature * Math.log(11), scale = Math.max(noise, 0.05);
  return Float64Array.from(logAlpha, (value) => 1 / (1 + Math.exp((value + shift) / scale)));
}

/** Mean cut of each layer's heads and FFN columns; what the layer's own gate cuts, it cuts of all of them. */
export function layerShares(table: UnitTable, cuts: ArrayLike<number>): LayerState[] {
  return table.layers.map(({ attention, ffn, gate }) => {
    const left = 1 - (gate < 0 ? 0 : cuts[gate] ?? 0);
    const share = ({ first, count, total }: LayerPart): number => {
      let cut = 0;
      for (let unit = first; unit < first + count; unit++) cut += cuts[unit] ?? 0;
      return total === 0 ? 0 : 1 - left * (1 - (count > 0 ? cut / count : 0));
    };
    return { heads: share(attention), ffn: share(ffn) };
  });
}
