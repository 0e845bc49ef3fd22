// One-shot baselines that need no activations: magnitude, random, first-order Taylor.
import type { WeightSource } from "../spec/source.ts";
import {
  CONV_MATRICES,
  type ConvMatrix,
  convName,
  type DecoderSpec,
  ffnMatrices,
  headDimOf,
  linearPerDim,
  mixerPerDim,
  presentProjections,
  type Projection,
  projectionName,
} from "../spec/decoder.ts";
import { randomU32 } from "../core/random.ts";
import { recordOf } from "../units/kinds/all.ts";
import { checkPerUnit, kindOf, placeOf, unitParameters, type UnitTable } from "../units/table.ts";

/**
 * Which units a one-shot score compares: all, or those of one layer and kind, so that every layer and kind loses the
 * same share.
 */
export const RANKINGS = ["all", "layer"] as const satisfies readonly Ranking[];
/** Name of a ranking. */
export type Ranking = "all" | "layer";

/** Smaller than any difference of two ranks among a million units. */
const NUDGE = 1e-13;
const GOLDEN = (Math.sqrt(5) - 1) / 2;

/** Separates these draws from others of the same seed. */
const RANDOM_STREAM = 0x4a4d;

/** Squares or terms of the weights of one layer, summed by head, KV head and FFN column. */
interface LayerSums {
  readonly heads: Float64Array;
  readonly kvHeads: Float64Array;
  readonly ffn: Float64Array;
  /** Of a convolution: one value; empty without one. */
  readonly conv: Float64Array;
}

/**
 * Magnitude of each unit: the mean square of the weights that it cuts; of a hidden dim, of its weights in the layers
 * only. This is the classic one-shot criterion, as a baseline. LLM-Pruner's code ranks it within each layer, see {@link
 * rankWithin}; so does FLAP's, by norms of o_proj and down_proj alone. Pass it to `selectUnits`. Reads every weight of
 * the layers once.
 */
export async function magnitudeScores(source: WeightSource, table: UnitTable): Promise<Float64Array<ArrayBuffer>> {
  const { spec } = source;
  const hidden = new Float64Array(spec.hidden);
  const layers: LayerSums[] = [];
  for (const [index, layer] of spec.layers.entries()) {
    const sums = emptySums(layer);
    layers.push(sums);
    for (const projection of presentProjections(spec, layer)) {
      const [units, width] = partsOf(projection, sums, headDimOf(spec, layer));
      if (units.length > 0) {
        addSquares(await source.read(projectionName(index, projection)), { projection, units, width, hidden });
      }
    }
    for (const part of layer.conv ? CONV_MATRICES : []) {
      addConvolution(await source.read(convName(index, part)), { conv: sums.conv, hidden });
    }
  }
  return scoresOf(table, layers, hidden);
}

/**
 * A random order of the units, determined by the seed: a baseline for every score. LLM-Pruner's is within each layer,
 * see {@link rankWithin}.
 */
export function randomScores(count: number, { seed }: { readonly seed: number }): Float64Array<ArrayBuffer> {
  return Float64Array.from({ length: count }, (_, unit) => randomU32(seed, RANDOM_STREAM, unit) / 2 ** 32);
}

/** Σ|w·∂L/∂w| over weights w of one projection. */
export interface WeightTerms {
  /** By row of q, k, v [heads·headDim or kvHeads·headDim], gate and up [ffn]; by column of o and down; of a convolution likewise, by channel. */
  readonly units: Float32Array;
  /** By the other side [hidden]. */
  readonly hidden: Float32Array;
}

/** Terms by projection, or matrix of a convolution; what a layer lacks is absent. */
export type LayerTerms = ReadonlyMap<Projection | ConvMatrix, WeightTerms>;

