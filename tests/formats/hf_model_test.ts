import assert from "node:assert/strict";
import { type DecoderSpec, EMBEDDING, HEAD, tensorShapes, withWindow } from "../../lib/spec/decoder.ts";
import { keptGeneration } from "../../lib/formats/hf/model.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { openHfFolder } from "../disk.ts";
import { writeSafetensors, writeShardedSafetensors } from "../disk.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

const CONFIG = {
  model_type: "llama",
  vocab_size: 37,
  hidden_size: 20,
  head_dim: 6,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 33,
  hidden_act: "silu",
  rms_norm_eps: 1e-5,
  rope_theta: 12345,
  max_position_embeddings: 128,
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: [2, 5],
};

/** Writes a folder of random weights for `spec` beside a config; `shapes` may say otherwise than the spec. */
async function writeFolder(
  folder: string,
  config: Record<string, unknown>,
  options: { spec?: DecoderSpec; shapes?: (shapes: Map<string, number[]>) => void; maxShardBytes?: number } = {},
): Promise<void> {
  const source = randomSource(options.spec ?? SPEC);
  const shapes = tensorShapes(source.spec);
  options.shapes?.(shapes);
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(config));
  const known = tensorShapes(source.spec);
  const items = [...shapes].map(([name, shape]) => ({
    name,
    dtype: "F32" as const,
    shape,
    data: () => {
      const count = shape.reduce((a, b) => a * b, 1), own = name === HEAD && source.spec.tied ? EMBEDDING : name;
      return known.get(own)?.join() === shape.join() ? source.read(own) : new Float32Array(count);
    },
  }));
  await writeShardedSafetensors(folder, items, { maxShardBytes: options.maxShardBytes ?? 1e9 });
}

Deno.test("openHfFolder() reads a llama config and its weights, from one file and from shards", async () => {
  for (const maxShardBytes of [1e9, 9000]) {
    await inTemporaryFolder(async (folder) => {
      await writeFolder(folder, CONFIG, { maxShardBytes });
      const source = await openHfFolder(folder);
      assert.deepEqual(source.spec, SPEC);
      assert.equal(source.storedDtype(HEAD), "f32");
      assert.equal(source.config["rope_theta"], 12345);
      await assertSameWeights(source, randomSource(SPEC));
      await rejects(source.read("model.nothing"), "input", { names: "model.nothing" });
      if (maxShardBytes > 9000) return;
      for await (const { name } of Deno.readDir(folder)) {
        if (name.includes("-00002-of")) await Deno.remove(`${folder}/${name}`);
      }
      await rejects(openHfFolder(folder), "input", { names: ["model-00002-of-", "model.safetensors.index.json"] });
    });
  }
});

Deno.test("openHfFolder() adds the end tokens of generation_config.json, and takes the others where config.json has none", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeFolder(folder, CONFIG);
    const beginning = async (own: number | null | undefined, theirs: number): Promise<number | null> => {
      await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify({ ...CONFIG, bos_token_id: own }));
      await Deno.writeTextFile(`${folder}/generation_config.json`, JSON.stringify({ bos_token_id: theirs }));
      return (await openHfFolder(folder)).spec.bosId;
    };
    const all = [4, null, undefined];
    assert.deepEqual(await Array.fromAsync(all, (own) => beginning(own, 3)), [4, 3, 3]);
    assert.deepEqual(await Array.fromAsync(all, (own) => beginning(own, 10 ** 6)), [4, null, 1]);
    await writeFolder(folder, CONFIG);
    await Deno.writeTextFile(`${folder}/generation_config.json`, '{"eos_token_id": [5, 9], "pad_token_id": 3}');
    const { spec } = await openHfFolder(folder);
    assert.deepEqual([spec.eosIds, spec.padId], [[2, 5, 9], 3]);
    const beyond = spec.vocab;
    await Deno.writeTextFile(`${folder}/generation_config.json`, JSON.stringify({ pad_token_id: beyond }));
    assert.equal((await openHfFolder(folder)).spec.padId, null);
    await Deno.writeTextFile(`${folder}/generation_config.json`, JSON.stringify({ eos_token_id: [2, beyond] }));
    await rejects(openHfFolder(folder), "input", {
      value: ["eos_token_id", beyond],
      names: "generation_config.json",
    });
  });
});

