// Exports into the folder of the model that they read, and exports that fail after the first file: all is read before anything is replaced.
import assert from "node:assert/strict";
import { loadModel, prune, pruneToFolder, readRows } from "../../mod.ts";
import type { SessionExportOptions } from "../../lib/masks/mod.ts";
import { demoData, loadModelFrom, readPeftAdapter } from "../../lib/model/mod.ts";
import { openWeights } from "../disk.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { tensorShapes } from "../../lib/spec/decoder.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { readRun } from "../../lib/report/read_run.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import type { ExportOptions } from "../../lib/slice/export_options.ts";
import { rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { assertSameWeights } from "../formats/models.ts";
import { openSource, randomMasks, randomSource } from "./helpers.ts";
import { sharedDevice } from "../device.ts";

const OPTIONS = { dtype: "f32", tokenizer: null, name: "x" } as const;

async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).sort();
}

/** A source that calls `act` before the read with this number, counted from 1. */
function watched(source: WeightSource, number: number, act: () => void): WeightSource {
  let reads = 0;
  return {
    ...source,
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      if (++reads === number) act();
      return source.read(name, rows);
    },
  };
}

Deno.test("exportModel() may write over the model that it reads: folder and GGUF hold the same weights", async () => {
  const original = await openSource("gqa_f16");
  const masks = randomMasks(original.spec, { seed: 3, kinds: ["head", "ffn", "hidden"] });
  const wanted = sliceModel(original, { masks });
  await inTemporaryFolder(async (out) => {
    for (const from of ["model", "model.gguf"]) {
      await exportModel(original, out, { ...OPTIONS, replace: true });
      await exportModel(sliceModel(await openWeights(`${out}/${from}`), { masks }), out, { ...OPTIONS, replace: true });
      for (const name of ["model", "model.gguf"]) await assertSameWeights(await openWeights(`${out}/${name}`), wanted);
    }
    assert.deepEqual(await names(out), ["model", "model.gguf"]);
  });
});

Deno.test("an exportModel() that fails or is stopped within its files leaves the folder and the GGUF that stood there", async () => {
  const source = await openSource("gqa_f16"), other = await openSource("gqa_llama3");
  const late = tensorShapes(other.spec).size - 3;
  await inTemporaryFolder(async (out) => {
    await exportModel(source, out, OPTIONS);
    const controller = new AbortController(), { signal } = controller;
    const failing = (): WeightSource =>
      watched(other, late, () => {
        throw new Error("the disk is gone");
      });
    await assert.rejects(exportModel(failing(), out, { ...OPTIONS, replace: true }), /the disk is gone/);
    const stopped = watched(other, late, () => controller.abort());
    await assert.rejects(exportModel(stopped, out, { ...OPTIONS, replace: true, signal }), /abort/i);
    assert.deepEqual(await names(out), ["model", "model.gguf"]);
    for (const name of ["model", "model.gguf"]) await assertSameWeights(await openWeights(`${out}/${name}`), source);
    await assert.rejects(exportModel(failing(), `${out}/new`, OPTIONS), /the disk is gone/);
    assert.deepEqual(await names(`${out}/new`), []);
  });
});

Deno.test("a folder that is exported keeps its generation settings, unless others are given", async () => {
  await inTemporaryFolder(async (out) => {
    const { source, tokenizer } = await openModelFiles("demo"), temperature = 0.6;
    const write = async (from: WeightSource, to: string, given: Partial<ExportOptions>): Promise<unknown> => {
      const { hf } = await exportModel(from, `${out}/${to}`, { tokenizer, name: "demo", formats: ["hf"], ...given });
      return JSON.parse(await Deno.readTextFile(`${hf}/generation_config.json`)).temperature;
    };
    assert.equal(await write(source, "first", { generation: { temperature } }), temperature);
    const { source: again } = await openModelFiles(`${out}/first/model`);
    assert.equal(await write(again, "second", {}), temperature);
    assert.equal(await write(again, "third", { generation: {} }), undefined);
  });
});

Deno.test("a session may export over its model, with adapter, and passes its generation settings on", async () => {
  await inTemporaryFolder(async (out) => {
    const demo = await openModelFiles("demo");
    const generation = { do_sample: true, temperature: 0.6, top_p: 0.9, repetition_penalty: 1.1 };
    await exportModel(demo.source, out, { ...OPTIONS, tokenizer: demo.tokenizer, generation, formats: ["hf"] });
    const device = await sharedDevice();
    using model = await loadModel(`${out}/model`, { device });
    const { rows } = await readRows(demoData("train"), { limit: 16 });
    const options = { rows, sparsity: 0.2, steps: 1, postfinetune: 0, batch: 1, seq: 64, prompt: null };
    using run = prune(model, options);
    await Deno.writeTextFile(`${out}/records.jsonl`, "of an earlier run\n");
    for await (const _record of run);
    await rejects(run.export(out, { formats: ["gguf"] }), "input", { names: "records.jsonl" });
    assert.deepEqual(await names(out), ["model", "records.jsonl"]);
    await run.export(out, { dtype: "f32", replace: true, saveAdapter: true, generation: { temperature: 0.2 } });
    assert.deepEqual(await names(out), ["adapter", "model", "model.gguf", "records.jsonl", "run.json", "unmerged"]);
    assert.deepEqual((await readRun(out)).records.map(({ step }) => step), [1]);

    const written = await openWeights(`${out}/model`), unmerged = await openWeights(`${out}/unmerged`);
    assert.ok(written.spec.layers.some(({ ffn }, layer) => ffn < (demo.source.spec.layers[layer]?.ffn ?? 0)));
    await assertSameWeights(await openWeights(`${out}/model.gguf`), written);
    const { config, weights } = await readPeftAdapter(`${out}/adapter`, unmerged.spec);
    // Folded and merged in another order, in f32.
    await assertSameWeights(sliceModel(unmerged, { lora: { ...config, weights } }), written, 2 ** -20);
    for (const folder of ["model", "unmerged"]) {
      assert.deepEqual(JSON.parse(await Deno.readTextFile(`${out}/${folder}/generation_config.json`)), {
        eos_token_id: 1,
        pad_token_id: 0,
        ...generation,
        temperature: 0.2,
      });
    }
    // The model's weights are read where they are needed: what stands there now has others.
    await rejects(run.export(`${out}/second`), "input", { names: "model.safetensors" });
    assert.deepEqual(await names(`${out}/second`), []);
  });
});

