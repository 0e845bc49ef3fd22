// OPT: LayerNorm, learned positions, an FFN of ReLU without gate. OPT-350m has norms of the residual stream and a narrower embedding.
import { embeddingWidth } from "../spec/decoder.ts";
import type { Json } from "../core/guards.ts";
import { family, type FamilyParts, width } from "./family.ts";
import { alike, headsFillHidden, noGroups } from "./fit.ts";
import { ALL_UNGATED, flag } from "./shared.ts";

/** ε of torch's LayerNorm: a configuration names none. */
const EPS = 1e-5;
/** Rows before the first position in the table. */
const OFFSET = 2;

/** OPT. */
export const OPT = family({
  type: "opt",
  label: "OPT",
  about: "LayerNorm, learned positions, no gate",
  architecture: "OPTForCausalLM",
  names: { intermediate_size: "ffn_dim", hidden_act: "activation_function" },
  defaults: { tie_word_embeddings: true },
  ids: { bos: 2, pad: 1 },
  activations: { relu: "relu" },
  keys: {
    enable_bias: flag,
    do_layer_norm_before: flag,
    layer_norm_elementwise_affine: flag,
    _remove_final_layer_norm: flag,
    word_embed_proj_dim: width.nullish(),
  },
  read(config, { fail }): FamilyParts {
    const { hidden_size: hidden, word_embed_proj_dim: inner } = config;
    if (config.layer_norm_elementwise_affine === false) {
      fail("layer_norm_elementwise_affine", "it is true: norms have weights");
    }
    if (config._remove_final_layer_norm) fail("_remove_final_layer_norm", "it is false: there is a final norm");
    return {
      norm: "layer",
      normEps: EPS,
      ungated: true,
      positions: { offset: OFFSET },
      normPlaces: config.do_layer_norm_before === false ? "residual" : undefined,
      embeddingWidth: inner && inner !== hidden ? inner : undefined,
      biases: config.enable_bias === false ? [] : ALL_UNGATED,
    };
  },
  tensors: {
    prefix: "model.",
    renames: [
      [/^model\./, "model.decoder."],
      [/^model\.decoder\.norm\./, "model.decoder.final_layer_norm."],
      [/\.input_layernorm\./, ".self_attn_layer_norm."],
      [/\.post_attention_layernorm\./, ".final_layer_norm."],
      [/\.self_attn\.o_proj\./, ".self_attn.out_proj."],
      [/\.mlp\.up_proj\./, ".fc1."],
      [/\.mlp\.down_proj\./, ".fc2."],
    ],
  },
  derivesHeads: true,
  stock: {
    holds: {
      norm: ["layer"],
      gate: ["none"],
      activation: ["relu"],
      positions: [String(OFFSET)],
      normPlaces: ["before", "residual"],
      embeddingWidth: true,
      attentionBiases: true,
      ffnBiases: true,
    },
    limits: [
      alike,
      headsFillHidden,
      noGroups,
      ({ normEps }) => normEps === EPS ? null : { rule: `needs norms with ε = ${EPS}`, value: String(normEps) },
    ],
    biases: ({ biases = [] }) => biases.length > 0 ? ALL_UNGATED : [],
    config(spec): Json {
      const { heads = 0, ffn = 0 } = spec.layers[0] ?? {};
      return {
        activation_function: "relu",
        attention_dropout: 0,
        do_layer_norm_before: spec.normPlaces !== "residual",
        dropout: 0,
        enable_bias: (spec.biases?.length ?? 0) > 0,
        ffn_dim: ffn,
        hidden_size: spec.hidden,
        init_std: 0.02,
        layer_norm_elementwise_affine: true,
        layerdrop: 0,
        max_position_embeddings: spec.maxPosition,
        num_attention_heads: heads,
        num_hidden_layers: spec.layers.length,
        word_embed_proj_dim: embeddingWidth(spec),
      };
    },
  },
});
