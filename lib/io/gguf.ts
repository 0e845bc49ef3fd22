// GGUF files: tensors by their name in the file, dequantised row by row. Owns reads; refuses to know what the tensors are for.
import { streamBytes } from "./bytes.ts";
import { dequantize } from "./gguf_dequant.ts";
import { type GgufHeader, readGgufHeader } from "./gguf_header.ts";
import { ggufError, TENSOR_FORMATS } from "./gguf_types.ts";
import { rowWindow } from "./rows.ts";
import type { RowRange } from "./source.ts";

/** An open GGUF file. It holds no file handle: each read opens and closes the file. */
export interface GgufFile extends GgufHeader {
  readonly path: string;
  /** Reads a tensor, or a range of its rows, by its name in the file, dequantised to f32 and in the file's row order. */
  readTensor(name: string, rows?: RowRange): Promise<Float32Array<ArrayBuffer>>;
}

/** Opens a GGUF of any architecture. Only the header is read here. Throws as `readGgufHeader`. */
export async function openGgufFile(path: string): Promise<GgufFile> {
  const header = await readGgufHeader(path);
  return {
    path,
    ...header,
    async readTensor(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const tensor = header.tensors.get(name);
      if (!tensor) throw ggufError(path, { rule: `it holds the tensor ${name}`, value: "no such tensor" });
      const { block, bytes } = TENSOR_FORMATS[tensor.type];
      const { start, count, width } = rowWindow(name, tensor.shape, { rows });
      const out = new Float32Array(count * width);
      // Rows are whole blocks, except that a one-dimensional tensor has rows of one value.
      if (start * width % block !== 0 || count * width % block !== 0) {
        throw ggufError(path, {
          rule: `rows of ${name} are whole blocks of ${block} values`,
          value: `rows of ${width}`,
        });
      }
      const first = tensor.offset + start * width / block * bytes;
      const length = count * width / block * bytes;
      let at = 0;
      for await (const raw of streamBytes(path, first, { length, pieceBytes: PIECE_BLOCKS * bytes })) {
        dequantize(raw, tensor.type, { out, at });
        at += raw.length / bytes * block;
      }
      return out;
    },
  };
}

/** Blocks in memory at a time beside the result: 3 to 27 MB. */
const PIECE_BLOCKS = 1 << 17;
