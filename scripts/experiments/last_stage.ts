// The last stage, in which LoRA trains with fixed masks: as it is, left out, and left out with its steps given to the pruning stage.
//
//   compresso experiment scripts/experiments/last_stage.ts --out runs/last_stage
//
// On another model, say with 900 rows to train on and the last 99 held out; the second number of steps is the sum of the first one and the last stage's:
//
//   compresso experiment scripts/experiments/last_stage.ts --model MODEL --data alpaca.json --set limitRows=900 \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER \
//     --set steps=60,84 --set postfinetune=24,0 --set prefinetune=8 --set seq=256 --set sparsity=0.2 --set units=kv,ffn \
//     --out runs/last_stage
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "last_stage",
  question:
    "What does the last stage bring? The longer pruning stage without it has the tokens of the shorter one with it.",
  files: FILES,
  model: "demo",
  base: { ...BASE, prompt: false, prefinetune: 6 },
  grid: { steps: [30, 36], postfinetune: [6, 0], seed: [1, 2, 3] },
  evaluate: EVALUATE,
});
