// OLMo 2 and 3: norms after the sublayers, and of q and k over the whole width; in OLMo 3 most layers have a window, and RoPE without scaling.
import { family, slides, type TensorRules } from "./family.ts";
import { alike, headsFillHidden, ONE_WINDOW, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import { localWindows, regularLocals } from "./gemma.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag, windowOf } from "./shared.ts";

const NORMS = { normPlaces: ["after"], qkNorm: ["whole"] } as const;

const PERIOD = 4;

/** A file with a window is an OLMo 3. */
const ARCH: GgufArch = {
  arch: "olmo2",
  windows: { period: PERIOD, window: 0, hasLocalRope: true, isOptional: true },
  holds: { ...NORMS, windows: ONE_WINDOW, localRope: true, scaling: [...UNSCALED_OR_LINEAR, "yarn"], fused: true },
  limits: [alike, headsFillHidden, untied, localWindows, regularLocals(PERIOD)],
  read: () => ({ normPlaces: "after", qkNorm: "whole" }),
};

/** Names of the norms after the sublayers. */
export const AFTER_NORMS: TensorRules = {
  renames: [
    [/\.post_self_attn_layernorm\./, ".post_attention_layernorm."],
    [/\.post_mlp_layernorm\./, ".post_feedforward_layernorm."],
  ],
};

/** OLMo 2. */
export const OLMO2 = family({
  type: "olmo2",
  label: "OLMo 2",
  about: "norms of outputs alone, of q and k as wholes",
  architecture: "Olmo2ForCausalLM",
  defaults: { rms_norm_eps: 1e-5 },
  ids: { bos: null, eos: 50279 },
  keys: { attention_bias: flag },
  read: (config) => ({ normPlaces: "after", qkNorm: "whole", biases: attentionBiases(config) }),
  tensors: AFTER_NORMS,
  stock: {
    holds: { ...NORMS, attentionBiases: true, scaling: true, fused: true },
    limits: [alike],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias }),
  },
  gguf: [ARCH],
});

/** OLMo 3. */
export const OLMO3 = family({
  type: "olmo3",
  label: "OLMo 3",
  about: "as OLMo 2, with windows in most layers, YaRN in the others",
  architecture: "Olmo3ForCausalLM",
  defaults: { rms_norm_eps: 1e-5, sliding_window: 4096 },
  ids: { bos: null, eos: 50279, pad: 1 },
  rope: { base: 500_000, localBase: "same" },
  keys: { attention_bias: flag },
  read: (config) => ({
    normPlaces: "after",
    qkNorm: "whole",
    biases: attentionBiases(config),
    layer: (index) =>
      slides(config, index, (index + 1) % PERIOD !== 0) ? { window: config.sliding_window, rope: "local" } : {},
  }),
  tensors: AFTER_NORMS,
  stock: {
    holds: { ...NORMS, attentionBiases: true, scaling: true, windows: ONE_WINDOW, localRope: ["set"] },
    limits: [alike, localWindows],
    keys: (spec) => ({
      attention_bias: biasKeys(spec).attention_bias,
      sliding_window: windowOf(spec) ?? spec.maxPosition,
      layer_types: spec.layers.map(({ rope }) => rope === "local" ? "sliding_attention" : "full_attention"),
    }),
  },
});
