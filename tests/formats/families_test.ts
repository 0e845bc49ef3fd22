// Every family by the random models of fixtures/golden: folders and GGUFs hold what was read, and what a class or architecture lacks is refused.
import assert from "node:assert/strict";
import { FAMILIES, familyFor, familyOfType, GGUF_ARCHS } from "../../lib/families/all.ts";
import { misfits } from "../../lib/families/fit.ts";
import { ggufArch, refuseUnlike } from "../../lib/formats/gguf/architecture.ts";
import { writtenSpec } from "../../lib/formats/hf/export.ts";
import { parseHfConfig } from "../../lib/formats/hf/config.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import type { DecoderSpec, LayerSpec } from "../../lib/spec/decoder.ts";
import { exportGguf, exportHf, openGguf, openHfFolder } from "../disk.ts";
import { GOLDEN_NAMES, openGolden } from "../golden/helpers/golden.ts";
import { refuses } from "../refuses.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, SPEC } from "./models.ts";

const typeOf = (spec: DecoderSpec): string => familyFor(spec).type;
const shown = (value: unknown): string => JSON.stringify(value);

for (const name of GOLDEN_NAMES) {
  Deno.test(`${name} is written as a folder that computes it, and as one of ours where layers differ`, async () => {
    const source = await openHfFolder((await openGolden(name)).modelPath), { spec } = source;
    const family = familyOfType(source.config["model_type"]), width = spec.layers[0]?.ffn ?? 0;
    assert.ok(family);
    assert.deepEqual(misfits(spec, family.stock), [], "its own class holds it");
    const ffn = Float32Array.from({ length: spec.layers.length * width }, (_, at) => at < 3 || at % width > 5 ? 1 : 0);
    const uneven = sliceModel(source, { masks: { ffn } });
    await inTemporaryFolder(async (folder) => {
      for (const [made, type] of [[source, typeOf(spec)], [uneven, "compresso"]] as const) {
        const path = `${folder}/${type}`, { form } = await exportHf(made, path, { dtype: "f32", tokenizer: null });
        assert.equal(form, type);
        const read = await openHfFolder(path);
        // Biases of a part of attention are zeros elsewhere.
        assert.deepEqual(read.spec, writtenSpec(made.spec));
        // A norm that is stored without 1 is rounded once. An embedding that is normalised when it is read, with values up to 4, is rounded twice.
        const tolerance = family.tensors?.normPlus ? 1.2e-7 : made.spec.plainNorms ? 5e-7 : 0;
        await assertSameWeights(read, made, tolerance);
        const name = "model.layers.1.self_attn.k_proj.weight", rows = { start: 2, count: 7 };
        assert.deepEqual(
          await read.read(name, rows),
          (await made.read(name)).subarray(2 * spec.hidden, 9 * spec.hidden),
        );
      }
    });
  });

  Deno.test(`${name} is a GGUF where llama.cpp computes it, and is read back from it`, async () => {
    const source = await openHfFolder((await openGolden(name)).modelPath), { spec } = source;
    const archs = GGUF_ARCHS.filter((arch) => misfits(spec, arch).length === 0);
    if (archs.length === 0) {
      refuses(() => ggufArch(spec), "input");
      return;
    }
    await inTemporaryFolder(async (folder) => {
      const options = { dtype: "f32", name: "x", tokenizerMetadata: new Map() } as const, { scales, rope } = spec;
      const own = await exportGguf(source, `${folder}/own.gguf`, options);
      assert.ok(archs.includes(own.arch), own.arch.arch);
      for (const { arch, attentionScale } of archs) {
        await exportGguf(source, `${folder}/${arch}.gguf`, { ...options, arch });
        const read = await openGguf(`${folder}/${arch}.gguf`);
        assert.equal(read.metadata.get("general.architecture"), arch);
        // A file says neither another factor of q·k than that of its architecture, nor the rule of scaled frequencies: it has their divisors in f32.
        if (attentionScale && scales?.attention) continue;
        const isSaid = rope.scaling.kind === "none" || rope.scaling.kind === "linear";
        const { fused: _ours, neighbours: _, ...shape } = spec, { fused: _theirs, ...shapeRead } = read.spec;
        assert.deepEqual(shapeRead, {
          ...shape,
          rope: { ...rope, scaling: isSaid ? rope.scaling : read.spec.rope.scaling },
        }, arch);
        await assertSameWeights(read, source);
        const name = "model.layers.1.self_attn.k_proj.weight", rows = { start: 2, count: 7 };
        assert.deepEqual(await read.read(name, rows), await source.read(name, rows));
      }
    });
  });
}

