// Causal attention with grouped KV heads: forward, backward, and one-token decoding. Owns tile choice and scratch; refuses RoPE tables (see rope.ts).
import {
  attentionKernel,
  attentionKeyGradKernel,
  attentionQueryGradKernel,
  type AttentionTile,
  type AttentionVariant,
  decodeAttentionKernel,
} from "../../kernels/mod.ts";
import type { Device, DeviceBuffer, DeviceTexture } from "../gpu/device.ts";
import { compileKernel, type Kernel } from "../gpu/kernel.ts";
import { f32, type Params, type Plan, u32 } from "../gpu/plan.ts";
import { headStride, strideOf } from "./layout.ts";

export { recordRope, type RopeOptions, ropeTable } from "./rope.ts";

/** Sizes of one layer's attention. Row m = b·seq + t; heads is a multiple of kvHeads. */
export interface AttentionShape {
  readonly batch: number;
  readonly seq: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Unpadded width of a head: even, at most 256. */
  readonly headDim: number;
}

/** How attention is run; both have good defaults. */
export interface AttentionOptions {
  /** Textures that all layers share; without it no texture is used. */
  readonly scratch?: AttentionScratch;
  /** Default: "texture" where a CPU runs the shaders and there is a scratch, else "workgroup". */
  readonly variant?: AttentionVariant;
  /** Work of one invocation, in place of the default of the variant; for benchmarks. */
  readonly tiles?: Partial<Record<AttentionPass, Pick<AttentionTile, "lanes" | "rows" | "step">>>;
}

/** The kernels: forward, dq (lanes along queries), dk and dv (lanes along keys). */
export type AttentionPass = "forward" | "query" | "key";

/** Buffers of {@link recordAttention}: q, o [rows, strideOf(heads·hs)], k, v [rows, strideOf(kvHeads·hs)], lse [heads, batch·seq], all f32. */
export interface AttentionBuffers extends AttentionOptions {
  readonly q: DeviceBuffer;
  readonly k: DeviceBuffer;
  readonly v: DeviceBuffer;
  readonly o: DeviceBuffer;
  readonly lse: DeviceBuffer;
}

/** Buffers of {@link recordAttentionBackward}; gradients lie like their values, delta like lse. */
export interface AttentionBackwardBuffers extends AttentionBuffers {
  readonly dO: DeviceBuffer;
  readonly delta: DeviceBuffer;
  readonly dq: DeviceBuffer;
  readonly dk: DeviceBuffer;
  readonly dv: DeviceBuffer;
}

/** Sizes of {@link recordDecodeAttention}. */
export interface DecodeShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Rows of the caches. */
  readonly capacity: number;
}

/** Buffers of {@link recordDecodeAttention}. */
export interface DecodeBuffers {
  /** One row. */
  readonly q: DeviceBuffer;
  readonly kCache: DeviceBuffer;
  readonly vCache: DeviceBuffer;
  readonly o: DeviceBuffer;
  /** One u32: position[0] + 1 keys are valid. */
  readonly position: DeviceBuffer;
}

/** Textures that the attention of all layers reads its operands from. Whoever makes it disposes it, after the plans that use it. */
export class AttentionScratch implements Disposable {
  readonly #device: Device;
  readonly #textures: {
    readonly name: string;
    readonly width: number;
    readonly height: number;
    readonly texture: DeviceTexture;
  }[] = [];

  constructor(device: Device) {
    this.#device = device;
  }

  /** A texture of at least this size; layers that ask for the same name share it. */
  texture(name: string, width: number, height: number): DeviceTexture {
    const known = this.#textures.find((t) => t.name === name && t.width >= width && t.height >= height);
    if (known) return known.texture;
    const texture = this.#device.createTexture(`attention ${name}`, width, height, "rgba32float");
    this.#textures.push({ name, width, height, texture });
    return texture;
  }

  [Symbol.dispose](): void {
    for (const { texture } of this.#textures) texture[Symbol.dispose]();
    this.#textures.length = 0;
  }
}

/** Floating-point operations of one dispatch, at most (as far as whole heads allow): a submit should stay short. */
const DISPATCH_COST = 1e9;
const LOG2_E = Math.LOG2E;

