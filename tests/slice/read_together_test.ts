// One reading for two writers.
import assert from "node:assert/strict";
import { readTogether, type SharedSource } from "../../lib/slice/read_together.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { randomModel, specOf } from "../../scripts/bench/random_model.ts";
import { tensorShapes } from "../../lib/spec/decoder.ts";

const SPEC = specOf({ hidden: 8, layers: 3, heads: 2, kvHeads: 1, headDim: 4, ffn: 16, vocab: 5, tied: false });
const NAMES = [...tensorShapes(SPEC).keys()], MODEL = randomModel(SPEC, { seed: 1 });

function watched(reads: string[]): WeightSource {
  return { ...MODEL, read: (name, rows) => (reads.push(name), MODEL.read(name, rows)) };
}

/** Reads tensors like a writer. */
async function write(source: SharedSource, names: readonly string[]): Promise<void> {
  using _ended = source;
  for (const name of names) assert.deepEqual(await source.read(name), await MODEL.read(name));
}

Deno.test("two writers in step read each tensor once", async () => {
  const reads: string[] = [], [first, second] = readTogether(watched(reads));
  await Promise.all([write(first, NAMES), write(second, NAMES)]);
  assert.deepEqual(reads.toSorted(), NAMES.toSorted());
});

Deno.test("two writers in other orders, or with other tensors, end all the same", async () => {
  for (
    const others of [NAMES.toReversed(), NAMES.slice(4), NAMES.slice(0, 3), [], [
      ...NAMES.slice(9),
      ...NAMES.slice(0, 9),
    ]]
  ) {
    const reads: string[] = [], [first, second] = readTogether(watched(reads));
    await Promise.all([write(first, NAMES), write(second, others)]);
    assert.ok(reads.length >= NAMES.length && reads.length <= NAMES.length + others.length);
  }
});
