// Whole runs of models that differ from LLaMA's by their description alone: memory as planned, files of their own class and architecture, an adapter that
// reads back.
import assert from "node:assert/strict";
import { pruneToFolder, readRows } from "../../mod.ts";
import { planMemory } from "../../lib/run/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { readPeftAdapter } from "../../lib/model/mod.ts";
import { type DecoderSpec, PROJECTIONS, withBiases } from "../../lib/spec/decoder.ts";
import { proportionalScaling } from "../../lib/spec/rope.ts";
import { openGguf, openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { sharedDevice } from "../device.ts";
import { randomSource } from "../slice/helpers.ts";

const { source: { spec: DEMO }, tokenizer } = await openModelFiles("demo");
const [LAYER = { heads: 1, kvHeads: 1, ffn: 1 }] = DEMO.layers;
const layers = (count: number): DecoderSpec["layers"] => Array(count).fill({ ...LAYER, ffn: 160 });
const half = DEMO.headDim / 4;
const factors = (first: number): number[] => Array.from({ length: half }, (_, i) => first + i / half);

/** Models, with the units that are cut of each and the class of the folder. */
const MODELS: readonly { spec: DecoderSpec; units: ("kv" | "ffn" | "hidden")[]; form: string; arch: string }[] = [
  {
    spec: {
      ...DEMO,
      layers: layers(1),
      fused: true,
      rope: {
        base: 1000,
        scaling: { kind: "longrope", short: factors(1), long: factors(2), attention: 1.1, originalMaxPosition: 32 },
        dims: 2 * half,
      },
    },
    units: ["ffn"],
    form: "phi3",
    arch: "phi3",
  },
  {
    spec: { ...DEMO, layers: layers(4).map((layer, index) => index === 3 ? { ...layer, rope: "none" } : layer) },
    units: ["kv", "ffn", "hidden"],
    form: "smollm3",
    arch: "smollm3",
  },
  {
    spec: { ...DEMO, layers: layers(1), scales: { embedding: 2, attention: 0.1, residual: 0.7, logits: 3 } },
    units: ["kv", "ffn", "hidden"],
    form: "granite",
    arch: "granite",
  },
  {
    spec: { ...DEMO, layers: layers(1), tied: false, normPlaces: "after", qkNorm: "whole" },
    units: ["ffn"],
    form: "olmo2",
    arch: "olmo2",
  },
  {
    spec: {
      ...withBiases(DEMO, ["q", "k", "v", "o", "up", "down"]),
      layers: layers(1),
      tied: false,
      norm: "layer",
      parallel: "shared",
      ungated: true,
      activation: "gelu_tanh",
      headBias: true,
    },
    units: ["ffn"],
    form: "phi",
    arch: "phi2",
  },
  {
    spec: { ...DEMO, layers: layers(1), tied: false, qkNorm: "head", ungated: true, activation: "xielu" },
    units: ["kv", "ffn", "hidden"],
    form: "apertus",
    arch: "apertus",
  },
  {
    spec: {
      ...DEMO,
      layers: [{ ...LAYER, ffn: 160, window: 16, rope: "local" }, ...layers(1)],
      localHeadDim: DEMO.headDim / 2,
      tied: true,
      activation: "gelu_tanh",
      normPlaces: "both",
      qkNorm: "head",
      valueNorm: true,
      layerScale: true,
      scales: { embedding: Math.sqrt(DEMO.hidden), attention: 1 },
      softCaps: { logits: 9 },
      rope: { base: 1000, localBase: 500, scaling: proportionalScaling(DEMO.headDim, half) },
    },
    units: ["ffn", "hidden"],
    form: "gemma4_text",
    arch: "gemma4",
  },
  {
    spec: {
      ...DEMO,
      layers: [{ heads: 0, kvHeads: 0, ffn: 160, conv: true }, ...layers(1)],
      convolution: { length: 4 },
      qkNorm: "head",
    },
    units: ["ffn"],
    form: "lfm2",
    arch: "lfm2",
  },
];

for (const { spec, units, form, arch } of MODELS) {
  Deno.test(`a run of a ${form} on 4-bit blocks takes what is planned, and its folder, GGUF and adapter read back`, async () => {
    await inTemporaryFolder(async (folder) => {
      const { rows } = await readRows(demoData("train"));
      const source = randomSource(spec), shape = { batch: 2, seq: 48, units, layout: "uniform" } as const;
      const device = await sharedDevice();
      using model = await loadModelFrom(source, { device, baseDtype: "q4", tokenizer });
      const adapter = adapterOf(device);
      const plan = await planMemory(spec, { ...shape, baseDtype: "q4", adapter });
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
      const made = await openHfFolder(`${folder}/run/model`), file = await openGguf(`${folder}/run/model.gguf`);
      assert.equal(made.config["model_type"], form);
      assert.equal(file.metadata.get("general.architecture"), arch);
      const ffn = made.spec.layers[0]?.ffn ?? 0;
      assert.ok(ffn > 0 && ffn < 160);
      assert.deepEqual(file.spec.layers, made.spec.layers);
      const { weights, config } = await readPeftAdapter(`${folder}/run/adapter`, made.spec);
      assert.equal(config.targets.length, spec.ungated ? 6 : PROJECTIONS.length);
      assert.ok(weights.get("lora.0.up.B")?.some((value) => value !== 0));
    });
  });
}
