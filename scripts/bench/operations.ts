// Counts the mathematics of a training step from a model's shape: floating-point operations of products and attention, and floats that the other kernels stream.
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

/** What each section of a step computes; LoRA, masks' learner and optimiser are left out, as they are the same for all. */
export interface Operations {
  /** Floating-point operations of products with frozen matrices. */
  readonly products: number;
  /** Of attention. */
  readonly attention: number;
  /** Of the output head. */
  readonly head: number;
  /** Floats of activations that norms, activations, masks, biases, RoPE and residual writes read and write. */
  readonly elementwise: number;
}

/** Forward, what backward recomputes (all but o, down and the writes to the residual stream), and backward. */
export function stepOperations(spec: DecoderSpec, { batch, seq }: StepShape): Operations {
  const rows = batch * seq, width = embeddingWidth(spec);
  // The final norm, forward and backward; the input with its mask, twice.
  const outside = spec.hidden * ((hasFinalNorm(spec) ? normFloats(spec) : 0) + 6 + (spec.positions ? 6 : 0));
  const sum = (of: (layer: LayerSpec) => number): number => spec.layers.reduce((all, layer) => all + of(layer), 0);
  return {
    products: rows * (sum((layer) => productFlops(spec, layer)) + (spec.embeddingWidth ? 6 * width * spec.hidden : 0)),
    attention: rows * sum((layer) => attentionFlops(spec, layer, seq)),
    head: 4 * rows * spec.vocab * width,
    elementwise: rows * (outside + sum((layer) => layerFloats(spec, layer))),
  };
}

/** Floating-point operations of products, attention and head. */
export function flopsOf({ products, attention, head }: Operations): number {
  return products + attention + head;
}

/** Seconds of a step with these operations where one with `usual` operations takes `seconds` in each section. */
export function expectedSeconds(
  own: Operations,
  usual: Operations,
  seconds: Readonly<Record<string, number>>,
): number {
  const factor = (section: string): number => {
    const key = (["products", "attention", "head", "elementwise"] as const).find((one) => one === section);
    return key ? own[key] / usual[key] : 1;
  };
  return Object.entries(seconds).reduce((sum, [section, value]) => sum + value * factor(section), 0);
}

/** Operations of a token. A matrix takes 2 a weight in each of its two or three products. */
function productFlops({ hidden, headDim, ...spec }: DecoderSpec, { heads, kvHeads, ffn }: LayerSpec): number {
  const q = heads * headDim, again = q + 2 * kvHeads * headDim + (ffnMatrices(spec) - 1) * ffn;
  return hidden * (6 * again + 4 * (q + ffn));
}

/** Scores and sums in forward and again, five products in backward. */
function attentionFlops({ headDim }: DecoderSpec, { heads, window = Infinity }: LayerSpec, seq: number): number {
  let keys = 0;
  for (let t = 1; t <= seq; t++) keys += Math.min(t, window) / seq;
  return (4 + 4 + 10) * keys * heads * headDim;
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
