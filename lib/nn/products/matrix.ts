// Frozen weight matrices in GPU memory.
import {
  type FileDtype,
  fileTexels,
  hasCodes,
  isFileDtype,
  isLongBlock,
  isQuantized,
  QUANT_BLOCK,
  QUANT_ROWS,
  quantColumns,
  type QuantDtype,
} from "../../../kernels/mod.ts";
import { refuse } from "../../core/errors.ts";
import { type DeviceBuffer, type DeviceTexture } from "../../gpu/types.ts";
import { type Device, TEXEL_BYTES } from "../../gpu/device.ts";
import { roundUp, strideOf } from "../padding.ts";
import { createTexels, readTexels, type TexelBand, type TexelStore, writeTexels } from "./matrix_texels.ts";
import {
  blocksOf,
  dequantizeRows,
  firstBrokenScale,
  packTexels,
  QUANT_LIMIT,
  quantizeRows,
  type QuantRows,
  unpackTexels,
} from "../../spec/quant.ts";

/**
 * Storage of the values of a `Matrix`: floats, 8- or 4-bit codes in blocks of 32 columns with one scale per block (see
 * quant.ts), or the blocks of a GGUF as they are in the file (see kernels/shared/file_blocks.ts).
 */
export type MatrixDtype = ValueDtype | FileDtype;
/** Storage that any values can be written to. */
export type ValueDtype = "f32" | "f16" | QuantDtype;
/** All of them, from the largest to the smallest. */
export const VALUE_DTYPES: readonly ValueDtype[] = ["f32", "f16", "q8", "q4"];
/** Kind of memory that holds the values of a `Matrix`. */
export type MatrixPlacement = "texture" | "buffer";

/** Rows [row0, row0 + rows) of a matrix. In memory they are padded with zero rows to a multiple of 64. */
export interface MatrixShard {
  /** First row. */
  readonly row0: number;
  /** Number of rows. */
  readonly rows: number;
  /** Resources that kernels bind: the values, or the codes and the scales of their blocks. */
  readonly resources: readonly (DeviceBuffer | DeviceTexture)[];
}

/** A frozen matrix W [rows = out, cols = in], stored once and used for y = x·Wᵀ and for dx = dy·W. */
export interface Matrix extends Disposable {
  /** Name in error messages. */
  readonly label: string;
  /** Number of rows. */
  readonly rows: number;
  /** Columns, the input width. */
  readonly cols: number;
  /** Row stride in values; `cols` of them are not padding. */
  readonly stride: number;
  /** Number of stored rows, a multiple of 64; rows beyond `rows` are zero. */
  readonly paddedRows: number;
  /** Storage type of the values. */
  readonly dtype: MatrixDtype;
  /** Kind of memory. */
  readonly placement: MatrixPlacement;
  /** The matrix split by rows. */
  readonly shards: readonly MatrixShard[];
  /** GPU memory in bytes. */
  readonly bytes: number;
}

/** Options of {@link createMatrix}. */
export interface MatrixOptions {
  readonly rows: number;
  readonly cols: number;
  readonly dtype: MatrixDtype;
  /** Default: "texture" on a CPU adapter, else "buffer". */
  readonly placement?: MatrixPlacement;
  /** Largest number of rows of a shard, in addition to the limits of the adapter; rounded down to a multiple of 64. */
  readonly maxShardRows?: number;
}

/** Shards start at multiples of this many rows. */
const SHARD_ALIGN = 64;
/** Largest host copy of one upload, in values. */
const UPLOAD_VALUES = 1 << 21;
/** Smallest magnitude that rounds to infinity in f16. */
const F16_OVERFLOW = 65520;

/**
 * Allocates a zero matrix.
 *
 * @throws CompressoError("gpu") over the memory budget or the limits of the adapter.
 */
