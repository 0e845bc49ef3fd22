import { type KindRecord, noHeadsToCut } from "./kind.ts";
import { layers } from "./layers.ts";

/** Attention sub-layers: all heads of a layer together. Its FFN stays. */
export const attention = {
  name: "attention",
  place: "attention",
  help: "whole sub-layers",
  many: "attention sub-layers",
  nameOf: (_, layer) => `attention of layer ${layer}`,
  count: ({ layers }) => layers.filter(({ heads }) => heads > 0).length,
  limits: ["protect"],
  masks: ["head"],
  isOnePerLayer: true,
  headsOf: ({ heads }) => heads,
  nothing: noHeadsToCut("attention sub-layer"),
  misfit: {
    ...layers.misfit,
    isFor: ({ normPlaces, localHeadDim }) => normPlaces === "residual" || localHeadDim !== undefined,
    rule:
      "the model has no norm after the residual sum, which changes the stream without attention too, and heads have one width",
    value: "this model has norms of the residual stream, or heads of two widths",
    fix: "take attention out of the units: ffn can be cut",
  },
} as const satisfies KindRecord;
