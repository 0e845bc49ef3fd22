// Families with experts: Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE and Granite-MoE.
import { z } from "../core/packages.ts";
import type { Json } from "../core/guards.ts";
import { type DecoderSpec, type LayerSpec, QWEN2_BIASES, type Router } from "../spec/decoder.ts";
import {
  type Config,
  type ExpertModules,
  family,
  type FamilyParts,
  type LayerParts,
  type ReadContext,
  slides,
  width,
} from "./family.ts";
import { alike, headsFillHidden, type Limit, ONE_WINDOW, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import { f32, type GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, factor, flag, layerTypes, windowLayer, windowOf } from "./shared.ts";

/** Keys of experts; a family has some of them. */
const KEYS = {
  num_experts: width.nullish(),
  num_local_experts: width.nullish(),
  num_experts_per_tok: width.nullish(),
  moe_intermediate_size: width.nullish(),
  shared_expert_intermediate_size: width.nullish(),
  norm_topk_prob: flag,
  decoder_sparse_step: z.int().nonnegative().nullish(),
  mlp_only_layers: z.array(z.int().nonnegative()).nullish(),
};

type Own = Config & z.infer<z.ZodObject<typeof KEYS>>;

/** Defaults of a family. */
interface Usual {
  readonly experts: number;
  readonly topK: number;
  /** Columns of an expert; absent where they are `intermediate_size`. */
  readonly ffn?: number;
  readonly shared?: number;
}

/** The router of a configuration, and the parts of its layers. */
function expertsOf(
  config: Own,
  { fail }: ReadContext,
  usual: Usual,
  router: Omit<Router, "topK">,
): { readonly router: Router; readonly layer: (index: number) => LayerParts } {
  const count = config.num_experts ?? config.num_local_experts ?? usual.experts;
  const topK = config.num_experts_per_tok ?? usual.topK;
  if (topK > count) fail("num_experts_per_tok", `it is at most the number of experts, ${count}`);
  const ffn = usual.ffn === undefined
    ? config.intermediate_size ?? fail("intermediate_size", "it is given")
    : config.moe_intermediate_size ?? usual.ffn;
  const shared = usual.shared === undefined ? 0 : config.shared_expert_intermediate_size ?? usual.shared;
  const { decoder_sparse_step: step = 1, mlp_only_layers: dense } = config;
  const isDense = (index: number): boolean =>
    usual.ffn !== undefined && (dense?.includes(index) === true || !step || (index + 1) % step !== 0);
  return {
    router: { topK, ...router },
    layer: (index) => isDense(index) ? {} : { ffn: shared, experts: { count, ffn } },
  };
}

/** A layer with the parts of two. */
function both(one: (index: number) => LayerParts, other: (index: number) => LayerParts): (index: number) => LayerParts {
  return (index) => ({ ...one(index), ...other(index) });
}

/** Layers with experts have the same counts, and dense ones too. */
const alikeByKind: Limit = (spec) => {
  const { layers } = spec;
  for (const part of [layers.filter(({ experts }) => experts), layers.filter(({ experts }) => !experts)]) {
    const misfit = part.length > 0 ? alike({ ...spec, layers: part }) : null;
    if (misfit) return misfit;
  }
  return null;
};

/** Every layer has experts. */
const everywhere: Limit = ({ layers }) =>
  layers.every(({ experts }) => experts)
    ? null
    : { rule: "needs experts in all layers", value: "some layers have no experts" };

const firstWith = ({ layers }: DecoderSpec): LayerSpec | undefined => layers.find(({ experts }) => experts);

/** Keys that say experts and, where layers may be dense, which are. */
function sparseKeys(spec: DecoderSpec): Json {
  const { experts, ffn = 0 } = firstWith(spec) ?? {}, dense = spec.layers.find(({ experts }) => !experts);
  return {
    num_experts: experts?.count ?? 0,
    num_experts_per_tok: spec.router?.topK ?? 0,
    moe_intermediate_size: experts?.ffn ?? 0,
    intermediate_size: dense?.ffn ?? experts?.ffn ?? 0,
    norm_topk_prob: spec.router?.renormalised === true,
    decoder_sparse_step: 1,
    mlp_only_layers: [...spec.layers.entries()].flatMap(([index, layer]) => layer.experts ? [] : [index]),
    ...ffn > 0 ? { shared_expert_intermediate_size: ffn } : {},
    use_sliding_window: false,
  };
}

/** Keys of a family whose layers all have experts of `intermediate_size` columns. */
function plainKeys(spec: DecoderSpec, count: "num_experts" | "num_local_experts"): Json {
  const experts = firstWith(spec)?.experts;
  return {
    [count]: experts?.count ?? 0,
    num_experts_per_tok: spec.router?.topK ?? 0,
    intermediate_size: experts?.ffn ?? 0,
  };
}

const QWEN_MODULES: ExpertModules = {
  router: "mlp.gate",
  each: {
    gate: "mlp.experts.#.gate_proj",
    up: "mlp.experts.#.up_proj",
    down: "mlp.experts.#.down_proj",
  },
  shared: "mlp.shared_expert",
};

const QWEN_DEFAULTS = { max_position_embeddings: 32768, sliding_window: 4096, max_window_layers: 28 };
const NO_IDS = { bos: null, eos: null };

/** Qwen3 with experts; transformers' class has renormalised weights by a key, llama.cpp always. */
export const QWEN3_MOE = family({
  type: "qwen3_moe",
  label: "Qwen3-MoE",
  architecture: "Qwen3MoeForCausalLM",
  defaults: { ...QWEN_DEFAULTS, num_key_value_heads: 4 },
  ids: NO_IDS,
  keys: { ...KEYS, attention_bias: flag },
  read(config, context): FamilyParts {
    const { router, layer } = expertsOf(config, context, { experts: 128, topK: 8, ffn: 768 }, {
      ...config.norm_topk_prob ? { renormalised: true } : {},
    });
    const window = (): LayerParts => ({ window: config.use_sliding_window ? config.sliding_window : null });
    return { qkNorm: "head", biases: attentionBiases(config), router, layer: both(window, layer) };
  },
  tensors: { experts: QWEN_MODULES },
  stock: {
    holds: { router: ["plain", "renormalised"], qkNorm: ["head"], attentionBiases: true, scaling: true },
    limits: [alikeByKind],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias, ...sparseKeys(spec) }),
  },
  gguf: [{
    arch: "qwen3moe",
    holds: { router: ["renormalised"], qkNorm: ["head"], scaling: UNSCALED_OR_LINEAR },
    limits: [everywhere, alike],
    experts: { columns: "expert_feed_forward_length", renormalised: true },
    read: () => ({ qkNorm: "head" }),
  }],
});

