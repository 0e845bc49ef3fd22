// What the model is pruned on: instructions (as GPT4-Alpaca), plain texts (as C4) and texts that the model writes itself (LLM-QAT).
//
//   deno run -A cli/main.ts experiment scripts/experiments/data.ts --out runs/data
//
// On the demo the texts are the stories of the same rows, without questions and answers. On another model:
//
//   … --model MODEL --data instructions=alpaca.json --data texts=c4.jsonl --file heldout=other.json --file questions=none \
//     --file stories=c4_heldout.jsonl --file wikitext=wiki.txt --file tasks=FOLDER
import { defineExperiment } from "../../mod.ts";

const TRAIN = "../../fixtures/demo_data/train.jsonl";

export default defineExperiment({
  name: "data",
  question:
    "Which data leave the better model after the same number of steps: instructions, texts, or texts that the model wrote itself?",
  files: {
    heldout: "../../fixtures/demo_data/heldout.jsonl",
    questions: "../../fixtures/demo_data/heldout.jsonl",
    texts: false,
    wikitext: false,
    tasks: false,
  },
  model: "demo",
  data: {
    instructions: TRAIN,
    texts: { file: TRAIN, textField: "input" },
    "self-written": { generate: { count: 150, tokens: 48, seed: 1 } },
  },
  base: {
    sparsity: 0.4,
    steps: 30,
    batch: 4,
    seq: 48,
    units: "kv,ffn,hidden",
    prompt: false,
    targets: "q,k,v,o,gate,up,down",
    loraRate: 2e-3,
  },
  grid: { data: ["instructions", "texts", "self-written"], seed: [1, 2, 3] },
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }, {
      name: "held-out texts",
      file: "@texts",
      last: 100,
      seq: 512,
    }],
    choices: [{ name: "held-out questions", file: "@questions", limit: 100 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
  },
});
