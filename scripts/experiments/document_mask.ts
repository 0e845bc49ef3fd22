// Packed rows that see each other, as they do by default, and rows that do not.
//
//   compresso experiment scripts/experiments/document_mask.ts --out runs/document_mask
//
// On another model, say with 900 rows to train on and the last 99 held out, cut at once so that all steps are recovery:
//
//   compresso experiment scripts/experiments/document_mask.ts --model MODEL --data alpaca.json --set limitRows=900 \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER --set steps=40 \
//     --set prefinetune=0 --set postfinetune=0 --set method=taylor --set units=kv,ffn --set seq=256 --set sparsity=0.2 \
//     --set loraRate=0.001 --out runs/document_mask
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "document_mask",
  question: "Should packed rows see each other? Held-out rows are read one by one in both cases.",
  files: FILES,
  model: "demo",
  base: { ...BASE, batch: 4, seq: 128, prompt: false },
  grid: { documentMask: [false, true], seed: [1, 2, 3] },
  evaluate: EVALUATE,
});