/** Qwen1.5-MoE and Qwen2-MoE: a shared expert with a gate. */
export const QWEN2_MOE = family({
  type: "qwen2_moe",
  label: "Qwen2-MoE",
  architecture: "Qwen2MoeForCausalLM",
  defaults: { ...QWEN_DEFAULTS, num_key_value_heads: 16 },
  ids: NO_IDS,
  keys: { ...KEYS, qkv_bias: flag },
  read(config, context): FamilyParts {
    const { router, layer } = expertsOf(config, context, { experts: 60, topK: 4, ffn: 1408, shared: 5632 }, {
      sharedGate: true,
      ...config.norm_topk_prob ? { renormalised: true } : {},
    });
    const { use_sliding_window: isUsed, sliding_window: window, max_window_layers: full } = config;
    const windows = (index: number): LayerParts => ({
      window: isUsed && slides(config, index, index >= (full ?? 0)) ? window : null,
    });
    return { biases: config.qkv_bias === false ? [] : QWEN2_BIASES, router, layer: both(windows, layer) };
  },
  tensors: { experts: QWEN_MODULES },
  stock: {
    holds: {
      router: ["plain with a gated shared expert", "renormalised with a gated shared expert"],
      attentionBiases: [QWEN2_BIASES.join(), "none"],
      windows: ONE_WINDOW,
      scaling: true,
    },
    limits: [alikeByKind, headsFillHidden],
    biases: ({ biases = [] }) => biases,
    keys(spec): Json {
      const window = windowOf(spec);
      return {
        ...sparseKeys(spec),
        qkv_bias: (spec.biases ?? []).length > 0,
        ...window === null ? {} : { use_sliding_window: true, sliding_window: window, layer_types: layerTypes(spec) },
      };
    },
  },
  gguf: [{
    arch: "qwen2moe",
    holds: {
      router: ["plain with a gated shared expert"],
      attentionBiases: [QWEN2_BIASES.join()],
      scaling: UNSCALED_OR_LINEAR,
    },
    limits: [everywhere, alike, headsFillHidden],
    experts: { columns: "expert_feed_forward_length", shared: "expert_shared_feed_forward_length", sharedGate: true },
  }],
});

