// GLM-4.5 to 4.7: experts by sigmoids with a bias of the choice, a shared expert, dense first layers.
import type { Json } from "../core/guards.ts";
import { z } from "../core/packages.ts";
import { QWEN2_BIASES } from "../spec/decoder.ts";
import {
  alikeByKind,
  denseFirst,
  EXPERT_KEYS,
  expertsOf,
  leadingCounts,
  QWEN_MODULES,
  sharedAsExperts,
} from "./experts.ts";
import { family, type FamilyParts, width } from "./family.ts";
import { type Limit, UNSCALED_OR_LINEAR } from "./fit.ts";
import { glmBiases } from "./glm.ts";
import { biasKeys, factor, flag, partialRopeKeys } from "./shared.ts";

const HOLDS = {
  router: ["plain with a shared expert", "renormalised with a shared expert"],
  routerScores: ["sigmoid"],
  choiceBias: ["set"],
  routerScale: true,
  qkNorm: ["none", "head"],
  attentionBiases: ["none", QWEN2_BIASES.join()],
  partialRope: true,
} as const;

const LIMITS: readonly Limit[] = [alikeByKind, denseFirst, sharedAsExperts];

/** All published models have one group of experts. */
const one = z.literal(1).nullish();

/** GLM-4.5, 4.6 and 4.7. */
export const GLM4_MOE = family({
  type: "glm4_moe",
  label: "GLM-4.5",
  about: "sigmoid scores, a bias of the choice, dense first layers; also 4.6 and 4.7",
  architecture: "Glm4MoeForCausalLM",
  names: { num_local_experts: "n_routed_experts" },
  defaults: {
    num_key_value_heads: 8,
    max_position_embeddings: 131072,
    rms_norm_eps: 1e-5,
    intermediate_size: 10944,
    partial_rotary_factor: 0.5,
  },
  ids: { bos: null, eos: null },
  rope: { isPartial: true },
  keys: {
    ...EXPERT_KEYS,
    attention_bias: flag,
    use_qk_norm: flag,
    n_shared_experts: width.nullish(),
    routed_scaling_factor: factor,
    first_k_dense_replace: z.int().nonnegative().nullish(),
    n_group: one,
    topk_group: one,
    num_nextn_predict_layers: z.int().nonnegative().nullish(),
  },
  read(config, context): FamilyParts {
    const { n_shared_experts: shared, first_k_dense_replace: dense, routed_scaling_factor: scale } = config;
    const usual = { experts: 128, topK: 8, ffn: 1408, shared: (config.moe_intermediate_size ?? 1408) * (shared ?? 1) };
    const { router, layer } = expertsOf(config, context, usual, {
      scores: "sigmoid",
      choiceBias: true,
      ...config.norm_topk_prob === false ? {} : { renormalised: true },
      ...scale && scale !== 1 ? { scale } : {},
    });
    return {
      biases: glmBiases(config),
      ...config.use_qk_norm ? { qkNorm: "head" } : {},
      router,
      layer: (index) => index < (dense ?? 1) ? {} : layer(index),
    };
  },
  tensors: {
    // Layers after the last predict further tokens.
    isIdle: (name, { layers }) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? NaN) >= layers.length,
    experts: {
      ...QWEN_MODULES,
      choiceBias: { name: "mlp.gate.e_score_correction_bias" },
      shared: "mlp.shared_experts",
    },
  },
  stock: {
    holds: { ...HOLDS, scaling: true },
    limits: LIMITS,
    biases: ({ biases = [] }) => biases,
    keys(spec): Json {
      const { dense, count, topK, ffn, denseFfn, shared } = leadingCounts(spec), { router } = spec;
      return {
        attention_bias: biasKeys(spec).attention_bias,
        use_qk_norm: spec.qkNorm !== undefined,
        num_local_experts: count,
        num_experts_per_tok: topK,
        moe_intermediate_size: ffn,
        intermediate_size: denseFfn,
        n_shared_experts: shared,
        first_k_dense_replace: dense,
        routed_scaling_factor: router?.scale ?? 1,
        norm_topk_prob: router?.renormalised === true,
        n_group: 1,
        topk_group: 1,
        num_nextn_predict_layers: 0,
      };
    },
    ropeKeys: partialRopeKeys,
  },
  gguf: [{
    arch: "glm4moe",
    partialRope: true,
    laterLayers: true,
    tensorNames: { ffn_norm: "post_attention_norm" },
    holds: { ...HOLDS, scaling: UNSCALED_OR_LINEAR },
    limits: LIMITS,
    experts: {
      columns: "expert_feed_forward_length",
      sharedCount: "expert_shared_count",
      dense: "leading_dense_block_count",
      saysRouter: true,
    },
    read: (keys) => keys.hasTensor("blk.0.attn_q_norm.weight") ? { qkNorm: "head" } : {},
  }],
});