Deno.test("keptGeneration() is generation_config.json without token ids and origin, also of a source that is spread", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeFolder(folder, CONFIG);
    assert.deepEqual((await openHfFolder(folder)).generation, {});
    const own = { do_sample: true, top_k: 20, suppress_tokens: [7] };
    const all = { ...own, bos_token_id: 1, eos_token_id: 2, pad_token_id: 3, transformers_version: "5" };
    await Deno.writeTextFile(`${folder}/generation_config.json`, JSON.stringify({ ...all, _from_model_config: false }));
    const source = await openHfFolder(folder);
    assert.equal(source.generation["transformers_version"], "5");
    assert.deepEqual(keptGeneration({ ...source }), own);
    assert.deepEqual(keptGeneration(randomSource(SPEC)), {});
  });
});

Deno.test("openHfFolder() reads a compact folder whose layers differ, with absent parts", async () => {
  const layers = [{ heads: 3, kvHeads: 1, ffn: 7 }, { heads: 0, kvHeads: 0, ffn: 33 }, {
    heads: 2,
    kvHeads: 2,
    ffn: 0,
  }];
  const spec = { ...SPEC, layers, tied: true };
  const { num_attention_heads: _heads, num_key_value_heads: _kv, intermediate_size: _ffn, ...rest } = CONFIG;
  const config = {
    ...rest,
    model_type: "compresso",
    num_hidden_layers: 3,
    tie_word_embeddings: true,
    layer_counts: layers.map(({ heads, kvHeads, ffn }) => ({
      num_attention_heads: heads,
      num_key_value_heads: kvHeads,
      intermediate_size: ffn,
    })),
  };
  await inTemporaryFolder(async (folder) => {
    await writeFolder(folder, config, { spec });
    const source = await openHfFolder(folder);
    assert.deepEqual(source.spec, spec);
    await assertSameWeights(source, randomSource(spec));
    const bad = structuredClone(config);
    bad.layer_counts[2] = { num_attention_heads: 3, num_key_value_heads: 2, intermediate_size: 1 };
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(bad));
    await rejects(openHfFolder(folder), "input", { value: ["num_attention_heads", 3], names: "layer 2" });
    const short = { ...config, num_hidden_layers: 4 };
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(short));
    await rejects(openHfFolder(folder), "input", { value: ["num_hidden_layers", 4], names: ["layer_counts", 3] });
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify({ ...config, model_type: "llama" }));
    await rejects(openHfFolder(folder), "input", { value: "layer_counts" });
  });
});

const LLAMA3 = {
  rope_type: "llama3",
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};
const LLAMA3_FACTORS = { factor: 8, lowFreqFactor: 1, highFreqFactor: 4 };
const LLAMA3_SPEC = { kind: "llama3", ...LLAMA3_FACTORS, originalMaxPosition: 64 };

