// Apertus: LLaMA with an FFN of xIELU without gate, whose curve each layer has learned, and an RMSNorm of each head of q and k.
import { z } from "../core/packages.ts";
import { family } from "./family.ts";
import { alike, headsDivideHidden, untied } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { attentionBiases, biasKeys, flag } from "./shared.ts";

const PARTS = { ungated: true, qkNorm: "head" } as const;
const HOLDS = { gate: ["none"], activation: ["xielu"], qkNorm: ["head"], scaling: true } as const;

const ARCH: GgufArch = {
  arch: "apertus",
  divisors: true,
  holds: { ...HOLDS, windows: true },
  limits: [alike, untied],
  read: () => ({ ...PARTS, activation: "xielu" }),
};

/** Apertus 8B and 70B. */
export const APERTUS = family({
  type: "apertus",
  label: "Apertus",
  about: "an FFN of xIELU without gate, norms of each q and k head",
  architecture: "ApertusForCausalLM",
  defaults: {
    max_position_embeddings: 65536,
    rms_norm_eps: 1e-5,
    rope_parameters: {
      rope_type: "llama3",
      rope_theta: 12e6,
      factor: 8,
      original_max_position_embeddings: 8192,
      low_freq_factor: 1,
      high_freq_factor: 4,
    },
  },
  ids: { pad: 3 },
  activations: { xielu: "xielu" },
  // Published configurations say what the class does anyway.
  keys: {
    attention_bias: flag,
    mlp_bias: z.literal(false).nullish(),
    qk_norm: z.literal(true).nullish(),
    post_norm: z.literal(false).nullish(),
  },
  read: (config) => ({ ...PARTS, biases: attentionBiases(config) }),
  tensors: {
    renames: [[/\.input_layernorm\./, ".attention_layernorm."], [
      /\.post_attention_layernorm\./,
      ".feedforward_layernorm.",
    ]],
  },
  stock: {
    holds: { ...HOLDS, attentionBiases: true },
    limits: [alike, headsDivideHidden],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias }),
  },
  gguf: [ARCH],
});
