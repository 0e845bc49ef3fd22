// The plan of one token of each sequence: a few fused kernels per layer, no copies. Without LoRA; see general.ts.
import { existing } from "../../core/guards.ts";
import { rotateAppend } from "../../../kernels/mod.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { Plan, u32 } from "../../gpu/plan.ts";
import { widest } from "../activations.ts";
import { recordDecodeAttention, recordTextureDecodeAttention } from "./attention.ts";
import { type CacheLimits, mostPages, pagesFor } from "./cache.ts";
import { type ChoiceState, recordChoice } from "./choice.ts";
import type { PrefillState } from "./prefill.ts";
import { type DecoderSpec, ropeDims } from "../../spec/decoder.ts";
import { queryGrowth } from "../../spec/rope.ts";
import { headStride, strideOf } from "../padding.ts";
import { slotSlice } from "../mask_slots.ts";
import type { MatrixPlacement } from "../products/matrix.ts";
import {
  type MatvecInput,
  type NextInput,
  type PageTable,
  recordGatedProducts,
  recordResidualProduct,
  recordRotatedProducts,
  recordStoredProducts,
} from "../products/matvec.ts";
import { createMatvecScratch, type MatvecScratch, recordVectors } from "../products/matvec_batch.ts";
import { recordEmbedding, recordScale } from "../ops.ts";
import { layerTable } from "../rope.ts";
import { headWidths, type LayerWeights, type Weights } from "../weights.ts";

/** Buffers that the plan of one token reads and writes, for `rows` sequences. All must outlive the plan. */
export interface DecodeState extends PrefillState {
  /** Sequences, each with a row in the buffers. */
  readonly rows: number;
  /** The current token of each sequence [rows] u32. */
  readonly token: DeviceBuffer;
  /** The most likely token after each position, [rows, capacity] u32. */
  readonly picks: DeviceBuffer;
  /** Next-token logits, [rows, strideOf(vocab)]. */
  readonly logits: DeviceBuffer;
  readonly choice: ChoiceState;
}

/** The plan and the buffers that it owns. */
export interface DecodeStep extends Disposable {
  readonly plan: Plan;
}

/** Vectors of the step, each [rows, strideOf(width)]. */
interface Vectors {
  /** The residual stream. */
  readonly x: DeviceBuffer;
  /** The embedding before its mask. */
  readonly embedded: DeviceBuffer;
  /** Queries after RoPE. The keys of all rows, then their values, follow them if the caches are buffers. */
  readonly qkv: DeviceBuffer;
  /** Masked output of the heads; with a scratch its texture "heads" instead. */
  readonly o: DeviceBuffer;
  /** Masked activation of the FFN; with a scratch its texture "ffn" instead. */
  readonly a: DeviceBuffer;
}

interface Context extends DecodeState, Vectors {
  readonly plan: Plan;
  /** Null for a single row, and where matrices lie in buffers. Its texture "stream" is x times the weight of the next norm. */
  readonly scratch: MatvecScratch | null;
}

/** Where the caches of {@link createDecodeStep} must be placed, or null if the fused step does not apply. */
export function stepPlacement(
  device: { readonly limits: CacheLimits },
  weights: Weights,
  pages: number,
): MatrixPlacement | null {
  if (!isFusable(weights.spec) || weights.layers.some(({ ffn }) => ffn?.gate?.dtype !== ffn?.up?.dtype)) return null;
  if (weights.embedding.placement === "buffer") return "buffer";
  // RoPE is applied to the rows of a workgroup, so a workgroup must hold whole heads; shards could split a head.
  const isWhole = weights.layers.every(({ attention: part }) =>
    !part || [part.q, part.k, part.v].every(({ shards }) => shards.length === 1)
  );
  return isWhole && pages <= mostPages(device, weights.spec, "texture") ? "texture" : null;
}

/** The fused kernels compute a LLaMA without biases. */
function isFusable(spec: DecoderSpec): boolean {
  const { biases = [], qkNorm, activation, norm, normPlaces, ungated, parallel, positions, scales, softCaps, rope } =
      spec,
    { router, convolution } = spec;
  return biases.length === 0 && rope.localBase === undefined && queryGrowth(rope) === undefined &&
    [
      router,
      convolution,
      qkNorm,
      activation,
      norm,
      normPlaces,
      ungated,
      parallel,
      positions,
      scales,
      softCaps,
      spec.headBias,
      spec.embeddingWidth,
      spec.localHeadDim,
      spec.layerScale,
    ].every((
      part,
    ) => part === undefined);
}

