// Recovery after one cut: the loss that is minimised, the labels that count, and who answered the instructions. All cells of a seed are cut in the
// same place, since units are scored on the same texts by cross-entropy; all steps are recovery.
//
//   compresso experiment scripts/experiments/recovery.ts --out runs/recovery
//
// On another model, say with 900 rows to train on and the last 99 held out. The model's own answers are written once, into --out:
//
//   compresso experiment scripts/experiments/recovery.ts --model MODEL --file instructions=alpaca.json \
//     --file heldout=alpaca.json --file questions=none --file wikitext=wiki.txt --file tasks=FOLDER --set limitRows=900 \
//     --set steps=40 --set prefinetune=0 --set postfinetune=0 --set seq=256 --set sparsity=0.2 --set loraRate=0.001 --only seed=1 --out runs/recovery
//
// The three losses alone: --only data=given,allTokens=false.
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

const TRAIN = "../../fixtures/demo_data/train.jsonl", SEEDS = [1, 2, 3];

export default defineExperiment({
  name: "recovery",
  question:
    "What should recovery learn from, at equal tokens: labels, the unpruned model's next tokens, or both; answers or all tokens; given answers or the unpruned model's own?",
  files: { ...FILES, instructions: TRAIN },
  model: "demo",
  data: {
    given: "@instructions",
    own: { answers: { file: "@instructions", limit: 900, tokens: 128 } },
    scored: { file: "@instructions", textField: "input", limit: 100 },
  },
  base: { ...BASE, method: "taylor", units: "kv,ffn", calibration: "scored", prompt: false },
  grid: [
    { data: ["given"], crossEntropy: [1], distillation: [0], allTokens: [false, true], seed: SEEDS },
    { data: ["given"], crossEntropy: [0], distillation: [1], allTokens: [false, true], seed: SEEDS },
    { data: ["given"], crossEntropy: [0.5], distillation: [0.5], allTokens: [false, true], seed: SEEDS },
    { data: ["own"], crossEntropy: [1], distillation: [0], allTokens: [false], seed: SEEDS },
    { data: ["own"], crossEntropy: [0], distillation: [1], allTokens: [false], seed: SEEDS },
  ],
  evaluate: EVALUATE,
});
