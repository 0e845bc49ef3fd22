// The collaborative prompt, on and off in training and at inference: the four cases of the paper's ablation.
//
//   compresso experiment scripts/experiments/prompt.ts --out runs/prompt
//
// On another model, say with 900 rows to train on and the last 99 held out:
//
//   compresso experiment scripts/experiments/prompt.ts --model MODEL --data alpaca.json --set limitRows=900 \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 \
//     --set prefinetune=10 --set postfinetune=60 --set seq=256 --set sparsity=0.2 --set units=kv,ffn --out runs/prompt
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "prompt",
  question:
    "What does the collaborative prompt do for the pruned model, in training and at inference? Rows say whether it was there in training, columns whether it is at inference.",
  files: FILES,
  model: "demo",
  base: { ...BASE, batch: 2, seq: 256 },
  grid: { prompt: [true, false], seed: [1, 2, 3] },
  evaluate: { ...EVALUATE, prompt: [true, false] },
});