/**
 * Records the plan of one token of each row: logits, then the choice of the next token. {@link stepPlacement}
 * gives the placement of the caches. The values of a row do not depend on the number of rows.
 */
export function createDecodeStep(device: Device, state: DecodeState): DecodeStep {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    const { spec } = state.weights, wide = widest(spec);
    const vector = (label: string, width: number): DeviceBuffer =>
      own(device.createBuffer(label, 4 * state.rows * strideOf(width)));
    const plan = own(new Plan(device));
    const needsScratch = state.rows > 1 && state.weights.embedding.placement === "texture";
    const qkv = strideOf(wide.q) + 2 * strideOf(wide.kv);
    const context: Context = {
      ...state,
      plan,
      scratch: needsScratch ? own(createMatvecScratch(device, state.rows)) : null,
      x: vector("x", spec.hidden),
      embedded: vector("embedding", spec.hidden),
      qkv: vector("qkv", qkv),
      o: vector("o", wide.q),
      a: vector("ffn activation", wide.ffn),
    };
    const { layers, finalNorm } = state.weights, blocks = layers.flatMap(({ attention, ffn }) => [attention, ffn]);
    const norms = [...blocks.filter((block) => block !== null), { norm: finalNorm }].map(({ norm }) =>
      existing(norm, "norm").weight
    );
    const next = (): DeviceBuffer => existing(norms.shift(), "norm after a block");
    recordToken(context, next());
    layers.forEach((layer, index) => {
      if (layer.attention) recordAttention(context, { layer, index, part: layer.attention, next: next() });
      if (layer.ffn) recordFfn(context, { layer, index, part: layer.ffn, next: next() });
    });
    recordHead(context);
    recordChoice(plan, state);
    plan.finish();
    return { plan, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** x = embedding(token) ∘ z. */
function recordToken(context: Context, next: DeviceBuffer): void {
  const { plan, weights, masks, token, embedded, x, rows } = context, width = weights.spec.hidden;
  plan.section("embedding");
  recordEmbedding(plan, weights.embedding, { tokens: token, x: embedded }, { rows });
  const z = slotSlice(masks.z, masks.layout.hidden, width);
  recordScale(plan, { x: embedded, z, y: x }, { rows, width, groupWidth: 1 });
  const input = streamOf(context, next);
  if (input.texture) recordVectors(plan, input, input.texture);
}

/** A layer's attention or FFN. */
interface Block<Part> {
  readonly layer: LayerWeights;
  readonly index: number;
  readonly part: Part;
  /** Weight of the norm that follows. */
  readonly next: DeviceBuffer;
}

/** x += Wo·(z ∘ attention of RMSNorm(x)) ∘ z. */
function recordAttention(
  context: Context,
  { layer: { spec: layer }, index, part, next }: Block<NonNullable<LayerWeights["attention"]>>,
): void {
  const { plan, weights, masks, caches: { layers }, capacity, position, x, qkv, o, rows } = context;
  const pages = pagesFor(context, layer.window);
  const { heads, kvHeads, window } = layer, rope = layerTable(context.rope, layer, "k");
  const cache = existing(layers[index], `cache of layer ${index}`), { spec } = weights, { headDim } = spec;
  const widths = headWidths(spec, layer);
  const input = streamOf(context, existing(part.norm, `norm of layer ${index}`).weight);
  const output = vectorsOf(context, { buffer: o, name: "heads", width: widths.q });
  const z = slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).head, heads);
  const shape = { heads, kvHeads, headDim, window, capacity, rows, ownCaches: rows > 1 };
  plan.section("products");
  if (cache.placement === "texture") {
    const target = { headDim, dims: ropeDims(spec), kvHeads, capacity, rope, position, pages };
    recordRotatedProducts(plan, input, part, { ...target, q: qkv, kCache: cache.k, vCache: cache.v });
    plan.section("attention");
    const buffers = { q: qkv, kCache: cache.k, vCache: cache.v, position, pages, z };
    const { texture } = output;
    recordTextureDecodeAttention(plan, shape, { ...buffers, o: texture ? { texture } : { buffer: o } });
  } else {
    const k = rows * strideOf(widths.q), v = k + rows * strideOf(widths.kv);
    recordStoredProducts(plan, input, {
      parts: [{ matrix: part.q, offset: 0 }, { matrix: part.k, offset: k }, { matrix: part.v, offset: v }],
      y: qkv,
    });
    plan.section("attention");
    recordRotateAppend(context, { heads, kvHeads, k, v, cache, rope, pages });
    recordDecodeAttention(plan, shape, { q: qkv, kCache: cache.k, vCache: cache.v, o, position, pages, z });
  }
  plan.section("products");
  recordResidualProduct(plan, output, {
    matrix: part.o,
    z: hiddenMask(context),
    y: x,
    next: nextOf(context, next),
  });
}

