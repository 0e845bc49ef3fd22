// A whole run of a model with norms of q and k heads: its memory, its files in the layout that stock programs load, its adapter.
import assert from "node:assert/strict";
import { pruneToFolder, readRows } from "../../mod.ts";
import { planMemory } from "../../lib/run/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { readPeftAdapter } from "../../lib/model/mod.ts";
import { bytesByPart } from "../../lib/run/memory/parts.ts";
import { openGguf, openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomSource } from "../slice/helpers.ts";

Deno.test("a Qwen3 on 4-bit blocks takes what is planned, and its folder, GGUF and adapter read back", async () => {
  await inTemporaryFolder(async (folder) => {
    const demo = await openModelFiles("demo"), { rows } = await readRows(demoData("train"));
    const source = randomSource({ ...demo.source.spec, qkNorm: "head", layers: demo.source.spec.layers.slice(0, 2) });
    const shape = { batch: 2, seq: 48, units: ["kv", "ffn", "hidden"], layout: "uniform" } as const;
    using device = await openDevice();
    using model = await loadModelFrom(source, { device, baseDtype: "q4", tokenizer: demo.tokenizer });
    const adapter = adapterOf(device);
    const plan = await planMemory(source.spec, { ...shape, baseDtype: "q4", adapter });
    device.resetPeak();
    const steps = { steps: 1, prefinetune: 1, postfinetune: 1, sparsity: 0.2, seed: 1 };
    const { peakGpuBytes } = await pruneToFolder(model, {
      ...shape,
      ...steps,
      rows: rows.slice(0, 24),
      prompt: null,
      out: `${folder}/run`,
      export: { dtype: "f32", saveAdapter: true },
    });
    assert.equal(peakGpuBytes, plan.peakBytes);
    assert.equal(device.peakBytes, plan.peakBytes);
    assert.ok(bytesByPart(device.peakUsage()).forward > 0);
    const made = await openHfFolder(`${folder}/run/model`), file = await openGguf(`${folder}/run/model.gguf`);
    assert.equal(made.config["model_type"], "qwen3");
    assert.equal(file.metadata.get("general.architecture"), "qwen3");
    // A GGUF stores ε in f32.
    assert.deepEqual({ ...file.spec, normEps: 0 }, { ...made.spec, normEps: 0 });
    assert.ok(made.spec.hidden < source.spec.hidden && made.spec.qkNorm === "head");
    const { weights } = await readPeftAdapter(`${folder}/run/adapter`, made.spec);
    assert.ok(weights.has("lora.1.q.B"));
  });
});
