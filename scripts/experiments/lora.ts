// Open question 3: what LoRA does for convergence and stability of the masks' training.
//
//   deno run -A cli/main.ts experiment scripts/experiments/lora.ts --out runs/lora
//
// Without LoRA its learning rate is 0, so it adds nothing, and the stages before and after, which would train nothing, have no steps. Three
// groups tell apart what LoRA does while masks are learned and what it does after: with all stages, with the pruning stage alone, and without.
import { defineExperiment } from "../../mod.ts";

const SEEDS = [1, 2, 3];

export default defineExperiment({
  name: "lora",
  question:
    "How does LoRA affect convergence (loss, gap to the schedule, undecided units) and stability (worst stretch and roughness of the loss) of training the masks?",
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
  grid: [
    { lora: [true], seed: SEEDS },
    { lora: [true], prefinetune: [0], postfinetune: [0], seed: SEEDS },
    { lora: [false], prefinetune: [0], postfinetune: [0], seed: SEEDS },
  ],
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "held-out answers", file: "@heldout", last: 99, seq: 256 }],
    choices: [{ name: "held-out questions", file: "@questions", limit: 100 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
  },
});
