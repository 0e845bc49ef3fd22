// Products of activations with frozen matrices, forward and backward.
import {
  productMatrix,
  productTexture,
  productTiled,
  textureStep,
  textureTileColumns,
  TILED_SIDE,
  TILED_STEP,
  UNIT_TILE,
} from "../../../kernels/mod.ts";
import type { KernelSource } from "../../../kernels/source.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../../gpu/plan.ts";
import { paddedRows, strideOf } from "../padding.ts";
import { type Matrix, type MatrixDtype, type MatrixShard, shardPaddedRows } from "./matrix.ts";
import { recordMatmul, rowParts } from "./matmul.ts";
import { type BufferView, type Operand, type OperandPool, viewTexture } from "./operand.ts";
import { type Product, productTile, sharesA } from "./variants.ts";

/**
 * Depth of a backward product from textures of codes or f32; a deeper one is added up from several. All tiles of rows
 * read the same columns of W, which then stay in a CPU's cache: through a head of 49,152 rows 1.9 times as fast from
 * codes on lavapipe, 1.15 times from f32. From f16 it is no faster.
 */
const STRIP_DEPTH = 4096;

/** forward: y = x·Wᵀ; backward: y = x·W, the gradient of the input from that of the output. */
export type Direction = "forward" | "backward";

/** Destination of a product. */
export interface LinearTarget {
  readonly buffer: DeviceBuffer;
  /** Row stride in f32, a multiple of 4. */
  readonly stride: number;
  /** First column written, a multiple of 4. Default 0. */
  readonly columnOffset?: number;
  /**
   * Number of columns written, a multiple of 4. Default: the width padded to a multiple of 64, at most to the end of
   * the row, so that padding becomes zero.
   */
  readonly columns?: number;
}

/** Options of {@link recordLinear}. */
export interface LinearOptions {
  /** Number of tokens. */
  readonly rows: number;
  readonly direction: Direction;
  /** += instead of =. Default false. */
  readonly accumulate?: boolean;
  /** Only this shard of W: y (forward) or x (backward) is then as wide as the shard. */
  readonly shard?: number;
  /** See {@link rowParts}; only for products from buffers. */
  readonly dispatchCost?: number | undefined;
  /** Adds a low-rank product to all of y. Cheaper than `recordMatmul` with `accumulate` if products read textures. */
  readonly low?: LowRank;
}

/**
 * alpha · h[M, rank] · Bᵀ, B stored [W.rows][rank] (forward), or alpha · h[M, rank] · A, A stored [rank][W.cols]
 * (backward).
 */
export interface LowRank {
  readonly h: BufferView;
  readonly weight: BufferView;
  readonly rank: number;
  readonly alpha?: number;
  readonly pool: OperandPool;
}

/**
 * Whether the texture kernel also computes the low-rank product. Measured on lavapipe at 1024 tokens, rank 8: 7 to 17 %
 * faster than two kernels, but about 14 % slower for the forward product from f16.
 */
function fusesLowOf(direction: Direction, dtype: MatrixDtype): boolean {
  return direction === "backward" || dtype !== "f16";
}

/**
 * Records y[M, W.rows] (=|+=) x[M, W.cols]·Wᵀ (forward) or y[M, W.cols] (=|+=) x[M, W.rows]·W (backward). The padding
 * columns of x must be zero. Rows of y beyond M are not written.
 */