const READ: readonly (readonly [string, Record<string, unknown>, Partial<DecoderSpec>])[] = [
  ["rope_scaling of type linear, the key before transformers 4.43", { rope_scaling: { type: "linear", factor: 2.5 } }, {
    rope: { base: 12345, scaling: { kind: "linear", factor: 2.5 } },
  }],
  ["rope_scaling llama3", { rope_scaling: LLAMA3 }, { rope: { base: 12345, scaling: LLAMA3_SPEC as never } }],
  ["rope_parameters llama3 of transformers 5", {
    rope_theta: undefined,
    rope_parameters: { ...LLAMA3, rope_theta: 5e5 },
  }, {
    rope: { base: 5e5, scaling: LLAMA3_SPEC as never },
  }],
  ["rope_parameters default", { rope_theta: undefined, rope_parameters: { rope_type: "default", rope_theta: 777 } }, {
    rope: { base: 777, scaling: { kind: "none" } },
  }],
  ["llama3 without its original length: the present one", {
    rope_scaling: { ...LLAMA3, original_max_position_embeddings: undefined },
  }, {
    rope: { base: 12345, scaling: { ...LLAMA3_SPEC, originalMaxPosition: 128 } as never },
  }],
  ["llama3 with an outer original length, which goes first", {
    original_max_position_embeddings: 32,
    rope_scaling: LLAMA3,
  }, { rope: { base: 12345, scaling: { kind: "llama3", ...LLAMA3_FACTORS, originalMaxPosition: 32 } } }],
  ["llama3 with an outer original length that is null", {
    original_max_position_embeddings: null,
    rope_scaling: LLAMA3,
  }, { rope: { base: 12345, scaling: { kind: "llama3", ...LLAMA3_FACTORS, originalMaxPosition: 64 } } }],
  ["no rope_theta: 10000", { rope_theta: undefined, rope_scaling: null }, {
    rope: { base: 10000, scaling: { kind: "none" } },
  }],
  ["token ids that are left out, as transformers fills them in", { bos_token_id: undefined, eos_token_id: undefined }, {
    bosId: 1,
    eosIds: [2],
  }],
  ["token ids that are null", { bos_token_id: null, eos_token_id: null }, { bosId: null, eosIds: [] }],
  ["a single end token, and −1 for no padding", { eos_token_id: 7, pad_token_id: -1 }, { eosIds: [7], padId: null }],
  ["mistral without a window", { model_type: "mistral", sliding_window: null }, {}],
  ["mistral with a window as long as the context", { model_type: "mistral", sliding_window: 128 }, {}],
  ["mistral with a window", { model_type: "mistral", sliding_window: 64 }, windows(64, 64)],
  ["mistral with the window that transformers gives it", { model_type: "mistral", max_position_embeddings: 8192 }, {
    ...windows(4096, 4096),
    maxPosition: 8192,
  }],
  // As transformers takes it for a ministral then.
  ["mistral with windows by layer", {
    model_type: "mistral",
    sliding_window: 64,
    layer_types: ["full_attention", "sliding_attention"],
  }, windows(null, 64)],
  ["ministral with windows by layer", {
    model_type: "ministral",
    sliding_window: 64,
    layer_types: ["sliding_attention", "full_attention"],
  }, windows(64, null)],
  ["ministral with windows in all layers", { model_type: "ministral", sliding_window: 64 }, windows(64, 64)],
  ["ministral without a window", { model_type: "ministral", sliding_window: null }, {}],
  ["a llama whose layer types say nothing else", { layer_types: ["full_attention", "full_attention"] }, {}],
];

/** The layers with these windows. */
function windows(...of: readonly (number | null)[]): Partial<DecoderSpec> {
  return { layers: SPEC.layers.map((layer, index) => withWindow(layer, of[index] ?? undefined)) };
}

for (const [name, change, expected] of READ) {
  Deno.test(`openHfFolder() reads ${name}`, async () => {
    await inTemporaryFolder(async (folder) => {
      await writeFolder(folder, { ...CONFIG, ...change });
      assert.deepEqual((await openHfFolder(folder)).spec, { ...SPEC, ...expected });
    });
  });
}

Deno.test("openHfFolder() takes head_dim from hidden_size and KV heads from heads where they are not given", async () => {
  const spec = { ...SPEC, hidden: 24, layers: SPEC.layers.map((layer) => ({ ...layer, kvHeads: 4 })) };
  await inTemporaryFolder(async (folder) => {
    const config = { ...CONFIG, hidden_size: 24, head_dim: undefined };
    // Null is no default of mistral's, which has 8 where the key is absent.
    for (
      const [model_type, num_key_value_heads] of [["llama", undefined], ["llama", null], ["mistral", null]] as const
    ) {
      await writeFolder(folder, { ...config, model_type, num_key_value_heads, sliding_window: null }, { spec });
      assert.deepEqual((await openHfFolder(folder)).spec, spec, model_type);
    }
  });
});