Deno.test("families and architectures have names of their own", () => {
  for (const names of [FAMILIES.map(({ type }) => type), GGUF_ARCHS.map(({ arch }) => arch)]) {
    assert.equal(new Set(names).size, names.length);
  }
});

/** A model, its family and architecture, and changes with the family and architecture that they lead to. */
const CASES: readonly {
  readonly name: string;
  readonly type: string;
  readonly arch: string | null;
  readonly changes: readonly (readonly [Partial<DecoderSpec>, string, string | null])[];
  /** Whether layers of the architecture may differ. */
  readonly isUneven?: true;
}[] = [
  {
    name: "olmo2",
    type: "olmo2",
    arch: "olmo2",
    changes: [
      [{ biases: ["o"] }, "olmo2", null],
      [{ biases: ["o", "down"] }, "compresso", null],
      [{ hidden: 40 }, "olmo2", null],
      [{ tied: true }, "olmo2", null],
      [{ qkNorm: "head" }, "exaone4", "exaone4"],
      [{ qkNorm: "layer" }, "compresso", null],
    ],
  },
  {
    name: "granite",
    type: "granite",
    arch: "granite",
    changes: [
      [{ biases: ["o", "down"] }, "granite", "granite"],
      [{ scales: { residual: 0.5 } }, "compresso", "granite"],
      [{ qkNorm: "head" }, "compresso", null],
    ],
  },
  {
    name: "smollm3",
    type: "smollm3",
    arch: "smollm3",
    changes: [
      [{ layers: ropes("none", null, null, null, "none") }, "smollm3", null],
      [{ layers: ropes(null, null, null, null, null) }, "llama", "llama"],
      [{ biases: ["o"] }, "smollm3", null],
      [{ qkNorm: "head" }, "compresso", null],
    ],
  },
  {
    name: "qwen2",
    type: "qwen2",
    arch: "qwen2",
    changes: [[{ headDim: 8 }, "qwen2", "llama"], [{ biases: ["q"] }, "llama", "llama"]],
  },
  {
    name: "gemma",
    type: "gemma",
    arch: "gemma",
    changes: [
      [{ tied: false }, "gemma", null],
      [{ scales: { embedding: 38 ** 0.5, attention: 0.3 } }, "compresso", "gemma"],
      [{ softCaps: { logits: 30 } }, "compresso", null],
      [{ layers: windows(9, 9) }, "compresso", null],
    ],
  },
  {
    name: "gemma2",
    type: "gemma2",
    arch: "gemma2",
    changes: [
      [{ softCaps: { logits: 30 } }, "gemma2", null],
      [{ tied: false }, "gemma2", null],
      [{ layers: windows(9, 9, null, 9, null) }, "gemma2", null],
      [{ normPlaces: "after" }, "compresso", null],
    ],
  },
  {
    name: "gemma3",
    type: "gemma3_text",
    arch: "gemma3",
    changes: [
      [{ tied: false }, "gemma3_text", "gemma3"],
      [{ biases: ["o"] }, "compresso", null],
      [{ scales: {} }, "compresso", null],
      [{ scales: { embedding: 44 ** 0.5, attention: 0.3 } }, "compresso", "gemma3"],
      [{ scales: { embedding: 44 ** 0.5, attention: 24 ** -0.5 } }, "gemma3_text", "gemma3"],
      [{ layers: locals(9, 9, null) }, "gemma3_text", "gemma3"],
      [{ layers: locals(9, null, 9, 9) }, "gemma3_text", null],
      [{ layers: locals(9, 8) }, "compresso", null],
      [{ layers: [...locals(9), ...windows(9)] }, "compresso", null],
      [{ layers: locals(9, null).map((layer) => ({ ...layer, heads: 3, kvHeads: 1 })) }, "compresso", "gemma3"],
    ],
  },
  {
    name: "gemma4",
    type: "gemma4_text",
    arch: "gemma4",
    isUneven: true,
    changes: [
      [{ tied: false }, "gemma4_text", "gemma4"],
      [{ biases: ["o"] }, "compresso", null],
      [{ scales: { embedding: 42 ** 0.5, attention: 0.5 } }, "compresso", "gemma4"],
      [{ layers: twoWidths(7, null, 7) }, "compresso", "gemma4"],
      [{ layers: twoWidths(7, null, 7, null) }, "gemma4_text", "gemma4"],
      [{ layers: twoWidths(7, null, null).map((layer) => ({ ...layer, kvHeads: 1 })) }, "gemma4_text", "gemma4"],
      [{ layers: [...twoWidths(7, null), { heads: 6, kvHeads: 1, ffn: 61 }] }, "compresso", "gemma4"],
    ],
  },
  { name: "opt", type: "opt", arch: null, changes: [[{ normEps: 1e-6 }, "compresso", null]] },
  ...["gpt2", "gpt_neox", "phi"].map((name) => ({
    name,
    type: name,
    arch: { gpt2: "gpt2", gpt_neox: "gptneox", phi: "phi2" }[name] ?? null,
    changes: [
      [{ biases: ["q", "k", "v", "o"] }, name, null],
      [{ activation: "relu" }, name, null],
      [{ tied: true }, name, name === "gpt2" ? "gpt2" : null],
      [{ headDim: 4 }, "compresso", null],
    ] as const,
  })),
  {
    name: "stablelm",
    type: "stablelm",
    arch: "stablelm",
    changes: [[{ tied: true }, "stablelm", null], [{ biases: ["o"] }, "compresso", null]],
  },
];