export function recordLinear(plan: Plan, x: Operand, w: Matrix, y: LinearTarget, options: LinearOptions): void {
  const { rows, direction, accumulate = false, shard: only } = options;
  const columnOffset = y.columnOffset ?? 0;
  if (columnOffset % 4 !== 0 || y.stride % 4 !== 0 || (y.columns ?? 0) % 4 !== 0) {
    throw new Error(
      `recordLinear: '${w.label}' writes columns from ${columnOffset} on at stride ${y.stride}, not multiples of 4`,
    );
  }
  if (only !== undefined && !w.shards[only]) throw new Error(`recordLinear: '${w.label}' has no shard ${only}`);
  if (only !== undefined && options.low) throw new Error("recordLinear: a low-rank product needs all shards");
  const isFused = options.low !== undefined && fusesLow(plan.device, w, direction);
  w.shards.forEach((shard, index) => {
    if (only !== undefined && only !== index) return;
    const start = only === undefined ? shard.row0 : 0;
    const isForward = direction === "forward";
    const isLast = only !== undefined || index === w.shards.length - 1;
    const target = columnOffset + (isForward ? start : 0);
    const width = isForward ? (isLast ? strideOf(shard.rows) : shard.rows) : w.stride;
    const end = Math.min(y.stride, columnOffset + (y.columns ?? Infinity));
    const part: Part = {
      shard,
      rows,
      direction,
      columns: Math.min(width, end - target),
      depth: isForward ? w.stride : shardPaddedRows(shard),
      first: isForward ? 0 : start,
      target,
      accumulate: accumulate || (!isForward && only === undefined && index > 0),
      dispatchCost: options.dispatchCost,
    };
    if (part.first + part.depth > x.stride) {
      throw new Error(`recordLinear: x has ${x.stride} columns, '${w.label}' needs ${part.first + part.depth}`);
    }
    if (w.placement === "texture") recordTexture(plan, x, w, y, isFused ? { ...part, low: options.low } : part);
    else recordTiled(plan, x, w, y, part);
  });
  if (options.low && !isFused) recordLow(plan, w, y, options.low, options);
}

/**
 * Whether the texture kernel can also compute the low-rank product. It binds x, the shard and two factors at once, more
 * than some adapters allow. A block-quantised shard may have more rows than the texture of a factor can hold.
 */
function fusesLow(device: Device, w: Matrix, direction: Direction): boolean {
  const [shard] = w.shards;
  if (w.placement !== "texture" || w.shards.length !== 1 || !shard) return false;
  if (direction === "forward" && paddedRows(w.rows) > device.limits.maxTextureDimension2D) return false;
  const textures = 1 + shard.resources.length + 2;
  return fusesLowOf(direction, w.dtype) && textures <= device.limits.maxStorageTexturesPerShaderStage;
}

/** The product of one shard as its kernel sees it, without padding. */
export function linearProduct(
  { placement, dtype, cols }: Pick<Matrix, "placement" | "dtype" | "cols">,
  { rows, direction, shardRows }: { readonly rows: number; readonly direction: Direction; readonly shardRows: number },
): Product {
  const [n, k] = direction === "forward" ? [shardRows, cols] : [cols, shardRows];
  return { family: `linear-${placement}`, layout: direction, dtype, m: rows, n, k };
}

/** Records the product of one shard. */
interface Part {
  readonly shard: MatrixShard;
  readonly rows: number;
  readonly direction: Direction;
  readonly columns: number;
  readonly depth: number;
  readonly first: number;
  readonly target: number;
  readonly accumulate: boolean;
  readonly dispatchCost: number | undefined;
  readonly low?: LowRank | undefined;
}