/** OLMoE. */
export const OLMOE = family({
  type: "olmoe",
  label: "OLMoE",
  architecture: "OlmoeForCausalLM",
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5 },
  ids: { bos: null, eos: 50279, pad: 1 },
  keys: { ...KEYS, attention_bias: flag, clip_qkv: z.null().optional() },
  read(config, context): FamilyParts {
    const parts = expertsOf(config, context, { experts: 64, topK: 8 }, {
      ...config.norm_topk_prob ? { renormalised: true } : {},
    });
    return { qkNorm: "whole", biases: attentionBiases(config), ...parts };
  },
  tensors: { experts: QWEN_MODULES },
  stock: {
    holds: { router: ["plain", "renormalised"], qkNorm: ["whole"], attentionBiases: true, scaling: true },
    limits: [everywhere, alike, headsFillHidden],
    keys: (spec) => ({
      attention_bias: biasKeys(spec).attention_bias,
      norm_topk_prob: spec.router?.renormalised === true,
      ...plainKeys(spec, "num_experts"),
    }),
  },
  gguf: [{
    arch: "olmoe",
    holds: { router: ["plain"], qkNorm: ["whole"], scaling: UNSCALED_OR_LINEAR },
    limits: [everywhere, alike, headsFillHidden, untied],
    experts: { columns: "feed_forward_length" },
    read: () => ({ qkNorm: "whole" }),
  }],
});

/** Mixtral; a GGUF of it is one of LLaMA with experts. */
export const MIXTRAL = family({
  type: "mixtral",
  label: "Mixtral",
  architecture: "MixtralForCausalLM",
  defaults: { num_key_value_heads: 8, max_position_embeddings: 131072, rms_norm_eps: 1e-5 },
  rope: { base: 1e6 },
  keys: KEYS,
  read(config, context): FamilyParts {
    const { router, layer } = expertsOf(config, context, { experts: 8, topK: 2 }, { renormalised: true });
    return { router, layer: both(windowLayer(config), layer) };
  },
  tensors: {
    experts: {
      router: "block_sparse_moe.gate",
      each: {
        gate: "block_sparse_moe.experts.#.w1",
        up: "block_sparse_moe.experts.#.w3",
        down: "block_sparse_moe.experts.#.w2",
      },
    },
  },
  stock: {
    holds: { router: ["renormalised"], windows: ["none", "all"], scaling: true },
    limits: [everywhere, alike],
    keys: (spec) => ({ sliding_window: windowOf(spec), ...plainKeys(spec, "num_local_experts") }),
  },
});

const GRANITE_SCALES = { embeddingScale: true, attentionScale: true, residualScale: true, logitScale: true } as const;

const GRANITE_ARCH: GgufArch = {
  arch: "granitemoe",
  neighbours: true,
  divisors: true,
  zeroKeys: ["attention.clamp_kqv"],
  holds: { ...GRANITE_SCALES, router: ["renormalised"], scaling: true },
  limits: [everywhere, alike],
  experts: { columns: "feed_forward_length", renormalised: true },
  read: (keys, { headDim }) => ({
    scales: {
      embedding: keys.decimal("embedding_scale", 0) || 1,
      attention: keys.decimal("attention.scale", 0) || headDim ** -0.5,
      residual: keys.decimal("residual_scale", 0) || 1,
      logits: keys.decimal("logit_scale", 0) || 1,
    },
  }),
  write: ({ headDim, scales = {} }) => ({
    "embedding_scale": f32(scales.embedding ?? 1),
    "attention.scale": f32(scales.attention ?? headDim ** -0.5),
    "residual_scale": f32(scales.residual ?? 1),
    "logit_scale": f32(scales.logits ?? 1),
  }),
};

/** Granite 3 with experts. */
export const GRANITE_MOE = family({
  type: "granitemoe",
  label: "Granite-MoE",
  architecture: "GraniteMoeForCausalLM",
  keys: {
    ...KEYS,
    attention_bias: flag,
    embedding_multiplier: factor,
    attention_multiplier: factor,
    residual_multiplier: factor,
    logits_scaling: factor,
  },
  read: (config, context) => ({
    biases: attentionBiases(config),
    scales: {
      embedding: config.embedding_multiplier ?? 1,
      attention: config.attention_multiplier ?? 1,
      residual: config.residual_multiplier ?? 1,
      logits: config.logits_scaling ?? 1,
    },
    ...expertsOf(config, context, { experts: 8, topK: 2 }, { renormalised: true }),
  }),
  tensors: {
    experts: {
      router: "block_sparse_moe.router.layer",
      all: { gateUp: "block_sparse_moe.input_linear", down: "block_sparse_moe.output_linear" },
    },
  },
  stock: {
    holds: { ...GRANITE_SCALES, router: ["renormalised"], attentionBiases: true, logitScale: ["set"], scaling: true },
    limits: [everywhere, alike],
    keys: (spec) => ({
      attention_bias: biasKeys(spec).attention_bias,
      embedding_multiplier: spec.scales?.embedding ?? 1,
      attention_multiplier: spec.scales?.attention ?? spec.headDim ** -0.5,
      residual_multiplier: spec.scales?.residual ?? 1,
      logits_scaling: spec.scales?.logits ?? 1,
      ...plainKeys(spec, "num_local_experts"),
    }),
  },
  gguf: [GRANITE_ARCH],
});
