// The temperature β of the hard concrete distribution: 0.5, 1, 2 and 5; that of its authors is 2/3, our default 0.1.
//
//   compresso experiment scripts/experiments/temperature.ts --out runs/temperature
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "temperature",
  question:
    "How does the temperature β of the masks change how far they settle (undecided units, fractional masks) and the quality of what is left?",
  files: FILES,
  model: "demo",
  base: { ...BASE, prompt: false },
  grid: { temperature: [0.5, 1, 2, 5], seed: [1, 2, 3] },
  evaluate: EVALUATE,
});
