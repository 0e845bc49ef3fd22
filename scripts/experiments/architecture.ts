// Another architecture: the same pruning and the same ablation of the collaborative prompt on a LLaMA and on a Qwen2, which has biases of q, k and v.
//
//   compresso experiment scripts/experiments/architecture.ts --out runs/architecture
//
// The second demo was trained on the same stories as the first, see fixtures/demo_qwen2. Two models of your own take the place of both:
//
//   … --model llama=MODEL --model qwen2=MODEL --data alpaca.json --set limitRows=900 --file heldout=alpaca.json --file questions=none \
//     --file wikitext=wiki.txt --file tasks=FOLDER --set steps=150 --set prefinetune=10 --set postfinetune=60 --set seq=256 \
//     --set sparsity=0.2 --set units=kv,ffn
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "architecture",
  question:
    "Does an architecture other than LLaMA keep as much of what it knows, and does the collaborative prompt do the same for it?",
  files: FILES,
  model: { llama: "demo", qwen2: "../../fixtures/demo_qwen2" },
  data: "../../fixtures/demo_data/train.jsonl",
  base: { ...BASE, batch: 2, seq: 256 },
  grid: { model: ["llama", "qwen2"], prompt: [true, false], seed: [1, 2, 3] },
  evaluate: { ...EVALUATE, prompt: [true, false] },
});
