// How sparsity rises: the built-in schedules, all else equal.
//
//   compresso experiment scripts/experiments/schedules.ts --out runs/schedules
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "schedules",
  question:
    "How does quality depend on how sparsity rises? cubic, linear, cosine and exponential reach the target where warmup ends, step rises to it in four steps, constant has it from the first step on.",
  files: FILES,
  model: "demo",
  base: { ...BASE, prompt: false },
  grid: { schedule: ["cubic", "linear", "cosine", "exponential", "step", "constant"], seed: [1, 2, 3] },
  evaluate: EVALUATE,
});
