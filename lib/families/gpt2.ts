// GPT-2: LayerNorm, learned positions, GELU without gate; matrices are stored transposed, q, k and v in one.
import { z } from "../core/packages.ts";
import type { Json } from "../core/guards.ts";
import { family } from "./family.ts";
import { alike, headsFillHidden, noGroups } from "./fit.ts";
import { QKV } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { ALL_UNGATED, GELUS_AND_RELU, olderActivationName, UNGATED_ACTIVATIONS } from "./shared.ts";

const PARTS = { norm: "layer", ungated: true, positions: { offset: 0 } } as const;
const HOLDS = { norm: ["layer"], gate: ["none"], positions: ["0"] } as const;

const ARCH: GgufArch = {
  arch: "gpt2",
  layerNorm: true,
  fused: [QKV],
  holds: { ...HOLDS, activation: ["gelu_tanh"], attentionBiases: ["q,k,v,o"], ffnBiases: ["up,down"] },
  limits: [alike, headsFillHidden, noGroups],
  read: () => ({ ...PARTS, activation: "gelu_tanh" }),
};

/** GPT-2. */
export const GPT2 = family({
  type: "gpt2",
  label: "GPT-2",
  about: "learned positions, GELU without gate",
  architecture: "GPT2LMHeadModel",
  names: {
    hidden_act: "activation_function",
    hidden_size: "n_embd",
    intermediate_size: "n_inner",
    max_position_embeddings: "n_positions",
    num_attention_heads: "n_head",
    num_hidden_layers: "n_layer",
    rms_norm_eps: "layer_norm_epsilon",
  },
  defaults: {
    vocab_size: 50257,
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    max_position_embeddings: 1024,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
  },
  ffnFactor: 4,
  ids: { bos: 50256, eos: 50256 },
  activations: UNGATED_ACTIVATIONS,
  keys: {
    scale_attn_weights: z.literal(true).nullish(),
    scale_attn_by_inverse_layer_idx: z.literal(false).nullish(),
    add_cross_attention: z.literal(false).nullish(),
  },
  read: () => ({ ...PARTS, biases: ALL_UNGATED }),
  tensors: {
    prefix: "transformer.",
    renames: [
      [/^model\.embed_tokens\./, "transformer.wte."],
      [/^model\.embed_positions\./, "transformer.wpe."],
      [/^model\.norm\./, "transformer.ln_f."],
      [/^model\.layers\./, "transformer.h."],
      [/\.input_layernorm\./, ".ln_1."],
      [/\.post_attention_layernorm\./, ".ln_2."],
      [/\.self_attn\.o_proj\./, ".attn.c_proj."],
      [/\.mlp\.up_proj\./, ".mlp.c_fc."],
      [/\.mlp\.down_proj\./, ".mlp.c_proj."],
    ],
    packed: [{ module: "attn.c_attn", parts: ["q", "k", "v"] }],
    transposed: ["q", "k", "v", "o", "up", "down"],
  },
  derivesHeads: true,
  stock: {
    holds: { ...HOLDS, activation: GELUS_AND_RELU, attentionBiases: true, ffnBiases: true },
    limits: [alike, headsFillHidden, noGroups],
    biases: () => ALL_UNGATED,
    config(spec): Json {
      const { heads = 0, ffn = 0 } = spec.layers[0] ?? {};
      return {
        activation_function: olderActivationName(spec),
        attn_pdrop: 0,
        embd_pdrop: 0,
        initializer_range: 0.02,
        layer_norm_epsilon: spec.normEps,
        n_embd: spec.hidden,
        n_head: heads,
        n_inner: ffn,
        n_layer: spec.layers.length,
        n_positions: spec.maxPosition,
        reorder_and_upcast_attn: false,
        resid_pdrop: 0,
        scale_attn_by_inverse_layer_idx: false,
        scale_attn_weights: true,
      };
    },
  },
  gguf: [ARCH],
});
