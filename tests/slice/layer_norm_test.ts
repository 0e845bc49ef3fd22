// OPT, GPT-2, GPT-NeoX, StableLM and Phi: masked equals sliced and written, in each layout; what LayerNorm and their classes rule out is refused.
import assert from "node:assert/strict";
import { exportModel } from "../../lib/local/export_model.ts";
import { ggufArch } from "../../lib/formats/gguf/architecture.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { type DecoderSpec, parameterCount } from "../../lib/spec/decoder.ts";
import { parameterMeasure } from "../../lib/units/target_size.ts";
import { tableOf } from "../../lib/units/uniform.ts";
import { unitTable } from "../../lib/units/table.ts";
import { refuses, rejects } from "../refuses.ts";
import { sharedDevice } from "../device.ts";
import { openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { assertClose, distance, type GoldenName, openGolden } from "../golden/helpers/golden.ts";

const TOKENS = [3, 9, 20, 44, 5, 60, 1, 33, 12, 8, 61];

/** Masks of every head and column, by their places. */
function masksOf(
  { layers }: DecoderSpec,
  z: { readonly head: (layer: number, at: number) => number; readonly ffn: (layer: number, at: number) => number },
): { head: Float32Array; ffn: Float32Array } {
  const values = (of: "head" | "ffn", key: "heads" | "ffn"): Float32Array =>
    Float32Array.from(
      layers.flatMap((layer, index) => Array.from({ length: layer[key] }, (_, at) => z[of](index, at))),
    );
  return { head: values("head", "heads"), ffn: values("ffn", "ffn") };
}

async function golden(name: GoldenName): Promise<WeightSource> {
  return await openHfFolder((await openGolden(name)).modelPath);
}

/** What is cut: some of everything with soft masks on the rest, and whole parts, whose biases move. */
const CUTS: Readonly<Record<string, Parameters<typeof masksOf>[1]>> = {
  mixed: {
    head: (layer, at) => (at + layer) % 3 === 1 ? 0 : at % 4 === 0 ? 0.5 : 1,
    ffn: (layer, at) => (at + layer) % 3 === 0 || (layer > 0 && at > 60) ? 0 : at % 5 === 0 ? 0.25 : 1,
  },
  "attention first, FFN last": { head: (layer) => layer === 0 ? 0 : 1, ffn: (layer) => layer === 0 ? 1 : 0 },
  "FFN first, attention last": { head: (layer) => layer === 0 ? 1 : 0, ffn: (layer) => layer === 0 ? 0 : 1 },
};

/** Golden models, and the type of their folders. */
const MODELS = [
  ["opt", "opt"],
  ["opt_residual", "opt"],
  ["gpt2", "gpt2"],
  ["gpt_neox", "gpt_neox"],
  ["stablelm", "stablelm"],
  ["stablelm_parallel", "stablelm"],
  ["phi", "phi"],
  ["cohere", "cohere"],
  ["cohere2", "cohere2"],
] as const;

for (const [name, stock] of MODELS) {
  for (const [what, cut] of Object.entries(CUTS)) {
    Deno.test(`masked ${name} equals the sliced one, and its folder in the layouts compact and padded: ${what}`, async () => {
      const source = await golden(name), device = await sharedDevice(), { spec } = source;
      using model = await loadModelFrom(source, { device, baseDtype: "f32" });
      const hidden = Float32Array.from({ length: spec.hidden }, (_, i) => i % 7 === 0 && what === "mixed" ? 0.75 : 1);
      const masks = { ...masksOf(spec, cut), hidden };
      const masked = await model.logits(TOKENS, { masks }), sliced = sliceModel(source, { masks });
      const measure = parameterMeasure(sliced.spec), rest = measure.rest(spec.hidden);
      const measured = sliced.spec.layers.reduce((sum, layer) => sum + measure.layer(layer, spec.hidden), rest);
      assert.equal(measured, parameterCount(sliced.spec));
      const close = async (other: WeightSource, what: string): Promise<void> => {
        using small = await loadModelFrom(other, { device, baseDtype: "f32" });
        assertClose([distance(what, await small.logits(TOKENS), masked)], 2e-6);
      };
      await close(sliced, "sliced");
      await inTemporaryFolder(async (folder) => {
        for (const [layout, type] of [["compact", "compresso"], ["padded", stock]] as const) {
          const out = `${folder}/${layout}`;
          await exportModel(sliced, out, { layout, dtype: "f32", tokenizer: null, formats: ["hf"], name });
          const written = await openHfFolder(`${out}/model`);
          assert.equal(written.config["model_type"], type);
          await close(written, layout);
        }
      });
    });
  }
}

Deno.test("layers whose norms follow the residual stream keep a head and a column, and are not cut whole", async () => {
  const { spec } = await golden("opt_residual");
  refuses(() => unitTable(spec, ["ffn", "layers"]), "usage");
  const { layers } = unitTable(spec, ["heads", "ffn"]);
  assert.deepEqual(layers.map(({ attention, ffn }) => [attention.minimum, ffn.minimum]), Array(3).fill([1, 1]));
});

Deno.test("norms of the residual stream are LayerNorms, and have no factors beside them", () => {
  const plain = {
    ...{ model_type: "compresso", vocab_size: 40, hidden_size: 16, num_hidden_layers: 1, intermediate_size: 8 },
    ...{ num_attention_heads: 2, norm: "layer", norm_places: "residual", embedding_width: 12 },
  };
  const parse = (keys: Record<string, unknown>): DecoderSpec => parseHfConfig({ ...plain, ...keys }, { path: "x" });
  const { normPlaces, embeddingWidth } = parse({});
  assert.deepEqual([normPlaces, embeddingWidth], ["residual", 12]);
  refuses(() => parse({ norm: undefined }), "input", { value: "norm_places", names: "LayerNorm" });
  refuses(() => parse({ norm_places: "both" }), "input", { value: "norm_places", names: "RMSNorm" });
  refuses(() => parse({ parallel: "own" }), "input", { value: '"own"' });
  refuses(() => parse({ logits_scaling: 2 }), "input", { value: "logits_scaling" });
});

Deno.test("an OPT is no GGUF, and with fewer heads no folder of the layout uniform", async () => {
  const source = await golden("opt");
  await inTemporaryFolder(async (folder) => {
    await rejects(exportModel(source, `${folder}/gguf`, { tokenizer: null, formats: ["gguf"], name: "opt" }), "input", {
      names: "GGUF",
    });
    const alike = sliceModel(source, {
      masks: masksOf(source.spec, { head: (_, at) => at === 0 ? 0 : 1, ffn: () => 1 }),
    });
    await rejects(
      exportModel(alike, `${folder}/uniform`, { layout: "uniform", tokenizer: null, formats: ["hf"], name: "opt" }),
      "usage",
      { value: 6, names: ["head_dim", 7] },
    );
  });
});

Deno.test("an OPT whose layers are cut alike in FFN columns stays an OPT in the layout uniform", async () => {
  const source = await golden("opt");
  const sliced = sliceModel(source, {
    masks: { ffn: Float32Array.from({ length: 201 }, (_, i) => i % 67 < 20 ? 0 : 1) },
  });
  await inTemporaryFolder(async (folder) => {
    await exportModel(sliced, folder, {
      layout: "uniform",
      dtype: "f32",
      tokenizer: null,
      formats: ["hf"],
      name: "opt",
    });
    const written = await openHfFolder(`${folder}/model`);
    assert.deepEqual([written.config["model_type"], written.config["ffn_dim"]], ["opt", 47]);
    assert.deepEqual(written.spec, sliced.spec);
  });
});

Deno.test("hidden dims of a model with LayerNorm are not cut, and heads not in the layout uniform", async () => {
  const source = await golden("opt"), { spec } = source;
  refuses(() => unitTable(spec, ["ffn", "hidden"]), "usage", { value: "LayerNorm", names: "RMSNorm" });
  const hidden = Float32Array.from({ length: 42 }, (_, i) => i === 3 ? 0 : 1);
  refuses(() => sliceModel(source, { masks: { hidden } }), "usage", { names: "LayerNorm" });
  refuses(() => tableOf(spec, { units: ["kv", "ffn"], rules: {}, layout: "uniform" }), "usage", { names: 7 });
  assert.equal(tableOf(spec, { units: ["kv", "ffn"], rules: {}, layout: "compact" }).cost[21], 2);
  refuses(() => ggufArch(spec), "input", { names: "GGUF" });
});
