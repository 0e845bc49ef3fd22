// Granite with experts in all layers.
import { everywhere, EXPERT_KEYS, expertsOf, plainKeys } from "./experts.ts";
import { family } from "./family.ts";
import { alike } from "./fit.ts";
import { FACTOR_KEYS, factorKeys, factorsOf, GRANITE_ARCH, GRANITE_FACTORS } from "./granite.ts";
import { attentionBiases, biasKeys, flag } from "./shared.ts";

/** Granite 3 with experts. */
export const GRANITE_MOE = family({
  type: "granitemoe",
  label: "Granite-MoE",
  about: "factors of Granite",
  architecture: "GraniteMoeForCausalLM",
  keys: { ...EXPERT_KEYS, attention_bias: flag, ...FACTOR_KEYS },
  read: (config, context) => ({
    biases: attentionBiases(config),
    scales: factorsOf(config),
    ...expertsOf(config, context, { experts: 8, topK: 2 }, { renormalised: true }),
  }),
  tensors: {
    experts: {
      router: "block_sparse_moe.router.layer",
      all: { gateUp: "block_sparse_moe.input_linear", down: "block_sparse_moe.output_linear" },
    },
  },
  stock: {
    holds: { ...GRANITE_FACTORS, router: ["renormalised"], attentionBiases: true, logitScale: ["set"], scaling: true },
    limits: [everywhere, alike],
    keys: (spec) => ({
      attention_bias: biasKeys(spec).attention_bias,
      ...factorKeys(spec),
      ...plainKeys(spec, "num_local_experts"),
    }),
  },
  gguf: [{
    ...GRANITE_ARCH,
    arch: "granitemoe",
    holds: { ...GRANITE_FACTORS, router: ["renormalised"], scaling: true },
    limits: [everywhere, alike],
    experts: { columns: "feed_forward_length", renormalised: true },
  }],
});
