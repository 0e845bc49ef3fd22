// StableLM: LayerNorm before a gated FFN, a part of each head rotates; one norm for attention and FFN, and norms of heads, in the 12B.
import { hasBias, QWEN2_BIASES } from "../spec/decoder.ts";
import { family } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { flag, layerNormKeys } from "./shared.ts";

const HOLDS = {
  norm: ["layer"],
  parallel: ["none", "shared"],
  qkNorm: ["none", "layer"],
  partialRope: true,
  attentionBiases: ["none", QWEN2_BIASES.join()],
} as const;

/**
 * The tensors decide, not the key: without the FFN's norm, attention and FFN share one. Heads have norms if the file
 * has tensors for them.
 */
const ARCH: GgufArch = {
  arch: "stablelm",
  layerNorm: true,
  partialRope: true,
  parallelKey: true,
  holds: { ...HOLDS, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden, untied],
  read: (keys) => ({
    norm: "layer",
    parallel: keys.hasTensor("blk.0.ffn_norm.weight") ? undefined : "shared",
    qkNorm: keys.hasTensor("blk.0.attn_q_norm.weight") ? "layer" : undefined,
  }),
};

/** StableLM. */
export const STABLELM = family({
  type: "stablelm",
  label: "StableLM",
  about: "LayerNorm, partial RoPE",
  architecture: "StableLmForCausalLM",
  names: { rms_norm_eps: "layer_norm_eps" },
  defaults: {
    num_key_value_heads: 32,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    partial_rotary_factor: 0.25,
  },
  ids: { bos: 0, eos: 0 },
  rope: { isPartial: true },
  keys: { use_parallel_residual: flag, use_qkv_bias: flag, qk_layernorm: flag },
  read: (config) => ({
    norm: "layer",
    parallel: config.use_parallel_residual ? "shared" : undefined,
    qkNorm: config.qk_layernorm ? "layer" : undefined,
    biases: config.use_qkv_bias ? QWEN2_BIASES : [],
  }),
  tensors: {
    headNorm: ({ layer, of, head }) => `model.layers.${layer}.self_attn.${of}_layernorm.norms.${head}.weight`,
  },
  derivesHeads: true,
  stock: {
    holds: { ...HOLDS, scaling: [...UNSCALED_OR_LINEAR, "llama3"] },
    limits: [alike, headsFillHidden],
    biases: ({ biases = [] }) => biases,
    config: (spec, { rope }) => ({
      ...layerNormKeys(spec, rope),
      hidden_act: "silu",
      hidden_dropout: 0,
      use_parallel_residual: spec.parallel === "shared",
      use_qkv_bias: hasBias(spec, "q"),
    }),
  },
  gguf: [ARCH],
});