/** Records o = softmax(q·kᵀ / √headDim, causal)·v and lse. Writes (=) o, its padding columns as zeros, and lse; rows past batch·seq are left alone. */
export function recordAttention(plan: Plan, shape: AttentionShape, buffers: AttentionBuffers): void {
  if (shape.heads === 0 || shape.batch * shape.seq === 0) return;
  const { q, k, v, o, lse } = buffers;
  const variant = variantOf(plan, buffers);
  const tile = tileOf("forward", variant, { ...buffers, headDim: shape.headDim });
  const [keys, values] = streamed(plan, shape, {
    variant,
    buffers,
    names: ["k", "v"],
    sources: [k, v],
    heads: shape.kvHeads,
  });
  const kernel = compiled(plan.device, "forward", tile);
  const owned = shape.seq * shape.heads / shape.kvHeads;
  sliced(plan, shape, { kernel, tile, owned, matmuls: 2, bound: (params) => [q, keys, values, o, lse, { params }] });
}

/** Records the backward of {@link recordAttention}. Writes (=) delta, dq, dk and dv, their padding columns as zeros; bit-identical from run to run. */
export function recordAttentionBackward(plan: Plan, shape: AttentionShape, buffers: AttentionBackwardBuffers): void {
  if (shape.heads === 0 || shape.batch * shape.seq === 0) return;
  const { q, k, v, o, dO, lse, delta, dq, dk, dv } = buffers;
  const variant = variantOf(plan, buffers);
  {
    const tile = tileOf("query", variant, { ...buffers, headDim: shape.headDim });
    const [keys, values] = streamed(plan, shape, {
      variant,
      buffers,
      names: ["k", "v"],
      sources: [k, v],
      heads: shape.kvHeads,
    });
    const owned = shape.seq * shape.heads / shape.kvHeads;
    const bound = (
      params: Params,
    ): Parameters<Plan["dispatch"]>[1] => [q, keys, values, o, dO, lse, delta, dq, { params }];
    sliced(plan, shape, { kernel: compiled(plan.device, "query", tile), tile, owned, matmuls: 3, bound });
  }
  const tile = tileOf("key", variant, { ...buffers, headDim: shape.headDim });
  const [queries, grads] = streamed(plan, shape, {
    variant,
    buffers,
    names: ["q", "dO"],
    sources: [q, dO],
    heads: shape.heads,
  });
  const bound = (
    params: Params,
  ): Parameters<Plan["dispatch"]>[1] => [queries, grads, k, v, lse, delta, dk, dv, { params }];
  sliced(plan, shape, { kernel: compiled(plan.device, "key", tile), tile, owned: shape.seq, matmuls: 4, bound });
}

/** Records the attention of one query token over the first position[0] + 1 rows of a KV cache. Writes (=) row 0 of o with its padding columns. */
export function recordDecodeAttention(plan: Plan, shape: DecodeShape, buffers: DecodeBuffers): void {
  const { heads, kvHeads, headDim, capacity } = shape;
  if (heads === 0) return;
  const ratio = heads / kvHeads, hs = headStride(headDim);
  const shared = Math.max(...[1, 2, 3, 4].filter((count) => ratio % count === 0 && (count === 1 || count * hs <= 256)));
  const lanes = 64;
  const source = memo(`decode ${headDim} ${shared}`, () => decodeAttentionKernel({ headDim, lanes, heads: shared }));
  const params = [
    ...[ratio, heads, capacity, strideOf(heads * hs) / 4, strideOf(kvHeads * hs) / 4].map(u32),
    f32(LOG2_E / Math.sqrt(headDim)),
  ];
  const { q, kCache, vCache, position, o } = buffers;
  plan.dispatch(compileKernel(plan.device, source), [q, kCache, vCache, position, o, { params }], {
    groups: [heads / shared],
    cost: 4 * headDim * heads * capacity,
  });
}

/** f32 that an invocation keeps in registers for its owned rows, at most, on a CPU (they live in the L1 cache there) and on a GPU. */
const STATE = { texture: { forward: 768, query: 768, key: 512 }, gpu: { forward: 128, query: 192, key: 256 } } as const;
/** f32 of state of an owned row, for each padded column of the head. */
const STATE_PER_COLUMN = { forward: 2, query: 3, key: 4 } as const;

