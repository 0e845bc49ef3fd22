// Padding of activations and weights in GPU memory.

/** Rows of an activation buffer are padded to this many f32, so that a row can be copied to a texture (256 bytes). */
export const COLUMN_ALIGN = 64;
/** The row count of an activation buffer is a multiple of this, so that register tiles may read past the last token. */
export const ROW_ALIGN = 32;
/** A head's width is padded to a multiple of this many f32, so that heads are read as vec4. */
const HEAD_ALIGN = 4;

/** The smallest multiple of `align` that is ≥ `value`. */
export function roundUp(value: number, align: number): number {
  return Math.ceil(value / align) * align;
}

/** Row stride in f32 of an activation or weight matrix with `width` columns; padding columns are zero. */
export function strideOf(width: number): number {
  return roundUp(width, COLUMN_ALIGN);
}

/** Number of rows to allocate for `rows` tokens. */
export function paddedRows(rows: number): number {
  return roundUp(rows, ROW_ALIGN);
}

/** Width of one head in memory, in f32. */
export function headStride(headDim: number): number {
  return roundUp(headDim, HEAD_ALIGN);
}
