// Whole runs of a Gemma 2 and a Gemma 3: their memory, the check of the sliced model, their files and adapters.
import assert from "node:assert/strict";
import { pruneToFolder, readRows } from "../../mod.ts";
import { planMemory } from "../../lib/run/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { readPeftAdapter } from "../../lib/model/mod.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { openGguf, openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { sharedDevice } from "../device.ts";
import { randomSource } from "../slice/helpers.ts";

/** The demo's shape as a Gemma: a window in the first of two layers. */
function gemmaOf(spec: DecoderSpec, isThree: boolean): DecoderSpec {
  const local = isThree ? { window: 16, rope: "local" as const } : { window: 16 };
  return {
    ...spec,
    layers: spec.layers.slice(0, 2).map((layer, index) => index === 0 ? { ...layer, ...local } : layer),
    tied: true,
    activation: "gelu_tanh",
    normPlaces: "both",
    scales: { embedding: Math.sqrt(spec.hidden) },
    ...isThree ? { qkNorm: "head", rope: { ...spec.rope, localBase: 500 } } : { softCaps: { attention: 5, logits: 9 } },
  };
}

for (const [name, form] of [["gemma2", "gemma2"], ["gemma3", "gemma3_text"]] as const) {
  Deno.test(`a ${name} on 4-bit blocks takes what is planned, and its folder, GGUF and adapter read back`, async () => {
    await inTemporaryFolder(async (folder) => {
      const demo = await openModelFiles("demo"), { rows } = await readRows(demoData("train"));
      const source = randomSource(gemmaOf(demo.source.spec, name === "gemma3"));
      const shape = { batch: 2, seq: 48, units: ["ffn", "hidden"], layout: "uniform" } as const;
      const device = await sharedDevice();
      using model = await loadModelFrom(source, { device, baseDtype: "q4", tokenizer: demo.tokenizer });
      const adapter = adapterOf(device);
      const plan = await planMemory(source.spec, { ...shape, baseDtype: "q4", adapter });
      device.resetPeak();
      const { peakGpuBytes } = await pruneToFolder(model, {
        ...shape,
        ...{ steps: 1, prefinetune: 1, postfinetune: 1, sparsity: 0.3, seed: 1 },
        rules: { align: 12 },
        rows: rows.slice(0, 24),
        prompt: null,
        out: `${folder}/run`,
        export: { dtype: "f32", saveAdapter: true },
      });
      assert.equal(peakGpuBytes, plan.peakBytes);
      const made = await openHfFolder(`${folder}/run/model`), file = await openGguf(`${folder}/run/model.gguf`);
      assert.equal(made.config["model_type"], form);
      assert.equal(file.metadata.get("general.architecture"), name);
      // A GGUF stores ε in f32.
      assert.deepEqual({ ...file.spec, normEps: 0 }, { ...made.spec, normEps: 0 });
      assert.ok(made.spec.hidden < source.spec.hidden && made.spec.normPlaces === "both");
      assert.deepEqual(made.spec.scales, { embedding: Math.sqrt(made.spec.hidden) });
      const { weights } = await readPeftAdapter(`${folder}/run/adapter`, made.spec);
      assert.ok(weights.has("lora.1.q.B"));
    });
  });
}
