// A reference decoder on the CPU in f64, written from the formulas, for tests of statistics and first-order scores. It
// has no batches and no padding.
import type { WeightSource } from "../../../lib/spec/source.ts";
import type { MaskValues } from "../../../lib/nn/mask_slots.ts";
import { normal } from "../../kernels/helpers/normal.ts";
import { localRope, queryScale, ropeAttention, ropeFrequencies } from "../../../lib/spec/rope.ts";
import {
  EMBEDDING,
  embeddingWidth,
  FINAL_NORM,
  hasRope,
  HEAD,
  HEAD_BIAS,
  headDimOf,
  headNormName,
  layerScaleName,
  type LayerSpec,
  normBiasName,
  normName,
  POSITIONS,
  PROJECT_IN,
  PROJECT_OUT,
  type Projection,
  ropeDims,
  tensorShapes,
} from "../../../lib/spec/decoder.ts";

/** A row of f64 values for each token. */
export type Rows = readonly Float64Array[];

/** What a forward pass gave. */
export interface Forward {
  /** Masked inputs of o_proj [heads·headDim] and down_proj [ffn] of each layer. */
  readonly inputs: readonly { readonly o: Rows; readonly down: Rows }[];
  /** The residual stream before each layer, after its attention, and after its FFN [hidden]. */
  readonly states: readonly (readonly [before: Rows, between: Rows, after: Rows])[];
  readonly logits: Rows;
}

/** Runs one sequence, with masks where given. */
export type Decoder = (tokens: readonly number[], masks?: TwinMasks) => Forward;

/** Masks of any precision. */
export type TwinMasks = Readonly<Partial<Record<keyof MaskValues, ArrayLike<number>>>>;

