// A type for each matrix of a GGUF within a number of bytes: the solver against all combinations, files against their budget.
import assert from "node:assert/strict";
import { type Choice, leastError } from "../../lib/formats/gguf/least_error.ts";
import { fitTypes } from "../../lib/formats/gguf/fit_types.ts";
import { typeErrors } from "../../lib/formats/gguf/type_errors.ts";
import { type GgufTensorType } from "../../lib/formats/gguf/types.ts";
import { type DecoderSpec, projectionName, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { exportGguf, openGguf, openGgufFile, writeGguf } from "../disk.ts";
import { checkRefusal } from "../refuses.ts";
import { inTemporaryFolder } from "./files.ts";
import { randomNumbers, randomSource, SPEC, UNEVEN } from "./models.ts";

const SHARED = { tokenizerMetadata: new Map<string, never>(), name: "test" };

/** Rows that fill K blocks, blocks of 32, and none. */
const MIXED: DecoderSpec = {
  ...SPEC,
  vocab: 101,
  hidden: 256,
  headDim: 32,
  layers: [{ heads: 4, kvHeads: 2, ffn: 288 }, { heads: 3, kvHeads: 1, ffn: 256 }, { heads: 2, kvHeads: 2, ffn: 33 }],
  tied: true,
};

/** What parts cost by these choices. */
function sumOf(parts: readonly (readonly Choice[])[], chosen: readonly number[]): Choice {
  const own = parts.map((choices, at) => choices[chosen[at] ?? -1] ?? { bytes: NaN, error: NaN });
  return {
    bytes: own.reduce((sum, { bytes }) => sum + bytes, 0),
    error: own.reduce((sum, { error }) => sum + error, 0),
  };
}

/** The least error, and of equal ones the fewest bytes, of all combinations. */
function bestOfAll(parts: readonly (readonly Choice[])[], most: number): Choice | null {
  const chosen = parts.map(() => 0);
  let best: Choice | null = null;
  while (true) {
    const { bytes, error } = sumOf(parts, chosen);
    if (bytes <= most && (!best || error < best.error || (error === best.error && bytes < best.bytes))) {
      best = { bytes, error };
    }
    const at = chosen.findIndex((choice, part) => choice + 1 < (parts[part]?.length ?? 0));
    if (at < 0) return best;
    chosen[at] = (chosen[at] ?? 0) + 1;
    chosen.fill(0, 0, at);
  }
}

/** Parts with choices of random bytes and errors. */
function randomParts(count: number, choices: number, seed: number): Choice[][] {
  const numbers = randomNumbers(2 * count * choices, seed);
  return Array.from({ length: count }, (_, part) =>
    Array.from({ length: choices }, (_, choice) => {
      const at = 2 * (part * choices + choice), x = Math.abs(numbers[at] ?? 0), y = Math.abs(numbers[at + 1] ?? 0);
      // Powers of two sum up exactly in any order.
      return { bytes: Math.ceil(x * 40), error: Math.round(y * 16) / 16 };
    }));
}

Deno.test("leastError() finds the best of all combinations, and none where no combination fits", () => {
  let infeasible = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const parts = randomParts(1 + seed % 6, 1 + seed % 5, seed);
    for (const most of [5, 17, 40, 73, 110, 1000]) {
      const chosen = leastError(parts, most), best = bestOfAll(parts, most);
      if (!best) infeasible++;
      assert.deepEqual(chosen && sumOf(parts, chosen), best, `seed ${seed}, ${most} bytes`);
    }
  }
  assert.ok(infeasible > 20, `${infeasible}`);
  assert.deepEqual(leastError([], 0), []);
});

