// Reading of safetensors files, lazily: the header first, a tensor or some of its rows when asked.
import { refuse } from "../../core/errors.ts";
import { type ByteSource, readBytes, streamBytes } from "../../files/system.ts";
import { widenBf16, widenF16 } from "../../core/half.ts";
import { rowWindow } from "../../spec/row_range.ts";
import {
  DTYPE_BITS,
  readSafetensorsHeader,
  type SafetensorsDtype,
  type SafetensorsEntry,
  type SafetensorsHeader,
} from "./header.ts";
import type { RowRange } from "../../spec/source.ts";

export type { SafetensorsDtype, SafetensorsEntry } from "./header.ts";

/** An open safetensors file. */
export interface SafetensorsFile extends SafetensorsHeader {
  readonly path: string;
  /** Reads an F32, F16 or BF16 tensor, or a range of its rows, as f32, row-major. */
  read(name: string, rows?: RowRange): Promise<Float32Array<ArrayBuffer>>;
  /** Reads the bytes of a tensor of any dtype, or of a range of its rows: into the beginning of `into` if that is large enough. */
  readRaw(name: string, rows?: RowRange, into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** Reads a U32 tensor. */
  readU32(name: string): Promise<Uint32Array<ArrayBuffer>>;
  /** Reads an I64 tensor. */
  readI64(name: string): Promise<BigInt64Array<ArrayBuffer>>;
}

/**
 * Opens a safetensors file (format: https://github.com/huggingface/safetensors). Only the header is read and checked here.
 *
 * @throws CompressoError("input") for a broken header, a tensor that is not there, or a dtype that the call does not read.
 */
export async function openSafetensors(source: ByteSource): Promise<SafetensorsFile> {
  const path = source.name, header = await readSafetensorsHeader(source);

  function entryOf(name: string, dtypes?: readonly SafetensorsDtype[]): SafetensorsEntry {
    const entry = header.tensors.get(name);
    const what = `cannot read the tensor ${JSON.stringify(name)} of ${path}`;
    if (!entry) {
      const rule = "the file holds it", fix = "ask for one of its tensors";
      refuse("input", what, { rule, value: "no such tensor", fix });
    }
    if (dtypes && !dtypes.includes(entry.dtype)) {
      const rule = `its dtype is ${dtypes.join(" or ")}`, fix = "save it as that";
      refuse("input", what, { rule, value: entry.dtype, fix });
    }
    return entry;
  }

  async function readRaw(
    name: string,
    rows?: RowRange,
    into = new Uint8Array(),
  ): Promise<Uint8Array<ArrayBuffer>> {
    const entry = entryOf(name);
    if (!rows) return await readBytes(source, entry.offset, entry.byteLength, into);
    const { start, count, width } = rowWindow(name, entry.shape, { rows });
    const rowBits = width * DTYPE_BITS[entry.dtype];
    if (rowBits % 8 !== 0) {
      refuse("input", `cannot read rows of the tensor ${JSON.stringify(name)} of ${path}`, {
        rule: "a row fills whole bytes",
        value: `${rowBits} bits`,
        fix: "read the whole tensor",
      });
    }
    const length = count * rowBits / 8;
    return await readBytes(source, entry.offset + start * rowBits / 8, length, into);
  }

  async function read(name: string, rows?: RowRange): Promise<Float32Array<ArrayBuffer>> {
    const { dtype, shape, offset } = entryOf(name, ["F32", "F16", "BF16"]);
    const { start, count, width } = rowWindow(name, shape, { rows });
    const bytes = dtype === "F32" ? 4 : 2;
    const length = count * width * bytes, first = offset + start * width * bytes;
    // Values are little-endian, as is every machine that has WebGPU.
    if (dtype === "F32") return new Float32Array((await readBytes(source, first, length)).buffer);
    const out = new Float32Array(count * width);
    let done = 0;
    for await (const piece of streamBytes(source, first, { length, pieceBytes: WIDEN_BYTES })) {
      const bits = new Uint16Array(piece.buffer, 0, piece.length / 2);
      if (dtype === "F16") widenF16(bits, out, done);
      else widenBf16(bits, out, done);
      done += bits.length;
    }
    return out;
  }

  return {
    path,
    ...header,
    read,
    readRaw,
    async readU32(name): Promise<Uint32Array<ArrayBuffer>> {
      entryOf(name, ["U32"]);
      return new Uint32Array((await readRaw(name)).buffer);
    },
    async readI64(name): Promise<BigInt64Array<ArrayBuffer>> {
      entryOf(name, ["I64"]);
      return new BigInt64Array((await readRaw(name)).buffer);
    },
  };
}

/** Half-width values are widened in pieces, so that a tensor is never in memory twice. */
const WIDEN_BYTES = 1 << 24;
