// Keys of config.json under which a family says what LLaMA's configuration says under another name.

/** Names of a family's keys, by LLaMA's. */
const OWN_KEYS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  gemma3_text: { hidden_act: "hidden_activation" },
  opt: { intermediate_size: "ffn_dim", hidden_act: "activation_function" },
};

/** The name that a family gives to a key of LLaMA. */
export function ownKey(type: unknown, key: string): string {
  return OWN_KEYS[String(type)]?.[key] ?? key;
}

/** A parsed config.json under LLaMA's keys. */
export function withLlamaKeys(json: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const names = OWN_KEYS[String(json["model_type"])] ?? {};
  const llama = new Map(Object.entries(names).map(([key, own]) => [own, key]));
  return Object.fromEntries(Object.entries(json).map(([key, value]) => [llama.get(key) ?? key, value]));
}

/** The inverse of {@link withLlamaKeys}. */
export function withOwnKeys<T>(type: string, keys: Readonly<Record<string, T>>): Record<string, T> {
  return Object.fromEntries(Object.entries(keys).map(([key, value]) => [ownKey(type, key), value]));
}
