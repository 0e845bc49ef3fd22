// Learned masks beside `taylor` at equal tokens on a model that is large for the machine: so short that a run takes minutes.
//
//   compresso experiment scripts/experiments/short.ts --out runs/short --model MODEL --file c4=c4_sample.jsonl \
//     --file wikitext=wikitext2.valid.txt --only seed=1 --keep models
//
// Trained on the first 700 documents of the C4 sample, measured on the last 24 and on WikiText-2. Finished runs stay in --out: --max-cells 1
// makes one of them in a call.
import { defineExperiment } from "../../lib/experiment/mod.ts";

export default defineExperiment({
  name: "short",
  question: "At equal tokens, and few: which units should go, those that learned masks choose or those of one score?",
  files: { model: null, c4: null, wikitext: null },
  model: "@model",
  data: { file: "@c4", limit: 700 },
  base: { sparsity: 0.2, units: "kv,ffn", prefinetune: 2, steps: 8, postfinetune: 4, batch: 4, seq: 64 },
  grid: { method: ["compresso", "taylor"], seed: [1, 2, 3] },
  evaluate: {
    perplexity: [{ name: "WikiText-2", text: "@wikitext", window: 512, maxWindows: 2 }],
    rows: [{ name: "C4", file: "@c4", last: 24, seq: 128 }],
  },
});
