// Qwen2 and Qwen3 with experts.
import { QWEN2_BIASES } from "../spec/decoder.ts";
import { alikeByKind, both, everywhere, EXPERT_KEYS, expertsOf, QWEN_MODULES, sparseKeys } from "./experts.ts";
import { family, type FamilyParts, type LayerParts } from "./family.ts";
import { alike, headsFillHidden, ONE_WINDOW, UNSCALED_OR_LINEAR } from "./fit.ts";
import { QWEN_DEFAULTS, QWEN_IDS, qwenLayer } from "./qwen.ts";
import { attentionBiases, biasKeys, flag, switchedWindowKeys } from "./shared.ts";

/** Qwen3 with experts; transformers' class has renormalised weights by a key, llama.cpp always. */
export const QWEN3_MOE = family({
  type: "qwen3_moe",
  label: "Qwen3-MoE",
  about: "norms of each q and k head",
  architecture: "Qwen3MoeForCausalLM",
  defaults: { ...QWEN_DEFAULTS, num_key_value_heads: 4 },
  ids: QWEN_IDS,
  keys: { ...EXPERT_KEYS, attention_bias: flag },
  read(config, context): FamilyParts {
    const { router, layer } = expertsOf(config, context, { experts: 128, topK: 8, ffn: 768 }, {
      ...config.norm_topk_prob ? { renormalised: true } : {},
    });
    const window = (): LayerParts => ({ window: config.use_sliding_window ? config.sliding_window : null });
    return { qkNorm: "head", biases: attentionBiases(config), router, layer: both(window, layer) };
  },
  tensors: { experts: QWEN_MODULES },
  stock: {
    holds: { router: ["plain", "renormalised"], qkNorm: ["head"], attentionBiases: true, scaling: true },
    limits: [alikeByKind],
    keys: (spec) => ({ attention_bias: biasKeys(spec).attention_bias, ...sparseKeys(spec) }),
  },
  gguf: [{
    arch: "qwen3moe",
    holds: { router: ["renormalised"], qkNorm: ["head"], scaling: UNSCALED_OR_LINEAR },
    limits: [everywhere, alike],
    experts: { columns: "expert_feed_forward_length", renormalised: true },
    read: () => ({ qkNorm: "head" }),
  }],
});

/** Qwen1.5-MoE and Qwen2-MoE: a shared expert with a gate. */
export const QWEN2_MOE = family({
  type: "qwen2_moe",
  label: "Qwen2-MoE",
  about: "a gated shared expert; also Qwen1.5-MoE",
  architecture: "Qwen2MoeForCausalLM",
  defaults: { ...QWEN_DEFAULTS, num_key_value_heads: 16 },
  ids: QWEN_IDS,
  keys: { ...EXPERT_KEYS, qkv_bias: flag },
  read(config, context): FamilyParts {
    const { router, layer } = expertsOf(config, context, { experts: 60, topK: 4, ffn: 1408, shared: 5632 }, {
      sharedGate: true,
      ...config.norm_topk_prob ? { renormalised: true } : {},
    });
    const biases = config.qkv_bias === false ? [] : QWEN2_BIASES;
    return { biases, router, layer: both(qwenLayer(config), layer) };
  },
  tensors: { experts: QWEN_MODULES },
  stock: {
    holds: {
      router: ["plain with a gated shared expert", "renormalised with a gated shared expert"],
      attentionBiases: [QWEN2_BIASES.join(), "none"],
      windows: ONE_WINDOW,
      scaling: true,
    },
    limits: [alikeByKind, headsFillHidden],
    biases: ({ biases = [] }) => biases,
    keys: (spec) => ({
      ...sparseKeys(spec),
      qkv_bias: (spec.biases ?? []).length > 0,
      ...switchedWindowKeys(spec),
    }),
  },
  gguf: [{
    arch: "qwen2moe",
    holds: {
      router: ["plain with a gated shared expert"],
      attentionBiases: [QWEN2_BIASES.join()],
      scaling: UNSCALED_OR_LINEAR,
    },
    limits: [everywhere, alike, headsFillHidden],
    experts: { columns: "expert_feed_forward_length", shared: "expert_shared_feed_forward_length", sharedGate: true },
  }],
});
