// config.json of the families whose configuration is not LLaMA's with a few more keys.
import type { Json } from "../../core/guards.ts";
import {
  type DecoderSpec,
  embeddingWidth,
  hasBias,
  layersAlike,
  type Projection,
  PROJECTIONS,
  QWEN2_BIASES,
} from "../../spec/decoder.ts";
import { ALL_UNGATED, OPT_EPS, OPT_OFFSET } from "./config.ts";
import { ropeConfig } from "./rope_export.ts";

/** The classes of transformers with LayerNorm. */
export const LAYER_NORM_FORMS = ["opt", "gpt2", "gpt_neox", "stablelm", "phi"] as const;

/** Name of one. */
export type LayerNormForm = typeof LAYER_NORM_FORMS[number];

/**
 * Query heads that every layer has in the classes of a family that derives the head width from them; null where heads
 * and their width are independent.
 */
export function fixedHeads({ norm, hidden, headDim }: DecoderSpec): number | null {
  return norm === "layer" && hidden % headDim === 0 ? hidden / headDim : null;
}

/** Activations by their names in transformers. */
export const ACTIVATION_NAMES = { silu: "silu", relu: "relu", gelu: "gelu", gelu_tanh: "gelu_pytorch_tanh" } as const;

/** The class of transformers that computes a model of this shape with LayerNorm; null where there is none. */
export function layerNormForm(spec: DecoderSpec): LayerNormForm | null {
  const { norm, activation = "silu", ungated, parallel, positions, layers, rope } = spec, [first] = layers;
  const { qkNorm, normPlaces, embeddingWidth, scales, softCaps, fused, headBias, biases = [] } = spec;
  const isPlain = norm === "layer" && layersAlike(spec) && first?.heads === fixedHeads(spec) &&
    layers.every((layer) => layer.window === undefined && layer.rope === undefined) &&
    (!qkNorm || (qkNorm === "layer" && !ungated)) &&
    [scales, softCaps, fused, rope.localBase].every((part) => part === undefined) &&
    rope.scaling.kind !== "longrope" && rope.scaling.kind !== "factors";
  if (!isPlain) return null;
  // OPT alone has norms of the residual stream and projections of the embedding.
  const isLikeOpt = ungated && !parallel && !headBias && first?.kvHeads === first?.heads &&
    positions?.offset === OPT_OFFSET;
  if (normPlaces !== undefined || embeddingWidth !== undefined) return isLikeOpt && isOptFfn(spec) ? "opt" : null;
  if (!ungated) {
    const isStableLm = activation === "silu" && parallel !== "own" && !positions && !headBias;
    return isStableLm && (biases.length === 0 || biases.join() === QWEN2_BIASES.join()) ? "stablelm" : null;
  }
  if (parallel === "shared" || headBias) {
    return parallel === "shared" && headBias && !positions && activation !== "silu" ? "phi" : null;
  }
  if (first?.kvHeads !== first?.heads) return null;
  if (!positions) return activation !== "silu" && hasAllOrNone(spec, ["q", "k", "v", "o"]) ? "gpt_neox" : null;
  if (parallel) return null;
  if (positions.offset === 0) return activation === "silu" ? null : "gpt2";
  return isLikeOpt && isOptFfn(spec) ? "opt" : null;
}

function isOptFfn({ activation, normEps }: DecoderSpec): boolean {
  return activation === "relu" && normEps === OPT_EPS;
}

/** Which of transformers' Gemma computes a model of this shape, whose layers have one window at most; null for none. */
export function gemmaForm(spec: DecoderSpec): "gemma" | "gemma2" | "gemma3_text" | null {
  const { hidden, layers, rope, scales, softCaps, biases = [] } = spec;
  const isGemma = spec.activation === "gelu_tanh" && biases.length === 0 && !spec.norm && !spec.ungated &&
    !spec.positions && !spec.fused && !spec.parallel && !spec.headBias && !spec.embeddingWidth && layersAlike(spec) &&
    rope.dims === undefined &&
    isSameFactor(scales?.embedding ?? 1, hidden ** 0.5);
  if (!isGemma) return null;
  const isPlain = !spec.qkNorm && rope.localBase === undefined;
  if (!spec.normPlaces) {
    const isOne = isPlain && !softCaps && queryScalar(spec) === spec.headDim &&
      layers.every(({ window }) => window === undefined);
    return isOne ? "gemma" : null;
  }
  if (queryScalar(spec) === null || layers.some(({ heads }) => hidden % heads !== 0)) return null;
  if (isPlain) return "gemma2";
  const isThree = spec.qkNorm === "head" && rope.localBase !== undefined && softCaps?.attention === undefined &&
    layers.every(({ window, rope }) => window === undefined || rope === "local") &&
    // One window is that of all layers with the local RoPE.
    new Set(layers.filter(({ rope }) => rope === "local").map(({ window }) => window)).size <= 1;
  return isThree ? "gemma3_text" : null;
}

/** Keys that a Gemma's config.json has beyond those of LLaMA. */
export function gemmaKeys(form: "gemma" | "gemma2" | "gemma3_text", spec: DecoderSpec): Json {
  // transformers 4 reads it here in all of them.
  if (form === "gemma") return { attention_bias: false, hidden_activation: "gelu_pytorch_tanh" };
  const { attention = null, logits = null } = spec.softCaps ?? {};
  return {
    attention_bias: false,
    query_pre_attn_scalar: queryScalar(spec),
    attn_logit_softcapping: attention,
    final_logit_softcapping: logits,
  };
}

