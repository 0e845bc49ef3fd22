import assert from "node:assert/strict";
import { checkSeed, randomU32, shuffle, uniform } from "../../lib/core/random.ts";
import { refuses } from "../refuses.ts";

/** The hash of kernels/shared/random.wgsl with exact integers. */
function reference(words: readonly number[]): number {
  const mask = 0xffffffffn;
  const pcg = (value: bigint): bigint => {
    const state = (value * 747796405n + 2891336453n) & mask;
    const word = (((state >> ((state >> 28n) + 4n)) ^ state) * 277803737n) & mask;
    return (word >> 22n) ^ word;
  };
  return Number(words.reduce((hash, word) => pcg(BigInt(word) ^ hash), 0n));
}

Deno.test("randomU32() gives the hash of the kernels for any words", () => {
  for (const words of [[0], [1, 2], [4294967295, 0, 7], [123456789, 987654321, 4294967295, 5]]) {
    const [seed = 0, ...rest] = words;
    assert.equal(randomU32(seed, ...rest), reference(words));
  }
});

Deno.test("uniform() lies in (0, 1), with mean 1/2 and no equal neighbours", () => {
  let sum = 0;
  const count = 20000;
  const buckets = new Uint32Array(10);
  for (let counter = 0; counter < count; counter++) {
    const value = uniform(3, 1, counter);
    assert(value > 0 && value < 1);
    const bucket = Math.floor(value * 10);
    buckets[bucket] = (buckets[bucket] ?? 0) + 1;
    sum += value;
  }
  // Standard deviations: mean 0.29/√20000 = 0.002, bucket √(20000·0.09) = 42; five of each.
  assert(Math.abs(sum / count - 0.5) < 0.01, String(sum / count));
  for (const bucket of buckets) assert(Math.abs(bucket - 2000) < 210, String(buckets));
});

Deno.test("shuffle() is a permutation that depends on seed and stream only", () => {
  for (const length of [0, 1, 2, 17, 1000]) {
    const order = shuffle(length, 5, 0);
    assert.deepEqual([...order].sort((a, b) => a - b), Array.from({ length }, (_, index) => index));
    assert.deepEqual(order, shuffle(length, 5, 0));
  }
  assert.notDeepEqual(shuffle(17, 5, 0), shuffle(17, 5, 1));
  assert.notDeepEqual(shuffle(17, 5, 0), shuffle(17, 6, 0));
});

Deno.test("shuffle() puts every index everywhere equally often", () => {
  const counts = new Uint32Array(16);
  for (let stream = 0; stream < 4000; stream++) {
    shuffle(4, 9, stream).forEach((index, place) => counts[index * 4 + place] = (counts[index * 4 + place] ?? 0) + 1);
  }
  // Expected 1000 with a standard deviation of 27; five of them.
  for (const count of counts) assert(Math.abs(count - 1000) < 137, String(counts));
});

Deno.test("checkSeed() refuses what is not a u32", () => {
  assert.equal(checkSeed(4294967295), 4294967295);
  for (const seed of [-1, 0.5, 4294967296, NaN]) {
    refuses(() => checkSeed(seed), "usage", { names: [0, 4294967295] });
  }
});