function tileOf(
  pass: AttentionPass,
  variant: AttentionVariant,
  { headDim, tiles }: AttentionOptions & { readonly headDim: number },
): AttentionTile {
  const cpu = variant === "texture";
  const perRow = STATE_PER_COLUMN[pass] * headStride(headDim);
  const rows = cpu ? Math.min(8, Math.max(1, Math.floor(STATE.texture[pass] / perRow))) : 1;
  return { variant, headDim, lanes: cpu ? 8 : 64, rows, step: 4, ...tiles?.[pass] };
}

function variantOf(plan: Plan, { scratch, variant }: AttentionOptions): AttentionVariant {
  return variant ?? (plan.device.facts.isCpu && scratch ? "texture" : "workgroup");
}

/** The streamed operands as the variant reads them. */
function streamed(plan: Plan, shape: AttentionShape, options: {
  readonly variant: AttentionVariant;
  readonly buffers: AttentionOptions;
  readonly names: readonly [string, string];
  readonly sources: readonly [DeviceBuffer, DeviceBuffer];
  readonly heads: number;
}): [DeviceBuffer | DeviceTexture, DeviceBuffer | DeviceTexture] {
  const { variant, buffers: { scratch }, names, sources, heads } = options;
  if (variant !== "texture") return [sources[0], sources[1]];
  if (!scratch) throw new Error("attention: the variant 'texture' needs a scratch");
  const stride = strideOf(heads * headStride(shape.headDim)), rows = shape.batch * shape.seq;
  const copied = (i: 0 | 1): DeviceTexture => {
    const texture = scratch.texture(names[i], stride / 4, rows);
    plan.copyToTexture(sources[i], texture, { bytesPerRow: stride * 4, rows });
    return texture;
  };
  return [copied(0), copied(1)];
}

/** Dispatches over all sequences and KV heads, in as many parts as keep one dispatch short. */
function sliced(plan: Plan, shape: AttentionShape, options: {
  readonly kernel: Kernel;
  readonly tile: AttentionTile;
  /** Owned rows of a KV head of one sequence. */
  readonly owned: number;
  /** Products [seq, seq, headDim] that the kernel computes. */
  readonly matmuls: number;
  readonly bound: (params: Params) => Parameters<Plan["dispatch"]>[1];
}): void {
  const { batch, seq, heads, kvHeads, headDim } = shape;
  const { kernel, tile, owned, matmuls, bound } = options;
  const hs = headStride(headDim), pairs = batch * kvHeads;
  const blocks = Math.ceil(owned / (tile.lanes * tile.rows));
  const costOfPair = matmuls * seq * (seq + 1) * headDim * heads / kvHeads;
  const part = Math.max(1, Math.min(pairs, Math.floor(DISPATCH_COST / costOfPair)));
  for (let first = 0; first < pairs; first += part) {
    const count = Math.min(part, pairs - first);
    const params: Params = [
      ...[
        seq,
        heads / kvHeads,
        kvHeads,
        first,
        strideOf(heads * hs) / 4,
        strideOf(kvHeads * hs) / 4,
        blocks,
        batch * seq,
        hs / 4,
      ]
        .map(u32),
      f32(LOG2_E / Math.sqrt(headDim)),
    ];
    plan.dispatch(kernel, bound(params), { groups: [blocks, count], cost: count * costOfPair });
  }
}

const GENERATORS = { forward: attentionKernel, query: attentionQueryGradKernel, key: attentionKeyGradKernel } as const;
const sources = new Map<string, ReturnType<typeof attentionKernel>>();

function compiled(device: Device, pass: AttentionPass, tile: AttentionTile): Kernel {
  return compileKernel(device, memo(`${pass} ${JSON.stringify(tile)}`, () => GENERATORS[pass](tile)));
}

/** The text of an unrolled kernel is long: it is made once. */
function memo(key: string, make: () => ReturnType<typeof attentionKernel>): ReturnType<typeof attentionKernel> {
  let source = sources.get(key);
  if (!source) sources.set(key, source = make());
  return source;
}
