// Two families beside LLaMA: the same pruning and the same ablation of the collaborative prompt on an OPT (LayerNorm, learned positions, biases, an FFN without gate) and on a
// Mistral whose sliding window is shorter than a row.
//
//   compresso experiment scripts/experiments/families.ts --out runs/families
//
// Both were trained on the stories of the demo, see fixtures/demo_opt and fixtures/demo_mistral. Hidden dims of a model with LayerNorm cannot be cut, so KV groups and FFN columns
// are cut of both. Two models of your own take their place as `architecture.ts` says.
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "families",
  question:
    "Do an OPT and a Mistral with a sliding window keep what they know when they are pruned, and what does the collaborative prompt do for them?",
  files: FILES,
  model: { opt: "../../fixtures/demo_opt", mistral: "../../fixtures/demo_mistral" },
  data: "../../fixtures/demo_data/train.jsonl",
  base: { ...BASE, batch: 2, seq: 256, units: "kv,ffn" },
  grid: { model: ["opt", "mistral"], prompt: [true, false], seed: [1, 2, 3] },
  evaluate: { ...EVALUATE, prompt: [true, false] },
});
