// The collaborative prompt, on and off in training and at inference: the four cases of the paper's ablation.
//
//   deno run -A cli/main.ts experiment scripts/experiments/prompt.ts --out runs/prompt
//
// On another model, say with 900 rows to train on and the last 99 held out:
//
//   deno run -A cli/main.ts experiment scripts/experiments/prompt.ts --model MODEL --data alpaca.json --set limitRows=900 \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 \
//     --set prefinetune=10 --set postfinetune=60 --set seq=256 --set sparsity=0.2 --set units=kv,ffn --out runs/prompt
import { defineExperiment } from "../../mod.ts";

export default defineExperiment({
  name: "prompt",
  question:
    "What does the collaborative prompt do for the pruned model, in training and at inference? Rows say whether it was there in training, columns whether it is at inference.",
  files: {
    heldout: "../../fixtures/demo_data/heldout.jsonl",
    questions: "../../fixtures/demo_data/heldout.jsonl",
    wikitext: false,
    tasks: false,
  },
  model: "demo",
  base: {
    sparsity: 0.4,
    steps: 30,
    batch: 2,
    seq: 256,
    units: "kv,ffn,hidden",
    targets: "q,k,v,o,gate,up,down",
    loraRate: 2e-3,
  },
  grid: { prompt: [true, false], seed: [1, 2, 3] },
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }],
    choices: [{ name: "held-out questions", file: "@questions", limit: 100 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
    prompt: [true, false],
  },
});
