// Writes rows of a file, as they are in it, to a matrix: the GPU unpacks, rounds and arranges them.
import {
  type BlockedType,
  hasCodes,
  isBlocked,
  isFileDtype,
  isQuantized,
  QUANT_ROWS,
  scalesOfBlock,
  UNPACK_GROUP,
  UNPACK_ROWS,
  unpacksTo,
  unpackToCodes,
  unpackToFile,
  unpackToHalf,
} from "../../../kernels/mod.ts";
import type { KernelSource } from "../../../kernels/source.ts";
import { narrowF16 } from "../../core/half.ts";
import { type Device, TEXEL_BYTES } from "../../gpu/device.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import type { DeviceBuffer, DeviceTexture } from "../../gpu/types.ts";
import { roundUp } from "../padding.ts";
import { type Matrix, type MatrixDtype, partsOf, shardRange, writeHalf, writeRows } from "./matrix.ts";
import { exchangesLanes } from "./variants.ts";
import { isTexture, type TexelStore } from "./matrix_texels.ts";

/** Rows of a tensor as the bytes of a file. */
export interface StoredRows {
  /** The type as `WeightSource.storedDtype` names it. */
  readonly type: string;
  /** The rows without gaps, from a multiple of 4 bytes of their buffer on. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Values of a group, which a kernel unpacks at once. */
const GROUP = 32;
/** Copies to textures have rows of multiples of this many texels. */
const PITCH_TEXELS = 256 / TEXEL_BYTES;

/** Whether {@link StoredWriter} may write rows of a type to a matrix. */
export function takesStored({ cols, dtype }: Pick<Matrix, "cols" | "dtype">, type: string): boolean {
  if (type === dtype) return true;
  if (dtype === "f16" && (type === "bf16" || type === "f32")) return cols % GROUP === 0;
  return isBlocked(type) && !isFileDtype(dtype) && (isQuantized(dtype) ? unpacksTo(type, dtype) : dtype === "f16");
}

/**
 * Writes rows of files to matrices. Holds the memory that they pass through: memory that was not used before takes
 * longer than all else.
 */
export class StoredWriter implements Disposable {
  readonly #device: Device;
  readonly #buffers = new Map<string, DeviceBuffer>();
  #bytes = new Uint8Array();

  constructor(device: Device) {
    this.#device = device;
  }

  /** Memory to read so many rows of a matrix into, of a type that {@link takesStored} takes. */
  room({ cols }: Pick<Matrix, "cols">, type: string, rows: number): Uint8Array<ArrayBuffer> {
    const bytes = rows * bytesOfRow(type, cols);
    if (bytes > this.#bytes.length) this.#bytes = new Uint8Array(bytes);
    return this.#bytes;
  }

  /**
   * Writes rows from `row0` on, which {@link takesStored} takes, with the bits of `writeRows` or `writeBlocks`. Returns
   * false, and writes nothing, where a value is not finite or so large that these functions may refuse it.
   */
  write(matrix: Matrix, row0: number, { type, bytes }: StoredRows): boolean {
    const { dtype, cols } = matrix, device = this.#device;
    if (!isInRange(type, dtype, bytes)) return false;
    if (dtype === "f32") {
      writeRows(device, matrix, row0, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4));
    } else if (type === "f16") {
      writeHalf(device, matrix, row0, new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2));
    } else {
      const rowBytes = bytesOfRow(type, cols);
      for (const { shard, first, end } of shardRange(matrix, row0, bytes.length / rowBytes)) {
        const part = { type, bytes: bytes.subarray((first - row0) * rowBytes, (end - row0) * rowBytes) };
        this.#unpack(matrix, part, { stores: shard.resources, row: first - shard.row0, rows: end - first });
      }
    }
    return true;
  }

