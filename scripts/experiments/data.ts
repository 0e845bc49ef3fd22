// What the model is pruned on: instructions (as GPT4-Alpaca), plain texts (as C4) and texts that the model writes itself (LLM-QAT).
//
//   compresso experiment scripts/experiments/data.ts --out runs/data
//
// On the demo the texts are the stories of the same rows, without questions and answers. On another model:
//
//   … --model MODEL --data instructions=alpaca.json --data texts=c4.jsonl --file heldout=other.json --file questions=none \
//     --file texts=c4_heldout.jsonl --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 --set prefinetune=10 \
//     --set seq=256 --set sparsity=0.2 --set units=kv,ffn --set loraRate=0.001
//
// What the model writes itself are 150 texts of 48 tokens there too: name a file of longer ones by --data self-written=FILE.
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

const TRAIN = "../../fixtures/demo_data/train.jsonl";

export default defineExperiment({
  name: "data",
  question:
    "Which data leave the better model after the same number of steps: instructions, texts, or texts that the model wrote itself?",
  files: { ...FILES, texts: false },
  model: "demo",
  data: {
    instructions: TRAIN,
    texts: { file: TRAIN, textField: "input" },
    "self-written": { generate: { count: 150, tokens: 48, seed: 1 } },
  },
  // What the demo writes itself is near a uniform guess: half the way there is no loss that runs away.
  base: { ...BASE, prompt: false, onAlarm: "divergence=warn" },
  grid: { data: ["instructions", "texts", "self-written"], seed: [1, 2, 3] },
  evaluate: {
    ...EVALUATE,
    rows: [...EVALUATE.rows, { name: "held-out texts", file: "@texts", last: 100, seq: 512 }],
  },
});
