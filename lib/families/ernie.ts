// ERNIE 4.5 (dense): LLaMA whose RoPE turns neighbours in a folder, with one switch for all biases.
import { family } from "./family.ts";
import { alike, readAsNeighbours } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { ATTENTION, flag, GATED } from "./shared.ts";

const ARCH: GgufArch = {
  arch: "ernie4_5",
  neighbours: true,
  holds: { attentionBiases: ["none", "q,k,v"], windows: true, scaling: ["none", "linear"], fused: true },
  limits: [alike],
};

/** ERNIE 4.5. A model without biases is written with the class and architecture of LLaMA, which compute the same. */
export const ERNIE = family({
  type: "ernie4_5",
  label: "ERNIE 4.5",
  about: "RoPE turns neighbours",
  architecture: "Ernie4_5ForCausalLM",
  defaults: {
    num_key_value_heads: 2,
    head_dim: 128,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
  },
  ids: { pad: 0 },
  rope: { base: 500_000 },
  keys: { use_bias: flag },
  read: (config) => ({ biases: config.use_bias ? [...ATTENTION, ...GATED] : [] }),
  tensors: { neighbours: true },
  stock: {
    holds: {
      attentionBiases: ["none", "q,k,v,o"],
      ffnBiases: ["none", "gate,up,down"],
      scaling: true,
      fused: true,
    },
    limits: [alike, readAsNeighbours],
    biases: ({ biases = [] }) => biases.length > 0 ? [...ATTENTION, ...GATED] : [],
    keys: ({ biases = [] }) => ({ use_bias: biases.length > 0 }),
  },
  gguf: [ARCH],
});
