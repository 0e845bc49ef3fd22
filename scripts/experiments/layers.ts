// Open question 1: how the collaborative prompt moves the sparsity of layers, beside layers that are all cut alike.
//
//   deno run -A cli/main.ts experiment scripts/experiments/layers.ts --out runs/layers
import { defineExperiment } from "../../mod.ts";

export default defineExperiment({
  name: "layers",
  question:
    "How does the collaborative prompt influence which layers are cut, compared with the usual uniform sparsity? All are measured without the prompt.",
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
  grid: { layout: ["compact", "uniform"], prompt: [true, false], seed: [1, 2, 3] },
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }],
    choices: [{ name: "held-out questions", file: "@questions", limit: 100 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
  },
});