function recordRotateAppend(
  { plan, weights, capacity, position, qkv, rows }: Context,
  { heads, kvHeads, k, v, cache, rope, pages }: {
    readonly heads: number;
    readonly kvHeads: number;
    /** Offset of keys and values. */
    readonly k: number;
    readonly v: number;
    readonly cache: { readonly k: DeviceBuffer; readonly v: DeviceBuffer };
    /** See `layerTable`. */
    readonly rope: DeviceBuffer;
    readonly pages: PageTable;
  },
): void {
  const hs = headStride(weights.spec.headDim), half = ropeDims(weights.spec) / 2;
  const positions = Math.floor(rope.bytes / (8 * half));
  const params = [
    ...[heads, kvHeads, hs / 4, half, strideOf(heads * hs) / 4, k / 4, v / 4, strideOf(kvHeads * hs) / 4],
    ...[capacity, positions, pages.perRow],
  ];
  const threads = (heads + kvHeads) * half + kvHeads * hs;
  plan.dispatch(
    compileKernel(plan.device, rotateAppend),
    [rope, position, pages.buffer, qkv, cache.k, cache.v, { params: params.map(u32) }],
    { groups: [Math.ceil(threads / 64), rows], cost: 10 * rows * threads },
  );
}

/** x += Wdown·(silu(gate)·up·z) ∘ z of RMSNorm(x). */
function recordFfn(
  context: Context,
  { layer: { spec: { ffn } }, index, part, next }: Block<NonNullable<LayerWeights["ffn"]>>,
): void {
  const { plan, masks, x, a } = context;
  const z = slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).ffn, ffn);
  plan.section("products");
  const input = streamOf(context, existing(part.norm, `norm of layer ${index}`).weight);
  const gate = existing(part.gate, `gate of layer ${index}`);
  const output = vectorsOf(context, { buffer: a, name: "ffn", width: ffn });
  recordGatedProducts(plan, input, { gate, up: existing(part.up, "up"), z, y: output.texture ?? a });
  recordResidualProduct(plan, output, {
    matrix: existing(part.down, "down"),
    z: hiddenMask(context),
    y: x,
    next: nextOf(context, next),
  });
}

/** logits = head·RMSNorm(x). */
function recordHead(context: Context): void {
  const { plan, weights: { finalNorm, head: matrix }, logits } = context;
  plan.section("head");
  const input = streamOf(context, existing(finalNorm, "final norm").weight);
  recordStoredProducts(plan, input, { parts: [{ matrix, offset: 0 }], y: logits });
}

/** Input of products: a vector of each row. */
function vectorsOf(
  { rows, scratch }: Context,
  { name, buffer, width }: { readonly buffer: DeviceBuffer; readonly name: string; readonly width: number },
): MatvecInput {
  return { buffer, width, batch: rows, ...(scratch ? { scratch, texture: scratch.texture(name, width) } : {}) };
}

/** The residual stream as the input of products that follow a norm. */
function streamOf(context: Context, weight: DeviceBuffer): MatvecInput {
  const { weights: { spec: { hidden, normEps: eps } }, x } = context;
  return { ...vectorsOf(context, { buffer: x, name: "stream", width: hidden }), norm: { weight, eps } };
}

/** What a product that adds to the residual stream writes for the norm that follows, if there is a scratch. */
function nextOf(context: Context, norm: DeviceBuffer): NextInput | undefined {
  const { texture } = streamOf(context, norm);
  return texture && { norm, texture };
}

function hiddenMask({ masks, weights }: Context): ReturnType<typeof slotSlice> {
  return slotSlice(masks.z, masks.layout.hidden, weights.spec.hidden);
}