Deno.test("leastError() of many parts stays within the bytes, and near the bound by Lagrange", () => {
  // Sums of such bytes are all different, so that the frontier is longer than what is kept.
  const parts = Array.from({ length: 70 }, (_, part) => {
    const values = 1000 + 7919 * (part % 17) + 31 * part, scale = 1 + part % 5;
    return [2.6, 3.4, 4.5, 5.5, 6.6, 8.5, 16].map((bits) => ({
      bytes: Math.ceil(values * bits / 8),
      error: scale * 4 ** -bits,
    }));
  });
  const least = sumOf(parts, parts.map(() => 0)).bytes;
  for (const most of [least, least + 1, Math.floor(1.3 * least), 100 * least]) {
    const { bytes, error } = sumOf(parts, leastError(parts, most) ?? []);
    assert.ok(bytes <= most, `${bytes} of ${most}`);
    // For each price of a byte, the sum of the parts' own minima is at most what any choice within the bytes has.
    let bound = -Infinity;
    for (let exponent = -14; exponent < 0; exponent += 0.01) {
      const price = exponent === -14 ? 0 : 10 ** exponent;
      const own = parts.map((choices) => Math.min(...choices.map((one) => one.error + price * one.bytes)));
      bound = Math.max(bound, own.reduce((sum, value) => sum + value, 0) - price * most);
    }
    // What lies between is at most about one step of one part, of 70.
    assert.ok(
      error >= bound * (1 - 1e-9) && error <= bound * 1.004 + 1e-12,
      `${error}, at least ${bound}, ${most} bytes`,
    );
  }
});

/** The matrices whose rows a file holds, with their types. */
async function typesIn(path: string, spec: DecoderSpec): Promise<Map<string, string>> {
  const read = await openGguf(path);
  return new Map(
    [...tensorShapes(spec)].filter(([, shape]) => shape.length > 1).map(([name]) => [name, read.storedDtype(name)]),
  );
}

/** Writes a model in at most so many bytes, and returns the bytes of the file. */
async function written(source: WeightSource, path: string, most: number): Promise<number> {
  const { types, bytes, counts, like } = await fitTypes(source, { ...SHARED, most });
  await exportGguf(source, path, { ...SHARED, dtype: like, types });
  const { size } = await Deno.stat(path);
  assert.equal(size, bytes);
  assert.equal(Object.values(counts).reduce((sum, count) => sum + count, 0), types.size);
  return size;
}

/** The bytes of the smallest file, which the refusal of a smaller one names. */
async function smallestOf(source: WeightSource): Promise<number> {
  const error = await fitTypes(source, { ...SHARED, most: 1 }).then(() => null, (error: unknown) => error);
  const { parts } = checkRefusal(error, "input", { option: "ggufSize", value: 1 });
  return Number(/\d{3,}/.exec(parts.rule ?? "")?.[0]);
}

Deno.test("a file with fitted types is never larger than asked, and within 1 % of it where types permit", async () => {
  await inTemporaryFolder(async (folder) => {
    const layers = Array.from(
      { length: 4 },
      (_, at) => ({ heads: 1 + at % 3, kvHeads: 1, ffn: [64, 96, 256][at % 3] ?? 1 }),
    );
    for (const [tied, shares] of [[true, [0.013, 0.41]], [false, [0.23]]] as const) {
      const source = randomSource({ ...MIXED, layers, tied, vocab: 33 }), path = `${folder}/a.gguf`;
      const smallest = await smallestOf(source);
      await exportGguf(source, path, { ...SHARED, dtype: "f16" });
      const { size: largest } = await Deno.stat(path);
      for (const share of shares) {
        const most = Math.round(smallest + share * (largest - smallest)), size = await written(source, path, most);
        assert.ok(size <= most, `${size} of ${most}`);
        assert.ok(size >= 0.99 * most, `${size} of ${most}`);
      }
      assert.equal(await written(source, path, smallest), smallest);
      const error = await fitTypes(source, { ...SHARED, most: smallest - 1 }).then(
        () => null,
        (error: unknown) => error,
      );
      checkRefusal(error, "input", { option: "ggufSize", value: smallest - 1, names: smallest });
    }
  });
});

