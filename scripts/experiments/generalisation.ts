// Open question 2: what pruning on instructions does, the longer it goes on, to the model on other tasks and on plain text.
//
//   compresso experiment scripts/experiments/generalisation.ts --out runs/generalisation
//
// On the demo the texts are the stories of the same rows, their `input`, without questions and answers. On another model:
//
//   … --model MODEL --data instructions=alpaca.json --data texts=c4.jsonl --file heldout=other.json --file questions=none \
//     --file stories=none --file texts=c4_heldout.jsonl --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 \
//     --set prefinetune=10 --set seq=256 --set sparsity=0.2 --set units=kv,ffn --set loraRate=0.001
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

const TRAIN = "../../fixtures/demo_data/train.jsonl", HELDOUT = FILES.heldout;

export default defineExperiment({
  name: "generalisation",
  question:
    "Does pruning on instructions cost the model what they do not show, and does that grow with longer training after the cut? The stories are text that the instructions contain but do not teach.",
  files: { ...FILES, stories: HELDOUT, texts: false },
  model: "demo",
  data: { instructions: TRAIN, texts: { file: TRAIN, textField: "input" } },
  base: { ...BASE, prompt: false },
  grid: { data: ["instructions", "texts"], postfinetune: [6, 60], seed: [1, 2, 3] },
  evaluate: {
    ...EVALUATE,
    rows: [
      ...EVALUATE.rows,
      { name: "stories", file: "@stories", textField: "input", last: 100, seq: 256 },
      { name: "held-out texts", file: "@texts", last: 100, seq: 512 },
    ],
  },
});
