// Files that are longer than one read of an unpacker, and matrices of whole K-quant blocks: bits changed anywhere.
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { SPEC } from "../formats/models.ts";
import { useRows } from "./data_formats.ts";
import { type Case, type Format, linesFile, single } from "./format.ts";
import { ggufFile, ggufPlaces, useModel } from "./model_formats.ts";
import { bytes, type Mutate, oneOf } from "./mutate.ts";

/** Bytes of a packed file: one read of the unpacker, some, and several pieces of the file. Small ones are other formats. */
const SIZES = [16_000, 80_000, 2_000_000];

/** Changes one to three bits. */
const bits: Mutate = (file, draw) => {
  const out = file.slice();
  for (let left = 1 + draw.below(3); left > 0; left--) {
    const at = draw.below(out.length);
    out[at] = (out[at] ?? 0) ^ 1 << draw.below(8);
  }
  return out;
};

/** Rows of about `size` packed bytes: a random hexadecimal digit takes half a byte. */
function rowsOf(size: number): Uint8Array<ArrayBuffer> {
  let seed = 7;
  const word = (): string => (seed = seed * 48271 % 2147483647).toString(16).padStart(8, "0");
  const text = (): string => Array.from({ length: 250 }, word).join(" ");
  return linesFile(Array.from({ length: Math.ceil(size / 1100) }, () => ({ text: text() })));
}

const PACKERS: Readonly<Record<string, (file: Uint8Array) => Uint8Array>> = {
  "checked.jsonl.zst": (file) => zstdCompressSync(file, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
  "a.jsonl.zst": (file) => zstdCompressSync(file),
  "a.jsonl.gz": (file) => gzipSync(file),
};

const PACKED: Format = {
  name: "large packed rows",
  cases: (): Case[] =>
    SIZES.flatMap((size) =>
      Object.entries(PACKERS).flatMap(([name, pack]) =>
        single(name, oneOf(bits, bits, bytes()), new Uint8Array(pack(rowsOf(size))))
      )
    ),
  read: useRows,
};

/** A model whose rows are whole blocks of 256 values. */
function wide(hidden: number, ffn: number, vocab: number): typeof SPEC {
  const spec = { ...SPEC, vocab, hidden, headDim: 64, tied: true };
  return { ...spec, layers: [{ heads: hidden / 64, kvHeads: hidden / 128, ffn }] };
}

const BLOCKS: Format = {
  name: "large GGUFs of blocks",
  async cases(): Promise<Case[]> {
    const narrow = { ...wide(256, 16, 8), layers: [{ heads: 1, kvHeads: 1, ffn: 16 }], headDim: 8 };
    const files = await Promise.all([
      ggufFile(narrow, "q2_k"),
      ggufFile(wide(256, 256, 400), "q4_k_m"),
      ggufFile(wide(256, 256, 400), "q3_k_l"),
      ggufFile(wide(512, 1536, 400), "q5_k_m"),
    ]);
    return single("a.gguf", oneOf(bits, bits, bytes(ggufPlaces)), ...files);
  },
  read: (files) => useModel(files, "a.gguf"),
};

export const LARGE_FORMATS: readonly Format[] = [PACKED, BLOCKS];