export function createMatrix(device: Device, label: string, options: MatrixOptions): Matrix {
  const { rows, cols, dtype, placement = device.facts.isCpu ? "texture" : "buffer" } = options;
  const stride = strideOf(cols);
  if (!hasWholeBlocks(options)) {
    throw new Error(`createMatrix: ${cols} columns of '${label}' are not whole blocks of ${dtype}`);
  }
  const parts = partsOf({ dtype, stride }), [{ texels }] = parts, perTexel = rowsOfTexel(dtype);
  const { maxBufferSize, maxStorageBufferBindingSize, maxTextureDimension2D } = device.limits;
  const fitting = placement === "texture"
    // The rows of a shard are columns of the gradients that it multiplies; the texture of these has a few spare texels
    // (operand.ts).
    ? Math.min(maxTextureDimension2D * perTexel, 4 * maxTextureDimension2D - SHARD_ALIGN)
    : Math.floor(Math.min(maxBufferSize, maxStorageBufferBindingSize) / (texels * TEXEL_BYTES)) * perTexel;
  const most = Math.min(fitting, options.maxShardRows ?? Infinity);
  const shardRows = Math.max(SHARD_ALIGN, Math.floor(most / SHARD_ALIGN) * SHARD_ALIGN);
  const shards: MatrixShard[] = [], owned: TexelStore[] = [];
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    for (let row0 = 0; row0 < rows; row0 += shardRows) {
      const count = Math.min(shardRows, rows - row0);
      const resources = parts.map(({ texels, format }) => {
        const store = createTexels(device, label, {
          rows: roundUp(count, SHARD_ALIGN) / perTexel,
          texels,
          format: placement === "texture" ? format : null,
        });
        owned.push(store);
        return store;
      });
      shards.push({ row0, rows: count, resources });
    }
  } catch (error) {
    dispose();
    throw error;
  }
  return {
    label,
    rows,
    cols,
    stride,
    paddedRows: strideOf(rows),
    dtype,
    placement,
    shards,
    bytes: owned.reduce((sum, resource) => sum + resource.bytes, 0),
    [Symbol.dispose]: dispose,
  };
}

/** Whether rows are whole blocks, if the matrix holds blocks of a file. */
export function hasWholeBlocks({ cols, dtype }: Pick<MatrixOptions, "cols" | "dtype">): boolean {
  return !isFileDtype(dtype) || cols % (isLongBlock(dtype) ? 256 : QUANT_BLOCK) === 0;
}

/**
 * Writes rows from `row0`, but not to blocks of a file (see `StoredWriter`). `data` holds whole rows of `cols` values. f16 rounds to nearest, ties to even. q8 and q4
 * round like `quantizeRows`; they require `row0` to be a multiple of 4, and the number of rows too unless they are the
 * last.
 *
 * @throws CompressoError("numeric") if a value is NaN or infinite in the dtype of the matrix.
 */
export function writeRows(device: Device, matrix: Matrix, row0: number, data: Float32Array<ArrayBuffer>): void {
  const { cols, stride, dtype } = matrix;
  if (isFileDtype(dtype)) throw new Error(`writeRows: '${matrix.label}' holds blocks of a file`);
  const count = checkRows(matrix, row0, data.length / cols);
  checkRange(matrix, row0, data);
  const step = Math.max(QUANT_ROWS, Math.floor(UPLOAD_VALUES / stride / QUANT_ROWS) * QUANT_ROWS);
  forShards(matrix, row0, count, (shard, first, end) => {
    for (let from = first; from < end; from += step) {
      const rows = Math.min(step, end - from), row = from - shard.row0;
      const values = data.subarray((from - row0) * cols, (from - row0 + rows) * cols);
      if (isQuantized(dtype)) {
        writePacked(device, { matrix, shard, row, dtype, blocks: quantizeRows(values, { cols, dtype }) });
      } else {
        const padded = cols === stride ? values : new Float32Array(rows * stride);
        for (let r = 0; padded !== values && r < rows; r++) {
          padded.set(values.subarray(r * cols, r * cols + cols), r * stride);
        }
        const packed = dtype === "f16" ? new Float16Array(padded) : padded;
        bandsOf(matrix, shard, { row, rows }).forEach(([store, band]) =>
          writeTexels(device, store, { ...band, data: packed })
        );
      }
    }
  });
}

/** Writes rows of f16 bit patterns, which must be finite, to a matrix of f16, from `row0` on. */
export function writeHalf(device: Device, matrix: Matrix, row0: number, bits: Uint16Array<ArrayBuffer>): void {
  const { cols, stride, dtype, label } = matrix;
  if (dtype !== "f16") throw new Error(`writeHalf: '${label}' is ${dtype}`);
  const count = checkRows(matrix, row0, bits.length / cols), step = Math.max(1, Math.floor(UPLOAD_VALUES / stride));
  forShards(matrix, row0, count, (shard, first, end) => {
    for (let from = first; from < end; from += step) {
      const rows = Math.min(step, end - from),
        values = bits.subarray((from - row0) * cols, (from - row0 + rows) * cols);
      const data = cols === stride ? values : new Uint16Array(rows * stride);
      for (let r = 0; data !== values && r < rows; r++) data.set(values.subarray(r * cols, (r + 1) * cols), r * stride);
      bandsOf(matrix, shard, { row: from - shard.row0, rows }).forEach(([store, band]) =>
        writeTexels(device, store, { ...band, data })
      );
    }
  });
}

