// Mistral: LLaMA with a sliding window in all layers; Ministral: in some.
import { family } from "./family.ts";
import { alike } from "./fit.ts";
import { layerTypes, windowLayer, windowOf } from "./shared.ts";

const DEFAULTS = { num_key_value_heads: 8, max_position_embeddings: 131072, sliding_window: 4096 };
const HOLDS = { scaling: true, fused: true } as const;

/** Mistral, also the text part of a Mistral 3. */
export const MISTRAL = family({
  type: "mistral",
  label: "Mistral",
  about: "a sliding window in all layers, or none",
  architecture: "MistralForCausalLM",
  wrappers: ["mistral3"],
  defaults: DEFAULTS,
  read: (config) => ({ layer: windowLayer(config) }),
  stock: {
    holds: { ...HOLDS, windows: ["none", "all"] },
    limits: [alike],
    keys: (spec) => ({ sliding_window: windowOf(spec) }),
  },
  programs: "widely",
});

/** Ministral. */
export const MINISTRAL = family({
  type: "ministral",
  label: "Ministral",
  about: "a sliding window in some layers",
  architecture: "MinistralForCausalLM",
  defaults: DEFAULTS,
  read: (config) => ({ layer: windowLayer(config) }),
  stock: {
    holds: { ...HOLDS, windows: ["some"] },
    limits: [alike],
    keys: (spec) => ({ sliding_window: windowOf(spec), layer_types: layerTypes(spec) }),
  },
  programs: "transformers 5",
});
