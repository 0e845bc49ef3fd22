// One-shot baselines that look at activations: Wanda-sp and FLAP. Owns these scores; refuses to gather the statistics (see lib/run/calibrate.ts).
import { CompressoError } from "../errors.ts";
import type { WeightSource } from "../io/source.ts";
import { projectionName } from "../nn/spec.ts";
import { rankWithin } from "./baselines.ts";
import type { UnitKind, UnitTable } from "./units.ts";

/** Statistics of the input channels of o_proj [heads·headDim] or down_proj [ffn] of one layer. */
export interface ChannelStats {
  /** Mean of each channel. */
  readonly mean: Float32Array;
  /** Σ (x − mean)² of each channel. */
  readonly squares: Float32Array;
}

/** Statistics of one layer; null where it has no such part. */
export interface LayerStats {
  /** Input of o_proj: the heads' outputs. */
  readonly o: ChannelStats | null;
  /** Input of down_proj: silu(gate)·up. */
  readonly down: ChannelStats | null;
}

/** What a model's activations are like on calibration data, all masks 1 and without LoRA. */
export interface ActivationStats {
  /** Tokens that were counted. */
  readonly tokens: number;
  /** Layers in order. */
  readonly layers: readonly LayerStats[];
}

/** A number for each channel of a weight W [hidden, channels]. */
type Metric = (weight: Float32Array, stats: ChannelStats, tokens: number) => Float64Array;

/** Units of one layer and kind, with the mean of a metric over the channels of each. */
interface PartScores {
  readonly units: readonly number[];
  readonly values: readonly number[];
}

/**
 * Wanda for structures, as `wanda_sp` of FLAP's code (An et al. 2024, after Sun et al. 2023): ‖x_j‖₂ · mean_i |W_ij| of each input channel j of
 * o_proj and down_proj, summed over a unit's channels. There every layer loses the same share of its heads and of its columns, and nothing is
 * standardised; so the score here is the rank within layer and kind, see {@link rankWithin}.
 *
 * Different: there a layer's statistics are those behind the layers that were cut before it, here those of the whole model; and there they are over all
 * tokens, here over those before labels, which leaves out instructions and prompts where there are some.
 * Throws `CompressoError("usage")` for hidden dims and whole layers, which the method does not score.
 */
export async function wandaScores(
  source: WeightSource,
  table: UnitTable,
  stats: ActivationStats,
): Promise<Float64Array<ArrayBuffer>> {
  const metric: Metric = (weight, { mean, squares }, tokens) => {
    const sums = columnSums(weight, mean.length, Math.abs);
    const norm = (j: number): number => Math.sqrt((squares[j] ?? 0) + tokens * (mean[j] ?? 0) ** 2);
    return sums.map((sum, j) => norm(j) * sum);
  };
  const scores = new Float64Array(table.count);
  for (
    const { units, values } of await parts(source, table, {
      method: "wanda-sp",
      stats,
      metric: { o: metric, down: metric },
    })
  ) {
    units.forEach((unit, index) => scores[unit] = values[index] ?? 0);
  }
  return rankWithin(table, scores);
}

/**
 * FLAP's fluctuation metric WIFV with its ranking through all layers, AL-AM (An et al. 2024, "Fluctuation-based Adaptive Structured Pruning for
 * Large Language Models", arXiv 2312.11983, and its code): the sample variance of each input channel j of o_proj and down_proj times
 * ‖W_:j‖², that of o_proj squared once more, standardised to mean 0 and deviation 1 over the channels of the layer, and averaged over a unit's.
 * Heads and columns are ranked together. Its other half is the bias of `applyCompensation`.
 *
 * Different: the variance is one over all tokens before labels; the code counts instructions and prompts too, takes each sample's deviation from the
 * running mean over the samples so far, and leaves out the first one.
 * Throws `CompressoError("usage")` for hidden dims and whole layers, which the method does not score.
 */
export async function flapScores(
  source: WeightSource,
  table: UnitTable,
  stats: ActivationStats,
): Promise<Float64Array<ArrayBuffer>> {
  const metric: Metric = (weight, { mean, squares }, tokens) => {
    const norms = columnSums(weight, mean.length, (value) => value * value);
    return norms.map((norm, j) => (squares[j] ?? 0) / Math.max(1, tokens - 1) * norm);
  };
  const scores = new Float64Array(table.count);
  const all = await parts(source, table, {
    method: "flap",
    stats,
    metric: {
      o: (...args) => standardised(metric(...args).map((value) => value * value)),
      down: (...args) => standardised(metric(...args)),
    },
  });
  for (const { units, values } of all) units.forEach((unit, index) => scores[unit] = values[index] ?? 0);
  return scores;
}

async function parts(
  source: WeightSource,
  table: UnitTable,
  { method, stats, metric }: {
    readonly method: string;
    readonly stats: ActivationStats;
    readonly metric: Readonly<Record<"o" | "down", Metric>>;
  },
): Promise<PartScores[]> {
  checkScoredKinds([...table.kinds], method);
  const { spec, layout } = table, found: PartScores[] = [];
  for (const index of spec.layers.keys()) {
    const { attention, ffn } = table.layers[index] ?? {}, slots = layout.layers[index];
    for (const [projection, part, firstSlot] of [["o", attention, slots?.head], ["down", ffn, slots?.ffn]] as const) {
      const own = stats.layers[index]?.[projection];
      if (!part || part.count === 0 || !own) continue;
      const channels = metric[projection](await source.read(projectionName(index, projection)), own, stats.tokens);
      const width = projection === "o" ? spec.headDim : 1;
      const units = Array.from({ length: part.count }, (_, i) => part.first + i);
      const values = units.map((unit) => {
        const first = ((table.slotFirst[unit] ?? 0) - (firstSlot ?? 0)) * width;
        const values = channels.subarray(first, first + (table.slotCount[unit] ?? 0) * width);
        return values.reduce((sum, value) => sum + value, 0) / values.length;
      });
      found.push({ units, values });
    }
  }
  return found;
}

/** Σ_i f(W_ij) of each column j. */
function columnSums(weight: Float32Array, columns: number, f: (value: number) => number): Float64Array {
  const sums = new Float64Array(columns);
  for (let at = 0; at < weight.length; at++) {
    const column = at % columns;
    sums[column] = (sums[column] ?? 0) + f(weight[at] ?? 0);
  }
  return sums;
}

/** (x − mean) / deviation, the deviation with n − 1; zeros where all are alike. */
function standardised(values: Float64Array): Float64Array {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const deviation = Math.sqrt(squares / Math.max(1, values.length - 1));
  // What is no number stays none, to be refused.
  return values.map((value) => deviation === 0 ? 0 : (value - mean) / deviation);
}

/** Throws `CompressoError("usage")` for hidden dims and whole layers where the method is Wanda-sp or FLAP, which do not score them. */
export function checkScoredKinds(kinds: readonly UnitKind[], method: string): void {
  if (method !== "wanda-sp" && method !== "flap") return;
  const other = (["hidden", "layers"] as const).find((kind) => kinds.includes(kind));
  if (!other) return;
  throw new CompressoError("usage", {
    what: `cannot prune ${other} by ${method}`,
    rule: "it scores heads, KV groups and FFN columns",
    value: `units ${kinds.join(",")}`,
    mend: "try --units kv,ffn",
  });
}
