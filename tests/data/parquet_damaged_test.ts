// Damaged parquet tables: each ends at once in a named error, and nothing that was begun fails later.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CompressoError } from "../../lib/core/errors.ts";
import { randomU32 } from "../../lib/core/random.ts";
import { readRowsFrom } from "../../lib/data/rows.ts";
import { memorySource } from "../../lib/files/memory.ts";
import { zlibCodecs } from "../../lib/files/platform.ts";

const TABLES = ["chats_snappy", "instructions_gzip", "nulls", "odd_columns", "texts_brotli", "texts_zstd"];

async function table(name: string): Promise<Uint8Array<ArrayBuffer>> {
  return await Deno.readFile(fileURLToPath(new URL(`../../fixtures/parquet/${name}.parquet`, import.meta.url)));
}

/** The value of the error that reading ends with, null where it ends well. Fails for a foreign error. */
async function problemOf(bytes: Uint8Array<ArrayBuffer>): Promise<string | null> {
  try {
    await readRowsFrom(memorySource("table", bytes), { codecs: zlibCodecs });
    return null;
  } catch (error) {
    assert(error instanceof CompressoError && error.code === "input", String(error));
    return error.parts.value ?? null;
  }
}

/** A table with bytes from a place on replaced. */
async function damaged(
  name: string,
  ...places: readonly (readonly [number, readonly number[]])[]
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await table(name);
  for (const [at, values] of places) bytes.set(values, at);
  return bytes;
}

Deno.test("a page header without a size of its levels is refused: hyparquet would read one byte for ever", async () => {
  const bytes = await damaged("instructions_gzip", [398, [0, 0, 0, 0x80]]);
  assert.match(await problemOf(bytes) ?? "", /choices\.list\.element: undefined/);
});

Deno.test("a page header without a number of rows is refused", async () => {
  const bytes = await damaged("instructions_gzip", [284, [0, 0, 0, 1, 0, 0, 0]], [474, [0xd6]]);
  assert.match(await problemOf(bytes) ?? "", /output: undefined/);
});

Deno.test("a column that the schema lacks is refused before another one is read, whose error nobody would catch", async () => {
  const bytes = await damaged("instructions_gzip", [93, Array(52).fill(0x7f)], [552, Array(4).fill(0xff)]);
  assert.match(await problemOf(bytes) ?? "", /choices\.list\.element/);
  await new Promise((resolve) => setTimeout(resolve, 50)); // an unhandled rejection fails the test
});

Deno.test("a schema with fewer elements than it says is refused as a broken table", async () => {
  const bytes = await damaged("nulls", [258, [0, 0]], [261, [0]], [282, [0x2c]], [775, [0xb9]]);
  assert.notEqual(await problemOf(bytes), null);
});

Deno.test("a group of fewer than no columns is read, where looking for geometry would go round for ever", async () => {
  assert.notEqual(await problemOf(await damaged("odd_columns", [294, [3]], [745, [24]])), "");
});

Deno.test("of 200 damaged copies of each table every one is read or refused by a named error", async () => {
  let refused = 0;
  for (const [index, name] of TABLES.entries()) {
    const whole = await table(name);
    assert.equal(await problemOf(whole), null);
    for (let round = 0; round < 200; round++) {
      const bytes = whole.slice();
      const draw = (word: number, below: number): number => randomU32(7, index, round, word) % below;
      for (let flip = 0; flip <= draw(0, 3); flip++) {
        bytes[draw(3 * flip + 1, bytes.length)] =
          [0, 0x7f, 0x80, 0xff, draw(3 * flip + 2, 256)][draw(3 * flip + 3, 5)] ?? 0;
      }
      if (await problemOf(bytes) !== null) refused++;
    }
  }
  assert(refused > 300, `${refused} refused`);
});
