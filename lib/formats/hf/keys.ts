// Keys of config.json under which a family says what LLaMA's configuration says under another name.
import { asNumber, asText } from "../../core/guards.ts";

/** Names of a family's keys, by LLaMA's. */
const OWN_KEYS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gemma2: { hidden_act: "hidden_activation" },
  gemma3_text: { hidden_act: "hidden_activation" },
  opt: { intermediate_size: "ffn_dim", hidden_act: "activation_function" },
  gpt2: {
    hidden_act: "activation_function",
    hidden_size: "n_embd",
    intermediate_size: "n_inner",
    max_position_embeddings: "n_positions",
    num_attention_heads: "n_head",
    num_hidden_layers: "n_layer",
    rms_norm_eps: "layer_norm_epsilon",
  },
  stablelm: { rms_norm_eps: "layer_norm_eps" },
  phi: { rms_norm_eps: "layer_norm_eps" },
  gpt_neox: { rms_norm_eps: "layer_norm_eps", partial_rotary_factor: "rotary_pct", rope_theta: "rotary_emb_base" },
};

/** The name that a family gives to a key of LLaMA. */
export function ownKey(type: unknown, key: string): string {
  return OWN_KEYS[asText(type)]?.[key] ?? key;
}

/** A parsed config.json under LLaMA's keys. */
export function withLlamaKeys(json: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const config = renamed(json);
  // GPT-2 says "four times the width" with null.
  const isImplied = json["model_type"] === "gpt2" && (config["intermediate_size"] ?? null) === null;
  return isImplied ? { ...config, intermediate_size: 4 * asNumber(config["hidden_size"]) } : config;
}

function renamed(json: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const names = OWN_KEYS[asText(json["model_type"])] ?? {};
  const llama = new Map(Object.entries(names).map(([key, own]) => [own, key]));
  return Object.fromEntries(Object.entries(json).map(([key, value]) => [llama.get(key) ?? key, value]));
}

/** The inverse of {@link withLlamaKeys}. */
export function withOwnKeys<T>(type: string, keys: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(keys).map(([key, value]) => [ownKey(type, key), value]));
}
