// Granite: its factors in configurations, folders and GGUFs.
import assert from "node:assert/strict";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { formOf, hfConfig } from "../../lib/formats/hf/export.ts";
import { ggufArch, refuseUnlike } from "../../lib/formats/gguf/architecture.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { refuses } from "../refuses.ts";
import { exportGguf, exportHf, openGguf, openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

const GRANITE: DecoderSpec = { ...SPEC, scales: { embedding: 12, attention: 0.015625, residual: 0.22, logits: 8 } };

const CONFIG = {
  model_type: "granite",
  vocab_size: 37,
  hidden_size: 20,
  head_dim: 6,
  intermediate_size: 33,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 128,
  rope_theta: 12345,
  embedding_multiplier: 12,
  attention_multiplier: 0.015625,
  residual_multiplier: 0.22,
  logits_scaling: 8,
  bos_token_id: 1,
  eos_token_id: [2, 5],
};

Deno.test("the configuration of a granite says its factors, 1 where it does not", () => {
  const parse = (json: Record<string, unknown>): DecoderSpec => parseHfConfig(json, { path: "config.json" });
  assert.deepEqual(parse(CONFIG), GRANITE);
  const { attention_multiplier: _a, logits_scaling: _l, ...others } = CONFIG;
  assert.deepEqual(parse(others).scales, { embedding: 12, attention: 1, residual: 0.22, logits: 1 });
  assert.deepEqual(parse({ ...CONFIG, attention_bias: true }).biases, ["q", "k", "v", "o"]);
  refuses(() => parse({ ...CONFIG, residual_multiplier: -1 }), "input", { value: "residual_multiplier" });
});

Deno.test("factors are written as a granite, in folders, GGUFs and folders whose layers differ", async () => {
  const uneven = { ...GRANITE, layers: GRANITE.layers.map((layer, index) => ({ ...layer, ffn: 20 + index })) };
  const { attention_multiplier, logits_scaling } = hfConfig(GRANITE, { dtype: "f32" });
  assert.deepEqual([attention_multiplier, logits_scaling], [0.015625, 8]);
  assert.equal(formOf({ ...GRANITE, biases: ["o", "down"] }), "granite");
  assert.equal(ggufArch({ ...GRANITE, biases: ["o", "down"] }), "granite");
  refuses(() => ggufArch(uneven), "input", { value: ["layer 1", 4] });
  refuses(() => ggufArch(GRANITE, "llama"), "usage", { value: "Granite", names: "llama" });
  refuses(() => refuseUnlike(GRANITE), "input", { names: ["GGUF", "llama.cpp"] });
  await inTemporaryFolder(async (folder) => {
    for (const [name, spec, type] of [["even", GRANITE, "granite"], ["uneven", uneven, "compresso"]] as const) {
      const source = randomSource(spec);
      await exportHf(source, `${folder}/${name}`, { dtype: "f32", tokenizer: null });
      const read = await openHfFolder(`${folder}/${name}`);
      assert.equal(read.config["model_type"], type);
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    }
    const source = randomSource(GRANITE);
    await exportGguf(source, `${folder}/a.gguf`, { dtype: "f32", name: "x", tokenizerMetadata: new Map() });
    const read = await openGguf(`${folder}/a.gguf`);
    assert.deepEqual(read.spec, GRANITE);
    assert.equal(read.metadata.get("granite.logit_scale"), 8);
    await assertSameWeights(read, source);
  });
});
