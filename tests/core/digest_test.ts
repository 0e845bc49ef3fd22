import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { digestOf, Sha256 } from "../../lib/core/digest.ts";

Deno.test("Sha256 gives the digest of the system's library, at lengths around a block and however it is cut", () => {
  for (const length of [0, 1, 55, 56, 57, 63, 64, 65, 119, 120, 121, 128, 1000]) {
    const bytes = Uint8Array.from({ length }, (_, index) => 31 * index + length);
    const expected = createHash("sha256").update(bytes).digest("hex");
    for (const cut of [0, 1, length >> 1, length]) {
      const hash = new Sha256().update(bytes.subarray(0, cut)).update(bytes.subarray(cut));
      assert.equal(hash.hex(), expected, `${length} bytes, cut at ${cut}`);
    }
  }
});

Deno.test("digestOf() hashes texts as UTF-8 and arrays as their bytes", () => {
  const words = Uint32Array.of(1, 2, 0xffffffff).subarray(1);
  const expected = createHash("sha256").update("größe").update(words).digest("hex").slice(0, 16);
  assert.equal(digestOf(["größe", words]), expected);
});
