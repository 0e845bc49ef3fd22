// OLMoE: experts in all layers, norms of q and k over the whole width.
import { z } from "../core/packages.ts";
import { everywhere, EXPERT_KEYS, expertsOf, plainKeys, QWEN_MODULES } from "./experts.ts";
import { family, type FamilyParts } from "./family.ts";
import { alike, headsFillHidden, UNSCALED_OR_LINEAR, untied } from "./fit.ts";
import { attentionBiases, biasKeys, flag } from "./shared.ts";

/** OLMoE. */
export const OLMOE = family({
  type: "olmoe",
  label: "OLMoE",
  about: "norms of q and k as wholes",
  architecture: "OlmoeForCausalLM",
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5 },
  ids: { bos: null, eos: 50279, pad: 1 },
  keys: { ...EXPERT_KEYS, attention_bias: flag, clip_qkv: z.null().optional() },
  read(config, context): FamilyParts {
    const parts = expertsOf(config, context, { experts: 64, topK: 8 }, {
      ...config.norm_topk_prob ? { renormalised: true } : {},
    });
    return { qkNorm: "whole", biases: attentionBiases(config), ...parts };
  },
  tensors: { experts: QWEN_MODULES },
  stock: {
    holds: { router: ["plain", "renormalised"], qkNorm: ["whole"], attentionBiases: true, scaling: true },
    limits: [everywhere, alike, headsFillHidden],
    keys: (spec) => ({
      attention_bias: biasKeys(spec).attention_bias,
      norm_topk_prob: spec.router?.renormalised === true,
      ...plainKeys(spec, "num_experts"),
    }),
  },
  gguf: [{
    arch: "olmoe",
    holds: { router: ["plain"], qkNorm: ["whole"], scaling: UNSCALED_OR_LINEAR },
    limits: [everywhere, alike, headsFillHidden, untied],
    experts: { columns: "feed_forward_length" },
    read: () => ({ qkNorm: "whole" }),
  }],
});
