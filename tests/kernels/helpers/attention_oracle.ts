// Causal grouped attention in f64, over all keys or a window of them, forward and backward, on dense arrays [batch·seq, heads·headDim]. The reference of the attention tests.
import type { AttentionShape } from "../../../lib/nn/attention.ts";

/** Dense inputs of {@link attentionOracle}. */
export interface AttentionInputs {
  readonly q: Float64Array;
  readonly k: Float64Array;
  readonly v: Float64Array;
}

/** Result of the forward pass; lse [heads, batch·seq]. */
export interface AttentionForward {
  readonly o: Float64Array;
  readonly lse: Float64Array;
}

/** o and lse by the definition: a full softmax per query. */
export function attentionOracle(shape: AttentionShape, { q, k, v }: AttentionInputs): AttentionForward {
  const { batch, seq, heads, headDim } = shape;
  const o = new Float64Array(q.length), lse = new Float64Array(heads * batch * seq);
  eachQuery(shape, (m, h, at, kvAt) => {
    const scores = Array.from(kvAt, (from) => scoreOf(shape, dot(q, at, k, from, headDim)));
    const top = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - top));
    const sum = weights.reduce((a, b) => a + b, 0);
    lse[h * batch * seq + m] = top + Math.log(sum);
    kvAt.forEach((from, j) => {
      for (let c = 0; c < headDim; c++) add(o, at + c, (weights[j] ?? NaN) / sum * (v[from + c] ?? NaN));
    });
  });
  return { o, lse };
}

/** dq, dk and dv of Σ dO∘o, by dS = P∘(dO·Vᵀ − rowsum(dO∘o)). */
export function attentionGradOracle(shape: AttentionShape, inputs: AttentionInputs, dO: Float64Array): AttentionInputs {
  const { batch, seq, headDim } = shape;
  const { q, k, v } = inputs;
  const { o, lse } = attentionOracle(shape, inputs);
  const dq = new Float64Array(q.length), dk = new Float64Array(k.length), dv = new Float64Array(v.length);
  const { scale = 1 / Math.sqrt(headDim), softCap } = shape;
  eachQuery(shape, (m, h, at, kvAt) => {
    const delta = dot(dO, at, o, at, headDim);
    for (const from of kvAt) {
      const score = scoreOf(shape, dot(q, at, k, from, headDim));
      const p = Math.exp(score - (lse[h * batch * seq + m] ?? NaN));
      const slope = softCap === undefined ? 1 : 1 - (score / softCap) ** 2;
      const ds = p * (dot(dO, at, v, from, headDim) - delta) * slope * scale;
      for (let c = 0; c < headDim; c++) {
        add(dq, at + c, ds * (k[from + c] ?? NaN));
        add(dk, from + c, ds * (q[at + c] ?? NaN));
        add(dv, from + c, p * (dO[at + c] ?? NaN));
      }
    }
  });
  return { q: dq, k: dk, v: dv };
}

/** A score of the product q·k. */
function scoreOf({ headDim, scale = 1 / Math.sqrt(headDim), softCap }: AttentionShape, product: number): number {
  const score = product * scale;
  return softCap === undefined ? score : softCap * Math.tanh(score / softCap);
}

/** Visits row m and head h, where its query starts and where the heads of its keys start. */
function eachQuery(shape: AttentionShape, visit: (m: number, h: number, at: number, kvAt: number[]) => void): void {
  const { batch, seq, heads, kvHeads, headDim, window = seq } = shape;
  for (let m = 0; m < batch * seq; m++) {
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor(h / (heads / kvHeads)), seen = Math.min(m % seq + 1, window);
      const kvAt = Array.from({ length: seen }, (_, j) => ((m - seen + 1 + j) * kvHeads + kv) * headDim);
      visit(m, h, (m * heads + h) * headDim, kvAt);
    }
  }
}

function dot(a: Float64Array, atA: number, b: Float64Array, atB: number, length: number): number {
  let sum = 0;
  for (let c = 0; c < length; c++) sum += (a[atA + c] ?? NaN) * (b[atB + c] ?? NaN);
  return sum;
}

function add(target: Float64Array, index: number, value: number): void {
  target[index] = (target[index] ?? NaN) + value;
}
