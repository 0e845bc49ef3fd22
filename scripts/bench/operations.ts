// Counts the mathematics of a training step from a model's shape: floating-point operations of products and attention, and bytes that the other kernels stream.
import {
  type DecoderSpec,
  embeddingWidth,
  ffnMatrices,
  hasFinalNorm,
  hasRope,
  type LayerSpec,
  normPlaces,
  normVectors,
} from "../../lib/spec/decoder.ts";
import type { StepShape } from "./training_step.ts";

/** What a step computes; LoRA, masks' learner and optimiser are left out, as they are the same for all. */
export interface Operations {
  /** Of products with frozen matrices, the head, and attention. */
  readonly flops: number;
  /** Of activations that norms, activations, masks, biases, RoPE and residual writes read and write. */
  readonly bytes: number;
}

/** Forward, what backward recomputes (all but o, down and the writes to the residual stream), and backward. */
export function stepOperations(spec: DecoderSpec, { batch, seq }: StepShape): Operations {
  const rows = batch * seq,
    width = embeddingWidth(spec),
    projections = spec.embeddingWidth ? 2 * width * spec.hidden : 0;
  let flops = 4 * rows * (spec.vocab * width + projections), floats = 0;
  for (const layer of spec.layers) {
    flops += rows * layerFlops(spec, layer, seq);
    floats += layerFloats(spec, layer);
  }
  // The final norm, forward and backward; the input with its mask, twice.
  floats += spec.hidden * ((hasFinalNorm(spec) ? normFloats(spec) : 0) + 6 + (spec.positions ? 6 : 0));
  return { flops, bytes: 4 * rows * floats };
}

/** Seconds at a machine's peaks, one after the other. */
export function secondsAtPeak(
  { flops, bytes }: Operations,
  peaks: { readonly flops: number; readonly bytes: number },
): number {
  return flops / peaks.flops + bytes / peaks.bytes;
}

/** Operations of a token. A matrix takes 2 a weight in each of its two or three products. */
function layerFlops(
  { hidden, headDim, ...spec }: DecoderSpec,
  { heads, kvHeads, ffn, window = Infinity }: LayerSpec,
  seq: number,
): number {
  const q = heads * headDim, kv = kvHeads * headDim, opened = (ffnMatrices(spec) - 1) * ffn;
  const again = q + 2 * kv + opened, once = q + ffn;
  let keys = 0;
  for (let t = 1; t <= seq; t++) keys += Math.min(t, window) / seq;
  // Scores and sums in forward and again, five products in backward.
  return hidden * (6 * again + 4 * once) + (4 + 4 + 10) * keys * q;
}

/** Activations of a token that pass through memory. */
function layerFloats(spec: DecoderSpec, layer: LayerSpec): number {
  const { hidden, headDim, qkNorm, biases = [], ungated } = spec, { heads, kvHeads, ffn } = layer;
  const q = heads * headDim, kv = kvHeads * headDim, places = normPlaces(spec);
  const inputs = places.filter((place) => place === "attention" || place === "ffn").length;
  const outputs = places.length - inputs;
  const widths = { q, k: kv, v: kv, o: hidden, gate: ffn, up: ffn, down: hidden };
  // A bias is read into what a product wrote; o and down are not recomputed.
  const biased = biases.reduce((sum, one) => sum + widths[one] * (one === "o" || one === "down" ? 2 : 4), 0);
  const turned = hasRope(spec, layer) ? 6 * (q + kv) : 0, normed = qkNorm ? 7 * (q + kv) : 0;
  // Residual writes: x, y, out; backward dx and y. Norms of outputs read and write their gradient too.
  const writes = hidden * (2 * 6 + outputs * 4), masks = q * (2 + 2 + 6), activated = ffn * (ungated ? 7 : 11);
  // Norms of the residual stream recompute and copy as well.
  const extra = spec.normPlaces === "residual" ? 2 * 4 * hidden : 0;
  return inputs * hidden * (normFloats(spec) + 2) + writes + masks + activated + turned + normed + biased + extra;
}

/** x and y in forward; dy, x and dx, twice, in backward. LayerNorm reads x once more for its mean. */
function normFloats(spec: DecoderSpec): number {
  return 2 + 4 + (normVectors(spec) > 1 ? 2 : 0);
}
