// OLMo 2: its norms in configurations, folders and GGUFs.
import assert from "node:assert/strict";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { formOf } from "../../lib/formats/hf/export.ts";
import { ggufArch, refuseUnlike } from "../../lib/formats/gguf/architecture.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { exportGguf, exportHf, openGguf, openHfFolder, openSafetensors } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

const OLMO2: DecoderSpec = { ...SPEC, hidden: 24, normPlaces: "after", qkNorm: "whole" };

const CONFIG = {
  model_type: "olmo2",
  vocab_size: 37,
  hidden_size: 24,
  intermediate_size: 33,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 128,
  rope_theta: 12345,
  bos_token_id: 1,
  eos_token_id: [2, 5],
};

Deno.test("the configuration of an olmo2 gives norms of outputs, and of q and k as wholes", () => {
  const parse = (change: Record<string, unknown>): DecoderSpec =>
    parseHfConfig({ ...CONFIG, ...change }, { path: "config.json" });
  assert.deepEqual(parse({}), OLMO2);
  assert.equal(parse({ bos_token_id: undefined }).bosId, null);
  assert.deepEqual(parse({ attention_bias: true }).biases, ["q", "k", "v", "o"]);
  refuses(() => parse({ mlp_bias: true }), "input", { names: "olmo2" });
  refuses(() => parse({ qk_norm: "whole" }), "input", { names: ["model_type", '"compresso"'] });
});

Deno.test("an olmo2 is written as its own class and architecture, and as one that differs by layer", async () => {
  const uneven = { ...OLMO2, layers: OLMO2.layers.map((layer, index) => ({ ...layer, ffn: 20 + index })) };
  assert.equal(formOf({ ...OLMO2, biases: ["o", "down"] }), "compresso");
  const cases: readonly (readonly [DecoderSpec, Refusal])[] = [
    [uneven, { names: "olmo2" }],
    [{ ...OLMO2, hidden: 20 }, { value: 24, names: ["head_dim", 20] }],
    [{ ...OLMO2, tied: true }, { names: ["GGUF", "llama.cpp"] }],
    [{ ...OLMO2, biases: ["o"] }, { value: "o" }],
  ];
  for (const [spec, error] of cases) refuses(() => ggufArch(spec), "input", error);
  refuses(() => ggufArch(OLMO2, "llama"), "usage", { names: ["OLMo", 2] });
  refuses(() => ggufArch(SPEC, "olmo2"), "usage", { names: ["OLMo", 2] });
  refuses(() => refuseUnlike(OLMO2), "input", { names: ["GGUF", "llama.cpp"] });
  await inTemporaryFolder(async (folder) => {
    for (const [name, spec, type] of [["even", OLMO2, "olmo2"], ["uneven", uneven, "compresso"]] as const) {
      const source = randomSource(spec);
      await exportHf(source, `${folder}/${name}`, { dtype: "f32", tokenizer: null });
      const read = await openHfFolder(`${folder}/${name}`);
      assert.equal(read.config["model_type"], type);
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    }
    const { tensors } = await openSafetensors(`${folder}/even/model.safetensors`);
    assert.deepEqual(tensors.get("model.layers.1.self_attn.k_norm.weight")?.shape, [12]);
    assert.ok(tensors.has("model.layers.1.post_feedforward_layernorm.weight"));
    assert.ok(!tensors.has("model.layers.1.input_layernorm.weight"));
    const source = randomSource(OLMO2);
    await exportGguf(source, `${folder}/a.gguf`, { dtype: "f32", name: "x", tokenizerMetadata: new Map() });
    const read = await openGguf(`${folder}/a.gguf`);
    assert.deepEqual(read.spec, OLMO2);
    assert.deepEqual(read.tensors.get("blk.0.attn_q_norm.weight")?.shape, [24]);
    await assertSameWeights(read, source);
  });
});
