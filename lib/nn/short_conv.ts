// Gated short convolutions recorded into a plan: over the tokens of a pass, and over cached ones.
import {
  CACHE_KEYS,
  type ConvRanges,
  shortConvAppend,
  shortConvBackward,
  shortConvDecode,
  shortConvKernel,
} from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { type Plan, u32 } from "../gpu/plan.ts";
import { strideOf } from "./padding.ts";
import type { RangeBuffers } from "./context.ts";
import type { PageTable } from "./products/matvec.ts";

/** Sizes of a convolution over `rows` tokens. */
export interface ConvShape {
  readonly rows: number;
  /** Channels. */
  readonly width: number;
  /** Tokens that it sums over. */
  readonly length: number;
}

/** Buffers of a convolution; see `shortConvKernel`. */
export interface ConvBuffers {
  /** [rows, strideOf(3 · width)] */
  readonly bcx: DeviceBuffer;
  /** [length, strideOf(width)] */
  readonly taps: DeviceBuffer;
  /** [rows, strideOf(width)] */
  readonly y: DeviceBuffer;
}

/** Where texts begin in a pass: each `seq` rows, or as buffers say. */
interface Texts {
  readonly seq: number;
  readonly ranges?: RangeBuffers | undefined;
}

const LANES = 64;
/** Largest number of workgroups along y. */
const GRID_HEIGHT = 32768;

function rangesOf({ ranges }: Texts): { readonly of: ConvRanges; readonly buffers: readonly DeviceBuffer[] } {
  if (!ranges) return { of: "text", buffers: [] };
  if (ranges.of === "rows") return { of: "rows", buffers: [ranges.positions] };
  if (!ranges.parents) throw new Error("a convolution over trees needs the parents of their nodes");
  return { of: "trees", buffers: [ranges.positions, ranges.parents] };
}

function paramsOf({ rows, width, length }: ConvShape, seq: number): ReturnType<typeof u32>[] {
  return [rows, width, strideOf(width), strideOf(3 * width), length, seq].map(u32);
}

/** y (=) the convolution of the tokens of each text. */
export function recordShortConv(plan: Plan, io: ConvBuffers, options: ConvShape & Texts): void {
  const { rows, width, length, seq } = options, { of, buffers } = rangesOf(options);
  plan.dispatch(
    compileKernel(plan.device, sourceOf(shortConvKernel, of)),
    [io.bcx, io.taps, ...buffers, io.y, { params: paramsOf(options, seq) }],
    { groups: [Math.ceil(strideOf(width) / LANES), rows], cost: 4 * rows * width * length },
  );
}

/** dbcx (=) from dy, the gradient of y of {@link recordShortConv}. */
export function recordShortConvBackward(
  plan: Plan,
  io: Omit<ConvBuffers, "y"> & { readonly dy: DeviceBuffer; readonly dbcx: DeviceBuffer },
  options: ConvShape & Texts,
): void {
  const { rows, width, length, seq } = options, { of, buffers } = rangesOf(options);
  if (of === "trees") throw new Error("a convolution over trees has no backward");
  const columns = width + strideOf(3 * width) - 3 * width;
  plan.dispatch(
    compileKernel(plan.device, sourceOf(shortConvBackward, of)),
    [io.bcx, io.taps, io.dy, ...buffers, io.dbcx, { params: paramsOf(options, seq) }],
    { groups: [Math.ceil(columns / LANES), rows], cost: 8 * rows * width * length },
  );
}

/** The cache of a convolution, and the places of the rows in it. */
export interface ConvCache {
  /** B·X of earlier tokens, [pages, CACHE_KEYS, strideOf(width)]. */
  readonly cache: DeviceBuffer;
  readonly position: DeviceBuffer;
  readonly pages: PageTable;
  readonly capacity: number;
  /** Whether each row is the next token of a separate sequence. */
  readonly own: boolean;
}

/**
 * y (=) the convolution of tokens after cached ones; then their B·X is added to the cache, from row `first` on: no two of them may have the
 * same place in a ring.
 */
export function recordCachedShortConv(
  plan: Plan,
  io: ConvBuffers,
  { rows, width, length, first, cache, position, pages, capacity, own }: ConvShape & ConvCache & {
    readonly first: number;
  },
): void {
  const stride = strideOf(width), sizes = [rows, width, stride, strideOf(3 * width)], isOwn = own ? 1 : 0;
  const dispatch = (kernel: typeof shortConvDecode, bound: Parameters<Plan["dispatch"]>[1], count: number): void => {
    const height = Math.min(count, GRID_HEIGHT), depth = Math.ceil(count / height);
    plan.dispatch(compileKernel(plan.device, kernel), bound, {
      groups: [Math.ceil(stride / LANES), height, depth],
      cost: 4 * count * width * length,
    });
  };
  const read = { params: [...sizes, length, capacity, pages.perRow, isOwn].map(u32) };
  dispatch(shortConvDecode, [io.bcx, io.taps, position, pages.buffer, cache, io.y, read], rows);
  const write = { params: [...sizes, capacity, pages.perRow, isOwn, first].map(u32) };
  dispatch(shortConvAppend, [io.bcx, position, pages.buffer, cache, write], rows - first);
}

/** Bytes of a page of the cache of a convolution of this width. */
export function convPageBytes(width: number): number {
  return 4 * CACHE_KEYS * strideOf(width);
}
