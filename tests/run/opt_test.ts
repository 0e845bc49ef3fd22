// A whole run of an OPT like OPT-350m (norms of the residual stream, projections of the embedding): its memory on 4-bit blocks, FLAP's bias compensation, its files and its adapter.
import assert from "node:assert/strict";
import { pruneToFolder, readRows } from "../../mod.ts";
import { planMemory } from "../../lib/run/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { readPeftAdapter } from "../../lib/model/mod.ts";
import { ALL_UNGATED } from "../../lib/families/shared.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomSource } from "../slice/helpers.ts";

Deno.test("an OPT on 4-bit blocks takes what is planned, and its folder and adapter read back", async () => {
  await inTemporaryFolder(async (folder) => {
    const demo = await openModelFiles("demo"), { rows } = await readRows(await demoData("train"));
    const { rope, vocab, bosId, eosIds, padId } = demo.source.spec;
    const spec: DecoderSpec = {
      ...{ rope, vocab, bosId, eosIds, padId },
      hidden: 96,
      embeddingWidth: 40,
      normPlaces: "residual",
      headDim: 16,
      layers: Array(2).fill({ heads: 6, kvHeads: 6, ffn: 131 }),
      normEps: 1e-5,
      norm: "layer",
      activation: "relu",
      ungated: true,
      positions: { offset: 2 },
      tied: true,
      biases: ALL_UNGATED,
      maxPosition: 64,
    };
    const source = randomSource(spec), shape = { batch: 2, seq: 48, units: ["heads", "ffn"] } as const;
    using device = await openDevice();
    using model = await loadModelFrom(source, { device, baseDtype: "q4", tokenizer: demo.tokenizer });
    const adapter = adapterOf(device);
    const plan = await planMemory(spec, { ...shape, baseDtype: "q4", adapter });
    device.resetPeak();
    const given = { ...shape, rows: rows.slice(0, 24), prompt: null, seed: 1, sparsity: 0.3 };
    const { peakGpuBytes } = await pruneToFolder(model, {
      ...given,
      ...{ steps: 1, prefinetune: 1, postfinetune: 1 },
      out: `${folder}/run`,
      export: { dtype: "f32", saveAdapter: true },
    });
    assert.equal(peakGpuBytes, plan.peakBytes);
    assert.equal(device.peakBytes, plan.peakBytes);
    const made = await openHfFolder(`${folder}/run/model`);
    assert.equal(made.config["model_type"], "compresso");
    assert.deepEqual({ ...made.spec, layers: [] }, { ...spec, layers: [] });
    const { weights } = await readPeftAdapter(`${folder}/run/adapter`, made.spec);
    assert.ok(weights.has("lora.1.up.B") && !weights.has("lora.1.gate.B"));

    await pruneToFolder(model, {
      ...given,
      ...{ method: "flap", units: ["ffn"], layout: "uniform", steps: 1 },
      out: `${folder}/flap`,
      export: { dtype: "f32" },
    });
    const flap = await openHfFolder(`${folder}/flap/model`), [first] = flap.spec.layers;
    assert.equal(flap.config["model_type"], "opt");
    assert.ok((first?.ffn ?? 131) < 131 && first?.heads === 6);
  });
});
