// The temperature β of the hard concrete distribution: 0.5, 1, 2 and 5; our default, that of its authors, is 2/3.
//
//   deno run -A cli/main.ts experiment scripts/experiments/temperature.ts --out runs/temperature
import { defineExperiment } from "../../mod.ts";

export default defineExperiment({
  name: "temperature",
  question:
    "How does the temperature β of the masks change how far they settle (undecided units) and the quality of what is left?",
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
    batch: 4,
    seq: 48,
    units: "kv,ffn,hidden",
    prompt: false,
    targets: "q,k,v,o,gate,up,down",
    loraRate: 2e-3,
  },
  grid: { temperature: [0.5, 1, 2, 5], seed: [1, 2, 3] },
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }],
    choices: [{ name: "held-out questions", file: "@questions", limit: 100 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
  },
});
