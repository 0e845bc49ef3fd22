// config.json of the families whose configuration is not LLaMA's with a few more keys.
import type { Json } from "../../core/guards.ts";
import { type DecoderSpec, layersAlike, type Projection, windowsOf } from "../../spec/decoder.ts";
import { OPT_EPS, OPT_OFFSET } from "./config.ts";

/** The projections with biases in OPT: all that it has. */
export const OPT_BIASES: readonly Projection[] = ["q", "k", "v", "o", "up", "down"];

/**
 * Query heads that every layer has in the classes of a family that derives the head width from them; null where heads
 * and their width are independent.
 */
export function fixedHeads({ norm, hidden, headDim }: DecoderSpec): number | null {
  return norm === "layer" && hidden % headDim === 0 ? hidden / headDim : null;
}

/** Whether transformers' OPT computes a model of this shape. */
export function isOpt(spec: DecoderSpec): boolean {
  const { norm, activation, ungated, positions, qkNorm, normEps, layers: [first] } = spec;
  return norm === "layer" && activation === "relu" && ungated === true && positions?.offset === OPT_OFFSET &&
    !qkNorm && normEps === OPT_EPS && layersAlike(spec) && windowsOf(spec).every((window) => window === undefined) &&
    first?.kvHeads === first?.heads && first?.heads === fixedHeads(spec);
}

/** Whether transformers' Gemma 3 computes a model of this shape, whose layers have one window at most. */
export function isGemma3(spec: DecoderSpec): boolean {
  const { hidden, layers, rope, scales, biases = [] } = spec;
  return spec.activation === "gelu_tanh" && spec.normPlaces === "both" && spec.qkNorm === "head" &&
    biases.length === 0 && !spec.norm && !spec.ungated && !spec.positions && layersAlike(spec) &&
    rope.localBase !== undefined && rope.dims === undefined && isSameFactor(scales?.embedding ?? 1, hidden ** 0.5) &&
    queryScalar(spec) !== null && layers.every(({ heads }) => hidden % heads === 0) &&
    layers.every(({ window, rope }) => window === undefined || rope === "local") &&
    // One window is that of all layers with the local RoPE.
    new Set(layers.filter(({ rope }) => rope === "local").map(({ window }) => window)).size <= 1;
}

/** `query_pre_attn_scalar`, a whole number s with the factor 1 / √s of q·k; null if there is none. */
export function queryScalar({ headDim, scales }: DecoderSpec): number | null {
  if (scales?.attention === undefined) return headDim;
  const scalar = Math.round(scales.attention ** -2);
  return isSameFactor(scales.attention, scalar ** -0.5) ? scalar : null;
}

/** Whether two factors are the same but for the rounding of f32. */
function isSameFactor(a: number, b: number): boolean {
  return Math.abs(a / b - 1) <= 1e-6;
}

/** The keys of an OPT's config.json that say its shape. */
export function optConfig(spec: DecoderSpec): Json {
  const { heads = 0, ffn = 0 } = spec.layers[0] ?? {};
  return {
    activation_function: "relu",
    attention_dropout: 0,
    do_layer_norm_before: true,
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
    word_embed_proj_dim: spec.hidden,
  };
}
