// The plan of one token of generation: a few fused kernels per layer, no copies. Without LoRA; see general.ts.
import { existing } from "../../core/guards.ts";
import { greedyNext, rotateAppend } from "../../../kernels/mod.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { Plan, u32 } from "../../gpu/plan.ts";
import { widest } from "../activations.ts";
import { cacheRows, recordDecodeAttention, recordTextureDecodeAttention } from "./attention.ts";
import { type DecodeCaches, fitsTextures } from "./cache.ts";
import { ropeDims } from "../../spec/decoder.ts";
import { headStride, strideOf } from "../padding.ts";
import { type MaskSlots, slotSlice } from "../mask_slots.ts";
import type { MatrixPlacement } from "../products/matrix.ts";
import {
  type MatvecInput,
  recordGatedProducts,
  recordResidualProduct,
  recordRotatedProducts,
  recordStoredProducts,
} from "../products/matvec.ts";
import { recordEmbedding, recordScale } from "../ops.ts";
import type { RopeTables } from "../rope.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { headWidths, type LayerWeights, type Weights } from "../weights.ts";

/** Buffers that the plan of one token reads and writes. All must outlive the plan. */
export interface DecodeState {
  readonly weights: Weights;
  readonly masks: MaskSlots;
  readonly caches: DecodeCaches;
  /** One row for each cache position. */
  readonly rope: RopeTables;
  /** One u32: the current token. */
  readonly token: DeviceBuffer;
  /** One u32: number of tokens read, which is the position of the current token. */
  readonly position: DeviceBuffer;
  /** The most likely token after each position, [capacity] u32. */
  readonly picks: DeviceBuffer;
  /** Next-token logits, [strideOf(vocab)]. */
  readonly logits: DeviceBuffer;
}

/** The plan and the buffers that it owns. */
export interface DecodeStep extends Disposable {
  readonly plan: Plan;
}

/** Vectors of the step; each is a single row. */
interface Vectors {
  /** The residual stream. */
  readonly x: DeviceBuffer;
  /** The embedding before its mask. */
  readonly embedded: DeviceBuffer;
  /** Queries after RoPE. Keys and values follow them if the caches are buffers. */
  readonly qkv: DeviceBuffer;
  /** Masked output of the heads. */
  readonly o: DeviceBuffer;
  /** Masked activation of the FFN. */
  readonly a: DeviceBuffer;
}

interface Context extends DecodeState, Vectors {
  readonly plan: Plan;
}

/** Where the caches of {@link createDecodeStep} must be placed, or null if the fused step does not apply. */
export function stepPlacement(device: Device, weights: Weights, capacity: number): MatrixPlacement | null {
  if (!isFusable(weights.spec)) return null;
  if (weights.embedding.placement === "buffer") return "buffer";
  // RoPE is applied to the rows of a workgroup, so a workgroup must hold whole heads; shards could split a head.
  const isWhole = weights.layers.every(({ attention: part }) =>
    !part || [part.q, part.k, part.v].every(({ shards }) => shards.length === 1)
  );
  return isWhole && fitsTextures(device, weights.spec, capacity) ? "texture" : null;
}

/** The fused kernels compute a LLaMA without biases. */
function isFusable(spec: DecoderSpec): boolean {
  const { biases = [], qkNorm, activation, norm, normPlaces, ungated, positions, scales, rope } = spec;
  return biases.length === 0 && rope.localBase === undefined &&
    [qkNorm, activation, norm, normPlaces, ungated, positions, scales].every((part) => part === undefined);
}

/**
 * Records the plan of one token: logits, then the greedy choice as the next token. {@link stepPlacement} gives the
 * placement of the caches.
 */
