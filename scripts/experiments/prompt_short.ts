// The collaborative prompt, on and off in training and at inference, on a model that is large for the machine: rows that are short enough to stand
// whole behind the prompt, one a sequence, so that runs with and without it learn the same answers in the same steps.
//
//   jq '[.[] | select((.instruction + .input + .output | length) <= 250)]' alpaca.json > rows.json
//   compresso experiment scripts/experiments/prompt_short.ts --out runs/prompt_short --model MODEL --file rows=rows.json
//
// Trained on the first 240 rows, measured on the last 24. A vocabulary that was cut first (prune --units vocab) makes runs of a model with a large one
// several times faster.
import { defineExperiment } from "../../lib/experiment/mod.ts";

export default defineExperiment({
  name: "prompt_short",
  question:
    "What does the collaborative prompt do for the pruned model, in training and at inference, where all runs learn the same answers? Rows say whether it was there in training, columns whether it is at inference.",
  files: { model: null, rows: null },
  model: "@model",
  data: { file: "@rows", limit: 240 },
  base: {
    sparsity: 0.2,
    units: "kv,ffn",
    packing: false,
    prefinetune: 2,
    steps: 6,
    postfinetune: 3,
    batch: 2,
    seq: 176,
  },
  grid: { prompt: [true, false], seed: [1, 2, 3] },
  evaluate: { rows: [{ name: "held-out answers", file: "@rows", last: 24, seq: 192 }], prompt: [true, false] },
});
