// Names of the tensors of a Hugging Face folder, by model type; used to read and to write.

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
};

/** Name of a canonical tensor in a folder of this model type. */
export function storedName(type: string, name: string): string {
  return (RENAMES[type] ?? []).reduce((text, [from, to]) => text.replace(from, to), name);
}
