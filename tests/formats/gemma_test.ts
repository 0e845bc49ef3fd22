// Gemma in folders and GGUFs: configurations as they are published, wrappers, and what each format can say.
import assert from "node:assert/strict";
import { type DecoderSpec, tensorShapes } from "../../lib/spec/decoder.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { hfConfig } from "../../lib/formats/hf/export.ts";
import { GEMMA3 as GEMMA3_FAMILY } from "../../lib/families/gemma.ts";
import { storedName, storedPlus } from "../../lib/formats/hf/stored.ts";
import { refuses } from "../refuses.ts";
import { exportGguf, exportHf, openGguf, openHfFolder, writeSafetensors } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

const LOCAL = { window: 16, rope: "local" } as const;
const GEMMA3: DecoderSpec = {
  ...SPEC,
  layers: SPEC.layers.map((layer, index) => index === 1 ? layer : { ...layer, ...LOCAL }),
  rope: { base: 54321, scaling: { kind: "linear", factor: 8 }, localBase: 1234 },
  tied: true,
  qkNorm: "head",
  activation: "gelu_tanh",
  normPlaces: "both",
  scales: { embedding: Math.sqrt(SPEC.hidden) },
};
const OPTIONS = { dtype: "f32", tokenizerMetadata: new Map<string, never>(), name: "a" } as const;

Deno.test("configurations of Gemma 3 as they are published have transformers' defaults for what they leave out", () => {
  // Of google/gemma-3-1b-it and gemma-3-4b-it, as far as they say what a model computes.
  const one = {
    model_type: "gemma3_text",
    eos_token_id: [1, 106],
    head_dim: 256,
    hidden_activation: "gelu_pytorch_tanh",
    hidden_size: 1152,
    intermediate_size: 6912,
    num_attention_heads: 4,
    num_hidden_layers: 26,
    num_key_value_heads: 1,
    query_pre_attn_scalar: 256,
    rope_local_base_freq: 10000,
    rope_scaling: null,
    rope_theta: 1000000,
    sliding_window: 512,
    sliding_window_pattern: 6,
    vocab_size: 262144,
    cache_implementation: "hybrid",
    max_position_embeddings: 32768,
    rms_norm_eps: 1e-6,
  };
  const spec = parseHfConfig(one, { path: "config.json" });
  assert.deepEqual(spec.layers.map(({ window }) => window === 512), spec.layers.map((_, i) => i % 6 !== 5));
  assert.deepEqual(spec.layers.map(({ rope }) => rope === "local"), spec.layers.map((_, i) => i % 6 !== 5));
  assert.deepEqual(spec.rope, { base: 1e6, scaling: { kind: "none" }, localBase: 1e4 });
  assert.deepEqual(spec.scales, { embedding: Math.sqrt(1152) });
  assert.deepEqual([spec.tied, spec.bosId, [...spec.eosIds], spec.padId], [true, 2, [1, 106], 0]);

  const text = {
    hidden_size: 2560,
    intermediate_size: 10240,
    model_type: "gemma3_text",
    num_hidden_layers: 34,
    rope_scaling: { factor: 8.0, rope_type: "linear" },
    sliding_window: 1024,
  };
  const four = parseHfConfig(
    { model_type: "gemma3", eos_token_id: [1, 106], text_config: text, vision_config: { hidden_size: 1152 } },
    { path: "config.json" },
  );
  assert.deepEqual(four.layers[5], { heads: 8, kvHeads: 4, ffn: 10240 });
  assert.deepEqual(four.layers[0], { heads: 8, kvHeads: 4, ffn: 10240, window: 1024, rope: "local" });
  assert.deepEqual(four.rope, { base: 1e6, scaling: { kind: "linear", factor: 8 }, localBase: 1e4 });
  assert.deepEqual([four.vocab, four.headDim, [...four.eosIds]], [262208, 256, [1, 106]]);

  const mistral = { ...text, model_type: "mistral", num_attention_heads: 32, vocab_size: 131072, sliding_window: null };
  const three = parseHfConfig({ model_type: "mistral3", text_config: mistral }, { path: "config.json" });
  assert.deepEqual([three.layers[0], three.activation, three.hidden], [
    { heads: 32, kvHeads: 8, ffn: 10240 },
    undefined,
    2560,
  ]);

  const growing = { ...mistral, model_type: "ministral3", rope_scaling: undefined };
  const { layers: [layer], rope } = parseHfConfig({ model_type: "mistral3", text_config: growing }, {
    path: "config.json",
  });
  assert.deepEqual([layer, rope.scaling.kind], [{ heads: 32, kvHeads: 8, ffn: 10240 }, "yarn"]);

  // As transformers 5 writes it, with a window as long as the context: the local RoPE stays.
  const five = parseHfConfig({
    ...one,
    layer_types: Array.from({ length: 26 }, (_, i) => i < 2 ? "full_attention" : "sliding_attention"),
    max_position_embeddings: 512,
    query_pre_attn_scalar: 168,
    rope_parameters: {
      full_attention: { rope_type: "linear", factor: 4, rope_theta: 5e5 },
      sliding_attention: { rope_type: "default", rope_theta: 2e4 },
    },
    rope_theta: undefined,
    rope_local_base_freq: undefined,
  }, { path: "config.json" });
  assert.deepEqual(five.layers.slice(0, 3).map(({ rope, window }) => [rope, window]), [
    [undefined, undefined],
    [undefined, undefined],
    ["local", undefined],
  ]);
  assert.deepEqual(five.rope, { base: 5e5, scaling: { kind: "linear", factor: 4 }, localBase: 2e4 });
  assert.deepEqual(five.scales, { embedding: Math.sqrt(1152), attention: 168 ** -0.5 });
  for (
    const [change, error] of [
      [{ use_bidirectional_attention: true }, { value: "use_bidirectional_attention" }],
      [{ attn_logit_softcapping: 30 }, { value: "attn_logit_softcapping", names: "gemma3_text" }],
      [{ hidden_activation: "silu" }, { value: "hidden_activation" }],
      [{ attention_bias: true }, { value: "attention_bias" }],
      [
        { rope_parameters: { sliding_attention: { rope_type: "linear", factor: 2 } } },
        { names: "RoPE" },
      ],
    ] as const
  ) refuses(() => parseHfConfig({ ...one, ...change }, { path: "config.json" }), "input", error);
});

