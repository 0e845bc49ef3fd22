// StarCoder2: LayerNorm, biases everywhere, GELU without gate, a sliding window in all layers.
import type { DecoderSpec } from "../spec/decoder.ts";
import { family } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { ALL_UNGATED, flag, GELUS_AND_RELU, UNGATED_ACTIVATIONS, windowLayer, windowOf } from "./shared.ts";

const PARTS = { norm: "layer", ungated: true } as const;
const HOLDS = { norm: ["layer"], gate: ["none"] } as const;

const ARCH: GgufArch = {
  arch: "starcoder2",
  layerNorm: true,
  holds: {
    ...HOLDS,
    activation: ["gelu_tanh"],
    attentionBiases: ["q,k,v,o"],
    ffnBiases: ["up,down"],
    windows: true,
    scaling: UNSCALED_OR_LINEAR,
  },
  limits: [alike, headsFillHidden],
  read: () => ({ ...PARTS, activation: "gelu_tanh" }),
};

/** StarCoder2. */
export const STARCODER2 = family({
  type: "starcoder2",
  label: "StarCoder2",
  about: "LayerNorm, biases, GELU without gate",
  architecture: "Starcoder2ForCausalLM",
  names: { rms_norm_eps: "norm_epsilon" },
  defaults: {
    num_key_value_heads: 2,
    max_position_embeddings: 4096,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
    use_bias: true,
  },
  ids: { bos: 50256, eos: 50256 },
  activations: UNGATED_ACTIVATIONS,
  keys: { use_bias: flag },
  read: (config) => ({ ...PARTS, biases: config.use_bias ? ALL_UNGATED : [], layer: windowLayer(config) }),
  tensors: { renames: [[/\.mlp\.up_proj\./, ".mlp.c_fc."], [/\.mlp\.down_proj\./, ".mlp.c_proj."]] },
  stock: {
    holds: {
      ...HOLDS,
      activation: GELUS_AND_RELU,
      attentionBiases: true,
      ffnBiases: true,
      windows: ["none", "all"],
      scaling: true,
    },
    limits: [alike],
    biases: ({ biases = [] }) => biases.length > 0 ? ALL_UNGATED : [],
    keys: (spec: DecoderSpec) => ({
      embedding_dropout: 0,
      residual_dropout: 0,
      sliding_window: windowOf(spec),
      use_bias: (spec.biases?.length ?? 0) > 0,
    }),
  },
  gguf: [ARCH],
});
