// Open question 3: what LoRA does for convergence and stability of the masks' training. The paper asks it beside training of all weights, which this
// toolkit, whose base is frozen, does not have: here LoRA stands beside no training of weights at all.
//
//   compresso experiment scripts/experiments/lora.ts --out runs/lora
//
// Without LoRA its learning rate is 0, so it adds nothing, and the stages before and after, which would train nothing, have no steps. Three
// groups tell apart what LoRA does while masks are learned and what it does after: with all stages, with the pruning stage alone, and without.
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

const SEEDS = [1, 2, 3];

export default defineExperiment({
  name: "lora",
  question:
    "How does LoRA affect convergence (loss, gap to the schedule, undecided units) and stability (worst stretch and roughness of the loss) of training the masks?",
  files: FILES,
  model: "demo",
  base: { ...BASE, prompt: false },
  grid: [
    { lora: [true], seed: SEEDS },
    { lora: [true], prefinetune: [0], postfinetune: [0], seed: SEEDS },
    { lora: [false], prefinetune: [0], postfinetune: [0], seed: SEEDS },
  ],
  evaluate: EVALUATE,
});
