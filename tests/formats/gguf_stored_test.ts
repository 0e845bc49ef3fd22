// Quantised rows that stay as they are keep their blocks: reading and writing them again changes no bit.
import assert from "node:assert/strict";
import type { GgufSource } from "../../lib/formats/gguf/model.ts";
import { remapSource } from "../../lib/slice/remap.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { cutSource } from "../../lib/slice/vocabulary/cut_source.ts";
import {
  type DecoderSpec,
  EMBEDDING,
  expertsName,
  HEAD,
  isOfExperts,
  projectionName,
  tensorShapes,
} from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { fitTypes } from "../../lib/formats/gguf/fit_types.ts";
import { ggufDtypeFor } from "../../lib/slice/export_options.ts";
import { exportGguf, openGguf } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { randomSource, SPEC } from "./models.ts";

const DTYPE = "q4_k_m";
/** Rows of whole K blocks: quantising their values once more would change them. */
const WHOLE: DecoderSpec = {
  ...SPEC,
  hidden: 256,
  headDim: 64,
  layers: [{ heads: 4, kvHeads: 2, ffn: 256 }, { heads: 4, kvHeads: 2, ffn: 256 }],
};

/** The model as a GGUF, and a function that writes a source derived from it and opens that. */
async function withFile(
  work: (file: GgufSource, written: (source: WeightSource) => Promise<GgufSource>) => Promise<void>,
): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    const options = { dtype: DTYPE, tokenizerMetadata: new Map<string, never>(), name: "test" } as const;
    let count = 0;
    const written = async (source: WeightSource): Promise<GgufSource> => {
      const path = `${folder}/${count++}.gguf`;
      await exportGguf(source, path, options);
      return await openGguf(path);
    };
    await work(await written(randomSource(WHOLE)), written);
  });
}

/** Stored bytes of each row. */
async function rowsOf(source: WeightSource, name: string): Promise<Uint8Array[]> {
  const [rows = 0] = tensorShapes(source.spec).get(name) ?? [];
  const stored = await source.readStored?.(name);
  assert.ok(stored && stored.length % rows === 0);
  const width = stored.length / rows;
  return Array.from({ length: rows }, (_, row) => stored.subarray(row * width, (row + 1) * width));
}

Deno.test("a model whose vocabulary is cut keeps the blocks of its tokens and of all layers", async () => {
  await withFile(async (file, written) => {
    const kept = Int32Array.from([0, 2, 3, 5, 9]), cut = await written(cutSource(file, kept));
    for (const name of [EMBEDDING, HEAD]) {
      const before = await rowsOf(file, name);
      assert.deepEqual(await rowsOf(cut, name), [...kept].map((id) => before[id]), name);
    }
    for (const [name, shape] of tensorShapes(cut.spec)) {
      if (shape.length === 1 || name === EMBEDDING || name === HEAD) continue;
      assert.equal(cut.storedDtype(name), file.storedDtype(name));
      assert.deepEqual(await cut.readStored?.(name), await file.readStored?.(name), name);
    }
  });
});

Deno.test("a part of the rows is read as the same rows of the whole, in the order of q and k too", async () => {
  await withFile(async (file) => {
    for (const name of [EMBEDDING, projectionName(1, "q"), projectionName(0, "down")]) {
      const whole = await rowsOf(file, name), [some] = [await file.readStored?.(name, { start: 3, count: 2 })];
      assert.deepEqual(some, Uint8Array.from([...whole[3] ?? [], ...whole[4] ?? []]), name);
    }
  });
});

