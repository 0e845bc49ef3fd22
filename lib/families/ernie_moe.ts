// ERNIE 4.5 with experts: a bias of the choice, shared experts, dense first layers; RoPE turns neighbours in a folder.
import type { Json } from "../core/guards.ts";
import { z } from "../core/packages.ts";
import {
  alikeByKind,
  denseFirst,
  EXPERT_KEYS,
  expertsOf,
  leadingCounts,
  QWEN_MODULES,
  sharedAsExperts,
} from "./experts.ts";
import { family, type FamilyParts } from "./family.ts";
import { type Limit, UNSCALED_OR_LINEAR } from "./fit.ts";

const HOLDS = { router: ["renormalised", "renormalised with a shared expert"], choiceBias: ["set"] } as const;

const LIMITS: readonly Limit[] = [alikeByKind, denseFirst, sharedAsExperts];

/** ERNIE 4.5 with experts, such as 21B-A3B. */
export const ERNIE_MOE = family({
  type: "ernie4_5_moe",
  label: "ERNIE 4.5 MoE",
  about: "a bias of the choice, shared experts, dense first layers",
  architecture: "Ernie4_5_MoeForCausalLM",
  names: { num_experts: "moe_num_experts", num_experts_per_tok: "moe_k" },
  defaults: {
    num_key_value_heads: 4,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: true,
  },
  ids: { pad: 0 },
  rope: { base: 500_000 },
  keys: {
    ...EXPERT_KEYS,
    use_bias: z.literal(false).nullish(),
    moe_num_shared_experts: z.int().nonnegative().max(1024).nullish(),
    moe_layer_start_index: z.int().nonnegative().nullish(),
    moe_layer_end_index: z.int().min(-1).nullish(),
    moe_layer_interval: z.literal(1).nullish(),
  },
  read(config, context): FamilyParts {
    const { moe_intermediate_size: ffn, moe_num_shared_experts: shared, num_hidden_layers: length } = config;
    const { moe_layer_start_index: start, moe_layer_end_index: end } = config;
    const last = end === -1 || typeof end !== "number" ? length - 1 : end;
    const usual = { experts: 64, topK: 6, ffn: 1536, shared: (ffn ?? 1536) * (shared ?? 2) };
    const { router, layer } = expertsOf(config, context, usual, { choiceBias: true, renormalised: true });
    return { router, layer: (index) => index < (start ?? 1) || index > last ? {} : layer(index) };
  },
  tensors: {
    neighbours: true,
    isIdle: (name) => name.startsWith("model.mtp_"),
    experts: {
      ...QWEN_MODULES,
      choiceBias: { name: "mlp.moe_statics.e_score_correction_bias", isRow: true },
      shared: "mlp.shared_experts",
    },
  },
  stock: {
    holds: { ...HOLDS, scaling: true },
    limits: LIMITS,
    keys(spec): Json {
      const { dense, count, topK, ffn, denseFfn, shared } = leadingCounts(spec);
      return {
        use_bias: false,
        num_experts: count,
        num_experts_per_tok: topK,
        moe_intermediate_size: ffn,
        intermediate_size: denseFfn,
        moe_num_shared_experts: shared,
        moe_layer_start_index: dense,
        moe_layer_end_index: -1,
        moe_layer_interval: 1,
      };
    },
  },
  gguf: [{
    arch: "ernie4_5-moe",
    neighbours: true,
    holds: { ...HOLDS, scaling: UNSCALED_OR_LINEAR },
    limits: LIMITS,
    experts: {
      columns: "expert_feed_forward_length",
      shared: "expert_shared_feed_forward_length",
      isSharedOptional: true,
      dense: "leading_dense_block_count",
      step: "interleave_moe_layer_step",
      renormalised: true,
    },
  }],
});
