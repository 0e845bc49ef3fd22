import type { OneShotMethod } from "./method.ts";

/** Structured Wanda, as in FLAP's code (An et al. 2024); see `wandaScores`. */
export const wandaSp: OneShotMethod = {
  name: "wanda-sp",
  kind: "one-shot",
  from: ["activations"],
  score: ({ activations }) => activations,
  ranking: "layer",
  isRankingFixed: true,
};