Deno.test("openHfFolder() reads biases, norms of heads, and the defaults of qwen2 and qwen3, as transformers has them", async () => {
  const cases: readonly (readonly [Record<string, unknown>, Partial<DecoderSpec>])[] = [
    [{ attention_bias: true }, { biases: ["q", "k", "v", "o"] }],
    [{ mlp_bias: true }, { biases: ["gate", "up", "down"] }],
    [{ model_type: "qwen2", use_sliding_window: false, sliding_window: 64 }, { biases: ["q", "k", "v"] }],
    [{ model_type: "qwen2", use_sliding_window: true, sliding_window: 64, max_window_layers: 1 }, {
      biases: ["q", "k", "v"],
      ...windows(null, 64),
    }],
    [{ model_type: "qwen2", use_sliding_window: true, sliding_window: 64 }, { biases: ["q", "k", "v"] }],
    [{
      model_type: "qwen2",
      use_sliding_window: true,
      sliding_window: 64,
      layer_types: ["sliding_attention", "full_attention"],
    }, { biases: ["q", "k", "v"], ...windows(64, null) }],
    [
      { model_type: "qwen2", bos_token_id: undefined, eos_token_id: undefined, max_position_embeddings: undefined },
      { biases: ["q", "k", "v"], bosId: null, eosIds: [], maxPosition: 32768 },
    ],
    [{ model_type: "qwen3", use_sliding_window: false, sliding_window: 4096 }, { qkNorm: "head" }],
    [{ model_type: "qwen3", attention_bias: true }, { qkNorm: "head", biases: ["q", "k", "v", "o"] }],
    [
      { model_type: "qwen3", head_dim: undefined, eos_token_id: undefined, max_position_embeddings: undefined },
      { qkNorm: "head", headDim: 128, eosIds: [], maxPosition: 32768 },
    ],
    [{ model_type: "compresso", qk_norm: "head" }, { qkNorm: "head" }],
  ];
  for (const [change, expected] of cases) {
    const spec = { ...SPEC, ...expected };
    await inTemporaryFolder(async (folder) => {
      await writeFolder(folder, { ...CONFIG, ...change }, { spec });
      const source = await openHfFolder(folder);
      assert.deepEqual(source.spec, spec);
      await assertSameWeights(source, randomSource(spec));
    });
  }
});

