// The rank of LoRA, 2, 4 and 8 (the paper's sweep), all else equal.
//
//   compresso experiment scripts/experiments/rank.ts --out runs/rank
//
// On another model, say with 900 rows to train on and the last 99 held out:
//
//   compresso experiment scripts/experiments/rank.ts --model MODEL --data alpaca.json --set limitRows=900 \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 \
//     --set prefinetune=10 --set postfinetune=60 --set seq=256 --set sparsity=0.2 --set units=kv,ffn --out runs/rank
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

const SEEDS = [1, 2, 3];

export default defineExperiment({
  name: "rank",
  question:
    "How does quality depend on the rank of LoRA? alpha is twice the rank, so that the scale of what LoRA adds stays the same.",
  files: FILES,
  model: "demo",
  base: { ...BASE, prompt: false },
  grid: [
    { rank: [2], alpha: [4], seed: SEEDS },
    { rank: [4], alpha: [8], seed: SEEDS },
    { rank: [8], alpha: [16], seed: SEEDS },
  ],
  evaluate: EVALUATE,
});
