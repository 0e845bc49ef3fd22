// Small random models in memory, for tests of readers and writers.
import assert from "node:assert/strict";
import { type DecoderSpec, tensorShapes } from "../../lib/spec/decoder.ts";
import { rowWindow } from "../../lib/spec/row_range.ts";
import type { WeightSource } from "../../lib/spec/source.ts";

/** Awkward on purpose: hidden ≠ heads × headDim, odd widths, GQA, untied. */
export const SPEC: DecoderSpec = {
  vocab: 37,
  hidden: 20,
  headDim: 6,
  layers: [{ heads: 4, kvHeads: 2, ffn: 33 }, { heads: 4, kvHeads: 2, ffn: 33 }],
  normEps: 1e-5,
  rope: { base: 12345, scaling: { kind: "none" } },
  tied: false,
  maxPosition: 128,
  bosId: 1,
  eosIds: [2, 5],
  padId: null,
};

/** As a sliced model is: layers differ, one has no attention, one no FFN, one neither; odd head counts and widths. */
export const UNEVEN: DecoderSpec = {
  ...SPEC,
  vocab: 71,
  hidden: 68,
  headDim: 6,
  layers: [
    { heads: 4, kvHeads: 2, ffn: 133 },
    { heads: 0, kvHeads: 0, ffn: 20 },
    { heads: 3, kvHeads: 3, ffn: 0 },
    { heads: 0, kvHeads: 0, ffn: 0 },
    { heads: 15, kvHeads: 3, ffn: 1 },
  ],
  eosIds: [],
};

/** `count` numbers in (−1, 1), the same for the same seed. */
export function randomNumbers(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = seed * 2654435761 >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = Math.imul(state ^ state >>> 15, 2246822519) + 3266489917 >>> 0;
    return (state >>> 8) / 2 ** 23 - 1;
  });
}

/** A model of random weights. */
export function randomSource(spec: DecoderSpec): WeightSource {
  const tensors = new Map<string, { data: Float32Array<ArrayBuffer>; shape: number[] }>();
  for (const [name, shape] of tensorShapes(spec)) {
    const data = randomNumbers(shape.reduce((a, b) => a * b, 1), tensors.size + 1);
    tensors.set(name, { data, shape });
  }
  return {
    spec,
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const tensor = tensors.get(name);
      assert.ok(tensor, `the test's model has no ${name}`);
      const { start, count, width } = rowWindow(name, tensor.shape, { rows });
      return Promise.resolve(tensor.data.slice(start * width, (start + count) * width));
    },
    storedDtype: () => "f32",
  };
}

/** Asserts that every tensor of `expected` is in `actual`, each value within `tolerance`. */
export async function assertSameWeights(actual: WeightSource, expected: WeightSource, tolerance = 0): Promise<void> {
  for (const name of tensorShapes(expected.spec).keys()) {
    const [a, b] = [await actual.read(name), await expected.read(name)];
    assert.equal(a.length, b.length, name);
    const bad = a.findIndex((value, index) => !(Math.abs(value - (b[index] ?? NaN)) <= tolerance));
    assert.equal(bad, -1, `${name}[${bad}]: ${a[bad]} instead of ${b[bad]}`);
  }
}
