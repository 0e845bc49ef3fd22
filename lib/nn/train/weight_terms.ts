// Σ|W ∘ dL/dW| of a frozen matrix by row and by column.
import { type NormLanes, weightTermColumns, weightTermRows } from "../../../kernels/mod.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { type BufferSlice, type Plan, u32 } from "../../gpu/plan.ts";
import { type BufferView, type OperandPool } from "../products/operand.ts";
import { recordMatmul } from "../products/matmul.ts";
import type { Matrix } from "../products/matrix.ts";
import { normLanes } from "../norm.ts";

/** Largest part of dL/dW that is held at once, in f32: 32 MiB. */
const CHUNK_FLOATS = 8 << 20;
/** Chunks start at multiples of this many rows, as required to copy their columns of dy. */
const CHUNK_ALIGN = 64;
/** Number of workgroups of the sums by row, within the limit of every adapter. */
const MOST_ROWS = 32768;

/** Buffers of {@link recordWeightTerms}. */
export interface WeightTermsIo {
  /** Input of the product y = x·Wᵀ [tokens, W.stride]. */
  readonly x: BufferView;
  /** dL/dy [tokens, W.rows padded]. */
  readonly dy: BufferView;
  /** At least {@link weightTermFloats} f32. */
  readonly scratch: DeviceBuffer;
  /** [W.rows]. */
  readonly rows: BufferSlice;
  /** [W.stride]. */
  readonly columns: BufferSlice;
}

/** Scratch size for a matrix, in f32. */
export function weightTermFloats({ paddedRows, stride }: Pick<Matrix, "paddedRows" | "stride">): number {
  return Math.min(paddedRows, Math.max(CHUNK_ALIGN, chunkRows(CHUNK_FLOATS, stride))) * stride;
}

/** Sums of |W ∘ dL/dW| over `tokens` rows of x and dy, by row and by column of W; writes (=). */
export function recordWeightTerms(
  plan: Plan,
  matrix: Matrix,
  { x, dy, scratch, rows, columns }: WeightTermsIo,
  { tokens, pool, lanes = normLanes(plan) }: {
    readonly tokens: number;
    readonly pool: OperandPool;
    readonly lanes?: NormLanes;
  },
): void {
  const { stride, cols } = matrix, stride4 = stride / 4, most = chunkRows(scratch.bytes / 4, stride);
  const byRow = compileKernel(plan.device, weightTermRows(matrix, lanes));
  const byColumn = compileKernel(plan.device, weightTermColumns(matrix));
  let accumulate = 0;
  for (const shard of matrix.shards) {
    for (let first = 0; first < shard.rows; first += most) {
      const count = Math.min(most, shard.rows - first), into = shard.row0 + first;
      recordMatmul(plan, {
        pool,
        // A texture of dy starts at its first column.
        a: into === 0 ? dy : { buffer: dy.buffer, offset: (dy.offset ?? 0) + into, stride: dy.stride },
        b: x,
        c: { buffer: scratch, stride },
        m: count,
        n: cols,
        k: tokens,
        transposeA: true,
      });
      plan.dispatch(byRow, [scratch, rows, { params: [u32(first), u32(stride4), u32(into)] }, ...shard.resources], {
        groups: [count],
        cost: 4 * count * stride,
      });
      plan.dispatch(byColumn, [
        scratch,
        columns,
        { params: [u32(first), u32(stride4), u32(count), u32(accumulate)] },
        ...shard.resources,
      ], { groups: [Math.ceil(stride4 / 64)], cost: 4 * count * stride });
      accumulate = 1;
    }
  }
}

function chunkRows(floats: number, stride: number): number {
  return Math.min(MOST_ROWS, Math.floor(floats / stride / CHUNK_ALIGN) * CHUNK_ALIGN);
}
