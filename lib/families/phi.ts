// Phi-1, 1.5, 2: attention and FFN read one LayerNorm, biases everywhere, GELU without gate; a part of each head rotates.
import { family, type FamilyParts } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import { QKV } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import {
  ALL_UNGATED,
  flag,
  GELUS_AND_RELU,
  layerNormKeys,
  olderActivationName,
  UNGATED_ACTIVATIONS,
} from "./shared.ts";

const PARTS = { norm: "layer", ungated: true, parallel: "shared", headBias: true } as const;
const HOLDS = {
  norm: ["layer"],
  gate: ["none"],
  parallel: ["shared"],
  headBias: ["set"],
  partialRope: true,
} as const;

const ARCH: GgufArch = {
  arch: "phi2",
  layerNorm: true,
  partialRope: true,
  onceFused: [QKV],
  holds: {
    ...HOLDS,
    activation: ["gelu_tanh"],
    attentionBiases: ["q,k,v,o"],
    ffnBiases: ["up,down"],
    scaling: UNSCALED_OR_LINEAR,
  },
  limits: [alike, headsFillHidden, untied],
  read: () => ({ ...PARTS, activation: "gelu_tanh" }),
};

/** Phi-2. */
export const PHI = family({
  type: "phi",
  label: "Phi-2",
  about: "one norm for attention and FFN",
  architecture: "PhiForCausalLM",
  names: { rms_norm_eps: "layer_norm_eps" },
  defaults: { rms_norm_eps: 1e-5, partial_rotary_factor: 0.5 },
  activations: UNGATED_ACTIVATIONS,
  rope: { isPartial: true },
  keys: { qk_layernorm: flag },
  read(config, { fail }): FamilyParts {
    if (config.qk_layernorm) {
      fail("qk_layernorm", "it is false: a LayerNorm that all q heads share, and all k heads, is not supported");
    }
    return { ...PARTS, biases: ALL_UNGATED };
  },
  tensors: {
    renames: [
      [/^model\.norm\./, "model.final_layernorm."],
      [/\.self_attn\.o_proj\./, ".self_attn.dense."],
      [/\.mlp\.up_proj\./, ".mlp.fc1."],
      [/\.mlp\.down_proj\./, ".mlp.fc2."],
    ],
  },
  derivesHeads: true,
  stock: {
    holds: {
      ...HOLDS,
      activation: GELUS_AND_RELU,
      attentionBiases: true,
      ffnBiases: true,
      scaling: [...UNSCALED_OR_LINEAR, "llama3"],
    },
    limits: [alike, headsFillHidden],
    biases: () => ALL_UNGATED,
    config: (spec, { rope }) => ({
      ...layerNormKeys(spec, rope),
      embd_pdrop: 0,
      hidden_act: olderActivationName(spec),
      resid_pdrop: 0,
    }),
  },
  gguf: [ARCH],
});
