// Products of activations with frozen matrices, forward and backward. Owns the choice of kernel; refuses trained weights (see matmul.ts).
import {
  productTexture,
  productTiled,
  textureStep,
  textureTileColumns,
  TILED_COLUMNS,
  TILED_SIDE,
  TILED_STEP,
} from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../gpu/plan.ts";
import { strideOf } from "./layout.ts";
import { type Matrix, type MatrixShard, shardPaddedRows } from "./matrix.ts";
import type { Operand } from "./operand.ts";

export { type MatmulOptions, recordMatmul } from "./matmul.ts";
export { type BufferView, type Operand, operand, OperandPool } from "./operand.ts";

/** forward: y = x·Wᵀ; backward: y = x·W, the gradient of the input from that of the output. */
export type Direction = "forward" | "backward";

/** Where a product goes. */
export interface LinearTarget {
  readonly buffer: DeviceBuffer;
  /** f32 from row to row, a multiple of 4. */
  readonly stride: number;
  /** First column written, a multiple of 4. Default 0. */
  readonly columnOffset?: number;
  /** Columns written, a multiple of 4. Default: the width padded to a multiple of 64, as far as the row goes, so that padding becomes zero. */
  readonly columns?: number;
}

/** Options of {@link recordLinear}. */
export interface LinearOptions {
  /** Tokens. */
  readonly rows: number;
  readonly direction: Direction;
  /** += instead of =. Default false. */
  readonly accumulate?: boolean;
  /** Only this shard of W: y (forward) or x (backward) then is as wide as the shard. */
  readonly shard?: number;
}

/** Tile of a texture product for up to `upTo` tokens. */
interface TextureTile {
  readonly upTo: number;
  readonly rows: number;
  readonly vectors: number;
}

/** Measured on lavapipe (scripts/bench/products.ts): the best or within 5 % of it for both directions and dtypes. */
const TEXTURE_TILES: readonly TextureTile[] = [
  { upTo: 1, rows: 1, vectors: 2 },
  { upTo: 4, rows: 4, vectors: 2 },
  { upTo: 8, rows: 8, vectors: 2 },
  { upTo: Infinity, rows: 16, vectors: 2 },
];

/** Rows an invocation of a tiled product owns, for up to `upTo` tokens. */
const TILED_ROWS: readonly { readonly upTo: number; readonly rows: number }[] = [
  { upTo: 16, rows: 1 },
  { upTo: Infinity, rows: 4 },
];

/**
 * Records y[M, W.rows] (=|+=) x[M, W.cols]·Wᵀ (forward) or y[M, W.cols] (=|+=) x[M, W.rows]·W (backward).
 * x's padding columns must be zero; rows of y beyond M are not written.
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
    };
    if (part.first + part.depth > x.stride) {
      throw new Error(`recordLinear: x has ${x.stride} columns, '${w.label}' needs ${part.first + part.depth}`);
    }
    if (w.placement === "texture") recordTexture(plan, x, w, y, part);
    else recordTiled(plan, x, w, y, part);
  });
}

/** One shard's product. */
interface Part {
  readonly shard: MatrixShard;
  readonly rows: number;
  readonly direction: Direction;
  readonly columns: number;
  readonly depth: number;
  readonly first: number;
  readonly target: number;
  readonly accumulate: boolean;
}

function recordTexture(plan: Plan, x: Operand, w: Matrix, y: LinearTarget, part: Part): void {
  if (!x.texture) throw new Error(`recordLinear: the operand of '${w.label}' has no texture`);
  const tile = TEXTURE_TILES.find(({ upTo }) => part.rows <= upTo);
  if (!tile) throw new Error(`recordLinear: no tile for ${part.rows} tokens`);
  const variant = {
    transposeA: false,
    transposeB: part.direction === "forward",
    dtype: w.dtype,
    rows: tile.rows,
    vectors: tile.vectors,
  };
  const params = [
    u32(part.rows),
    u32(part.columns),
    u32(part.depth),
    u32(part.depth / textureStep(variant)),
    u32(part.first / 4),
    u32(part.target),
    u32(y.stride),
    u32(part.accumulate ? 1 : 0),
    f32(1),
  ];
  plan.dispatch(
    compileKernel(plan.device, productTexture(variant)),
    [x.texture, part.shard.resource, y.buffer, { params }],
    {
      groups: [Math.ceil(part.rows / tile.rows), Math.ceil(part.columns / textureTileColumns(variant))],
      cost: 2 * part.rows * part.columns * part.depth,
    },
  );
}

function recordTiled(plan: Plan, x: Operand, w: Matrix, y: LinearTarget, part: Part): void {
  const tile = TILED_ROWS.find(({ upTo }) => part.rows <= upTo);
  if (!tile) throw new Error(`recordLinear: no tile for ${part.rows} tokens`);
  const params = [
    u32(part.rows),
    u32(part.columns),
    u32(part.depth / TILED_STEP),
    u32(part.first / 4),
    u32(x.stride / 4),
    u32(w.stride / 4),
    u32(part.target / 4),
    u32(y.stride / 4),
    u32(part.accumulate ? 1 : 0),
  ];
  const source = productTiled({ transposeB: part.direction === "forward", dtype: w.dtype, rows: tile.rows });
  plan.dispatch(compileKernel(plan.device, source), [x.buffer, part.shard.resource, y.buffer, { params }], {
    groups: [Math.ceil(part.rows / (TILED_SIDE * tile.rows)), Math.ceil(part.columns / TILED_COLUMNS)],
    cost: 2 * part.rows * part.columns * part.depth,
  });
}