function recordTexture(plan: Plan, x: Operand, w: Matrix, y: LinearTarget, part: Part): void {
  if (!x.texture) throw new Error(`recordLinear: the operand of '${w.label}' has no texture`);
  const tile = productTile(plan.device, linearProduct(w, { ...part, shardRows: part.shard.rows }));
  const { low, direction } = part;
  const transposeB = direction === "forward";
  const variant = {
    transposeA: false,
    transposeB,
    dtype: w.dtype,
    rows: tile.rows,
    vectors: tile.columns / 4,
    broadcast: sharesA(plan.device, tile),
  };
  const width = transposeB ? part.shard.rows : w.cols;
  const lowTextures = low
    ? [
      viewTexture(plan, low.pool, { view: low.h, rows: part.rows, columns: low.rank, slot: "matmul-a" }),
      viewTexture(plan, low.pool, {
        view: low.weight,
        rows: transposeB ? width : low.rank,
        columns: transposeB ? low.rank : width,
        slot: "matmul-b",
      }),
    ]
    : [];
  const step = textureStep(variant), steps = part.depth / step;
  const most = !transposeB && w.dtype !== "f16" ? STRIP_DEPTH / step : steps;
  for (let start = 0; start < steps; start += most) {
    const count = Math.min(most, steps - start), isLast = start + count === steps;
    const params = [
      ...[part.rows, part.columns, part.depth, count, start, part.first / 4, part.target, y.stride].map(u32),
      u32(part.accumulate || start > 0 ? 1 : 0),
      f32(1),
      f32(low?.alpha ?? 1),
      u32(low?.rank ?? 0),
      u32(width),
    ];
    const source = sourceOf(productTexture, { ...variant, low: isLast && low !== undefined });
    plan.dispatch(
      compileKernel(plan.device, source),
      [x.texture, ...part.shard.resources, ...(isLast ? lowTextures : []), y.buffer, { params }],
      {
        groups: [Math.ceil(part.rows / tile.rows), Math.ceil(part.columns / textureTileColumns(variant))],
        cost: 2 * part.rows * part.columns * (count * step + (isLast ? low?.rank ?? 0 : 0)),
      },
    );
  }
}

function recordLow(plan: Plan, w: Matrix, y: LinearTarget, low: LowRank, options: LinearOptions): void {
  const transposeB = options.direction === "forward";
  recordMatmul(plan, {
    a: low.h,
    b: low.weight,
    c: { buffer: y.buffer, offset: y.columnOffset ?? 0, stride: y.stride },
    m: options.rows,
    n: Math.min(transposeB ? w.rows : w.cols, y.columns ?? Infinity),
    k: low.rank,
    transposeB,
    alpha: low.alpha ?? 1,
    accumulate: true,
    dispatchCost: options.dispatchCost,
    pool: low.pool,
  });
}

/** Products of fewer rows leave most of a tile of the matrix units unused. */
const UNIT_ROWS = 32;

/** The kernel of a product from buffers, and the rows and columns of a workgroup. */
function tiledKernel(
  device: Device,
  w: Matrix,
  part: Part,
): { readonly source: KernelSource; readonly tileRows: number; readonly tileColumns: number } {
  const { matrixUnits } = device, transposeB = part.direction === "forward";
  if (matrixUnits && transposeB && w.dtype === "f16" && part.rows >= UNIT_ROWS) {
    return { source: sourceOf(productMatrix, matrixUnits), tileRows: UNIT_TILE, tileColumns: UNIT_TILE };
  }
  const tile = productTile(device, linearProduct(w, { ...part, shardRows: part.shard.rows }));
  const source = sourceOf(productTiled, { transposeB, dtype: w.dtype, ...tile });
  return { source, tileRows: TILED_SIDE * tile.rows, tileColumns: TILED_SIDE * tile.columns };
}

function recordTiled(plan: Plan, x: Operand, w: Matrix, y: LinearTarget, part: Part): void {
  const { source, tileRows, tileColumns } = tiledKernel(plan.device, w, part);
  const cost = 2 * part.columns * part.depth, { dispatchCost } = part;
  for (const { first, rows } of rowParts(part.rows, { cost, tileRows, dispatchCost })) {
    const params = [
      u32(rows),
      u32(part.columns),
      u32(part.depth / TILED_STEP),
      u32((part.first + first * x.stride) / 4),
      u32(x.stride / 4),
      u32(w.stride / 4),
      u32((part.target + first * y.stride) / 4),
      u32(y.stride / 4),
      u32(part.accumulate ? 1 : 0),
    ];
    plan.dispatch(compileKernel(plan.device, source), [x.buffer, ...part.shard.resources, y.buffer, { params }], {
      groups: [Math.ceil(rows / tileRows), Math.ceil(part.columns / tileColumns)],
      cost: cost * rows,
    });
  }
}