Deno.test("a folder of a Gemma 3 has its names and norms without 1, alone and in both forms of the wrapper", async () => {
  const source = randomSource(GEMMA3);
  await inTemporaryFolder(async (folder) => {
    const { form } = await exportHf(source, `${folder}/plain`, { dtype: "f32", tokenizer: null });
    assert.equal(form, "gemma3_text");
    const plain = await openHfFolder(`${folder}/plain`);
    assert.deepEqual(plain.spec, GEMMA3);
    // 1 is added to what was stored without it: one rounding of a number near 1.
    await assertSameWeights(plain, source, 1.2e-7);
    for (const prefix of ["language_model.model.", "model.language_model."]) {
      const path = `${folder}/${prefix}`;
      await Deno.mkdir(path);
      await Deno.writeTextFile(
        `${path}/config.json`,
        JSON.stringify({ model_type: "gemma3", text_config: hfConfig(GEMMA3, { dtype: "f32" }) }),
      );
      const items = [...tensorShapes(GEMMA3)].map(([name, shape]) => {
        const plus = storedPlus(GEMMA3_FAMILY, name);
        return {
          name: storedName(GEMMA3_FAMILY, name).replace(/^model\./, prefix),
          dtype: "F32" as const,
          shape,
          data: async () => (await source.read(name)).map((value) => value - plus),
        };
      });
      const other = { name: "vision_tower.x", dtype: "F32" as const, shape: [2], data: () => new Float32Array(2) };
      await writeSafetensors(`${path}/model.safetensors`, [...items, other]);
      const wrapped = await openHfFolder(path);
      assert.deepEqual(wrapped.spec, GEMMA3);
      await assertSameWeights(wrapped, source, 1.2e-7);
    }
  });
});

Deno.test("a GGUF of a Gemma 3 reads back, with its window, pattern and RoPE bases", async () => {
  const many = Array.from({ length: 7 }, (_, i) => i % 3 === 2 ? GEMMA3.layers[1] : GEMMA3.layers[0]);
  const layers = many.filter((layer) => layer !== undefined);
  const short = (spec: DecoderSpec): DecoderSpec => ({
    ...spec,
    layers: spec.layers.map(({ window: _, ...layer }) => layer),
  });
  for (const spec of [GEMMA3, { ...GEMMA3, layers }, short(GEMMA3), { ...GEMMA3, tied: false }]) {
    const source = randomSource(spec);
    await inTemporaryFolder(async (folder) => {
      const { arch } = await exportGguf(source, `${folder}/a.gguf`, OPTIONS);
      assert.equal(arch.arch, "gemma3");
      const read = await openGguf(`${folder}/a.gguf`);
      assert.deepEqual(read.spec, spec);
      assert.equal(read.metadata.get("gemma3.attention.sliding_window"), spec.layers[0]?.window ?? 128);
      await assertSameWeights(read, source);
    });
  }
});