/** Layers of the golden SmolLM3 with these kinds of RoPE. */
function ropes(...kinds: readonly ("none" | null)[]): LayerSpec[] {
  return kinds.map((rope) => ({ heads: 3, kvHeads: 1, ffn: 37, ...rope ? { rope } : {} }));
}

/** Layers with these windows. */
function windows(...wide: readonly (number | null)[]): LayerSpec[] {
  return wide.map((window) => ({ heads: 4, kvHeads: 2, ffn: 45, ...window ? { window } : {} }));
}

/** Layers with these windows and the local RoPE, and with neither. */
function locals(...wide: readonly (number | null)[]): LayerSpec[] {
  return windows(...wide).map((layer) => layer.window ? { ...layer, rope: "local" } : layer);
}

/** Layers of the golden Gemma 4 with these windows and the local RoPE, and with neither. */
function twoWidths(...wide: readonly (number | null)[]): LayerSpec[] {
  return wide.map((window) =>
    window ? { heads: 6, kvHeads: 3, ffn: 61, window, rope: "local" } : { heads: 6, kvHeads: 2, ffn: 61 }
  );
}

for (const { name, type, arch, changes, isUneven = false } of CASES) {
  Deno.test(`${name} is of type ${type} and arch ${arch ?? "none"}, and what they lack leads to others`, async () => {
    const { spec } = await openHfFolder((await openGolden(name)).modelPath);
    const [first = { heads: 0, kvHeads: 0, ffn: 0 }] = spec.layers;
    const uneven = spec.layers.map((layer, index) => index === 1 ? { ...layer, ffn: first.ffn - 1 } : layer);
    const isLike = arch === "qwen2";
    const all = [
      [{}, type, arch],
      [{ layers: uneven }, "compresso", isLike ? "deci" : isUneven ? arch : null],
      ...changes,
    ] as const;
    for (const [change, form, file] of all) {
      const changed = { ...spec, ...change };
      assert.equal(typeOf(changed), form, shown(change));
      if (file === null) refuses(() => ggufArch(changed), "input");
      else assert.equal(ggufArch(changed).arch, file, shown(change));
    }
    if (isLike) return;
    if (!isUneven) refuses(() => refuseUnlike(spec, ""), "input");
    refuses(() => ggufArch(spec, "llama"), "usage", { names: "llama" });
    if (arch) refuses(() => ggufArch(SPEC, arch), "usage", { names: arch });
  });
}

