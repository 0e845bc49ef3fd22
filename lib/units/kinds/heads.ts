import { type KindRecord, noHeadsToCut, NORMS_OVER_HEADS } from "./kind.ts";

/**
 * Single query heads. K and V of a KV group are removed with the last of its heads. If heads share K and V, slicing pads
 * the groups of a layer to one size with heads of zeros, so files may keep more than the sparsity says.
 */
export const heads = {
  name: "heads",
  place: "attention",
  help: null,
  many: "heads",
  nameOf: (index, layer) => `head ${index} of layer ${layer}`,
  count: ({ layers }) => layers.reduce((sum, { heads }) => sum + heads, 0),
  limits: ["heads", "protect"],
  masks: ["head"],
  headsOf: () => 1,
  nothing: noHeadsToCut("head"),
  misfit: NORMS_OVER_HEADS,
} as const satisfies KindRecord;
