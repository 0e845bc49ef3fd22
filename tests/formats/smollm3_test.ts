// SmolLM3: layers without RoPE in configurations, folders and GGUFs.
import assert from "node:assert/strict";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { formOf, hfConfig } from "../../lib/formats/hf/export.ts";
import { ggufArch, refuseUnlike } from "../../lib/formats/gguf/architecture.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { exportGguf, exportHf, openGguf, openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

/** Five layers, each but those of `without` with RoPE. */
function specOf(...without: readonly number[]): DecoderSpec {
  const [layer = { heads: 1, kvHeads: 1, ffn: 1 }] = SPEC.layers;
  return {
    ...SPEC,
    layers: Array.from({ length: 5 }, (_, index) => without.includes(index) ? { ...layer, rope: "none" } : layer),
  };
}

const CONFIG = {
  model_type: "smollm3",
  vocab_size: 37,
  hidden_size: 20,
  head_dim: 6,
  intermediate_size: 33,
  num_hidden_layers: 5,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  max_position_embeddings: 128,
  tie_word_embeddings: false,
  rope_theta: 12345,
  bos_token_id: 1,
  eos_token_id: [2, 5],
};

Deno.test("the configuration of a smollm3 says which layers have RoPE, by a list or by their number", () => {
  const parse = (change: Record<string, unknown>): DecoderSpec =>
    parseHfConfig({ ...CONFIG, ...change }, { path: "config.json" });
  assert.deepEqual(parse({}), specOf(3));
  assert.deepEqual(parse({ no_rope_layer_interval: 2 }), specOf(1, 3));
  assert.deepEqual(parse({ no_rope_layers: [0, 1, 1, 1, 0] }), specOf(0, 4));
  const sliding = parse({ use_sliding_window: true, sliding_window: 50 });
  assert.deepEqual(sliding.layers.map(({ window }) => window), [undefined, undefined, undefined, 50, undefined]);
  assert.equal(parse({ rope_theta: undefined }).rope.base, 2_000_000);
  assert.equal(parse({ tie_word_embeddings: undefined }).tied, true);
  const refused: readonly (readonly [Record<string, unknown>, Refusal])[] = [
    [{ no_rope_layers: [1, 1] }, { value: "no_rope_layers", names: 5 }],
    [{ model_type: "llama", no_rope_layers: [1, 1, 1, 1, 0] }, { names: ["smollm3", "RoPE"] }],
  ];
  for (const [change, error] of refused) refuses(() => parse(change), "input", error);
});

Deno.test("layers without RoPE are written as a smollm3, and as no architecture but for each fourth layer", async () => {
  const some = specOf(0, 4), fourth = specOf(3);
  assert.equal(formOf(some), "smollm3");
  assert.deepEqual(hfConfig(some, { dtype: "f32" })["no_rope_layers"], [0, 1, 1, 1, 0]);
  assert.equal(formOf(specOf()), "llama");
  assert.equal(ggufArch(fourth), "smollm3");
  refuses(() => ggufArch(some), "input", { value: "layer 0", names: ["smollm3", "RoPE"] });
  refuses(() => ggufArch({ ...fourth, biases: ["o"] }), "input", { value: "o" });
  refuses(() => ggufArch(fourth, "llama"), "usage", { names: "RoPE" });
  refuses(() => refuseUnlike(fourth), "input", { names: ["GGUF", "llama.cpp"] });
  const uneven = { ...some, layers: some.layers.map((layer, index) => ({ ...layer, ffn: 20 + index })) };
  await inTemporaryFolder(async (folder) => {
    for (const [name, spec, type] of [["even", some, "smollm3"], ["uneven", uneven, "compresso"]] as const) {
      const source = randomSource(spec);
      await exportHf(source, `${folder}/${name}`, { dtype: "f32", tokenizer: null });
      const read = await openHfFolder(`${folder}/${name}`);
      assert.equal(read.config["model_type"], type);
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    }
    const source = randomSource(fourth);
    await exportGguf(source, `${folder}/a.gguf`, { dtype: "f32", name: "x", tokenizerMetadata: new Map() });
    const read = await openGguf(`${folder}/a.gguf`);
    assert.deepEqual(read.spec, fourth);
    await assertSameWeights(read, source);
  });
});
