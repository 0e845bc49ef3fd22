import type { OneShotMethod } from "./method.ts";

/** The mean square of the weights that a unit cuts; see `magnitudeScores`. */
export const magnitude: OneShotMethod = {
  name: "magnitude",
  kind: "one-shot",
  from: ["weights"],
  score: ({ weights }) => weights,
  ranking: "layer",
};
