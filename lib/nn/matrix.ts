// Frozen weight matrices in GPU memory. Owns their storage (textures or buffers, f32 or f16, shards of rows); refuses to compute.
import { CompressoError } from "../errors.ts";
import { type Device, type DeviceBuffer, type DeviceTexture, TEXEL_BYTES } from "../gpu/device.ts";
import { roundUp, strideOf } from "./layout.ts";

/** Storage of the values of a {@link Matrix}. */
export type MatrixDtype = "f32" | "f16";
/** Where the values of a {@link Matrix} lie. */
export type MatrixPlacement = "texture" | "buffer";

/** Rows [row0, row0 + rows) of a matrix; in memory they are padded to a multiple of 64 rows of zeros. */
export interface MatrixShard {
  /** First row. */
  readonly row0: number;
  /** Number of rows. */
  readonly rows: number;
  /** Where they lie. */
  readonly resource: DeviceBuffer | DeviceTexture;
}

/** A frozen matrix W [rows = out, cols = in], stored once and used for y = x·Wᵀ and for dx = dy·W. */
export interface Matrix extends Disposable {
  /** Name in error messages. */
  readonly label: string;
  /** Number of rows. */
  readonly rows: number;
  /** Columns, the input width. */
  readonly cols: number;
  /** Values from one stored row to the next, of which `cols` are not padding. */
  readonly stride: number;
  /** Stored rows, a multiple of 64; those beyond `rows` are zero. */
  readonly paddedRows: number;
  /** Storage of a value. */
  readonly dtype: MatrixDtype;
  /** Kind of memory. */
  readonly placement: MatrixPlacement;
  /** Parts by rows. */
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
  /** Rows of a shard at most, beside the adapter's limits; rounded down to a multiple of 64. */
  readonly maxShardRows?: number;
}

/** Shards begin at multiples of this many rows. */
const SHARD_ALIGN = 64;
/**
 * A texture row is this many texels longer than the values need: rows a power of two apart would fall on the same lines of a CPU's cache.
 */
const TEXTURE_PAD = 4;
/** Largest host copy of one upload, in values. */
const UPLOAD_VALUES = 1 << 21;
/** Smallest magnitude that rounds to infinity in f16. */
const F16_OVERFLOW = 65520;

