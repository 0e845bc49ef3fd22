// Nemotron, Minitron: LayerNorm whose weights are stored without 1, an FFN of ReLU² without gate; a part of each head rotates.
import { family } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag, partialRopeKeys, ungatedBiases } from "./shared.ts";

const PARTS = { norm: "layer", ungated: true } as const;
const HOLDS = { norm: ["layer"], gate: ["none"], activation: ["relu2"], partialRope: true } as const;

const ARCH: GgufArch = {
  arch: "nemotron",
  layerNorm: true,
  partialRope: true,
  holds: { ...HOLDS, attentionBiases: true, ffnBiases: true, windows: true, scaling: UNSCALED_OR_LINEAR },
  limits: [alike, headsFillHidden, untied],
  read: () => ({ ...PARTS, activation: "relu2" }),
};

/** Nemotron. */
export const NEMOTRON = family({
  type: "nemotron",
  label: "Nemotron",
  about: "LayerNorm, ReLU² without gate",
  architecture: "NemotronForCausalLM",
  names: { rms_norm_eps: "norm_eps" },
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5, partial_rotary_factor: 0.5 },
  ids: { bos: 2, eos: 3 },
  activations: { relu2: "relu2" },
  rope: { isPartial: true },
  keys: { attention_bias: flag, mlp_bias: flag },
  read: (config) => ({ ...PARTS, biases: [...attentionBiases(config), ...ungatedBiases(config)] }),
  tensors: { normPlus: 1 },
  stock: {
    holds: { ...HOLDS, attentionBiases: true, ffnBiases: true, scaling: [...UNSCALED_OR_LINEAR, "llama3"] },
    limits: [alike],
    keys: biasKeys,
    ropeKeys: partialRopeKeys,
  },
  gguf: [ARCH],
});
