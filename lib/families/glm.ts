// GLM: biases of q, k and v, gate and up in one matrix; RoPE turns neighbours in a part of each head.
import { type Projection, QWEN2_BIASES } from "../spec/decoder.ts";
import { family, type Stock } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR } from "./fit.ts";
import { GATE_UP, QKV } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { biasKeys, flag, partialRopeKeys } from "./shared.ts";

const HOLDS = { attentionBiases: ["none", QWEN2_BIASES.join()], partialRope: ["set"] } as const;

/** Files made of ChatGLM's own folders hold q, k and v as one matrix. */
const ARCH: GgufArch = {
  arch: "chatglm",
  neighbours: true,
  partialRope: true,
  fused: [GATE_UP],
  onceFused: [QKV, GATE_UP],
  holds: { ...HOLDS, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden],
};

/** What GLM and GLM-4 have in common. */
export const GLM_FILES = {
  defaults: {
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 131072,
    rms_norm_eps: 1.5625e-7,
    attention_bias: true,
    partial_rotary_factor: 0.5,
  },
  ids: { bos: null, eos: [151329, 151336, 151338], pad: 151329 },
  rope: { isPartial: true },
  keys: { attention_bias: flag },
  tensors: { packed: [{ module: "mlp.gate_up_proj", parts: ["gate", "up"] }], neighbours: true },
} as const;

/** What their classes have in common. */
export const GLM_STOCK: Omit<Stock, "holds"> = {
  limits: [alike],
  biases: ({ biases = [] }) => biases,
  keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias }),
  ropeKeys: partialRopeKeys,
};

/** Their biases. */
export function glmBiases(
  { attention_bias: has }: { readonly attention_bias?: boolean | null | undefined },
): readonly Projection[] {
  return has ? QWEN2_BIASES : [];
}

/** GLM-4 of 2024. */
export const GLM = family({
  ...GLM_FILES,
  type: "glm",
  label: "GLM",
  about: "biases of q, k and v, partial RoPE",
  architecture: "GlmForCausalLM",
  read: (config) => ({ biases: glmBiases(config) }),
  stock: { ...GLM_STOCK, holds: { ...HOLDS, scaling: true } },
  gguf: [ARCH],
});
