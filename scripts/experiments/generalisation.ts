// Open question 2: what pruning on instructions does, the longer it goes on, to the model on other tasks and on plain text.
//
//   deno run -A cli/main.ts experiment scripts/experiments/generalisation.ts --out runs/generalisation
import { defineExperiment } from "../../mod.ts";

const TRAIN = "../../fixtures/demo_data/train.jsonl", HELDOUT = "../../fixtures/demo_data/heldout.jsonl";

export default defineExperiment({
  name: "generalisation",
  question:
    "Does pruning on instructions cost the model what they do not show, and does that grow with longer training after the cut? The stories are text that the instructions contain but do not teach.",
  files: { heldout: HELDOUT, questions: HELDOUT, stories: HELDOUT, wikitext: false, tasks: false },
  model: "demo",
  data: { instructions: TRAIN, texts: { file: TRAIN, textField: "input" } },
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
  grid: { data: ["instructions", "texts"], postfinetune: [6, 60], seed: [1, 2, 3] },
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }, {
      name: "stories",
      file: "@stories",
      textField: "input",
      last: 100,
      seq: 256,
    }],
    choices: [{ name: "held-out questions", file: "@questions", limit: 100 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
  },
});