export function createDecodeStep(device: Device, state: DecodeState): DecodeStep {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    const { spec } = state.weights, wide = widest(spec);
    const vector = (label: string, width: number): DeviceBuffer => own(device.createBuffer(label, 4 * strideOf(width)));
    const plan = own(new Plan(device));
    const context: Context = {
      ...state,
      plan,
      x: vector("x", spec.hidden),
      embedded: vector("embedding", spec.hidden),
      qkv: vector("qkv", wide.q + 2 * wide.kv),
      o: vector("o", wide.q),
      a: vector("ffn activation", wide.ffn),
    };
    recordToken(context);
    state.weights.layers.forEach((layer, index) => {
      recordAttention(context, layer, index);
      recordFfn(context, layer, index);
    });
    recordHead(context);
    recordGreedyChoice(plan, state);
    plan.finish();
    return { plan, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** token = argmax logits, stored at picks[position]; position += 1. */
export function recordGreedyChoice(
  plan: Plan,
  { weights, logits, token, picks, position, caches }: Omit<DecodeState, "masks" | "rope">,
): void {
  plan.section("choice");
  const { vocab } = weights.spec;
  plan.dispatch(compileKernel(plan.device, greedyNext), [logits, token, picks, position, {
    params: [u32(vocab), u32(caches.capacity)],
  }], { groups: [1], cost: 4 * vocab });
}

/** x = embedding(token) ∘ z. */
function recordToken({ plan, weights, masks, token, embedded, x }: Context): void {
  plan.section("embedding");
  const width = weights.spec.hidden;
  recordEmbedding(plan, weights.embedding, { tokens: token, x: embedded }, { rows: 1 });
  const z = slotSlice(masks.z, masks.layout.hidden, width);
  recordScale(plan, { x: embedded, z, y: x }, { rows: 1, width, groupWidth: 1 });
}

/** x += Wo·(z ∘ attention of RMSNorm(x)) ∘ z. */
function recordAttention(
  context: Context,
  { attention: part, spec: { heads, kvHeads, window } }: LayerWeights,
  index: number,
): void {
  const { plan, weights, masks, caches: { capacity, layers }, rope: { model: rope }, position, x, qkv, o } = context;
  if (!part) return;
  const cache = existing(layers[index], `cache of layer ${index}`), { spec } = weights, { headDim, hidden } = spec;
  const widths = headWidths(spec, { heads, kvHeads, ffn: 0 });
  const input: MatvecInput = { buffer: x, width: hidden, norm: { weight: part.norm.weight, eps: spec.normEps } };
  const z = slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).head, heads);
  const shape = { heads, kvHeads, headDim, window, capacity };
  plan.section("products");
  if (cache.placement === "texture") {
    recordRotatedProducts(plan, input, part, {
      headDim,
      dims: ropeDims(spec),
      rope,
      position,
      q: qkv,
      kCache: cache.k,
      vCache: cache.v,
      cacheRows: cacheRows(capacity),
    });
    plan.section("attention");
    recordTextureDecodeAttention(plan, shape, { q: qkv, kCache: cache.k, vCache: cache.v, o, position, z });
  } else {
    const k = widths.q, v = k + widths.kv;
    recordStoredProducts(plan, input, {
      parts: [{ matrix: part.q, offset: 0 }, { matrix: part.k, offset: k }, { matrix: part.v, offset: v }],
      y: qkv,
    });
    plan.section("attention");
    recordRotateAppend(context, { heads, kvHeads, k, v, cache });
    recordDecodeAttention(plan, shape, { q: qkv, kCache: cache.k, vCache: cache.v, o, position, z });
  }
  plan.section("products");
  recordResidualProduct(plan, { buffer: o, width: widths.q }, { matrix: part.o, z: hiddenMask(context), y: x });
}

function recordRotateAppend(
  { plan, weights, caches: { capacity }, rope: { model: rope }, position, qkv }: Context,
  { heads, kvHeads, k, v, cache }: {
    readonly heads: number;
    readonly kvHeads: number;
    /** Offset of keys and values. */
    readonly k: number;
    readonly v: number;
    readonly cache: { readonly k: DeviceBuffer; readonly v: DeviceBuffer };
  },
): void {
  const hs = headStride(weights.spec.headDim), half = ropeDims(weights.spec) / 2;
  const positions = Math.floor(rope.bytes / (8 * half));
  const params = [heads, kvHeads, hs / 4, half, k / 4, v / 4, strideOf(kvHeads * hs) / 4, capacity, positions];
  const threads = (heads + kvHeads) * half + kvHeads * hs;
  plan.dispatch(
    compileKernel(plan.device, rotateAppend),
    [rope, position, qkv, cache.k, cache.v, { params: params.map(u32) }],
    { groups: [Math.ceil(threads / 64)], cost: 10 * threads },
  );
}

/** x += Wdown·(silu(gate)·up·z) ∘ z of RMSNorm(x). */
function recordFfn(context: Context, { ffn: part, spec: { ffn } }: LayerWeights, index: number): void {
  if (!part) return;
  const { plan, weights: { spec }, masks, x, a } = context;
  const norm = { weight: part.norm.weight, eps: spec.normEps };
  const z = slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).ffn, ffn);
  plan.section("products");
  recordGatedProducts(plan, { buffer: x, width: spec.hidden, norm }, {
    gate: existing(part.gate, `gate of layer ${index}`),
    up: part.up,
    z,
    y: a,
  });
  recordResidualProduct(plan, { buffer: a, width: ffn }, { matrix: part.down, z: hiddenMask(context), y: x });
}

/** logits = head·RMSNorm(x). */
function recordHead({ plan, weights, x, logits }: Context): void {
  const { spec, finalNorm: { weight }, head: matrix } = weights;
  plan.section("head");
  recordStoredProducts(plan, { buffer: x, width: spec.hidden, norm: { weight, eps: spec.normEps } }, {
    parts: [{ matrix, offset: 0 }],
    y: logits,
  });
}

function hiddenMask({ masks, weights }: Context): ReturnType<typeof slotSlice> {
  return slotSlice(masks.z, masks.layout.hidden, weights.spec.hidden);
}
