// Attention of one token over a KV cache in buffers or textures. Owns the choice of kernel and its params; refuses to allocate.
import { CACHE_KEYS, decodeAttentionKernel, decodeAttentionTexture, type KernelSource } from "../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../gpu/plan.ts";
import { headStride, strideOf } from "./layout.ts";
import type { Span } from "./ops.ts";

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
  /** [capacity, strideOf(kvHeads·hs)]. */
  readonly kCache: DeviceBuffer;
  readonly vCache: DeviceBuffer;
  readonly o: DeviceBuffer;
  /** One u32: position[0] + 1 keys are valid. */
  readonly position: DeviceBuffer;
  /** Masks of the heads, which multiply o. Default: none. */
  readonly z?: Span;
}

/** Buffers of {@link recordTextureDecodeAttention}: the caches are textures, see `decodeAttentionTexture`. */
export interface TextureDecodeBuffers extends Omit<DecodeBuffers, "kCache" | "vCache"> {
  readonly kCache: DeviceTexture;
  readonly vCache: DeviceTexture;
  readonly z: Span;
}

const LOG2_E = Math.LOG2E;
/** Invocations of a workgroup over buffers. */
const LANES = 64;
/** Columns of the query heads that one workgroup holds in registers, and heads. */
const MAX_COLUMNS = 256, MAX_HEADS = 4;

/** Records the attention of one query token over the first position[0] + 1 rows of a KV cache. Writes (=) row 0 of o with its padding columns. */
export function recordDecodeAttention(plan: Plan, shape: DecodeShape, buffers: DecodeBuffers): void {
  const { heads, kvHeads, headDim, capacity } = shape;
  if (heads === 0) return;
  const hs = headStride(headDim), shared = sharedHeads(shape), isMasked = buffers.z !== undefined;
  const source = memo(
    `buffer ${headDim} ${shared} ${isMasked}`,
    () => decodeAttentionKernel({ headDim, lanes: LANES, heads: shared, isMasked }),
  );
  const params = [
    ...[heads / kvHeads, heads, capacity, strideOf(heads * hs) / 4, strideOf(kvHeads * hs) / 4, hs / 4].map(u32),
    f32(LOG2_E / Math.sqrt(headDim)),
  ];
  const { q, kCache, vCache, position, o, z } = buffers;
  plan.dispatch(
    compileKernel(plan.device, source),
    [q, kCache, vCache, position, ...(z ? [z] : []), o, { params }],
    { groups: [heads / shared], cost: costOf(shape) },
  );
}

/** As {@link recordDecodeAttention} over caches in textures. Writes (=) the heads of row 0 of o, and leaves its padding columns alone. */
export function recordTextureDecodeAttention(plan: Plan, shape: DecodeShape, buffers: TextureDecodeBuffers): void {
  const { heads, kvHeads, headDim, capacity } = shape;
  if (heads === 0) return;
  const shared = sharedHeads(shape);
  const source = memo(`texture ${headDim} ${shared}`, () => decodeAttentionTexture({ headDim, heads: shared }));
  const { q, kCache, vCache, position, z, o } = buffers;
  const params = [...[heads / kvHeads, capacity, cacheRows(capacity)].map(u32), f32(LOG2_E / Math.sqrt(headDim))];
  plan.dispatch(compileKernel(plan.device, source), [q, kCache, vCache, position, z, o, { params }], {
    groups: [heads / shared],
    cost: costOf(shape),
  });
}

/** Rows of a cache texture that one KV head takes. */
export function cacheRows(capacity: number): number {
  return Math.ceil(capacity / CACHE_KEYS);
}

/** Heads of a KV group that one workgroup takes. */
function sharedHeads({ heads, kvHeads, headDim }: DecodeShape): number {
  const ratio = heads / kvHeads, hs = headStride(headDim);
  for (let count = MAX_HEADS; count > 1; count--) if (ratio % count === 0 && count * hs <= MAX_COLUMNS) return count;
  return 1;
}

function costOf({ heads, headDim, capacity }: DecodeShape): number {
  return 4 * headDim * heads * capacity;
}

const sources = new Map<string, KernelSource>();

/** The text of an unrolled kernel is long: it is made once. */
function memo(key: string, make: () => KernelSource): KernelSource {
  let source = sources.get(key);
  if (!source) sources.set(key, source = make());
  return source;
}