const REFUSED: readonly (readonly [Record<string, unknown>, Refusal])[] = [
  [
    { model_type: "gemma4", bos_token_id: 2 },
    { value: ["model_type", '"gemma4"'] },
  ],
  [
    // What some family has, such as soft caps, is not said.
    { model_type: "granite4", hidden_act: "quick_gelu", final_logit_softcapping: 30, logit_scale: 0.5, alibi: false },
    { value: ['"granite4"', "hidden_act", '"quick_gelu"', "logit_scale"] },
  ],
  [{ model_type: 7 }, { value: ["model_type", 7] }],
  [
    { model_type: "dbrx", num_experts: 128 },
    { value: ["model_type", '"dbrx"', "num_experts", 128] },
  ],
  [{ model_type: "mixtral", num_local_experts: 8 }, { names: ["model.layers.0.block_sparse_moe.gate.weight", 8] }],
  [
    { model_type: "llava", text_config: { model_type: "llama" } },
    { value: ["model_type", '"llava"', "text_config", '"llama"'], names: ["gemma3", "mistral3"] },
  ],
  [
    { model_type: "mistral3", text_config: { model_type: "mixtral", num_local_experts: 8 } },
    { value: ["model_type", '"mistral3"', "text_config", '"mixtral"'] },
  ],
  [{ vocab_size: undefined }, { value: "vocab_size" }],
  [{ hidden_size: "20" }, { value: ["hidden_size", '"20"'] }],
  [{ num_hidden_layers: 4e9 }, { value: ["num_hidden_layers", 4000000000], names: 1024 }],
  [{ vocab_size: 2 ** 53 - 1 }, { value: "vocab_size", names: 16777216 }],
  [{ intermediate_size: 1e9 }, { value: "intermediate_size", names: 1048576 }],
  [{ num_attention_heads: 2 ** 31 }, { value: "num_attention_heads", names: 1048576 }],
  [{ intermediate_size: 2 ** 20, num_hidden_layers: 1000 }, { names: [8388608, "FFN"] }],
  [{ num_hidden_layers: 0 }, { value: ["num_hidden_layers", 0] }],
  [{ intermediate_size: null }, { value: "intermediate_size" }],
  [{ head_dim: 7 }, { value: ["head_dim", 7] }],
  [
    { head_dim: null, num_attention_heads: 3 },
    { value: ["num_attention_heads", 3], names: ["hidden_size", 20] },
  ],
  [{ num_key_value_heads: 3 }, { value: ["num_key_value_heads", 3], names: ["num_attention_heads", 4] }],
  [{ hidden_act: "tanh" }, { value: ["hidden_act", '"tanh"'], names: "silu" }],
  [{ hidden_act: "gelu" }, { value: ["hidden_act", '"gelu"'] }],
  [{ hidden_act: "relu" }, { value: ["hidden_act", '"relu"'] }],
  [{ hidden_act: "gelu_pytorch_tanh" }, { value: "hidden_act" }],
  [{ norm: "layer" }, { value: "norm" }],
  [{ attention_bias: 1 }, { value: ["attention_bias", 1] }],
  [{ attention_bias: true }, { names: ["model.layers.0.self_attn.q_proj.bias", "[24]"] }],
  [{ mlp_bias: true }, { names: ["model.layers.0.mlp.gate_proj.bias", "[33]"] }],
  [
    { model_type: "mistral", sliding_window: null, attention_bias: true },
    { value: "attention_bias" },
  ],
  [{ model_type: "qwen3", mlp_bias: true }, { value: "mlp_bias", names: "qwen3" }],
  [{ model_type: "qwen3" }, { names: ["model.layers.0.self_attn.q_norm.weight", "[6]"] }],
  [{ model_type: "qwen2", qk_norm: "head" }, { value: "qk_norm", names: "qwen2" }],
  [{ model_type: "qwen2", mlp_bias: true }, { value: "mlp_bias", names: "qwen2" }],
  [
    { model_type: "qwen2", sliding_window: 64, layer_types: ["full_attention", "sliding_attention"] },
    { value: ["layer_types", "sliding_attention"], names: "use_sliding_window" },
  ],
  [{ quantization_config: { quant_method: "gptq" } }, { value: "quantization_config" }],
  [{ model_type: "mistral", sliding_window: 0 }, { value: ["sliding_window", 0] }],
  [{ model_type: "mistral", layer_types: ["sliding_attention"] }, { value: "layer_types", names: 2 }],
  [
    { model_type: "ministral", sliding_window: null, layer_types: ["full_attention", "sliding_attention"] },
    { value: ["layer_types", "sliding_attention"], names: "sliding_window" },
  ],
  [{ layer_types: ["full_attention", "sliding_attention"] }, { value: ["layer_types", "full_attention"] }],
  [{ layer_types: ["full_attention", "chunked_attention"] }, { value: "layer_types.1" }],
  [{ layer_windows: [8, null] }, { value: "layer_windows" }],
  [{ eos_token_id: 37 }, { value: ["eos_token_id", 37], names: [0, "vocab_size", 1] }],
  [{ eos_token_id: "2" }, { value: "eos_token_id" }],
  [{ bos_token_id: 99 }, { value: "bos_token_id" }],
  [
    { rope_scaling: { rope_type: "ntk", factor: 4 } },
    { value: ["rope_scaling.rope_type", '"ntk"'], names: "llama3" },
  ],
  [{ rope_scaling: { type: "dynamic", factor: 4 } }, { value: ["rope_scaling.type", '"dynamic"'] }],
  [
    { rope_scaling: { type: "linear" } },
    { value: "rope_scaling.factor", names: "RoPE" },
  ],
  [{ rope_scaling: { type: "linear", factor: 0 } }, { value: ["rope_scaling.factor", 0] }],
  [{ rope_scaling: { ...LLAMA3, high_freq_factor: 1 } }, {
    value: ["rope_scaling.high_freq_factor", 1],
    names: "low_freq_factor",
  }],
  [
    { rope_parameters: { full_attention: { rope_type: "default" } } },
    { value: "rope_parameters.full_attention", names: "RoPE" },
  ],
  [
    { partial_rotary_factor: 0.5 },
    { value: ["partial_rotary_factor", 0.5] },
  ],
];

