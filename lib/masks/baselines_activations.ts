// One-shot baselines from activation statistics: Wanda-sp and FLAP.
import type { WeightSource } from "../spec/source.ts";
import { convName, headDimOf, projectionName } from "../spec/decoder.ts";
import { rankBy } from "./baselines.ts";
import type { UnitTable } from "../units/table.ts";

/** Statistics of the input channels of o_proj [heads·headDim], a convolution's out_proj [hidden], or down_proj [ffn] of one layer. */
export interface ChannelStats {
  /** Mean of each channel. */
  readonly mean: Float32Array;
  /** Σ (x − mean)² of each channel. */
  readonly squares: Float32Array;
}

/** Statistics of one layer; null for a part that it does not have. */
export interface LayerStats {
  /** Input of o_proj: the heads' outputs; of a convolution's out_proj in a layer that has one. */
  readonly o: ChannelStats | null;
  /** Input of down_proj: silu(gate)·up. */
  readonly down: ChannelStats | null;
}

/** Statistics of a model's activations on calibration data, with all masks 1 and without LoRA. */
export interface ActivationStats {
  /** Number of tokens. */
  readonly tokens: number;
  /** Layers in order. */
  readonly layers: readonly LayerStats[];
}

/** How weights W_ij of o_proj and down_proj, [hidden, channels], give scores of units. */
interface Scoring {
  /** Term of a weight, before the factor of its channel j. */
  readonly term: (weight: number) => number;
  /** Factor of the terms of channel j. */
  readonly factor: (mean: number, squares: number) => number;
  /** Transforms the sums over i of a layer's channels before they are averaged over a unit. */
  readonly shaped: Readonly<Record<"o" | "down", (sums: Float64Array) => Float64Array>>;
}

/**
 * Structured Wanda, as `wanda_sp` of FLAP's code (An et al. 2024, after Sun et al. 2023): ‖x_j‖₂ · mean_i |W_ij| of
 * each input channel j of o_proj and down_proj, summed over a unit's channels. There every layer loses the same share
 * of its heads and of its columns, and nothing is standardized. So the method compares units within layer and kind, see
 * `rankWithin`.
 *
 * Differences from FLAP's code:
 *
 * - The statistics are of the uncut model. FLAP's code measures a layer after cutting all earlier layers.
 * - The statistics cover the tokens before labels. FLAP's code includes instructions and prompts.
 * - FLAP's code does not cut hidden dims and whole layers. Here they have the same terms |W_ij| · ‖x_j‖₂: summed for a
 *   hidden dim over the rows of all o_proj and down_proj that write it, averaged for a layer over its own.
 */
export async function wandaScores(
  source: WeightSource,
  table: UnitTable,
  stats: ActivationStats,
): Promise<Float64Array<ArrayBuffer>> {
  return await scoresBy(source, table, {
    stats,
    term: Math.abs,
    factor: (mean, squares) => Math.sqrt(squares + stats.tokens * mean ** 2),
    shaped: { o: (sums) => sums, down: (sums) => sums },
  });
}

/**
 * FLAP's fluctuation metric WIFV with its ranking over all layers, AL-AM (An et al. 2024, "Fluctuation-based Adaptive
 * Structured Pruning for Large Language Models", arXiv 2312.11983, and its code). The sample variance of each input
 * channel j of o_proj and down_proj is multiplied by ‖W_:j‖². For o_proj the product is squared. It is standardized to
 * mean 0 and deviation 1 over the channels of the layer, and averaged over a unit's channels. Heads and columns are
 * ranked together. The other half of FLAP is the bias of `applyCompensation`.
 *
 * Differences from FLAP's code:
 *
 * - The variance is over all tokens before labels. The code includes instructions and prompts, takes each sample's
 *   deviation from the running mean over the samples so far, and leaves out the first sample.
 * - FLAP's code does not cut hidden dims and whole layers. Here they have the same terms, variance times W_ij²: summed
 *   for a hidden dim over the rows of all o_proj and down_proj that write it, averaged for a layer over its own.
 * - Such values do not compare with those of heads and columns. With either kind, all scores are ranks, so that heads
 *   and columns together lose the same share as that kind.
 */
