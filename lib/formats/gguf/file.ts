// GGUF files: tensors by their name in the file, dequantised row by row.
import { blocksOf, type QuantRows } from "../../spec/quant.ts";
import { type ByteSource, readBytes, streamBytes } from "../../files/system.ts";
import { hasBlocks, unpackBlocks } from "./blocks.ts";
import { dequantize } from "./dequant.ts";
import { type GgufHeader, type GgufTensor, readGgufHeader } from "./header.ts";
import { ggufError, TENSOR_FORMATS } from "./types.ts";
import { rowWindow, stackedShape } from "../../spec/row_range.ts";
import type { BlockOptions, RowRange } from "../../spec/source.ts";

/** An open GGUF file. */
export interface GgufFile extends GgufHeader {
  readonly path: string;
  /** Reads a tensor, or a range of its rows, by its name in the file, dequantised to f32 and in the file's row order. */
  readTensor(name: string, rows?: RowRange): Promise<Float32Array<ArrayBuffer>>;
  /** The same as the bytes of the file: in the beginning of `into` if that is large enough. */
  readTensorStored(name: string, rows?: RowRange, into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array<ArrayBuffer>>;
  /** The same as codes of at most `bits` bits; null if the tensor has no blocks of 32 values with such codes. */
  readTensorBlocks(name: string, options: BlockOptions): Promise<QuantRows | null>;
}

/** Opens a GGUF of any architecture. Only the header is read here. Throws as `readGgufHeader`. */
export async function openGgufFile(source: ByteSource): Promise<GgufFile> {
  const path = source.name, header = await readGgufHeader(source);
  const find = (name: string): GgufTensor => {
    const tensor = header.tensors.get(name);
    if (tensor) return tensor;
    const fix = "ask for one of its tensors";
    throw ggufError(path, { rule: `it holds the tensor ${name}`, value: "no such tensor", fix });
  };
  return {
    path,
    ...header,
    async readTensor(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const tensor = find(name), { count, pieces } = readPieces(source, tensor, rows);
      const out = new Float32Array(count);
      for await (const { raw, at } of pieces) dequantize(raw, tensor.type, { out, at });
      return out;
    },
    async readTensorStored(name, rows, into): Promise<Uint8Array<ArrayBuffer>> {
      const { offset, length } = storedRange(source, find(name), rows);
      return await readBytes(source, offset, length, into);
    },
    async readTensorBlocks(name, { bits, rows }): Promise<QuantRows | null> {
      const tensor = find(name), { type } = tensor;
      if (!hasBlocks(type, bits)) return null;
      const { count, pieces } = readPieces(source, tensor, rows);
      const codes = new Uint8Array(count), scales = new Uint32Array(blocksOf(count));
      for await (const { raw, at } of pieces) unpackBlocks(raw, type, { codes, scales, at });
      return { codes, scales };
    },
  };
}

/** Where the bytes of a range of rows are in the file, and their number of values. */
function storedRange(
  source: ByteSource,
  { name, type, shape, offset }: GgufTensor,
  rows: RowRange | undefined,
): { readonly offset: number; readonly length: number; readonly count: number } {
  const { block, bytes } = TENSOR_FORMATS[type];
  const { start, count, width } = rowWindow(name, stackedShape(shape), { rows });
  // Rows are whole blocks, except that a one-dimensional tensor has rows of one value.
  if (start * width % block !== 0 || count * width % block !== 0) {
    throw ggufError(source.name, {
      rule: `rows of ${name} are whole blocks of ${block} values`,
      value: `rows of ${width}`,
    });
  }
  const bytesOf = (values: number): number => values / block * bytes;
  return { offset: offset + bytesOf(start * width), length: bytesOf(count * width), count: count * width };
}

/** Whole blocks of a range of rows, each piece with the index of its first value, and the number of values in all. */
function readPieces(
  source: ByteSource,
  tensor: GgufTensor,
  rows: RowRange | undefined,
): { readonly count: number; readonly pieces: AsyncGenerator<{ raw: Uint8Array<ArrayBuffer>; at: number }> } {
  const { block, bytes } = TENSOR_FORMATS[tensor.type], { offset, length, count } = storedRange(source, tensor, rows);
  const pieces = async function* (): AsyncGenerator<{ raw: Uint8Array<ArrayBuffer>; at: number }> {
    let at = 0;
    for await (const raw of streamBytes(source, offset, { length, pieceBytes: PIECE_BLOCKS * bytes })) {
      yield { raw, at };
      at += raw.length / bytes * block;
    }
  };
  return { count, pieces: pieces() };
}

/** Blocks read at a time: 3 to 27 MB of memory in addition to the result. */
const PIECE_BLOCKS = 1 << 17;
