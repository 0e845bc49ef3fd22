// Mixtral: Mistral with experts in all layers.
import { both, everywhere, EXPERT_KEYS, expertsOf, plainKeys } from "./experts.ts";
import { family, type FamilyParts } from "./family.ts";
import { alike } from "./fit.ts";
import { windowLayer, windowOf } from "./shared.ts";

/** Mixtral; a GGUF of it is one of LLaMA with experts. */
export const MIXTRAL = family({
  type: "mixtral",
  label: "Mixtral",
  about: "a sliding window in all layers, or none",
  architecture: "MixtralForCausalLM",
  defaults: { num_key_value_heads: 8, max_position_embeddings: 131072, rms_norm_eps: 1e-5 },
  rope: { base: 1e6 },
  keys: EXPERT_KEYS,
  read(config, context): FamilyParts {
    const { router, layer } = expertsOf(config, context, { experts: 8, topK: 2 }, { renormalised: true });
    return { router, layer: both(windowLayer(config), layer) };
  },
  tensors: {
    experts: {
      router: "block_sparse_moe.gate",
      each: {
        gate: "block_sparse_moe.experts.#.w1",
        up: "block_sparse_moe.experts.#.w3",
        down: "block_sparse_moe.experts.#.w2",
      },
    },
  },
  stock: {
    holds: { router: ["renormalised"], windows: ["none", "all"], scaling: true },
    limits: [everywhere, alike],
    keys: (spec) => ({ sliding_window: windowOf(spec), ...plainKeys(spec, "num_local_experts") }),
  },
});