/** Reads all weights of a model without absent parts. */
export async function decoderOf(source: WeightSource): Promise<Decoder> {
  const { spec } = source, weights = new Map<string, Float32Array>();
  for (const name of tensorShapes(spec).keys()) weights.set(name, await source.read(name));
  const at = (name: string): Float32Array => weights.get(name) ?? new Float32Array();
  const { hidden } = spec;

  const product = (x: Rows, name: string): Float64Array[] => {
    const w = at(name), bias = name === HEAD ? undefined : weights.get(name.replace(/weight$/, "bias"));
    return x.map((row) => {
      const out = new Float64Array(w.length / row.length);
      for (let i = 0; i < out.length; i++) {
        let sum = bias?.[i] ?? 0;
        // Nearly all time is spent here.
        for (let j = 0, at = i * row.length; j < row.length; j++, at++) sum += (row[j] as number) * (w[at] as number);
        out[i] = sum;
      }
      return out;
    });
  };
  const layerNorm = (x: Rows, name: string): Float64Array[] =>
    x.map((row) => {
      const mean = row.reduce((sum, value) => sum + value, 0) / hidden;
      const deviation = Math.sqrt(row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / hidden + spec.normEps);
      const weight = at(name), bias = spec.norm === "layer" ? at(normBiasName(name)) : [];
      return row.map((value, i) => (value - mean) / deviation * (weight[i] ?? NaN) + (bias[i] ?? 0));
    });
  const norm = (x: Rows, name: string): Float64Array[] =>
    spec.norm ? layerNorm(x, name) : x.map((row) => {
      const rms = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / hidden + spec.normEps);
      return row.map((value, i) => value / rms * (at(name)[i] ?? NaN));
    });
  /** RMSNorm of each head, or of all heads together, where the model has it. */
  const headNorm = (x: Rows, headDim: number, weight: ArrayLike<number>): Rows => {
    if (!spec.qkNorm) return x;
    const w = weight;
    if (spec.qkNorm === "layer") {
      return x.map((row) =>
        row.map((value, i) => {
          const head = row.subarray(i - i % headDim, i - i % headDim + headDim);
          const mean = head.reduce((sum, other) => sum + other, 0) / headDim;
          const variance = head.reduce((sum, other) => sum + (other - mean) ** 2, 0) / headDim;
          return (value - mean) / Math.sqrt(variance + spec.normEps) * (w[i] ?? NaN);
        })
      );
    }
    return x.map((row) =>
      row.map((value, i) => {
        // The columns that are normalised together: a head, or all.
        const width = spec.qkNorm === "whole" ? row.length : headDim, first = i - i % width;
        const squares = row.subarray(first, first + width).reduce((sum, other) => sum + other * other, 0);
        return value / Math.sqrt(squares / width + spec.normEps) * (w[i % width] ?? NaN);
      })
    );
  };
  /** Rotates pairs (i, i + half) of every head by the position. */
  const rotate = (x: Rows, layer: LayerSpec, of: "q" | "k"): Rows => {
    if (!hasRope(spec, layer)) return x;
    const turn = (layer.rope === "local" && localRope(spec)) || spec, size = ropeAttention(turn.rope);
    const headDim = headDimOf(spec, layer), half = ropeDims(turn) / 2;
    const frequencies = ropeFrequencies(turn, x.length);
    return x.map((row, position) =>
      row.map((value, i) => {
        const inHead = i % headDim, angle = position * (frequencies[inHead % half] ?? NaN);
        if (inHead >= 2 * half) return value;
        const other = inHead < half ? -(row[i + half] ?? NaN) : row[i - half] ?? NaN;
        return size * (of === "q" ? queryScale(turn.rope, position) : 1) *
          (value * Math.cos(angle) + other * Math.sin(angle));
      })
    );
  };
  const attention = (q: Rows, k: Rows, v: Rows, layer: LayerSpec): Float64Array[] => {
    const { heads, kvHeads, window = Infinity } = layer, headDim = headDimOf(spec, layer);
    const scale = spec.scales?.attention ?? 1 / Math.sqrt(headDim);
    return q.map((query, t) => {
      const share = heads / kvHeads, earliest = Math.max(0, t + 1 - window);
      const out = new Float64Array(query.length);
      for (let head = 0; head < query.length / headDim; head++) {
        const first = head * headDim, kv = Math.floor(head / share) * headDim;
        const scores = k.slice(earliest, t + 1).map((key) => {
          let dot = 0;
          for (let i = 0; i < headDim; i++) dot += (query[first + i] ?? NaN) * (key[kv + i] ?? NaN);
          return Math.exp(bent(dot * scale, spec.softCaps?.attention));
        });
        const total = scores.reduce((sum, score) => sum + score, 0);
        scores.forEach((score, s) => {
          for (let i = 0; i < headDim; i++) {
            out[first + i] = (out[first + i] ?? 0) + score / total * (v[earliest + s]?.[kv + i] ?? NaN);
          }
        });
      }
      return out;
    });
  };

  const activated = (x: number): number => {
    if (spec.activation === "relu") return Math.max(0, x);
    if (spec.activation === "relu2") return Math.max(0, x) ** 2;
    if (spec.activation === undefined) return x / (1 + Math.exp(-x));
    if (spec.activation === "gelu") return x * normal(x);
    return x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  };

  return (tokens, masks = {}) => {
    const { embedding = 1, residual = 1, logits: divisor = 1 } = spec.scales ?? {};
    const z = masks.hidden ?? new Float32Array(hidden).fill(1);
    const isResidual = spec.normPlaces === "residual", width = embeddingWidth(spec);
    /** x + y ∘ z, or x + RMSNorm(y ∘ z) where outputs are normalised, or norm(x + y ∘ z) where the stream is. */
    const added = (x: Rows, y: Rows, index: number, of: "attention" | "ffn"): Float64Array[] => {
      const masked = y.map((row) => row.map((value, i) => value * (z[i] ?? NaN)));
      const write = spec.normPlaces && !isResidual ? norm(masked, normName(index, `${of}_output`)) : masked;
      const sum = x.map((row, t) => row.map((value, i) => value + residual * (write[t]?.[i] ?? NaN)));
      return isResidual ? norm(sum, normName(index, of)) : sum;
    };
    const position = (row: number, i: number): number =>
      spec.positions ? at(POSITIONS)[(row + spec.positions.offset) * hidden + i] ?? NaN : 0;
    const looked = tokens.map((token) =>
      Float64Array.from({ length: width }, (_, i) => (at(EMBEDDING)[token * width + i] ?? NaN) * embedding)
    );
    const entered = spec.embeddingWidth === undefined ? looked : product(looked, PROJECT_IN);
    let x: Rows = entered.map((own, row) => own.map((value, i) => (value + position(row, i)) * (z[i] ?? NaN)));
    let heads = 0, columns = 0;
    const states: [Rows, Rows, Rows][] = [];
    const inputs = spec.layers.map((layer, index) => {
      const before = x;
      const block = (projection: Projection): string =>
        `model.layers.${index}.${
          ["gate", "up", "down"].includes(projection) ? "mlp" : "self_attn"
        }.${projection}_proj.weight`;
      // Where outputs alone are normalised, attention and FFN read the stream as it is.
      const input = (place: "attention" | "ffn"): Rows =>
        spec.normPlaces === "after" || isResidual ? x : norm(x, normName(index, place));
      const h = input("attention"), beside = spec.parallel === "shared" ? h : spec.parallel ? input("ffn") : null;
      const headDim = headDimOf(spec, layer);
      const turned = (of: "q" | "k"): Rows => {
        const x = product(h, block(of)), normed = (x: Rows): Rows => headNorm(x, headDim, at(headNormName(index, of)));
        return spec.qkNormAfter ? normed(rotate(x, layer, of)) : rotate(normed(x), layer, of);
      };
      const [q, k] = [turned("q"), turned("k")];
      const values = product(h, block("v"));
      const v = spec.valueNorm ? headNorm(values, headDim, new Float64Array(headDim).fill(1)) : values;
      const o = attention(q, k, v, layer)
        .map((row) => row.map((value, i) => value * (masks.head?.[heads + Math.floor(i / headDim)] ?? 1)));
      const between = x = added(x, product(o, block("o")), index, "attention");
      const g = beside ?? input("ffn"), up = product(g, block("up"));
      const opened = (spec.ungated ? up : product(g, block("gate"))).map((row) => row.map(activated));
      const down = opened.map((row, t) =>
        row.map((open, i) => open * (spec.ungated ? 1 : up[t]?.[i] ?? NaN) * (masks.ffn?.[columns + i] ?? 1))
      );
      x = added(x, product(down, block("down")), index, "ffn");
      const [factor = 1] = at(layerScaleName(index));
      x = x.map((row) => row.map((value) => value * factor));
      states.push([before, between, x]);
      heads += layer.heads;
      columns += layer.ffn;
      return { o, down };
    });
    const last = isResidual ? x : norm(x, FINAL_NORM);
    const read = spec.embeddingWidth === undefined ? last : product(last, PROJECT_OUT);
    const bias = weights.get(HEAD_BIAS), raw = product(read, spec.tied ? EMBEDDING : HEAD);
    const logits = bias ? raw.map((row) => row.map((value, token) => value + (bias[token] ?? NaN))) : raw;
    return {
      inputs,
      states,
      logits: logits.map((row) => row.map((value) => bent(value / divisor, spec.softCaps?.logits))),
    };
  };
}

/** A score or logit with its soft cap. */
function bent(x: number, cap: number | undefined): number {
  return cap === undefined ? x : cap * Math.tanh(x / cap);
}

/** Σ −ln p(labels[t + 1] | tokens up to t) over the labels that count, and their number. */
export function lossOf(logits: Rows, labels: readonly number[]): { readonly sum: number; readonly count: number } {
  let sum = 0, count = 0;
  logits.forEach((row, t) => {
    const label = labels[t + 1] ?? -100;
    if (label < 0) return;
    const top = row.reduce((most, value) => Math.max(most, value), -Infinity);
    sum += top + Math.log(row.reduce((total, value) => total + Math.exp(value - top), 0)) - (row[label] ?? NaN);
    count++;
  });
  return { sum, count };
}
