// Open question 1: how the collaborative prompt moves the sparsity of layers, beside layers that are all cut alike.
//
//   compresso experiment scripts/experiments/layers.ts --out runs/layers
import { defineExperiment } from "../../lib/experiment/mod.ts";
import { BASE, EVALUATE, FILES } from "./on_demo.ts";

export default defineExperiment({
  name: "layers",
  question:
    "How does the collaborative prompt influence which layers are cut, compared with the usual uniform sparsity? All are measured without the prompt.",
  files: FILES,
  model: "demo",
  // Layers cut alike lose so much that the loss may pass half the way to a uniform guess, which would halve the rates of some runs and not of others.
  base: { ...BASE, batch: 2, seq: 256, onAlarm: "divergence=warn" },
  grid: { layout: ["compact", "uniform"], prompt: [true, false], seed: [1, 2, 3] },
  evaluate: EVALUATE,
});