/** The sizes of `SPEC` in a configuration. */
const SIZES = {
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

/** RoPE with queries that grow with the position. */
const GROWING = { rope_type: "yarn", rope_theta: 12345, factor: 4, attention_factor: 1, llama_4_scaling_beta: 0.1 };

/** Of classes with other names for LLaMA's keys. */
const GPT2 = {
  ...{ n_embd: 24, n_layer: 2, n_head: 4, n_positions: 128, layer_norm_epsilon: 0.001 },
  ...bare("hidden_size", "rms_norm_eps", "num_key_value_heads"),
};
const NEOX = { layer_norm_eps: 1e-5, rotary_emb_base: 10000, rotary_pct: 1, ...bare("rms_norm_eps", "rope_theta") };
const GEMMA = { head_dim: 6, query_pre_attn_scalar: 6, sliding_window: 9 };

/** SIZES without keys. */
function bare(...keys: readonly string[]): Readonly<Record<string, undefined>> {
  return Object.fromEntries(keys.map((key) => [key, undefined]));
}

/** Keys of a family's configuration, and what they give; null where they are refused. */
const CONFIGS: readonly (readonly [string, Readonly<Record<string, unknown>>, Partial<DecoderSpec> | null])[] = [
  ["olmo2", {}, { normPlaces: "after", qkNorm: "whole" }],
  ["olmo2", { bos_token_id: undefined }, { bosId: null }],
  ["olmo2", { attention_bias: true }, { biases: ["q", "k", "v", "o"] }],
  ["olmo2", { mlp_bias: true }, null],
  ["olmo2", { qk_norm: "whole" }, null],
  ["granite", {
    embedding_multiplier: 12,
    attention_multiplier: 0.015625,
    residual_multiplier: 0.22,
    logits_scaling: 8,
  }, { scales: { embedding: 12, attention: 0.015625, residual: 0.22, logits: 8 } }],
  ["granite", {}, { scales: { embedding: 1, attention: 1, residual: 1, logits: 1 } }],
  ["granite", { residual_multiplier: -1 }, null],
  ["smollm3", { num_hidden_layers: 5 }, { layers: layersWithout(3), tied: true }],
  ["smollm3", { num_hidden_layers: 5, no_rope_layer_interval: 2 }, { layers: layersWithout(1, 3) }],
  ["smollm3", { num_hidden_layers: 5, no_rope_layers: [0, 1, 1, 1, 0] }, { layers: layersWithout(0, 4) }],
  ["smollm3", { rope_theta: undefined }, { rope: { base: 2_000_000, scaling: { kind: "none" } } }],
  ["smollm3", { num_hidden_layers: 5, no_rope_layers: [1, 1] }, null],
  ["llama", { no_rope_layers: [1, 0] }, null],
  ["glm", { vocab_size: 151552 }, {
    biases: ["q", "k", "v"],
    rope: { base: 12345, scaling: { kind: "none" }, dims: 64 },
  }],
  ["granitemoehybrid", {
    num_local_experts: 0,
    position_embedding_type: "rope",
    shared_intermediate_size: 9,
    layers_block_type: ["attention", "attention"],
  }, {
    layers: Array(2).fill({ heads: 4, kvHeads: 2, ffn: 9 }),
  }],
  ["granitemoehybrid", { num_local_experts: 0, layer_types: ["attention", "attention"] }, {
    layers: Array(2).fill({ heads: 4, kvHeads: 2, ffn: 1024, rope: "none" }),
  }],
  ["granitemoehybrid", { layer_types: ["attention", "attention"], num_local_experts: 8 }, null],
  ["granitemoehybrid", { num_local_experts: 0, layer_types: ["attention", "mamba"] }, null],
  ["nanochat", {}, { softCaps: { logits: 15 }, plainNorms: true, activation: "relu2" }],
  ["nanochat", { tie_word_embeddings: true }, null],
  ["apertus", { qk_norm: false }, null],
  ["compresso", { hidden_act: "xielu" }, null],
  ["compresso", { value_norm: true }, null],
  ["compresso", { local_head_dim: 8 }, null],
  ["compresso", { qk_norm: "head", value_norm: true, local_rope_theta: 9, layer_scale: true, local_head_dim: 8 }, {
    valueNorm: true,
    layerScale: true,
    localHeadDim: 8,
  }],
  ["compresso", { hidden_act: "xielu", ungated_mlp: true }, { activation: "xielu", ungated: true }],
  ["hunyuan_v1_dense", { rope_scaling: { type: "dynamic", alpha: 16 }, rope_theta: 20, head_dim: 10 }, {
    qkNorm: "head",
    qkNormAfter: true,
    rope: { base: 640, scaling: { kind: "none" } },
  }],
  ["hunyuan_v1_dense", { rope_scaling: { type: "dynamic", factor: 2 } }, null],
  // transformers: get_mscale(4, 2) / get_mscale(4, 0.5)
  ["llama", { rope_scaling: { type: "yarn", factor: 4, mscale: 2, mscale_all_dim: 0.5, beta_fast: 8 } }, {
    rope: {
      base: 12345,
      scaling: {
        kind: "yarn",
        factor: 4,
        betaFast: 8,
        betaSlow: 1,
        attention: (0.2 * Math.log(4) + 1) / (0.05 * Math.log(4) + 1),
        originalMaxPosition: 128,
      },
    },
  }],
  ["ministral3", { rope_theta: undefined }, {
    rope: {
      base: 1_000_000,
      scaling: {
        kind: "yarn",
        factor: 16,
        betaFast: 32,
        betaSlow: 1,
        attention: 1,
        originalMaxPosition: 16384,
        queryGrowth: 0.1,
      },
    },
  }],
  ["ministral3", { rope_parameters: { rope_type: "yarn", factor: 4 } }, null],
  ["ministral3", { rope_parameters: { rope_type: "linear", factor: 4, llama_4_scaling_beta: 0.1 } }, null],
  ["compresso", { rope_parameters: GROWING }, {
    rope: {
      base: 12345,
      scaling: {
        kind: "yarn",
        factor: 4,
        betaFast: 32,
        betaSlow: 1,
        attention: 1,
        originalMaxPosition: 128,
        queryGrowth: 0.1,
      },
    },
  }],
  ["compresso", { qk_norm: "head", rope_parameters: GROWING }, null],
  ["compresso", { attn_logit_softcapping: 30, rope_parameters: GROWING }, null],
  ["compresso", { fused: true, rope_parameters: GROWING }, null],
  ["compresso", { fused: false, partial_rotary_factor: 0.5, rope_parameters: GROWING }, null],
  ["compresso", { rope_parameters: { ...GROWING, partial_rotary_factor: 0.5 } }, null],
  // transformers reads it in that class alone.
  ["llama", { rope_scaling: { type: "yarn", factor: 4, attention_factor: 1, llama_4_scaling_beta: 0.1 } }, {
    rope: {
      base: 12345,
      scaling: { kind: "yarn", factor: 4, betaFast: 32, betaSlow: 1, attention: 1, originalMaxPosition: 128 },
    },
  }],
  ["olmo3", { vocab_size: 60000, num_hidden_layers: 4, sliding_window: 9, rope_theta: undefined }, {
    layers: [true, true, true, false].map((slides) => ({
      heads: 4,
      kvHeads: 2,
      ffn: 33,
      ...slides ? { window: 9, rope: "local" as const } : {},
    })),
    rope: { base: 500_000, localBase: 500_000, scaling: { kind: "none" } },
  }],
  ["cohere", { vocab_size: 256000 }, {
    norm: "layer_no_bias",
    parallel: "shared",
    scales: { logits: 16 },
    tied: true,
    neighbours: true,
  }],
  ["cohere", { use_qk_norm: true }, null],
  ["cohere2", { num_hidden_layers: 4, sliding_window: 9, sliding_window_pattern: 2, logit_scale: 0.25 }, {
    layers: [true, false, true, false].map((slides) => ({
      heads: 4,
      kvHeads: 2,
      ffn: 33,
      ...slides ? { window: 9 } : { rope: "none" as const },
    })),
    scales: { logits: 4 },
  }],
];

// LLaMA's name of a key that a family names otherwise: the family's own name is what counts.
const FOREIGN: readonly (readonly [string, Readonly<Record<string, unknown>>, Partial<DecoderSpec> | string])[] = [
  ["gpt2", { ...GPT2, rms_norm_eps: 0.5 }, "rms_norm_eps"],
  ["gpt2", { ...GPT2, layer_norm_epsilon: undefined, rms_norm_eps: 0.5 }, "rms_norm_eps"],
  ["gpt2", { ...GPT2, rms_norm_eps: 0.001 }, { normEps: 0.001 }],
  ["gpt2", { ...GPT2, hidden_act: "relu" }, "hidden_act"],
  ["gpt2", { ...GPT2, hidden_size: 48 }, "hidden_size"],
  ["gpt_neox", { ...NEOX, rms_norm_eps: 0.5 }, "rms_norm_eps"],
  ["gpt_neox", { ...NEOX, rope_theta: 500 }, "rope_theta"],
  ["gpt_neox", { ...NEOX, partial_rotary_factor: 0.25 }, "partial_rotary_factor"],
  ["gpt_neox", { ...NEOX, head_dim: 8 }, "head_dim"],
  ["gpt_neox", { ...NEOX, rope_theta: 10000, head_dim: 6 }, { headDim: 6 }],
  ["phi3", { sliding_window: 9, layer_types: ["full_attention", "sliding_attention"] }, "layer_types"],
  ["phi3", { sliding_window: 9, layer_types: ["sliding_attention", "sliding_attention"] }, {
    layers: Array(2).fill({ heads: 4, kvHeads: 2, ffn: 33, window: 9 }),
  }],
  ["gemma2", { ...GEMMA, hidden_act: "gelu_pytorch_tanh", hidden_activation: null }, { activation: "gelu_tanh" }],
  ["gemma2", { ...GEMMA, hidden_act: "relu" }, "hidden_act"],
  ["gemma2", { ...GEMMA, final_logit_softcapping: 1e30 }, "final_logit_softcapping"],
];

function layersWithout(...without: readonly number[]): LayerSpec[] {
  const layer = { heads: 4, kvHeads: 2, ffn: 33 };
  return Array.from({ length: 5 }, (_, index) => without.includes(index) ? { ...layer, rope: "none" } : layer);
}

Deno.test("configurations give what their families compute, with transformers' defaults", () => {
  for (const [type, keys, expected] of CONFIGS) {
    const parse = (): DecoderSpec => parseHfConfig({ ...SIZES, model_type: type, ...keys }, { path: "config.json" });
    const [last = ""] = Object.keys(keys).slice(-1);
    if (expected === null) refuses(parse, "input", { value: last });
    else assert.deepEqual({ ...parse(), ...expected }, parse(), `${type} ${shown(keys)}`);
  }
});

Deno.test("a key that another family has is refused if it says something else than the family's own", () => {
  for (const [type, keys, expected] of FOREIGN) {
    const parse = (): DecoderSpec => parseHfConfig({ ...SIZES, model_type: type, ...keys }, { path: "config.json" });
    if (typeof expected === "string") refuses(parse, "input", { value: expected });
    else assert.deepEqual({ ...parse(), ...expected }, parse(), `${type} ${shown(keys)}`);
  }
});