Deno.test("layers without heads or columns, and rows that fill no blocks, leave no choice but f16", async () => {
  await inTemporaryFolder(async (folder) => {
    for (const spec of [SPEC, UNEVEN]) {
      const source = randomSource(spec), path = `${folder}/a.gguf`, smallest = await smallestOf(source);
      const size = await written(source, path, 2 * smallest);
      await exportGguf(source, `${folder}/b.gguf`, { ...SHARED, dtype: "f16" });
      assert.equal(size, (await Deno.stat(`${folder}/b.gguf`)).size);
      for (const [name, type] of await typesIn(path, spec)) {
        assert.ok(["f16", "f32"].includes(type), `${name}: ${type}`);
      }
    }
  });
});

Deno.test("errors of types are those of the file that is read back, weighted by the columns' importance", async () => {
  await inTemporaryFolder(async (folder) => {
    const columns = 256, values = randomNumbers(3 * columns, 5);
    const importance = Float32Array.from({ length: columns }, (_, column) => column % 7 === 0 ? 30 : 0.1);
    for (const weights of [null, importance]) {
      const types = [
        "q2_k",
        "q3_k",
        "q4_0",
        "q4_1",
        "q5_0",
        "q5_1",
        "q6_k",
        "q8_0",
        "f16",
        "f32",
      ] as const satisfies readonly GgufTensorType[];
      const { energy, errors } = typeErrors(values.slice(), columns, types, weights);
      const sum = (of: (at: number) => number): number =>
        values.reduce((total, _, at) => total + (weights?.[at % columns] ?? 1) * of(at) ** 2, 0);
      assert.ok(Math.abs(energy / sum((at) => values[at] ?? NaN) - 1) < 1e-12);
      for (const [at, type] of types.entries()) {
        const path = `${folder}/${type}.gguf`,
          item = { name: "w", type, shape: [3, columns], importance: weights ?? undefined };
        await writeGguf(path, {
          metadata: new Map([["general.architecture", "none"]]),
          tensors: [{ ...item, data: () => values.slice() }],
        });
        const stored = await (await openGgufFile(path)).readTensor("w");
        const expected = sum((at) => (values[at] ?? NaN) - (stored[at] ?? NaN));
        // The same numbers, summed in the same order.
        assert.ok(Math.abs((errors[at] ?? NaN) - expected) <= 1e-12 * energy, `${type}: ${errors[at]}, ${expected}`);
      }
      assert.equal(errors.at(-1), 0);
    }
  });
});

Deno.test("a matrix that is worse off in few bits gets more of them", async () => {
  // Outliers make the blocks of one layer's down coarse.
  const plain = randomSource(MIXED), spiky = projectionName(1, "down");
  const source: WeightSource = {
    ...plain,
    read: async (name, rows) => {
      const values = await plain.read(name, rows);
      return name === spiky ? values.map((value, at) => at % 37 === 0 ? 60 * value : value) : values;
    },
  };
  const most = 1.6 * await smallestOf(plain);
  const bitsOf = async (of: WeightSource): Promise<number> => {
    const type = (await fitTypes(of, { ...SHARED, most })).types.get(spiky) ?? "f32";
    return Number(/\d+/.exec(type)?.[0]);
  };
  assert.notEqual(await bitsOf(source), await bitsOf(plain));
});

Deno.test("blocks of a quantised file are copied: at its own size the types are its own, and nothing is lost", async () => {
  await inTemporaryFolder(async (folder) => {
    const layers = Array.from({ length: 3 }, () => ({ heads: 4, kvHeads: 2, ffn: 256 }));
    const spec = { ...MIXED, layers }, path = `${folder}/a.gguf`;
    await exportGguf(randomSource(spec), path, { ...SHARED, dtype: "q4_k_m" });
    const source = await openGguf(path), { size: own } = await Deno.stat(path);
    const { types, bytes, like } = await fitTypes(source, { ...SHARED, most: own });
    assert.deepEqual(new Map([...types].toSorted()), new Map([...await typesIn(path, spec)].toSorted()));
    assert.deepEqual([bytes, like], [own, "q4_k_m"]);
    // More bytes would hold nothing more.
    assert.equal((await fitTypes(source, { ...SHARED, most: 2 * own })).bytes, own);
    assert.ok((await fitTypes(source, { ...SHARED, most: own - 1 })).bytes < own);
  });
});