/**
 * Writes block-quantised rows without requantising them. The codes must fit the dtype, q8 or q4. `row0` and the number
 * of rows are as for {@link writeRows}.
 *
 * @throws CompressoError("numeric") if a scale is NaN or infinite.
 */
export function writeBlocks(device: Device, matrix: Matrix, row0: number, blocks: QuantRows): void {
  const { cols, dtype, label } = matrix, perRow = blocksOf(cols), width = perRow * QUANT_BLOCK;
  if (!isQuantized(dtype)) throw new Error(`writeBlocks: '${label}' is ${dtype}`);
  const count = checkRows(matrix, row0, blocks.scales.length / perRow);
  const broken = firstBrokenScale(blocks);
  if (broken >= 0) {
    refuse("numeric", `cannot use the weights in '${label}'`, {
      rule: "the scales of blocks are finite",
      value: `NaN or infinity at row ${row0 + Math.floor(broken / perRow)}, block ${broken % perRow}`,
      fix: "check the weight file",
    });
  }
  forShards(matrix, row0, count, (shard, first, end) => {
    const part = {
      codes: blocks.codes.subarray((first - row0) * width, (end - row0) * width),
      scales: blocks.scales.subarray((first - row0) * perRow, (end - row0) * perRow),
    };
    writePacked(device, { matrix, shard, row: first - shard.row0, dtype, blocks: part });
  });
}

/** Reads rows back as f32, `count` × `cols` values, but not of blocks of a file. Waits for the GPU; meant for checks. */
export async function readRows(
  device: Device,
  matrix: Matrix,
  row0: number,
  count: number,
): Promise<Float32Array<ArrayBuffer>> {
  const { cols, stride, dtype, rows, label } = matrix;
  if (row0 < 0 || count < 0 || row0 + count > rows) {
    throw new Error(`readRows: rows ${row0} … ${row0 + count} do not lie in '${label}' [${rows}, ${cols}]`);
  }
  if (isFileDtype(dtype)) throw new Error(`readRows: '${label}' holds blocks of a file`);
  const result = new Float32Array(count * cols);
  const pieces: { shard: MatrixShard; first: number; end: number }[] = [];
  forShards(matrix, row0, count, (shard, first, end) => pieces.push({ shard, first, end }));
  for (const { shard, first, end } of pieces) {
    // Start at the first row of a texel.
    const row = first - shard.row0, lead = row % rowsOfTexel(dtype), rows = end - first;
    const [bytes = new ArrayBuffer(0), scales = new ArrayBuffer(0)] = await Promise.all(
      bandsOf(matrix, shard, { row: row - lead, rows: rows + lead })
        .map(([store, band]) => readTexels(device, store, band)),
    );
    const at = (first - row0) * cols;
    if (isQuantized(dtype)) {
      const texels = { codes: new Uint32Array(bytes), scales: new Uint32Array(scales) };
      const values = dequantizeRows(unpackTexels(texels, { cols, stride, dtype }), cols);
      result.set(values.subarray(lead * cols, (lead + rows) * cols), at);
    } else {
      const values = dtype === "f16" ? new Float16Array(bytes) : new Float32Array(bytes);
      for (let r = 0; r < rows; r++) result.set(values.subarray(r * stride, r * stride + cols), at + r * cols);
    }
  }
  return result;
}

/** Number of rows of a shard in memory: padded to a multiple of 64. */
export function shardPaddedRows(shard: MatrixShard): number {
  return roundUp(shard.rows, SHARD_ALIGN);
}

/** Number of rows whose values share a texel. */
function rowsOfTexel(dtype: MatrixDtype): number {
  return hasCodes(dtype) ? QUANT_ROWS : 1;
}

