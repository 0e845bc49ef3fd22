// Mistral: LLaMA with a sliding window in all layers; Ministral: in some; Ministral 3: YaRN with queries that grow with the position.
import { family } from "./family.ts";
import { alike } from "./fit.ts";
import type { GgufArch } from "./gguf_arch.ts";
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

const GROWTH = { scaling: ["yarn"], queryGrowth: ["set"] } as const;

/** llama.cpp ignores windows. */
const ARCH: GgufArch = {
  arch: "mistral3",
  neighbours: true,
  queryGrowth: true,
  holds: { ...GROWTH, windows: ["none"] },
  limits: [alike],
};

/** The text part of a Ministral 3, which is published as a Mistral 3. */
export const MINISTRAL3 = family({
  type: "ministral3",
  label: "Ministral 3",
  about: "YaRN, and queries that grow with the position",
  architecture: "Ministral3ForCausalLM",
  wrappers: ["mistral3"],
  defaults: {
    num_key_value_heads: 8,
    head_dim: 128,
    max_position_embeddings: 262144,
    rms_norm_eps: 1e-5,
    rope_parameters: {
      rope_type: "yarn",
      rope_theta: 1_000_000,
      factor: 16,
      original_max_position_embeddings: 16384,
      mscale: 1,
      mscale_all_dim: 1,
      llama_4_scaling_beta: 0.1,
    },
  },
  ids: { pad: 11 },
  rope: { queryGrowth: "needed" },
  read: (config) => ({ layer: windowLayer(config) }),
  stock: {
    holds: { ...GROWTH, windows: ["none", "all"] },
    limits: [alike],
    keys: (spec) => ({ sliding_window: windowOf(spec) }),
  },
  programs: "transformers 5",
  gguf: [ARCH],
});