/** `query_pre_attn_scalar`, a whole number s with the factor 1 / √s of q·k; null if there is none. */
function queryScalar({ headDim, scales }: DecoderSpec): number | null {
  if (scales?.attention === undefined) return headDim;
  const scalar = Math.round(scales.attention ** -2);
  return isSameFactor(scales.attention, scalar ** -0.5) ? scalar : null;
}

/** Whether two factors are the same but for the rounding of f32. */
function isSameFactor(a: number, b: number): boolean {
  return Math.abs(a / b - 1) <= 1e-6;
}

function hasAllOrNone(spec: DecoderSpec, projections: readonly Projection[]): boolean {
  return new Set(projections.map((projection) => hasBias(spec, projection))).size === 1;
}

/** The biases that a folder of this form holds. */
export function layerNormBiases(form: LayerNormForm, { biases = [] }: DecoderSpec): readonly Projection[] {
  if (form === "gpt2" || form === "phi") return ALL_UNGATED;
  if (form === "opt") return biases.length > 0 ? ALL_UNGATED : [];
  if (form === "stablelm") return biases;
  return PROJECTIONS.filter((one) => one === "up" || one === "down" || biases.includes(one));
}

/** The keys of config.json that say the shape of a model of this form. */
export function layerNormConfig(form: LayerNormForm, spec: DecoderSpec): Json {
  const keys = {
    opt: optConfig,
    gpt2: gpt2Config,
    gpt_neox: gptNeoxConfig,
    stablelm: stableLmConfig,
    phi: phiConfig,
  } satisfies Record<LayerNormForm, (spec: DecoderSpec) => Json>;
  return keys[form](spec);
}

function gpt2Config(spec: DecoderSpec): Json {
  const { heads = 0, ffn = 0 } = spec.layers[0] ?? {};
  return {
    activation_function: olderActivation(spec),
    attn_pdrop: 0,
    embd_pdrop: 0,
    initializer_range: 0.02,
    layer_norm_epsilon: spec.normEps,
    n_embd: spec.hidden,
    n_head: heads,
    n_inner: ffn,
    n_layer: spec.layers.length,
    n_positions: spec.maxPosition,
    reorder_and_upcast_attn: false,
    resid_pdrop: 0,
    scale_attn_by_inverse_layer_idx: false,
    scale_attn_weights: true,
  };
}

/** The activation by the name that other programs know: gelu_new is the function of gelu_pytorch_tanh. */
function olderActivation({ activation }: DecoderSpec): string {
  return activation === "gelu_tanh" ? "gelu_new" : ACTIVATION_NAMES[activation ?? "silu"];
}

function stableLmConfig(spec: DecoderSpec): Json {
  return {
    ...partialRopeConfig(spec),
    hidden_act: "silu",
    hidden_dropout: 0,
    use_parallel_residual: spec.parallel === "shared",
    use_qkv_bias: hasBias(spec, "q"),
  };
}

function phiConfig(spec: DecoderSpec): Json {
  return { ...partialRopeConfig(spec), embd_pdrop: 0, hidden_act: olderActivation(spec), resid_pdrop: 0 };
}

/** The keys that StableLM and Phi share. */
function partialRopeConfig(spec: DecoderSpec): Json {
  const { heads = 0, kvHeads = 0, ffn = 0 } = spec.layers[0] ?? {};
  return {
    attention_dropout: 0,
    hidden_size: spec.hidden,
    initializer_range: 0.02,
    intermediate_size: ffn,
    layer_norm_eps: spec.normEps,
    max_position_embeddings: spec.maxPosition,
    num_attention_heads: heads,
    num_hidden_layers: spec.layers.length,
    num_key_value_heads: kvHeads,
    qk_layernorm: spec.qkNorm === "layer",
    ...partialRope(spec),
  };
}

/** The keys of RoPE of a class that rotates a quarter of each head where they do not say otherwise. */
function partialRope(spec: DecoderSpec): Json {
  const { partial_rotary_factor: share = 1, ...rope } = ropeConfig(spec);
  const parameters = { ...(rope["rope_parameters"] as Json), partial_rotary_factor: share };
  return { ...rope, rope_parameters: parameters, partial_rotary_factor: share };
}

function gptNeoxConfig(spec: DecoderSpec): Json {
  const { heads = 0, ffn = 0 } = spec.layers[0] ?? {}, rope = partialRope(spec);
  return {
    attention_bias: hasBias(spec, "q"),
    attention_dropout: 0,
    hidden_act: ACTIVATION_NAMES[spec.activation ?? "silu"],
    hidden_dropout: 0,
    hidden_size: spec.hidden,
    initializer_range: 0.02,
    intermediate_size: ffn,
    layer_norm_eps: spec.normEps,
    max_position_embeddings: spec.maxPosition,
    num_attention_heads: heads,
    num_hidden_layers: spec.layers.length,
    rope_parameters: rope["rope_parameters"] ?? {},
    // transformers 4 reads these.
    rotary_emb_base: spec.rope.base,
    rotary_pct: rope["partial_rotary_factor"] ?? 1,
    use_parallel_residual: spec.parallel === "own",
  };
}

function optConfig(spec: DecoderSpec): Json {
  const { heads = 0, ffn = 0 } = spec.layers[0] ?? {};
  return {
    activation_function: "relu",
    attention_dropout: 0,
    do_layer_norm_before: spec.normPlaces !== "residual",
    dropout: 0,
    enable_bias: (spec.biases?.length ?? 0) > 0,
    ffn_dim: ffn,
    hidden_size: spec.hidden,
    init_std: 0.02,
    layer_norm_elementwise_affine: true,
    layerdrop: 0,
    max_position_embeddings: spec.maxPosition,
    num_attention_heads: heads,
    num_hidden_layers: spec.layers.length,
    word_embed_proj_dim: embeddingWidth(spec),
  };
}
