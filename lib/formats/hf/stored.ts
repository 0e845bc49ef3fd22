// Names and values of the tensors of a Hugging Face folder, by model type; used to read and to write.
import { isNormWeight } from "../../spec/decoder.ts";

/** Renames parts of canonical names, in turn. */
type Renames = readonly (readonly [from: RegExp, to: string])[];

/** Norms of outputs under the names of Gemma. */
const OUTPUT_NORMS: Renames = [
  [/\.post_attention_layernorm\./, ".pre_feedforward_layernorm."],
  [/\.post_self_attn_layernorm\./, ".post_attention_layernorm."],
  [/\.post_mlp_layernorm\./, ".post_feedforward_layernorm."],
];

const RENAMES: Readonly<Record<string, Renames>> = {
  opt: [
    [/^model\./, "model.decoder."],
    [/^model\.decoder\.norm\./, "model.decoder.final_layer_norm."],
    [/\.input_layernorm\./, ".self_attn_layer_norm."],
    [/\.post_attention_layernorm\./, ".final_layer_norm."],
    [/\.self_attn\.o_proj\./, ".self_attn.out_proj."],
    [/\.mlp\.up_proj\./, ".fc1."],
    [/\.mlp\.down_proj\./, ".fc2."],
  ],
  gemma2: OUTPUT_NORMS,
  gemma3_text: OUTPUT_NORMS,
  olmo2: [
    [/\.post_self_attn_layernorm\./, ".post_attention_layernorm."],
    [/\.post_mlp_layernorm\./, ".post_feedforward_layernorm."],
  ],
  gpt2: [
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
  phi: [
    [/^model\.norm\./, "model.final_layernorm."],
    [/\.self_attn\.o_proj\./, ".self_attn.dense."],
    [/\.mlp\.up_proj\./, ".mlp.fc1."],
    [/\.mlp\.down_proj\./, ".mlp.fc2."],
  ],
  gpt_neox: [
    [/^model\.embed_tokens\./, "gpt_neox.embed_in."],
    [/^lm_head\./, "embed_out."],
    [/^model\.norm\./, "gpt_neox.final_layer_norm."],
    [/^model\./, "gpt_neox."],
    [/\.self_attn\.o_proj\./, ".attention.dense."],
    [/\.mlp\.up_proj\./, ".mlp.dense_h_to_4h."],
    [/\.mlp\.down_proj\./, ".mlp.dense_4h_to_h."],
  ],
};

/** Model types that store the weights of norms without 1. */
const NORMS_WITHOUT_1: readonly string[] = ["gemma", "gemma2", "gemma3_text"];

/** What is added to the stored values of a canonical tensor. */
export function storedPlus(type: string, name: string): number {
  return NORMS_WITHOUT_1.includes(type) && isNormWeight(name) ? 1 : 0;
}

/** Names in which no tensor of the decoder lies: causal masks and RoPE tables of old files. */
export const IDLE_TENSORS = /\.rotary_emb\.inv_freq$|\.(attn|attention)\.(masked_)?bias$/;

/** What all names of a family but the head's begin with; files of the model without its head lack it. */
const PREFIXES: Readonly<Record<string, string>> = { opt: "model.", gpt2: "transformer.", gpt_neox: "gpt_neox." };

/** Names of a folder's tensors with the prefix of the family, where they have none. */
export function withPrefix<T>(type: string, tensors: ReadonlyMap<string, T>): Map<string, T> {
  const prefix = PREFIXES[type];
  const isBare = prefix !== undefined && [...tensors.keys()].every((name) => !name.startsWith(prefix));
  return new Map([...tensors].map(([name, value]) => [isBare && !isHead(name) ? prefix + name : name, value]));
}

function isHead(name: string): boolean {
  return name === "lm_head.weight" || name === "embed_out.weight";
}

/** Name of a canonical tensor in a folder of this model type. */
export function storedName(type: string, name: string): string {
  return (RENAMES[type] ?? []).reduce((text, [from, to]) => text.replace(from, to), name);
}
