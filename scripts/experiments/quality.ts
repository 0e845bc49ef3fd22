// The methods on the same footing: equal tokens, equal LoRA, three sparsities, three seeds at the middle one. Model, data and texts are named on the
// command line; the folder of the tasks holds `<task>.<split>.jsonl`.
//
//   compresso experiment scripts/experiments/quality.ts --out runs/quality --model MODEL \
//     --file instructions=alpaca.json --file wikitext=wikitext2.valid.txt --file c4=c4_sample.jsonl --file tasks=FOLDER \
//     --max-cells 2
//
// On two cores without a GPU a run of a model of 135 million parameters takes half an hour or more: --max-cells and --only cut the grid into
// sittings, whose results stay in --out. Learned masks have a run's default last stage, which learns from the labels that pruning
// hurt most, for one more forward pass in each of its steps (focus). `taylor` is there twice: LLM-Pruner's published runs spare the first four and last
// two of 32 layers. Methods that can are there with the model's own texts as calibration, too, which of learned masks is a run's default.
import { defineExperiment } from "../../lib/experiment/mod.ts";

const METHODS = ["compresso", "gradual", "taylor", "flap", "wanda-sp", "magnitude", "random"] as const;
/** Layers that are spared there, chosen once: by the same shares of 30 layers they would be 3.75 and 1.9. */
const ENDS = [0, 1, 2, -2, -1];

export default defineExperiment({
  name: "quality",
  question:
    "Which method leaves the best model at equal tokens? Where units are chosen in training, the steps before and after it count among them; where they are chosen in one shot, all steps are recovery.",
  files: { model: null, instructions: null, wikitext: null, c4: null, tasks: null },
  // The demo has five layers, too few to spare five.
  model: "@model",
  data: { instructions: "@instructions", own: { generate: { count: 32, tokens: 256 } } },
  base: {
    data: "instructions",
    steps: 150,
    prefinetune: 10,
    postfinetune: 60,
    batch: 4,
    seq: 256,
    loraTargets: "q,k,v,o,gate,up,down",
    recompute: false,
  },
  grid: [
    { method: METHODS, sparsity: [0.2], seed: [1, 2, 3] },
    { method: METHODS, sparsity: [0.1, 0.3], seed: [1] },
    { method: ["taylor"], protect: [ENDS], sparsity: [0.2], seed: [1, 2, 3] },
    { method: ["taylor"], protect: [ENDS], sparsity: [0.1, 0.3], seed: [1] },
    { method: ["compresso", "flap", "wanda-sp"], calibration: ["own"], sparsity: [0.2], seed: [1, 2, 3] },
    { method: ["taylor"], calibration: ["own"], protect: [ENDS], sparsity: [0.2], seed: [1, 2, 3] },
    { method: ["compresso", "flap", "wanda-sp"], calibration: ["own"], sparsity: [0.1, 0.3], seed: [1] },
    { method: ["taylor"], calibration: ["own"], protect: [ENDS], sparsity: [0.1, 0.3], seed: [1] },
  ],
  evaluate: {
    perplexity: [{ name: "wikitext", text: "@wikitext", window: 512, maxWindows: 24, limitChars: 160_000 }],
    rows: [{ name: "C4", file: "@c4", last: 100, seq: 512 }],
    tasks: { names: ["arc_easy", "piqa", "hellaswag", "openbookqa"], data: "@tasks", limit: 200 },
  },
});
