// What this runtime offers besides files: unpackers of compressed data, and the size of the heap.
import { Readable } from "node:stream";
import { getHeapStatistics } from "node:v8";
import {
  brotliDecompressSync,
  constants,
  createGunzip,
  createZstdDecompress,
  gunzipSync,
  zstdDecompressSync,
} from "node:zlib";
import { byBlock, LARGEST_BLOCK } from "../compat/zstd_frames.ts";

type Pieces = AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>;
type UnpackPage = (input: Uint8Array, most: number) => Uint8Array;

/** The output of one write fits at once. Also files of `zstd --long=31` too, as large corpora often are; above 128 MiB zlib refuses them by itself. */
const ZSTD_OPTIONS = {
  params: { [constants.ZSTD_d_windowLogMax]: 31 },
  chunkSize: 2 * LARGEST_BLOCK,
  highWaterMark: 4 * LARGEST_BLOCK,
};

/** Unpackers of gzip, Zstandard and Brotli. */
export const zlibCodecs = {
  /** node's unpacker and not the web's DecompressionStream: that one stops after the first of several gzip members. */
  gunzip: (pieces: Pieces): AsyncIterable<Uint8Array> => unpacked(pieces, createGunzip()),
  unzstd,
  pages: { GZIP: bounded(gunzipSync), ZSTD: bounded(zstdDecompressSync), BROTLI: bounded(brotliDecompressSync) },
} as const;

/** Bytes that V8's heap may have. */
export function heapLimit(): number {
  return getHeapStatistics().heap_size_limit;
}

async function* unpacked(
  pieces: AsyncIterable<Uint8Array>,
  unpacker: ReturnType<typeof createGunzip>,
): AsyncGenerator<Uint8Array, void, undefined> {
  const source = Readable.from(pieces);
  source.on("error", (error) => unpacker.destroy(error));
  source.pipe(unpacker);
  try {
    for await (const piece of unpacker) yield piece;
  } finally {
    unpacker.destroy();
    source.destroy();
  }
}

/**
 * One block a write, and no pipe: Deno throws an error of the data within `write`, from which only its caller can take
 * it; node gives it as an event.
 */
async function* unzstd(pieces: Pieces): AsyncGenerator<Uint8Array, void, undefined> {
  const unpacker = createZstdDecompress(ZSTD_OPTIONS);
  unpacker.on("error", () => {});
  try {
    for await (const piece of byBlock(pieces)) {
      await new Promise<void>((resolve, reject) => {
        unpacker.once("error", reject);
        unpacker.write(piece, () => {
          unpacker.off("error", reject);
          resolve();
        });
      });
      for (let part = unpacker.read(); part !== null; part = unpacker.read()) yield part;
    }
  } finally {
    unpacker.destroy();
  }
}

/** A page never gets longer than its header says, even if its bytes claim more. A page of nulls is empty; node refuses a bound of 0. */
function bounded(unpack: (input: Uint8Array, bound: { readonly maxOutputLength: number }) => Uint8Array): UnpackPage {
  return (input, most) => most === 0 ? new Uint8Array() : unpack(input, { maxOutputLength: most });
}
