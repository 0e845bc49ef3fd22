// Seed-OSS: LLaMA with biases of q, k and v, and a separate switch for the bias of o.
import { hasBias, QWEN2_BIASES } from "../spec/decoder.ts";
import { family } from "./family.ts";
import { alike, headsDivideHidden, UNSCALED_OR_LINEAR } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { biasKeys, ffnBiases, flag } from "./shared.ts";

const BIASES: readonly string[] = ["none", QWEN2_BIASES.join()];

const ARCH: GgufArch = {
  arch: "seed_oss",
  tensorNames: { ffn_norm: "post_attention_norm" },
  holds: { attentionBiases: BIASES, windows: true, scaling: UNSCALED_OR_LINEAR, fused: true },
  limits: [alike],
};

/** Seed-OSS. */
export const SEED_OSS = family({
  type: "seed_oss",
  label: "Seed-OSS",
  about: "biases of q, k and v",
  architecture: "SeedOssForCausalLM",
  defaults: { num_key_value_heads: 8, head_dim: 128, max_position_embeddings: 524288, attention_bias: true },
  ids: { bos: 0, pad: 1 },
  keys: { attention_bias: flag, attention_out_bias: flag, mlp_bias: flag },
  read: (config) => ({
    biases: [
      ...config.attention_bias ? QWEN2_BIASES : [],
      ...config.attention_out_bias ? ["o"] as const : [],
      ...ffnBiases(config),
    ],
  }),
  stock: {
    holds: { attentionBiases: [...BIASES, "o", "q,k,v,o"], ffnBiases: true, scaling: true, fused: true },
    limits: [alike, headsDivideHidden],
    biases: (spec) => [
      ...hasBias(spec, "q") ? QWEN2_BIASES : [],
      ...hasBias(spec, "o") ? ["o"] as const : [],
      ...ffnBiases(biasKeys(spec)),
    ],
    keys: (spec) => ({
      attention_bias: hasBias(spec, "q"),
      attention_out_bias: hasBias(spec, "o"),
      mlp_bias: biasKeys(spec).mlp_bias,
    }),
  },
  gguf: [ARCH],
});
