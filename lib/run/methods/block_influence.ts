import type { OneShotMethod } from "./method.ts";

/**
 * Block influence as in ShortGPT (Men et al. 2024, arXiv 2403.03853): 1 − the mean cosine of the residual stream before
 * and after a layer, or its attention; see `measureInfluence`. It is divided by the parameters of the unit, so that
 * layers and attention sub-layers can be compared. Layers of one size have the order of ShortGPT.
 */
export const blockInfluence: OneShotMethod = {
  name: "block-influence",
  kind: "one-shot",
  from: ["influence"],
  units: ["layers", "attention"],
  score: ({ influence, parameters }) => influence.map((value, unit) => value / (parameters[unit] ?? 1)),
  ranking: "all",
};
