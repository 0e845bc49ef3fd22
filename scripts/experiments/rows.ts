// The number of rows: the same steps on few rows, which are seen many times, and on many.
//
//   compresso experiment scripts/experiments/rows.ts --out runs/rows
//
// On another model, say with the last 99 rows of a file of 999 held out:
//
//   compresso experiment scripts/experiments/rows.ts --model MODEL --data alpaca.json --set limitRows=50,200,900 \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 \
//     --set prefinetune=10 --set postfinetune=60 --set seq=256 --set sparsity=0.2 --set units=kv,ffn --out runs/rows
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "rows",
  question: "How many rows does pruning need, at equal steps? Fewer rows are seen more often.",
  files: FILES,
  model: "demo",
  base: { ...BASE, prompt: false },
  grid: { limitRows: [20, 60, 200, 600], seed: [1, 2, 3] },
  evaluate: EVALUATE,
});