/** Texels of a stored row, for each resource of a shard. */
export function partsOf(
  { dtype, stride }: Pick<Matrix, "dtype" | "stride">,
): [Part, ...Part[]] {
  if (isFileDtype(dtype)) {
    const { codes, scales } = fileTexels(dtype, stride);
    return [{ texels: codes, format: "rgba32uint" }, { texels: scales, format: "rgba32uint" }];
  }
  if (isQuantized(dtype)) {
    return [
      { texels: stride / quantColumns(dtype), format: "rgba32uint" },
      { texels: stride / QUANT_BLOCK, format: "rgba32uint" },
    ];
  }
  return [
    dtype === "f16" ? { texels: stride / 8, format: "rgba32uint" } : { texels: stride / 4, format: "rgba32float" },
  ];
}

interface Part {
  readonly texels: number;
  readonly format: "rgba32float" | "rgba32uint";
}

/** Location of rows of a shard in each of its resources; `row` is the first row of a texel. */
function bandsOf(
  matrix: Matrix,
  shard: MatrixShard,
  { row, rows }: { readonly row: number; readonly rows: number },
): [TexelStore, TexelBand][] {
  const perTexel = rowsOfTexel(matrix.dtype), parts = partsOf(matrix);
  return shard.resources.map((store, index) => [
    store,
    { row: row / perTexel, rows: Math.ceil(rows / perTexel), texels: parts[index]?.texels ?? 0 },
  ]);
}

function writePacked(device: Device, { matrix, shard, row, dtype, blocks }: {
  readonly matrix: Matrix;
  readonly shard: MatrixShard;
  readonly row: number;
  readonly dtype: QuantDtype;
  readonly blocks: QuantRows;
}): void {
  const { codes, scales } = packTexels(blocks, { cols: matrix.cols, stride: matrix.stride, dtype });
  const rows = blocks.scales.length / blocksOf(matrix.cols);
  bandsOf(matrix, shard, { row, rows }).forEach(([store, band], index) =>
    writeTexels(device, store, { ...band, data: index === 0 ? codes : scales })
  );
}

/** Checks that rows fit, and returns their number. */
function checkRows({ rows, cols, dtype, label }: Matrix, row0: number, count: number): number {
  if (!Number.isInteger(count) || row0 < 0 || row0 + count > rows) {
    throw new Error(`writeRows: ${count} rows from row ${row0} on do not fit '${label}' [${rows}, ${cols}]`);
  }
  if (hasCodes(dtype) && (row0 % QUANT_ROWS !== 0 || (row0 + count) % QUANT_ROWS !== 0 && row0 + count !== rows)) {
    throw new Error(
      `writeRows: rows ${row0} … ${row0 + count} of '${label}' are not whole texels of ${QUANT_ROWS} rows`,
    );
  }
  return count;
}

function forShards(
  matrix: Matrix,
  row0: number,
  count: number,
  visit: (shard: MatrixShard, first: number, end: number) => void,
): void {
  shardRange(matrix, row0, count).forEach(({ shard, first, end }) => visit(shard, first, end));
}

/** The rows `row0` … `row0 + count` − 1 of a matrix by shards: from `first` to before `end`. */
export function shardRange(
  { shards }: Matrix,
  row0: number,
  count: number,
): readonly { readonly shard: MatrixShard; readonly first: number; readonly end: number }[] {
  return shards.flatMap((shard) => {
    const first = Math.max(row0, shard.row0), end = Math.min(row0 + count, shard.row0 + shard.rows);
    return first < end ? [{ shard, first, end }] : [];
  });
}

function checkRange({ dtype, cols, label }: Matrix, row0: number, data: Float32Array): void {
  const limit = dtype === "f32" ? Infinity : dtype === "f16" ? F16_OVERFLOW : QUANT_LIMIT * (1 + 2 ** -23);
  let bad = 0; // `findIndex` takes 14 times as long
  while (bad < data.length && Math.abs(data[bad] as number) < limit) bad++;
  if (bad === data.length) return;
  const largest = dtype === "f16" ? F16_OVERFLOW - 16 : QUANT_LIMIT;
  refuse("numeric", `cannot store '${label}' as ${dtype}`, {
    rule: dtype === "f32" ? "values are finite" : `values lie within ±${largest}`,
    value: `${data[bad]} at row ${row0 + Math.floor(bad / cols)}, column ${bad % cols}`,
    fix: Number.isFinite(data[bad]) ? "keep the base weights in f32" : "check the weight file",
  });
}
