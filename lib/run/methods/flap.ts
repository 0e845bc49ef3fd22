import type { OneShotMethod } from "./method.ts";

/** FLAP (An et al. 2024): fluctuation of activations, and a bias that keeps the mean of what is cut; see `flapScores`. */
export const flap: OneShotMethod = {
  name: "flap",
  kind: "one-shot",
  from: ["fluctuations"],
  score: ({ fluctuations }) => fluctuations,
  ranking: "all",
  compensates: true,
};
