// Every method at equal steps: learned masks, gradual saliency, and scores in one shot whose steps are all recovery.
//
//   compresso experiment scripts/experiments/methods.ts --out runs/methods
//
// Learned masks have a run's default last stage, which learns from the labels that pruning hurt most, for one more forward pass in each of its steps
// (`--set focus=1` leaves that out), and no calibration, a run's other default. Units are KV groups and FFN columns alone, which all of the methods were published for. On a real model see quality.ts.
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "methods",
  question: "Which method leaves the best model at equal steps, LoRA and units?",
  files: FILES,
  model: "demo",
  base: { ...BASE, units: "kv,ffn", prompt: false },
  grid: {
    method: ["compresso", "gradual", "taylor", "flap", "wanda-sp", "magnitude", "random"],
    seed: [1, 2, 3],
  },
  evaluate: EVALUATE,
});