Deno.test("another factor of q·k goes into the norm of q, as a GGUF cannot say it", async () => {
  const spec: DecoderSpec = { ...GEMMA3, scales: { ...GEMMA3.scales, attention: 24 ** -0.5 } };
  await inTemporaryFolder(async (folder) => {
    await exportGguf(randomSource(spec), `${folder}/a.gguf`, OPTIONS);
    const read = await openGguf(`${folder}/a.gguf`), name = "model.layers.1.self_attn.q_norm.weight";
    assert.deepEqual(read.spec, GEMMA3);
    const stored = await read.read(name), own = await randomSource(spec).read(name);
    // headDim is 6: (1/√24) / (1/√6) = 1/2.
    assert.ok(stored.every((value, i) => Math.abs(value - (own[i] ?? NaN) / 2) < 1e-7));
  });
});

const GEMMA2: DecoderSpec = {
  ...SPEC,
  layers: SPEC.layers.map((layer, index) => index === 1 ? layer : { ...layer, window: 16 }),
  tied: true,
  activation: "gelu_tanh",
  normPlaces: "both",
  scales: { embedding: Math.sqrt(SPEC.hidden) },
  softCaps: { attention: 50, logits: 30 },
};
Deno.test("configurations of Gemma and Gemma 2 as they are published have transformers' defaults for what they leave out", () => {
  const sizes = {
    head_dim: 256,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_attention_heads: 8,
    num_hidden_layers: 5,
    num_key_value_heads: 4,
    vocab_size: 256000,
  };
  const two = parseHfConfig({ ...sizes, model_type: "gemma2" }, { path: "config.json" });
  assert.deepEqual(two.layers.map(({ window = null }) => window), [4096, null, 4096, null, 4096]);
  assert.deepEqual([two.softCaps, two.scales], [{ attention: 50, logits: 30 }, { embedding: 48 }]);
  assert.deepEqual([two.rope, two.tied, two.maxPosition, two.normPlaces, two.qkNorm], [
    { base: 10000, scaling: { kind: "none" } },
    true,
    8192,
    "both",
    undefined,
  ]);
  const bare = { ...sizes, model_type: "gemma2", attn_logit_softcapping: null, query_pre_attn_scalar: 144 };
  const other = parseHfConfig({ ...bare, sliding_window: 64 }, { path: "config.json" });
  assert.deepEqual([other.softCaps, other.scales], [{ logits: 30 }, { embedding: 48, attention: 1 / 12 }]);
  assert.equal(other.layers[0]?.window, 64);
  // The first files of Gemma.
  const one = parseHfConfig({ ...sizes, model_type: "gemma", hidden_act: "gelu" }, { path: "config.json" });
  assert.deepEqual([one.activation, one.normPlaces, one.softCaps], ["gelu_tanh", undefined, undefined]);
  refuses(
    () => parseHfConfig({ ...sizes, model_type: "gemma", final_logit_softcapping: 30 }, { path: "config.json" }),
    "input",
    { value: "final_logit_softcapping" },
  );
});

Deno.test("a GGUF of a Gemma 2 has llama.cpp's caps, window and pattern where it says none, and another factor in q", async () => {
  const spec: DecoderSpec = { ...GEMMA2, maxPosition: 8192, scales: { ...GEMMA2.scales, attention: 24 ** -0.5 } };
  const layers = spec.layers.map((layer) => layer.window === undefined ? layer : { ...layer, window: 4096 });
  await inTemporaryFolder(async (folder) => {
    await exportGguf(randomSource({ ...spec, layers }), `${folder}/a.gguf`, OPTIONS);
    const read = await openGguf(`${folder}/a.gguf`), name = "model.layers.1.self_attn.q_proj.weight";
    assert.deepEqual(read.spec, { ...spec, layers, scales: GEMMA2.scales });
    const stored = await read.read(name), own = await randomSource(spec).read(name);
    // headDim is 6: (1/√24) / (1/√6) = 1/2.
    assert.ok(stored.every((value, i) => Math.abs(value - (own[i] ?? NaN) / 2) < 1e-7));
    assert.equal(read.metadata.get("gemma2.attention.sliding_window_pattern"), undefined);
  });
});
