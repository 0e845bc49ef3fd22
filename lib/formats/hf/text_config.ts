// The part of a config.json that describes a text model, and the refusal of models that are not read.
import { type CompressoError, refusal } from "../../core/errors.ts";
import { asNumber, asText, isObject, type Json } from "../../core/guards.ts";
import { shownJson } from "../../core/text.ts";
import { familyOfType, GIVE_FAMILY, MODEL_TYPES, WRAPPERS } from "../../families/all.ts";
import type { Family } from "../../families/family.ts";

/** Keys that hold the number of experts of a layer. */
const EXPERT_KEYS = ["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];

/** Keys of a wrapper that hold for its text part. */
const OUTER_KEYS = ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config"];

const ACTIVATIONS = ["silu", "relu", "gelu", "gelu_new", "gelu_pytorch_tanh"];

/** Keys that change what a model computes, as no family that is read has it, and values with which they change nothing. */
const UNSUPPORTED: Readonly<Record<string, readonly unknown[]>> = {
  activation_function: ACTIVATIONS,
  alibi: [false],
  clip_qkv: [],
  do_layer_norm_before: [true],
  hidden_act: ACTIVATIONS,
  hidden_activation: ACTIVATIONS,
  kv_lora_rank: [],
  layer_norm_elementwise_affine: [true],
  linear_num_value_heads: [],
  logit_scale: [1],
  mamba_d_state: [],
  quantization_config: [],
  use_qk_norm: [false],
  word_embed_proj_dim: [],
};

/**
 * The text model that a parsed config.json describes, and its family: all of the file, or the `text_config` of a wrapper with the token ids and the tie
 * of the wrapper.
 *
 * @throws CompressoError("input") for experts of other families, other models of more than text, and other families.
 */
export function textConfig(json: Json, path: string): { readonly family: Family; readonly json: Json } {
  const type = json["model_type"], shown = `model_type = ${shownJson(type)}`, text = json["text_config"];
  const refused = (rule: string, value: string, fix = GIVE_FAMILY): CompressoError =>
    refusal("input", `cannot use ${path}`, { rule, value, fix });
  const experts = EXPERT_KEYS.find((key) => asNumber(json[key]) > 1);
  if (experts && !familyOfType(type)?.tensors?.experts) {
    const value = `${shown} with ${experts} = ${shownJson(json[experts])}`;
    throw refused("the model is dense, or of a family whose experts are read", value);
  }
  if (isObject(text) && familyOfType(text["model_type"])?.wrappers?.includes(asText(type))) {
    const outer = OUTER_KEYS.filter((key) => json[key] !== undefined).map((key) => [key, json[key]]);
    return textConfig({ ...Object.fromEntries(outer), ...text }, path);
  }
  if (isObject(text)) {
    throw refused(
      `the model reads text alone, or is a ${WRAPPERS.join(" or ")}, whose text part is read`,
      `${shown} around a text_config of model_type = ${shownJson(text["model_type"])}`,
      `${GIVE_FAMILY}; transformers can save the text part of such a model as a separate folder`,
    );
  }
  const family = familyOfType(type);
  if (family) return { family, json };
  const others = Object.entries(UNSUPPORTED).filter(([key, neutral]) =>
    json[key] !== undefined && json[key] !== null && !neutral.includes(json[key])
  ).map(([key]) => `${key} = ${shownJson(json[key])}`);
  throw refused(
    `model_type is ${MODEL_TYPES.join(", ")}`,
    [shown, ...others.length > 0 ? [`of its other keys these are not supported either: ${others.join(", ")}`] : []]
      .join("; "),
  );
}