export async function flapScores(
  source: WeightSource,
  table: UnitTable,
  stats: ActivationStats,
): Promise<Float64Array<ArrayBuffer>> {
  const scores = await scoresBy(source, table, {
    stats,
    term: (weight) => weight * weight,
    factor: (_, squares) => squares / Math.max(1, stats.tokens - 1),
    shaped: { o: (sums) => standardised(sums.map((value) => value * value)), down: standardised },
  });
  return table.count > table.ranges.hidden.first ? rankBy(table, scores, () => "heads and columns") : scores;
}

async function scoresBy(
  source: WeightSource,
  table: UnitTable,
  { stats, term, factor, shaped }: Scoring & { readonly stats: ActivationStats },
): Promise<Float64Array<ArrayBuffer>> {
  const { spec, layout } = table, scores = new Float64Array(table.count);
  const byDim = new Float64Array(spec.hidden), byLayer = spec.layers.map(() => ({ sum: 0, count: 0 }));
  const hasOthers = table.count > table.ranges.hidden.first;
  for (const [index, whole] of byLayer.entries()) {
    const { attention, ffn } = table.layers[index] ?? {}, slots = layout.layers[index];
    for (const [projection, part, firstSlot] of [["o", attention, slots?.head], ["down", ffn, slots?.ffn]] as const) {
      const own = stats.layers[index]?.[projection];
      if (!part || !own || (part.count === 0 && !hasOthers)) continue;
      const isOfConv = projection === "o" && spec.layers[index]?.conv === true;
      const weight = await source.read(isOfConv ? convName(index, "out") : projectionName(index, projection));
      const sums = columnSums(weight, Float64Array.from(own.mean, (mean, j) => factor(mean, own.squares[j] ?? 0)), {
        term,
        byDim,
      });
      whole.sum += sums.reduce((sum, value) => sum + value, 0);
      whole.count += weight.length;
      const channels = shaped[projection](sums),
        width = projection === "o" ? headDimOf(spec, spec.layers[index] ?? {}) : 1;
      for (let unit = part.first; unit < part.first + part.count; unit++) {
        const first = ((table.slotFirst[unit] ?? 0) - (firstSlot ?? 0)) * width;
        const values = channels.subarray(first, first + (table.slotCount[unit] ?? 0) * width);
        scores[unit] = values.reduce((sum, value) => sum + value, 0) / values.length;
      }
    }
  }
  for (let unit = table.ranges.hidden.first; unit < table.ranges.layers.first; unit++) {
    scores[unit] = byDim[(table.slotFirst[unit] ?? 0) - layout.hidden] ?? 0;
  }
  for (let unit = table.ranges.layers.first; unit < table.count; unit++) {
    const { sum, count } = byLayer[table.layer[unit] ?? 0] ?? { sum: 0, count: 0 };
    scores[unit] = sum / Math.max(1, count);
  }
  return scores;
}

/** Σ_i of the terms of each channel j, times the channel's factor; Σ_j of the same is added to `byDim`. */
function columnSums(
  weight: Float32Array,
  factors: Float64Array,
  { term, byDim }: { readonly term: (weight: number) => number; readonly byDim: Float64Array },
): Float64Array {
  const columns = factors.length, sums = new Float64Array(columns);
  for (let row = 0, at = 0; at < weight.length; row++) {
    let whole = 0;
    for (let column = 0; column < columns; column++) {
      const value = term(weight[at++] ?? 0);
      sums[column] = (sums[column] ?? 0) + value;
      whole += value * (factors[column] ?? 0);
    }
    byDim[row] = (byDim[row] ?? 0) + whole;
  }
  return sums.map((sum, column) => sum * (factors[column] ?? 0));
}

/** (x − mean) / deviation, the deviation with n − 1; zeros if all values are equal. */
function standardised(values: Float64Array): Float64Array {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const deviation = Math.sqrt(squares / Math.max(1, values.length - 1));
  // NaN stays NaN and is refused later.
  return values.map((value) => deviation === 0 ? 0 : (value - mean) / deviation);
}
