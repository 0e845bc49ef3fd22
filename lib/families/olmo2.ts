// OLMo 2: norms after the sublayers, and of q and k over the whole width.
import { family } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag } from "./shared.ts";

const NORMS = { normPlaces: ["after"], qkNorm: ["whole"] } as const;

const ARCH: GgufArch = {
  arch: "olmo2",
  holds: { ...NORMS, windows: true, scaling: UNSCALED_OR_LINEAR, fused: true },
  limits: [alike, headsFillHidden, untied],
  read: () => ({ normPlaces: "after", qkNorm: "whole" }),
};

/** OLMo 2. */
export const OLMO2 = family({
  type: "olmo2",
  label: "OLMo 2",
  architecture: "Olmo2ForCausalLM",
  defaults: { rms_norm_eps: 1e-5 },
  ids: { bos: null, eos: 50279 },
  keys: { attention_bias: flag },
  read: (config) => ({ normPlaces: "after", qkNorm: "whole", biases: attentionBiases(config) }),
  tensors: {
    renames: [
      [/\.post_self_attn_layernorm\./, ".post_attention_layernorm."],
      [/\.post_mlp_layernorm\./, ".post_feedforward_layernorm."],
    ],
  },
  stock: {
    holds: { ...NORMS, attentionBiases: true, scaling: true, fused: true },
    limits: [alike],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias }),
  },
  gguf: [ARCH],
});
