// Names and values of the tensors of a Hugging Face folder, by model type; used to read and to write.
import { isNormWeight } from "../../spec/decoder.ts";

/** Renames parts of canonical names, in turn. */
type Renames = readonly (readonly [from: RegExp, to: string])[];

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
  gemma3_text: [
    [/\.post_attention_layernorm\./, ".pre_feedforward_layernorm."],
    [/\.post_self_attn_layernorm\./, ".post_attention_layernorm."],
    [/\.post_mlp_layernorm\./, ".post_feedforward_layernorm."],
  ],
};

/** Model types that store the weights of norms without 1. */
const NORMS_WITHOUT_1: readonly string[] = ["gemma3_text"];

/** What is added to the stored values of a canonical tensor. */
export function storedPlus(type: string, name: string): number {
  return NORMS_WITHOUT_1.includes(type) && isNormWeight(name) ? 1 : 0;
}

/** Name of a canonical tensor in a folder of this model type. */
export function storedName(type: string, name: string): string {
  return (RENAMES[type] ?? []).reduce((text, [from, to]) => text.replace(from, to), name);
}
