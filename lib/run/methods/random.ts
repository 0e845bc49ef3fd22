import { randomScores } from "../../masks/baselines.ts";
import type { OneShotMethod } from "./method.ts";

/** A random order, which the run's seed determines: the baseline of every score. */
export const random: OneShotMethod = {
  name: "random",
  kind: "one-shot",
  from: [],
  score: ({ kinds, seed }) => randomScores(kinds.length, { seed }),
  ranking: "all",
};
