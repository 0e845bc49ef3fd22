// The families of models that are read, and what is said of others.
import { CompressoError } from "../core/errors.ts";
import { asNumber, asText, isObject } from "../core/guards.ts";
import { shownJson } from "../core/text.ts";

/** The model types that are read: `compresso` is a model of one of the others whose layers may differ, with `layer_counts`. */
export const MODEL_TYPES = [
  "llama",
  "mistral",
  "ministral",
  "qwen2",
  "qwen3",
  "gemma",
  "gemma2",
  "gemma3_text",
  "phi3",
  "smollm3",
  "granite",
  "olmo2",
  "opt",
  "gpt2",
  "gpt_neox",
  "stablelm",
  "phi",
  "compresso",
] as const;

/** Models of more than text whose text part is read, by itself. */
export const WRAPPERS: Readonly<Record<string, readonly string[]>> = { gemma3: ["gemma3_text"], mistral3: ["mistral"] };

/** What to do about a model of another family. */
export const GIVE_FAMILY =
  "give a dense text model of the LLaMA, Mistral, Qwen2, Qwen3, Gemma, Phi-3, SmolLM3, Granite, OLMo 2, OPT, GPT-2, GPT-NeoX (Pythia), StableLM or Phi-2 family";

/** Architectures of GGUFs that are read and written; deci is a llama whose layers may differ, openelm a qwen3 whose layers may. */
export const GGUF_ARCHS = [
  "llama",
  "deci",
  "qwen2",
  "qwen3",
  "phi3",
  "smollm3",
  "granite",
  "olmo2",
  "openelm",
  "gemma",
  "gemma2",
  "gemma3",
  "gpt2",
  "gptneox",
  "stablelm",
  "phi2",
] as const;

/** An architecture of llama.cpp. */
export type GgufArch = typeof GGUF_ARCHS[number];

/** Keys that hold the number of experts of a layer. */
const EXPERT_KEYS = ["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"];

/** Keys of a wrapper that hold for its text part. */
const OUTER_KEYS = ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "quantization_config"];

/** Activations that some family has. */
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
 * The part of a parsed config.json that describes the text model: all of it, or `text_config` of one of {@link
 * WRAPPERS}, with the token ids and the tie that stand beside it. Refuses a mixture of experts, other models of more
 * than text, and other families.
 *
 * @throws CompressoError("input") with what the config has that is not supported.
 */
export function textConfig(json: unknown, path: string): unknown {
  if (!isObject(json)) return json;
  const type = json["model_type"], shown = `model_type = ${shownJson(type)}`;
  const refused = (rule: string, value: string, fix = GIVE_FAMILY): CompressoError =>
    new CompressoError("input", { what: `cannot use ${path}`, rule, value, fix });
  const experts = EXPERT_KEYS.find((key) => asNumber(json[key]) > 1);
  if (experts) {
    const value = `${shown} with ${experts} = ${shownJson(json[experts])}`;
    throw refused("the model is dense: mixture-of-experts models are not supported", value);
  }
  const text = json["text_config"];
  if (isObject(text) && WRAPPERS[asText(type)]?.includes(asText(text["model_type"]))) {
    const outer = OUTER_KEYS.filter((key) => json[key] !== undefined).map((key) => [key, json[key]]);
    return textConfig({ ...Object.fromEntries(outer), ...text }, path);
  }
  if (isObject(text)) {
    const inner = `text_config of model_type = ${shownJson(text["model_type"])}`;
    const fix = `${GIVE_FAMILY}; a text part of one can be saved as a folder of its own with transformers`;
    throw refused(
      `the model reads text alone, or is a ${Object.keys(WRAPPERS).join(" or ")}, of which the text part is read`,
      `${shown} around a ${inner}`,
      fix,
    );
  }
  if (typeof type !== "string" || MODEL_TYPES.some((known) => known === type)) return json;
  const others = Object.entries(UNSUPPORTED).filter(([key, neutral]) =>
    json[key] !== undefined && json[key] !== null && !neutral.includes(json[key])
  ).map(([key]) => `${key} = ${shownJson(json[key])}`);
  throw refused(
    `model_type is ${MODEL_TYPES.join(", ")}`,
    [shown, ...others.length > 0 ? [`of its other keys these are not supported either: ${others.join(", ")}`] : []]
      .join("; "),
  );
}
