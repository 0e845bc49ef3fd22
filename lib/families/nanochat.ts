// nanochat: ReLU² without gate, norms without weights, one of the embedding too, RoPE the other way round, a soft cap of the logits.
import { family, type FamilyParts } from "./family.ts";
import { alike, type Limit, readAsNeighbours, untied } from "./fit.ts";
import { attentionBiases, biasKeys, factor, flag } from "./shared.ts";

const PARTS = { ungated: true, qkNorm: "head", qkNormAfter: true, plainNorms: true } as const;

/** All norms have weights of 1, and the rows of the embedding are normalised. */
const hasPlainNorms: Limit = ({ plainNorms }) =>
  plainNorms ? null : { rule: "needs norms without weights", value: "norms with weights" };

/** nanochat d20 to d34, as transformers has them. */
export const NANOCHAT = family({
  type: "nanochat",
  label: "nanochat",
  about: "ReLU² without gate, norms without weights, a soft cap",
  architecture: "NanoChatForCausalLM",
  defaults: { final_logit_softcapping: 15 },
  ids: { bos: 0, eos: 1, pad: 1 },
  activations: { relu2: "relu2" },
  keys: { attention_bias: flag, final_logit_softcapping: factor },
  read(config, { fail }): FamilyParts {
    const { final_logit_softcapping: logits } = config;
    if (config.tie_word_embeddings) fail("tie_word_embeddings", "it is false: the head would not be normalised");
    return { ...PARTS, softCaps: logits ? { logits } : undefined, biases: attentionBiases(config) };
  },
  tensors: {
    neighbours: "halves",
    plainNorms: true,
    renames: [[/\.mlp\.up_proj\./, ".mlp.fc1."], [/\.mlp\.down_proj\./, ".mlp.fc2."]],
  },
  stock: {
    holds: {
      gate: ["none"],
      activation: ["relu2"],
      qkNorm: ["after"],
      logitCap: true,
      attentionBiases: true,
      scaling: true,
    },
    limits: [alike, untied, readAsNeighbours, hasPlainNorms],
    keys: (spec) => ({
      attention_bias: biasKeys(spec).attention_bias,
      final_logit_softcapping: spec.softCaps?.logits ?? null,
    }),
  },
  programs: "transformers 5",
});