/** Allocates a zero matrix. Throws `CompressoError("gpu")` over the memory budget or the adapter's limits. */
export function createMatrix(device: Device, label: string, options: MatrixOptions): Matrix {
  const { rows, cols, dtype, placement = device.facts.isCpu ? "texture" : "buffer" } = options;
  const stride = strideOf(cols);
  const rowBytes = stride * bytesOf(dtype);
  const width = rowBytes / TEXEL_BYTES + TEXTURE_PAD;
  const { maxBufferSize, maxStorageBufferBindingSize, maxTextureDimension2D } = device.limits;
  const fitting = placement === "texture"
    ? maxTextureDimension2D
    : Math.floor(Math.min(maxBufferSize, maxStorageBufferBindingSize) / rowBytes);
  const most = Math.min(fitting, options.maxShardRows ?? Infinity);
  const shardRows = Math.max(SHARD_ALIGN, Math.floor(most / SHARD_ALIGN) * SHARD_ALIGN);
  const shards: MatrixShard[] = [];
  const dispose = (): void => shards.forEach((shard) => shard.resource[Symbol.dispose]());
  try {
    for (let row0 = 0; row0 < rows; row0 += shardRows) {
      const count = Math.min(shardRows, rows - row0);
      const stored = roundUp(count, SHARD_ALIGN);
      const resource = placement === "buffer"
        ? device.createBuffer(label, stored * rowBytes)
        : device.createTexture(label, width, stored, dtype === "f32" ? "rgba32float" : "rgba32uint");
      shards.push({ row0, rows: count, resource });
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
    bytes: shards.reduce((sum, shard) => sum + shard.resource.bytes, 0),
    [Symbol.dispose]: dispose,
  };
}

/**
 * Writes rows from `row0` on; `data` holds whole rows of `cols` values. f16 rounds to the nearest, ties to even.
 * Throws `CompressoError("numeric")` where a value is NaN or infinite in the matrix's dtype.
 */
export function writeRows(device: Device, matrix: Matrix, row0: number, data: Float32Array): void {
  const { cols, stride, dtype, rows, label } = matrix;
  const count = data.length / cols;
  if (!Number.isInteger(count) || row0 < 0 || row0 + count > rows) {
    throw new Error(`writeRows: ${data.length} values from row ${row0} on do not fit '${label}' [${rows}, ${cols}]`);
  }
  checkRange(matrix, row0, data);
  const step = Math.max(1, Math.floor(UPLOAD_VALUES / stride));
  forShards(matrix, row0, count, (shard, first, end) => {
    for (let from = first; from < end; from += step) {
      const part = Math.min(step, end - from);
      const packed = dtype === "f16" ? new Float16Array(part * stride) : new Float32Array(part * stride);
      for (let r = 0; r < part; r++) {
        const at = (from + r - row0) * cols;
        packed.set(data.subarray(at, at + cols), r * stride);
      }
      const rowBytes = stride * bytesOf(dtype);
      const local = from - shard.row0;
      if (isTexture(shard.resource)) {
        device.gpu.queue.writeTexture(
          { texture: shard.resource.raw, origin: [0, local] },
          packed,
          { bytesPerRow: rowBytes },
          [rowBytes / TEXEL_BYTES, part],
        );
      } else device.write(shard.resource, packed, local * rowBytes);
    }
  });
}

/** Reads rows back as f32, `count` × `cols` values; for checks, as it waits for the GPU. */
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
  const result = new Float32Array(count * cols);
  if (count === 0) return result;
  const rowBytes = stride * bytesOf(dtype);
  const pitch = roundUp(rowBytes, 256); // a texture's rows are copied at multiples of 256 bytes
  const parts: { first: number; end: number; shard: MatrixShard }[] = [];
  forShards(matrix, row0, count, (shard, first, end) => parts.push({ first, end, shard }));
  for (const { first, end, shard } of parts) {
    const part = end - first;
    using staging = device.createBuffer("rows", part * pitch);
    const encoder = device.gpu.createCommandEncoder();
    const local = first - shard.row0;
    const isImage = isTexture(shard.resource);
    if (isTexture(shard.resource)) {
      encoder.copyTextureToBuffer(
        { texture: shard.resource.raw, origin: [0, local] },
        { buffer: staging.raw, bytesPerRow: pitch },
        [rowBytes / TEXEL_BYTES, part],
      );
    } else {
      encoder.copyBufferToBuffer(shard.resource.raw, local * rowBytes, staging.raw, 0, part * rowBytes);
    }
    device.gpu.queue.submit([encoder.finish()]);
    const [bytes] = await device.read([{ buffer: staging }]);
    if (!bytes) continue;
    const values = dtype === "f16" ? new Float16Array(bytes) : new Float32Array(bytes);
    const step = (isImage ? pitch : rowBytes) / bytesOf(dtype);
    for (let r = 0; r < part; r++) {
      result.set(values.subarray(r * step, r * step + cols), (first - row0 + r) * cols);
    }
  }
  return result;
}

/** Rows of a shard in memory: padded to a multiple of 64. */
export function shardPaddedRows(shard: MatrixShard): number {
  return roundUp(shard.rows, SHARD_ALIGN);
}

function bytesOf(dtype: MatrixDtype): number {
  return dtype === "f16" ? 2 : 4;
}

function isTexture(resource: DeviceBuffer | DeviceTexture): resource is DeviceTexture {
  return resource.raw instanceof GPUTexture;
}

function forShards(
  matrix: Matrix,
  row0: number,
  count: number,
  visit: (shard: MatrixShard, first: number, end: number) => void,
): void {
  for (const shard of matrix.shards) {
    const first = Math.max(row0, shard.row0);
    const end = Math.min(row0 + count, shard.row0 + shard.rows);
    if (first < end) visit(shard, first, end);
  }
}

function checkRange({ dtype, cols, label }: Matrix, row0: number, data: Float32Array): void {
  const limit = dtype === "f16" ? F16_OVERFLOW : Infinity;
  const bad = data.findIndex((value) => !(Math.abs(value) < limit));
  if (bad < 0) return;
  throw new CompressoError("numeric", {
    what: `cannot store '${label}' as ${dtype}`,
    rule: dtype === "f16" ? `values lie within ±${F16_OVERFLOW - 16}` : "values are finite",
    value: `${data[bad]} at row ${row0 + Math.floor(bad / cols)}, column ${bad % cols}`,
    mend: dtype === "f16" && Number.isFinite(data[bad]) ? "keep the base weights in f32" : "check the weight file",
  });
}