/** Accumulates terms of the weights on calibration data, batch by batch. */
export interface Taylor {
  /** Adds a batch's terms, layer by layer, for L the mean loss over its `labels` labels. */
  add(layers: readonly LayerTerms[], options: { readonly labels: number }): void;
  /** Mean importance of the weights that each unit cuts. */
  scores(): Float64Array<ArrayBuffer>;
}

/**
 * First-order Taylor importance as in LLM-Pruner (Ma et al. 2023, arXiv 2305.11627) with its published `--taylor
 * param_first`: Σ|w·∂L/∂w| over all weights of a unit, here divided by their number. LLM-Pruner ranks the units of each
 * layer separately and cuts the same share of all but the first and last layers. {@link rankWithin}, the default with
 * this score, and protected layers do the same.
 *
 * Differences from LLM-Pruner:
 *
 * - There the gradients are of one batch and of the loss over all tokens. Here the terms of all batches are added,
 *   weighted by their labels; instructions have labels in the responses only.
 * - Biases, norms and, for hidden dims, the embedding are left out.
 * - A KV group has the terms of the query heads that it serves. There, terms of query heads as far apart as there are
 *   groups are added.
 */
export function createTaylor(table: UnitTable): Taylor {
  const { spec } = table, hidden = new Float64Array(spec.hidden), layers = spec.layers.map(emptySums);
  let total = 0;
  return {
    add(terms, { labels }): void {
      total += labels;
      layers.forEach((sums, layer) =>
        terms[layer]?.forEach((own, projection) => {
          const [units, width] = partsOf(projection, sums, headDimOf(spec, spec.layers[layer] ?? {}));
          own.units.forEach((term, at) => {
            const unit = Math.floor(at / width);
            units[unit] = (units[unit] ?? 0) + labels * term;
          });
          own.hidden.forEach((term, dim) => hidden[dim] = (hidden[dim] ?? 0) + labels * term);
          if (units !== sums.conv) return;
          // A channel goes with the hidden dim of its number.
          own.units.forEach((term, row) => {
            const dim = row % spec.hidden;
            hidden[dim] = (hidden[dim] ?? 0) + labels * term;
          });
        })
      );
    },
    scores: () => scoresOf(table, layers, hidden).map((score) => score / Math.max(1, total)),
  };
}

/**
 * Ranks of the scores within layer and kind, (rank + 1) / units, ties by index. A threshold p cuts ⌊p·units⌋ of each,
 * so every layer loses the same share of its heads, and of its columns. Hidden dims are ranked among themselves, and so
 * are whole layers.
 *
 * Layers of one shape have equal ranks. Where a target falls between them, the cut layers are spread over the model:
 * ranks are shifted along the fractions of index · golden ratio, by less than the difference of any two ranks.
 */
export function rankWithin(table: UnitTable, scores: ArrayLike<number>): Float64Array<ArrayBuffer> {
  return rankBy(table, scores, (unit) => `${placeOf(table, unit)} ${table.layer[unit]}`);
}