for (const [change, message] of REFUSED) {
  Deno.test(`openHfFolder() refuses ${JSON.stringify(change)}`, async () => {
    await inTemporaryFolder(async (folder) => {
      await writeFolder(folder, { ...CONFIG, ...change });
      await rejects(openHfFolder(folder), "input", message);
    });
  });
}

Deno.test("openHfFolder() names a tensor that is missing, has a wrong shape or is not announced", async () => {
  const cases: readonly (readonly [(shapes: Map<string, number[]>) => void, Refusal])[] = [
    [
      (shapes) => shapes.delete("model.layers.1.mlp.up_proj.weight"),
      { names: ["model.layers.1.mlp.up_proj.weight", "[33, 20]"] },
    ],
    [(shapes) => shapes.delete(HEAD), { names: "lm_head.weight" }],
    [
      (shapes) => shapes.set("model.layers.0.self_attn.k_proj.weight", [6, 20]),
      { value: "[6, 20]", names: "[12, 20]" },
    ],
    [
      (shapes) => shapes.set("model.layers.0.self_attn.q_proj.bias", [24]),
      { value: "model.layers.0.self_attn.q_proj.bias" },
    ],
    [(shapes) => shapes.set("model.layers.2.mlp.up_proj.weight", [33, 20]), { value: "model.layers.2" }],
  ];
  for (const [shapes, message] of cases) {
    await inTemporaryFolder(async (folder) => {
      await writeFolder(folder, CONFIG, { shapes });
      await rejects(openHfFolder(folder), "input", message);
    });
  }
});

Deno.test("openHfFolder() takes old RoPE tables and the head of a tied model for what they are", async () => {
  const spec = { ...SPEC, tied: true };
  await inTemporaryFolder(async (folder) => {
    await writeFolder(folder, { ...CONFIG, tie_word_embeddings: true }, {
      spec,
      shapes: (shapes) => shapes.set("model.layers.0.self_attn.rotary_emb.inv_freq", [3]).set(HEAD, [37, 20]),
    });
    await assertSameWeights(await openHfFolder(folder), randomSource(spec));
  });
});

Deno.test("openHfFolder() refuses integer weights", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(CONFIG));
    const items = [...tensorShapes(SPEC)].map(([name, shape]) => ({
      name,
      dtype: "I8" as const,
      shape,
      data: () => new Int8Array(shape.reduce((a, b) => a * b, 1)),
    }));
    await writeSafetensors(`${folder}/model.safetensors`, items);
    await rejects(openHfFolder(folder), "input", { value: "I8", names: ["model.embed_tokens.weight", "F32", "BF16"] });
  });
});

Deno.test("openHfFolder() refuses a broken config and a broken index", async () => {
  await inTemporaryFolder(async (folder) => {
    await writeFolder(folder, CONFIG, { maxShardBytes: 9000 });
    const index = `${folder}/model.safetensors.index.json`;
    const { weight_map: map } = JSON.parse(await Deno.readTextFile(index));
    const put = (change: Record<string, unknown>): Promise<void> =>
      Deno.writeTextFile(index, JSON.stringify({ weight_map: { ...map, ...change } }));
    await put({ [HEAD]: "../elsewhere.safetensors" });
    await rejects(openHfFolder(folder), "input", { names: "lm_head.weight" });
    await put({ other: map[HEAD] });
    await rejects(openHfFolder(folder), "input", { names: "weight_map" });
    await put({ [HEAD]: "gone.safetensors" });
    await rejects(openHfFolder(folder), "input", { names: "gone.safetensors" });
    await Deno.writeTextFile(index, "[1]");
    await rejects(openHfFolder(folder), "input", { value: "[1]", names: "JSON" });
    await Deno.writeTextFile(`${folder}/config.json`, "{");
    await rejects(openHfFolder(folder), "input", { value: "JSON", names: "config.json" });
    await Deno.remove(`${folder}/config.json`);
    await rejects(openHfFolder(folder), "input", { names: "config.json" });
  });
});
