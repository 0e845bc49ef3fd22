// The rank of LoRA, 2, 4 and 8 (the paper's sweep), all else equal.
//
//   deno run -A cli/main.ts experiment scripts/experiments/rank.ts --out runs/rank
import { defineExperiment } from "../../mod.ts";

export default defineExperiment({
  name: "rank",
  question:
    "How does quality depend on the rank of LoRA? alpha is twice the rank, so that the scale of what LoRA adds stays the same.",
  files: { questions: "../../fixtures/demo_data/heldout.jsonl" },
  model: "demo",
  base: {
    sparsity: 0.3,
    steps: 40,
    batch: 4,
    seq: 128,
    units: "kv,ffn,hidden",
    prompt: false,
    targets: "q,k,v,o,gate,up,down",
    loraRate: 2e-3,
  },
  grid: [
    { rank: [2], alpha: [4], seed: [1, 2, 3] },
    { rank: [4], alpha: [8], seed: [1, 2, 3] },
    { rank: [8], alpha: [16], seed: [1, 2, 3] },
  ],
  evaluate: {
    rows: [{ name: "held-out answers", file: "@questions", seq: 128 }],
    choices: [{ name: "held-out questions", file: "@questions" }],
  },
});