/** {@link rankWithin} by groups. Kinds with at most one unit per layer are ranked over all layers. */
export function rankBy(
  table: UnitTable,
  scores: ArrayLike<number>,
  groupOf: (unit: number) => string,
): Float64Array<ArrayBuffer> {
  checkPerUnit(table, scores, "scores");
  const within = (unit: number): string => {
    const kind = kindOf(table, unit);
    return kind === "hidden" || recordOf(kind).isOnePerLayer ? kind : groupOf(unit);
  };
  const ranks = new Float64Array(table.count);
  for (const units of Map.groupBy(Array.from({ length: table.count }, (_, unit) => unit), within).values()) {
    const order = units.toSorted((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b);
    order.forEach((unit, rank) => {
      ranks[unit] = (rank + 1) / units.length - NUDGE * ((GOLDEN * (table.layer[unit] ?? 0)) % 1);
    });
  }
  return ranks;
}

function emptySums({ heads, kvHeads, ffn, conv }: DecoderSpec["layers"][number]): LayerSums {
  const sums = (count: number): Float64Array => new Float64Array(count);
  return { heads: sums(heads), kvHeads: sums(kvHeads), ffn: sums(ffn), conv: sums(conv ? 1 : 0) };
}

/** Adds the squares of a matrix of a convolution: to its own sum, and to those of the hidden dims of each row's channel and of each column. */
function addConvolution(
  data: Float32Array,
  { conv, hidden }: { readonly conv: Float64Array; readonly hidden: Float64Array },
): void {
  const { length } = hidden;
  for (const [at, value] of data.entries()) {
    const square = value * value, channel = Math.floor(at / length) % length;
    conv[0] = (conv[0] ?? 0) + square;
    for (const dim of [channel, at % length]) hidden[dim] = (hidden[dim] ?? 0) + square;
  }
}

/** The sums that a projection's rows (of o and down: columns) are added to, and how many of them form a unit. */
function partsOf(
  projection: Projection | ConvMatrix,
  sums: LayerSums,
  headDim: number,
): readonly [Float64Array, number] {
  if (projection === "in" || projection === "out") return [sums.conv, Infinity];
  if (projection === "q" || projection === "o") return [sums.heads, headDim];
  if (projection === "k" || projection === "v") return [sums.kvHeads, headDim];
  return [sums.ffn, 1];
}

function addSquares(
  data: Float32Array,
  { projection, units, width, hidden }: {
    readonly projection: Projection;
    readonly units: Float64Array;
    readonly width: number;
    readonly hidden: Float64Array;
  },
): void {
  const isOutput = projection === "o" || projection === "down";
  const cols = isOutput ? units.length * width : hidden.length;
  for (let at = 0; at < data.length; at++) {
    const value = data[at] ?? 0, row = Math.floor(at / cols), col = at % cols;
    const unit = Math.floor((isOutput ? col : row) / width), dim = isOutput ? row : col;
    units[unit] = (units[unit] ?? 0) + value * value;
    hidden[dim] = (hidden[dim] ?? 0) + value * value;
  }
}

function scoresOf(table: UnitTable, layers: readonly LayerSums[], hidden: Float64Array): Float64Array<ArrayBuffer> {
  const { spec, layout } = table;
  const sum = (values: Float64Array): number => values.reduce((total, value) => total + value, 0);
  return Float64Array.from({ length: table.count }, (_, unit) => {
    const index = table.layer[unit] ?? 0, sums = layers[index], layer = spec.layers[index];
    const slots = layout.layers[index], slot = table.slotFirst[unit] ?? 0, count = table.slotCount[unit] ?? 0;
    if (!sums || !layer || !slots) return 0;
    const place = placeOf(table, unit);
    if (place === "layers") {
      const all = [sums.heads, sums.kvHeads, sums.ffn, sums.conv].map(sum);
      return sum(Float64Array.from(all)) / unitParameters(table, unit);
    }
    if (place === "hidden") {
      // Twice, as a convolution's weights go from hidden dims to hidden dims.
      const perDim = spec.layers.reduce((total, own) => {
        return total + linearPerDim(spec, own) + (own.conv ? mixerPerDim(spec, own) : 0);
      }, 0) || 1;
      return (hidden[slot - layout.hidden] ?? 0) / perDim;
    }
    if (place === "ffn") return (sums.ffn[slot - slots.ffn] ?? 0) / (ffnMatrices(spec) * spec.hidden);
    const first = slot - slots.head, share = layer.heads / layer.kvHeads;
    const kvFirst = Math.floor(first / share);
    const kv = count > share
      ? sum(sums.kvHeads.subarray(kvFirst, kvFirst + count / share))
      : (sums.kvHeads[kvFirst] ?? 0) * count / share;
    return (sum(sums.heads.subarray(first, first + count)) + kv) /
      (2 * headDimOf(spec, layer) * spec.hidden * (count + count / share));
  });
}
