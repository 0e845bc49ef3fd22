// Arcee: LLaMA with an FFN of ReLU² without gate.
import { family } from "./family.ts";
import { alike, headsDivideHidden } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag, ungatedBiases } from "./shared.ts";

const HOLDS = { gate: ["none"], activation: ["relu2"], scaling: true } as const;

const ARCH: GgufArch = {
  arch: "arcee",
  neighbours: true,
  divisors: true,
  holds: { ...HOLDS, windows: true },
  limits: [alike],
  read: () => ({ ungated: true, activation: "relu2" }),
};

/** Arcee. */
export const ARCEE = family({
  type: "arcee",
  label: "Arcee",
  about: "an FFN of ReLU² without gate",
  architecture: "ArceeForCausalLM",
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5 },
  ids: { bos: 128000, eos: 128001 },
  activations: { relu2: "relu2" },
  keys: { attention_bias: flag, mlp_bias: flag },
  read: (config) => ({ ungated: true, biases: [...attentionBiases(config), ...ungatedBiases(config)] }),
  stock: {
    holds: { ...HOLDS, attentionBiases: true, ffnBiases: true },
    limits: [alike, headsDivideHidden],
    keys: biasKeys,
  },
  gguf: [ARCH],
});
