// GPT-NeoX, Pythia: LayerNorm, attention and FFN in parallel, GELU without gate; q, k and v lie in one matrix by head.
import { hasBias, PROJECTIONS } from "../spec/decoder.ts";
import type { Json } from "../core/guards.ts";
import { family, type FamilyParts } from "./family.ts";
import { alike, ALL_OR_NO_BIASES, headsFillHidden, noGroups, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import { QKV } from "./fusion.ts";
import type { GgufArch } from "./gguf_arch.ts";
import { activationName, ATTENTION, flag, GELUS_AND_RELU, partialRopeKeys, UNGATED_ACTIVATIONS } from "./shared.ts";

const PARTS = { norm: "layer", ungated: true } as const;
const HOLDS = { norm: ["layer"], gate: ["none"], parallel: ["none", "own"], partialRope: true } as const;

/** llama.cpp computes GELU in its tanh form; the models were trained with the error function. */
const ARCH: GgufArch = {
  arch: "gptneox",
  layerNorm: true,
  partialRope: true,
  parallelKey: true,
  fused: [QKV],
  holds: {
    ...HOLDS,
    activation: ["gelu"],
    attentionBiases: ["q,k,v,o"],
    ffnBiases: ["up,down"],
    scaling: UNSCALED_OR_LINEAR,
  },
  limits: [alike, headsFillHidden, noGroups, untied],
  read: (keys) => ({
    ...PARTS,
    activation: "gelu",
    parallel: keys.flag("use_parallel_residual") ? "own" : undefined,
  }),
};

/** GPT-NeoX. */
export const GPT_NEOX = family({
  type: "gpt_neox",
  label: "GPT-NeoX (Pythia)",
  about: "parallel residual, partial RoPE",
  architecture: "GPTNeoXForCausalLM",
  names: { rms_norm_eps: "layer_norm_eps", partial_rotary_factor: "rotary_pct", rope_theta: "rotary_emb_base" },
  defaults: {
    rms_norm_eps: 1e-5,
    attention_bias: true,
    use_parallel_residual: true,
    partial_rotary_factor: 0.25,
  },
  ids: { bos: 0 },
  activations: { gelu: "gelu", ...UNGATED_ACTIVATIONS },
  rope: { isPartial: true },
  keys: { attention_bias: flag, use_parallel_residual: flag },
  read(config, { headDim, fail }): FamilyParts {
    const { hidden_size: hidden, num_attention_heads: heads } = config;
    if (headDim * (heads ?? 0) !== hidden) fail("head_dim", "a gpt_neox has hidden_size / num_attention_heads");
    return {
      ...PARTS,
      parallel: config.use_parallel_residual ? "own" : undefined,
      biases: [...config.attention_bias ? ATTENTION : [], "up", "down"],
    };
  },
  tensors: {
    prefix: "gpt_neox.",
    renames: [
      [/^model\.embed_tokens\./, "gpt_neox.embed_in."],
      [/^lm_head\./, "embed_out."],
      [/^model\.norm\./, "gpt_neox.final_layer_norm."],
      [/^model\./, "gpt_neox."],
      [/\.self_attn\.o_proj\./, ".attention.dense."],
      [/\.mlp\.up_proj\./, ".mlp.dense_h_to_4h."],
      [/\.mlp\.down_proj\./, ".mlp.dense_4h_to_h."],
    ],
    packed: [{ module: "attention.query_key_value", parts: ["q", "k", "v"], byHead: true }],
  },
  derivesHeads: true,
  stock: {
    holds: {
      ...HOLDS,
      activation: GELUS_AND_RELU,
      attentionBiases: ALL_OR_NO_BIASES,
      ffnBiases: true,
      scaling: [...UNSCALED_OR_LINEAR, "llama3"],
    },
    limits: [alike, headsFillHidden, noGroups],
    biases: ({ biases = [] }) => PROJECTIONS.filter((one) => one === "up" || one === "down" || biases.includes(one)),
    config(spec, context): Json {
      const { heads = 0, ffn = 0 } = spec.layers[0] ?? {}, rope = partialRopeKeys(context.rope);
      return {
        attention_bias: hasBias(spec, "q"),
        attention_dropout: 0,
        hidden_act: activationName(spec),
        hidden_dropout: 0,
        hidden_size: spec.hidden,
        initializer_range: 0.02,
        intermediate_size: ffn,
        layer_norm_eps: spec.normEps,
        max_position_embeddings: spec.maxPosition,
        num_attention_heads: heads,
        num_hidden_layers: spec.layers.length,
        rope_parameters: rope["rope_parameters"] ?? {},
        // transformers 4 reads these.
        rotary_emb_base: spec.rope.base,
        rotary_pct: rope["partial_rotary_factor"] ?? 1,
        use_parallel_residual: spec.parallel === "own",
      };
    },
  },
  gguf: [ARCH],
});
