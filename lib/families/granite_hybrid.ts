// Granite 4 without experts and without Mamba: Granite 3 whose gate and up lie in one matrix, with RoPE in all layers or in no layer.
import { z } from "../core/packages.ts";
import { family, type FamilyParts } from "./family.ts";
import { alike, type Limit } from "./fit.ts";
import { GRANITE_HOLDS, GRANITE_KEYS, graniteKeys, graniteParts } from "./granite.ts";

/** RoPE in all layers, or in no layer. */
const ropeIsAlike: Limit = ({ layers }) => {
  const without = layers.filter(({ rope }) => rope === "none").length;
  return without === 0 || without === layers.length
    ? null
    : { rule: "needs RoPE in all layers or in no layer", value: `${without} of ${layers.length} layers without RoPE` };
};

/** Granite 4, dense. A model with RoPE is written with the class of Granite 3, which computes the same. */
export const GRANITE_HYBRID = family({
  type: "granitemoehybrid",
  label: "Granite 4 (dense)",
  about: "as Granite, with RoPE or without",
  architecture: "GraniteMoeHybridForCausalLM",
  // Its intermediate_size is that of experts; its layer types have other names.
  names: {
    intermediate_size: "shared_intermediate_size",
    expert_size: "intermediate_size",
    block_types: "layer_types",
  },
  defaults: { num_local_experts: 8, intermediate_size: 1024 },
  keys: {
    ...GRANITE_KEYS,
    num_local_experts: z.int().nonnegative(),
    position_embedding_type: z.string().nullish(),
    block_types: z.array(z.string()).nullish(),
    layers_block_type: z.array(z.string()).nullish(),
  },
  read(config, { fail }): FamilyParts {
    const { num_local_experts: experts, block_types: types = config.layers_block_type } = config;
    if (experts > 0) fail("num_local_experts", "it is 0: a mixture of experts is not supported in this family");
    if (!types?.every((type) => type === "attention" || type === "full_attention")) {
      fail("block_types", "all layers have attention: layers of Mamba are not supported");
    }
    return {
      ...graniteParts(config),
      layer: () => ({ rope: config.position_embedding_type === "rope" ? undefined : "none" }),
    };
  },
  tensors: {
    renames: [[/\.mlp\.down_proj\./, ".shared_mlp.output_linear."]],
    packed: [{ module: "shared_mlp.input_linear", parts: ["gate", "up"] }],
  },
  stock: {
    holds: { ...GRANITE_HOLDS, ffnBiases: ["none"], layerRope: true },
    limits: [alike, ropeIsAlike],
    keys: (spec) => ({
      ...graniteKeys(spec),
      num_local_experts: 0,
      num_experts_per_tok: 0,
      // It has to divide twice the hidden dims, without Mamba layers too.
      mamba_n_heads: 1,
      position_embedding_type: spec.layers[0]?.rope === "none" ? null : "rope",
      block_types: spec.layers.map(() => "full_attention"),
    }),
  },
});