Deno.test("rows of FFN columns and of heads that stay keep their blocks; those that change are quantised", async () => {
  await withFile(async (file, written) => {
    const ffn = new Float32Array(512).fill(1), head = new Float32Array(8).fill(1);
    ffn.fill(0, 0, 32);
    head.fill(0, 4, 6);
    const source = sliceModel(file, { masks: { ffn, head } }), cut = await written(source);
    const gate = projectionName(0, "gate"), query = projectionName(1, "q"), down = projectionName(0, "down");
    assert.deepEqual(await rowsOf(cut, gate), (await rowsOf(file, gate)).slice(32));
    assert.deepEqual(await rowsOf(cut, query), (await rowsOf(file, query)).slice(128));
    assert.equal(await source.readStored?.(down), null, "columns are cut");
    const scaled = remapSource(file, file.spec, (name) => ({
      from: name,
      ...name === gate ? { rowScale: new Float64Array(256).fill(2) } : {},
    }));
    assert.equal(await scaled.readStored?.(gate), null);
    const [before, after] = [await file.read(gate), await (await written(scaled)).read(gate)];
    const most = before.reduce((sum, value) => Math.max(sum, Math.abs(value)), 0);
    assert.ok(before.every((value, i) => Math.abs((after[i] ?? NaN) - 2 * value) < most / 4));
  });
});

Deno.test("experts of MXFP4 keep their blocks, whole and where some are cut, and as other types their values", async () => {
  const spec: DecoderSpec = {
    ...SPEC,
    hidden: 64,
    headDim: 16,
    layers: [1, 2].map(() => ({ heads: 4, kvHeads: 2, ffn: 0, experts: { count: 5, ffn: 32 } })),
    router: { topK: 2, renormalised: true },
  };
  const options = { tokenizerMetadata: new Map<string, never>(), name: "test" };
  await inTemporaryFolder(async (folder) => {
    await exportGguf(randomSource(spec), `${folder}/a.gguf`, { dtype: "mxfp4_moe", ...options });
    const file = await openGguf(`${folder}/a.gguf`);
    for (const [name, { length }] of tensorShapes(spec)) {
      const type = isOfExperts(name) ? "mxfp4" : "q8_0";
      if (length > 1 && !name.endsWith("mlp.gate.weight")) assert.equal(file.storedDtype(name), type, name);
    }
    const dtype = ggufDtypeFor(file, { ggufDtype: "auto" });
    assert.equal(dtype, "mxfp4_moe");
    const experts = { count: 3, ffn: 32 }, layers = spec.layers.map((layer) => ({ ...layer, experts }));
    const fewer = remapSource(file, { ...spec, layers }, (name) => {
      const rows = name.includes("experts.down")
        ? 64
        : isOfExperts(name)
        ? 32
        : name.endsWith("mlp.gate.weight")
        ? 1
        : 0;
      const kept = [0, 2, 4].flatMap((expert) => Array.from({ length: rows }, (_, row) => expert * rows + row));
      return rows > 0 ? { from: name, rows: Int32Array.from(kept) } : { from: name };
    });
    await exportGguf(fewer, `${folder}/b.gguf`, { dtype, ...options });
    const cut = await openGguf(`${folder}/b.gguf`);
    for (const matrix of ["gate", "up", "down"] as const) {
      const name = expertsName(1, matrix), before = await rowsOf(file, name), rows = before.length / 5;
      const kept = before.filter((_, row) => [0, 2, 4].includes(Math.floor(row / rows)));
      assert.deepEqual(await rowsOf(cut, name), kept, name);
      await exportGguf(file, `${folder}/c.gguf`, { dtype: "f16", ...options });
      assert.deepEqual(await (await openGguf(`${folder}/c.gguf`)).read(name), await file.read(name), "f16 holds them");
    }
    // A size that holds the file as it is keeps the blocks; no other model gets such.
    const { size } = await Deno.stat(`${folder}/a.gguf`);
    const fitted = await fitTypes(file, { most: size, ...options });
    assert.equal(fitted.types.get(expertsName(0, "up")), "mxfp4");
    const others = await fitTypes(randomSource(spec), { most: size, ...options });
    assert.ok(![...others.types.values()].includes("mxfp4"));
  });
});