Deno.test("a model whose file was written to since it was opened is not read, of safetensors or GGUF", async () => {
  const source = await openSource("gqa_f16");
  await inTemporaryFolder(async (out) => {
    await exportModel(source, out, OPTIONS);
    for (const [name, file] of [["model", "model/model.safetensors"], ["model.gguf", "model.gguf"]] as const) {
      const opened = await openWeights(`${out}/${name}`), path = `${out}/${file}`;
      await Deno.copyFile(path, `${out}/copy`);
      await assertSameWeights(opened, source);
      await Deno.rename(`${out}/copy`, path);
      await Deno.utime(path, 1, 1);
      await rejects(assertSameWeights(opened, source), "input");
    }
  });
});

/** Options that a program without `exactOptionalPropertyTypes`, or in JavaScript, may give. */
function isLoose(options: unknown): options is SessionExportOptions {
  return typeof options === "object";
}

Deno.test("what is given as undefined to an export is not given: the layout stays the run's, the name and the dtype the default", async () => {
  await inTemporaryFolder(async (out) => {
    const device = await sharedDevice();
    using model = await loadModel("demo", { device });
    const { rows } = await readRows(demoData("train"), { limit: 16 });
    const options = { rows, sparsity: 0.2, steps: 1, postfinetune: 0, batch: 1, seq: 64, prompt: null };
    using run = prune(model, { ...options, layout: "padded" });
    for await (const _record of run);
    const unset: unknown = {
      layout: undefined,
      dtype: undefined,
      ggufDtype: undefined,
      name: undefined,
      formats: undefined,
    };
    assert.ok(isLoose(unset));
    const { writtenParameters, parameters, options: { layout } } = await run.export(out, unset);
    assert.equal(layout, "padded");
    assert.ok(writtenParameters > parameters.after, "zeros are written");
    assert.deepEqual(await names(out), ["model", "model.gguf", "records.jsonl", "run.json"]);
  });
});

Deno.test("an adapter, a folder alone, or one of a wanted size, of a model that no folder can hold is refused before the first step", async () => {
  await inTemporaryFolder(async (out) => {
    const { source, tokenizer } = await openModelFiles("demo"), { headDim } = source.spec;
    const factors = Array.from({ length: headDim / 2 }, (_, i) => 1 + i);
    const odd = {
      ...source,
      spec: { ...source.spec, rope: { base: 1e4, scaling: { kind: "factors", factors } } },
    } as const;
    const device = await sharedDevice();
    using model = await loadModelFrom(odd, { device });
    const rows = [{ kind: "text", text: "Tom went to Rome.", extra: {} }] as const;
    const options = { rows, steps: 1, batch: 1, seq: 16, calibration: "none" } as const;
    const onRecord = (): void => assert.fail("a step was taken");
    const sparsity = 0.2, size = { bytes: 3_000_000, file: { format: "hf", dtype: "f32" } } as const;
    const cases = [{ sparsity, export: { saveAdapter: true } }, { sparsity, export: { formats: ["hf"] } }, {
      size,
    }] as const;
    for (const one of cases) {
      await rejects(pruneToFolder(model, { ...options, ...one, out: `${out}/run`, onRecord }), "input", {
        names: "GGUF",
      });
      assert.deepEqual(await names(out), []);
    }
    // Nor a GGUF alone whose architecture has no layers that differ, where they may.
    using qwen3 = await loadModelFrom(
      randomSource({ ...(await openSource("qwen3")).spec, tied: false }),
      { device },
    );
    const files = { layout: "compact", export: { formats: ["gguf"] } } as const;
    const alone = { ...options, ...files, sparsity, out: `${out}/run`, onRecord };
    await rejects(pruneToFolder(qwen3, alone), "input", { names: ["GGUF", "openelm"] });
    assert.deepEqual(await names(out), []);
    // Nor one where its tokenizer has no form there.
    assert.ok(tokenizer);
    const json = { ...tokenizer.json, model: { type: "WordPiece" } };
    using other = await loadModelFrom(source, { device, tokenizer: { ...tokenizer, json } });
    const gguf = pruneToFolder(other, {
      ...options,
      sparsity,
      export: { formats: ["gguf"] },
      out: `${out}/run`,
      onRecord,
    });
    await rejects(gguf, "input", { value: "WordPiece", names: "BPE" });
    assert.deepEqual(await names(out), []);
  });
});
