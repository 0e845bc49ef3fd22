import type { OneShotMethod } from "./method.ts";

/**
 * The diagonal of the empirical Fisher matrix of the masks (Kwon et al. 2022, "A Fast Post-Training Pruning Framework
 * for Transformers", arXiv 2204.09656, section 4.1), per parameter that the unit saves. There gradients are squared by
 * example, here by blocks of rows; its search for blocks and its tuning of masks are left out.
 */
export const fisher: OneShotMethod = {
  name: "fisher",
  kind: "one-shot",
  from: ["fisher"],
  score: ({ fisher, parameters }) => fisher.map((value, unit) => value / (parameters[unit] ?? 1)),
  ranking: "all",
};
