// Compressed files with one bit changed: rows or one error that the caller catches, and nothing that ends the program.
import assert from "node:assert/strict";
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { CompressoError } from "../../lib/core/errors.ts";
import { readRowsFrom } from "../../lib/data/rows.ts";
import { memorySource } from "../../lib/files/memory.ts";
import { zlibCodecs } from "../../lib/files/platform.ts";

const FLIPS = 12;
/** Compressed bytes: within one read of the unpacker, some of them, and several pieces of the file. */
const SIZES = [200, 16_000, 80_000, 2_000_000];

const PACKERS = {
  gzip: gzipSync,
  "Zstandard with a checksum": (bytes: Uint8Array) =>
    zstdCompressSync(bytes, { params: { [constants.ZSTD_c_checksumFlag]: 1 } }),
  "Zstandard without a checksum": (bytes: Uint8Array) => zstdCompressSync(bytes),
} as const;

/** Lines of about `size` bytes once they are compressed: a random hexadecimal digit takes half a byte. */
function lines(size: number): Uint8Array {
  let seed = 7;
  const word = (): string => (seed = seed * 48271 % 2147483647).toString(16).padStart(8, "0");
  let text = "";
  while (text.length < 2 * size) {
    text += `${JSON.stringify({ text: Array.from({ length: 40 }, word).join(" ") })}\n`;
  }
  return new TextEncoder().encode(text);
}

for (const [name, pack] of Object.entries(PACKERS)) {
  Deno.test(`${name} with a bit changed anywhere gives rows, or an error that can be caught`, async () => {
    let refused = 0;
    for (const size of SIZES) {
      const packed = pack(lines(size));
      for (let flip = 0; flip < FLIPS; flip++) {
        const bytes = new Uint8Array(packed), at = Math.floor((flip + 0.5) / FLIPS * bytes.length);
        bytes[at] = (bytes[at] ?? 0) ^ 1 << flip % 8;
        try {
          await readRowsFrom(memorySource("flipped.jsonl", bytes), { codecs: zlibCodecs });
        } catch (error) {
          assert.ok(error instanceof CompressoError && error.code === "input", String(error));
          refused++;
        }
      }
    }
    // An error that nobody can catch would come now, and fail the test.
    await new Promise((later) => setTimeout(later, 50));
    assert.ok(refused >= (name.includes("without") ? 1 : SIZES.length * FLIPS - FLIPS), `${refused} refused`);
  });
}
