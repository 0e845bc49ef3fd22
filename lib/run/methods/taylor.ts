import type { OneShotMethod } from "./method.ts";

/** First-order Taylor importance, as LLM-Pruner's (Ma et al. 2023); see `createTaylor`. */
export const taylor: OneShotMethod = {
  name: "taylor",
  kind: "one-shot",
  from: ["firstOrder"],
  score: ({ firstOrder }) => firstOrder,
  ranking: "layer",
};