  [Symbol.dispose](): void {
    for (const buffer of this.#buffers.values()) buffer[Symbol.dispose]();
    this.#buffers.clear();
  }

  /** Runs a kernel that unpacks, and copies its texels where they go to textures. */
  #unpack({ cols, stride, dtype }: Matrix, { type, bytes }: StoredRows, { stores, row, rows }: {
    readonly stores: readonly TexelStore[];
    /** First row of the shard, and their number. */
    readonly row: number;
    readonly rows: number;
  }): void {
    const device = this.#device, perTexel = hasCodes(dtype) ? QUANT_ROWS : 1;
    const first = row / perTexel, count = Math.ceil(rows / perTexel);
    const targets = partsOf({ dtype, stride }).flatMap(({ texels }, index): Target[] => {
      const store = stores[index], used = isFileDtype(dtype) ? texels : Math.ceil(texels * cols / stride);
      if (!store) return [];
      if (!isTexture(store)) return [{ buffer: store, pitch: texels, first, used, texture: null }];
      const pitch = roundUp(used, PITCH_TEXELS), buffer = this.#buffer(`texels ${index}`, count * pitch * TEXEL_BYTES);
      return [{ buffer, pitch, first: 0, used, texture: store }];
    });
    const kernel = compileKernel(device, sourceFor(type, dtype, exchangesLanes(device)));
    const raw = this.#buffer("stored rows", bytes.length + RAW_SPARE);
    device.write(raw, wholeWords(bytes));
    const [codes, scales] = targets, groups = Math.ceil(cols / GROUP);
    const params = Uint32Array.of(rows, groups, codes?.pitch ?? 0, codes?.first ?? 0, scales?.pitch ?? 0, 0, 0, 0);
    const uniform = this.#buffer("params", params.byteLength, 0x40 | 0x08); // UNIFORM | COPY_DST
    device.write(uniform, params);
    const encoder = device.gpu.createCommandEncoder(), pass = encoder.beginComputePass();
    pass.setPipeline(kernel.pipeline);
    pass.setBindGroup(0, bindGroup(device, kernel.layout, [raw, ...targets.map(({ buffer }) => buffer), uniform]), [0]);
    pass.dispatchWorkgroups(Math.ceil(groups / UNPACK_GROUP), Math.ceil(count * perTexel / UNPACK_ROWS / UNPACK_GROUP));
    pass.end();
    for (const { texture, buffer, pitch, used } of targets) {
      if (!texture) continue;
      const place = { buffer: buffer.raw, bytesPerRow: pitch * TEXEL_BYTES };
      encoder.copyBufferToTexture(place, { texture: texture.raw, origin: [0, first] }, [used, count]);
    }
    device.gpu.queue.submit([encoder.finish()]);
  }

  /** A buffer of at least so many bytes. */
  #buffer(label: string, bytes: number, usage?: number): DeviceBuffer {
    const known = this.#buffers.get(label);
    if (known && known.bytes >= bytes) return known;
    known?.[Symbol.dispose]();
    this.#buffers.delete(label);
    const buffer = this.#device.createBuffer(label, bytes, usage);
    this.#buffers.set(label, buffer);
    return buffer;
  }
}

/** Where a kernel writes the texels of a resource of a shard. */
interface Target {
  readonly buffer: DeviceBuffer;
  /** Texels of a row, those of values, and the first row. */
  readonly pitch: number;
  readonly used: number;
  readonly first: number;
  /** The texture that the buffer is copied to; null if it is the resource. */
  readonly texture: DeviceTexture | null;
}

/** Kernels read up to so many bytes beyond the last block. */
const RAW_SPARE = 16;

function sourceFor(type: string, dtype: MatrixDtype, exchange: boolean): KernelSource {
  if (isFileDtype(dtype)) return sourceOf(unpackToFile, dtype);
  if (!isBlocked(type)) return sourceOf(unpackToHalf, type === "bf16" ? type : "f32", exchange);
  return isQuantized(dtype) ? sourceOf(unpackToCodes, type, dtype, exchange) : sourceOf(unpackToHalf, type, exchange);
}

function bindGroup(device: Device, layout: GPUBindGroupLayout, buffers: readonly DeviceBuffer[]): GPUBindGroup {
  const entries = buffers.map(({ raw: buffer }, binding) => ({ binding, resource: { buffer } }));
  return device.gpu.createBindGroup({ layout, entries });
}

/** Bytes that end with a whole word: blocks are an even number of bytes. */
function wholeWords(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (bytes.length % 4 === 0) return bytes;
  const padded = new Uint8Array(bytes.length + 2);
  padded.set(bytes);
  return padded;
}

/** Bytes of a row of so many columns in the file. */
export function bytesOfRow(type: string, cols: number): number {
  if (!isBlocked(type)) return cols * (type === "f32" ? 4 : 2);
  const { halves, block } = scalesOfBlock(type);
  return cols / block * 2 * halves;
}

/** Whether all values, and all scales of blocks, are finite and fit f16 as they are unpacked. */
function isInRange(type: string, dtype: MatrixDtype, bytes: Uint8Array<ArrayBuffer>): boolean {
  if (isBlocked(type)) return hasSmallScales(type, bytes, isFileDtype(dtype));
  // An exponent of ones, or a size of 65,520 on, carries into the bit of the sign.
  const limit = type === "f16" ? 0x7c007c00 : type === "bf16" ? 0x47804780 : dtype === "f32" ? 0x7f800000 : 0x477ff000;
  const signs = type === "f32" ? 0x80000000 : 0x80008000, sizes = ~signs, carry = signs - limit;
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  let carries = 0;
  for (let i = 0; i < words.length; i++) carries |= ((words[i] as number) & sizes) + carry;
  if (bytes.length % 4 !== 0) {
    const last = (bytes[bytes.length - 2] as number) | (bytes[bytes.length - 1] as number) << 8;
    carries |= (last & sizes) + carry;
  }
  return (carries & signs) === 0;
}

/** Whether no scale is too large: of `anySize`, whether all are finite. */
function hasSmallScales(type: BlockedType, bytes: Uint8Array<ArrayBuffer>, anySize: boolean): boolean {
  const { halves, scales, below } = scalesOfBlock(type);
  const [limit = 0] = narrowF16(Float32Array.of(anySize ? Infinity : below));
  const raw = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  for (const place of scales) {
    for (let at = place; at < raw.length; at += halves) if (((raw[at] as number) & 0x7fff) >= limit) return false;
  }
  return true;
}
