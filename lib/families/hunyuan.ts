// HunYuan (dense): LLaMA with an RMSNorm of each head of q and k, after RoPE.
import { family } from "./family.ts";
import { alike, UNSCALED_OR_LINEAR } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag } from "./shared.ts";

const PARTS = { qkNorm: "head", qkNormAfter: true } as const;
const NORMS = { qkNorm: ["after"] } as const;

const ARCH: GgufArch = {
  arch: "hunyuan-dense",
  holds: { ...NORMS, windows: true, scaling: UNSCALED_OR_LINEAR, fused: true },
  limits: [alike],
  read: () => PARTS,
};

/** HunYuan of 0.5B to 7B. */
export const HUNYUAN = family({
  type: "hunyuan_v1_dense",
  label: "HunYuan (dense)",
  about: "norms of q and k after RoPE",
  architecture: "HunYuanDenseV1ForCausalLM",
  defaults: { rms_norm_eps: 1e-5 },
  ids: { pad: 0 },
  rope: { hasAlpha: true },
  keys: { attention_bias: flag },
  read: (config) => ({ ...PARTS, biases: attentionBiases(config) }),
  tensors: {
    renames: [[/\.q_norm\./, ".query_layernorm."], [/\.k_norm\./, ".key_layernorm."]],
  },
  stock: {
    holds: { ...NORMS, attentionBiases: true, scaling: true, fused: true },
    limits: [alike],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias }),
  },
  gguf: [ARCH],
});
