// Attention of query tokens over a KV cache in buffers or textures.
import { decodeAttentionKernel, decodeAttentionTexture, NO_WINDOW } from "../../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../../gpu/types.ts";
import { compileKernel, type Kernel, sourceOf } from "../../gpu/kernel.ts";
import { type Bound, f32, type Params, type Plan, u32 } from "../../gpu/plan.ts";
import { headStride, strideOf } from "../padding.ts";
import type { Span } from "../ops.ts";
import type { PageTable } from "../products/matvec.ts";
import { exchangesLanes } from "../products/variants.ts";

/** Sizes of {@link recordDecodeAttention}. */
export interface DecodeShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Factor of q·k. Default: 1 / √headDim. */
  readonly scale?: number | undefined;
  /** Soft cap of the scaled scores; in buffers only. Default: none. */
  readonly softCap?: number | undefined;
  /** Sliding window: number of keys that a query attends to, including its own; at least 1. Default: all. */
  readonly window?: number | undefined;
  /** Largest number of tokens of a sequence. */
  readonly capacity: number;
  /** Query tokens. They are consecutive unless `ownCaches` is set. Default 1. */
  readonly rows?: number;
  /** Whether each row is the next token of a separate sequence. Default false. */
  readonly ownCaches?: boolean;
  /** Workgroup size of the buffer kernel; the default depends on the device. */
  readonly lanes?: number;
}

/** Buffers of {@link recordDecodeAttention}. */
export interface DecodeBuffers {
  /** [rows, strideOf(heads·hs)]; a single row may omit the padding after the heads. */
  readonly q: DeviceBuffer;
  /** See `DecodeCache`. */
  readonly kCache: DeviceBuffer;
  readonly vCache: DeviceBuffer;
  readonly o: DeviceBuffer;
  /**
   * u32: position[0] + 1 keys are valid for the first row, and one more for each further row of the same sequence; with
   * `ownCaches` position[r] + 1 keys for row r.
   */
  readonly position: DeviceBuffer;
  /** The pages of the sequence, or with `ownCaches` of each row. */
  readonly pages: PageTable;
  /** Head masks, which multiply o. Default: none. */
  readonly z?: Span;
}

/** Buffers of {@link recordTextureDecodeAttention}. The caches are textures, see `decodeAttentionTexture`. */
export interface TextureDecodeBuffers extends Omit<DecodeBuffers, "kCache" | "vCache" | "o"> {
  readonly kCache: DeviceTexture;
  readonly vCache: DeviceTexture;
  readonly z: Span;
  /** A buffer as of {@link DecodeBuffers}, or a texture of `MatvecScratch`. */
  readonly o: { readonly buffer: DeviceBuffer } | { readonly texture: DeviceTexture };
}

const LOG2_E = Math.LOG2E;
/** Largest number of floating-point operations of one dispatch of whole rows: a submit should stay short. */
const DISPATCH_COST = 1e9;
/**
 * Workgroup size over buffers. On a CPU it is the vector width: more invocations only add work for the same few
 * threads.
 */
const LANES = 64, CPU_LANES = 8;
/** Columns of query heads, and heads, that one workgroup holds in registers. */
const MAX_COLUMNS = 256, MAX_HEADS = 4;

/**
 * Records the attention of query tokens over a KV cache that already holds their own keys. Writes (=) the rows of o
 * with their padding columns.
 */
export function recordDecodeAttention(plan: Plan, shape: DecodeShape, buffers: DecodeBuffers): void {
  const { heads, kvHeads, headDim, capacity, ownCaches = false } = shape;
  if (heads === 0) return;
  const { lanes = plan.device.facts.isCpu ? CPU_LANES : LANES } = shape;
  const hs = headStride(headDim), shared = sharedHeads(shape), isMasked = buffers.z !== undefined;
  const capped = shape.softCap === undefined ? {} : { isCapped: true };
  const source = sourceOf(decodeAttentionKernel, { headDim, lanes, heads: shared, isMasked, ownCaches, ...capped });
  const { q, kCache, vCache, position, pages, o, z } = buffers;
  const strides = [heads, kvHeads].map((count) => strideOf(count * hs) / 4);
  recordRows(plan, shape, {
    kernel: compileKernel(plan.device, source),
    sizes: [heads / kvHeads, heads, capacity, ...strides, hs / 4, pages.perRow],
    bound: [q, kCache, vCache, position, pages.buffer, ...(z ? [z] : []), o],
  });
}

/**
 * Like {@link recordDecodeAttention}, over caches in textures. Writes (=) the heads of the rows of o, but not their
 * padding columns.
 */
export function recordTextureDecodeAttention(
  plan: Plan,
  shape: Omit<DecodeShape, "lanes" | "softCap">,
  buffers: TextureDecodeBuffers,
): void {
  const { heads, kvHeads, headDim, capacity, ownCaches = false } = shape, hs = headStride(headDim);
  if (heads === 0) return;
  const exchange = exchangesLanes(plan.device), toTexture = "texture" in buffers.o;
  const source = sourceOf(decodeAttentionTexture, {
    headDim,
    heads: sharedHeads(shape),
    ownCaches,
    exchange,
    toTexture,
  });
  const { q, kCache, vCache, position, pages, z, o } = buffers;
  recordRows(plan, shape, {
    kernel: compileKernel(plan.device, source),
    sizes: [heads / kvHeads, capacity, kvHeads, pages.perRow, strideOf(heads * hs) / 4],
    bound: [q, kCache, vCache, position, pages.buffer, z, "texture" in o ? o.texture : o.buffer],
  });
}

/** Records a kernel over all rows, split into short dispatches. */
function recordRows(plan: Plan, shape: DecodeShape, { kernel, sizes, bound }: {
  readonly kernel: Kernel;
  /** Params before the window, the first row and the scale. */
  readonly sizes: readonly number[];
  readonly bound: readonly Bound[];
}): void {
  const { heads, headDim, capacity, rows = 1, window = NO_WINDOW } = shape;
  const cost = 4 * headDim * heads * Math.min(capacity, window), part = Math.max(1, Math.floor(DISPATCH_COST / cost));
  for (let first = 0; first < rows; first += part) {
    const count = Math.min(part, rows - first);
    const params = [...[...sizes, window, first].map(u32), ...scoreParams(shape)];
    plan.dispatch(kernel, [...bound, { params }], { groups: [heads / sharedHeads(shape), count], cost: count * cost });
  }
}

/** Factor of q·k for softmax with base 2, and the soft cap of the scores if there is one. */
export function scoreParams({ headDim, scale, softCap }: Pick<DecodeShape, "headDim" | "scale" | "softCap">): Params {
  const factor = f32(scale === undefined ? LOG2_E / Math.sqrt(headDim) : LOG2_E * scale);
  return softCap === undefined ? [factor] : [factor, f32(LOG2_E * softCap)];
}

/** Heads of a KV group that one workgroup processes. */
function sharedHeads({ heads, kvHeads, headDim }: DecodeShape): number {
  const ratio = heads / kvHeads, hs = headStride(headDim);
  for (let count = MAX_HEADS; count > 1; count--) if (ratio % count === 0 && count * hs <= MAX_COLUMNS) return count;
  return 1;
}
