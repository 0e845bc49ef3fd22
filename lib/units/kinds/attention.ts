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
  misfit: { ...layers.misfit, fix: "take attention out of the units: heads, kv and ffn can be cut" },
} as const satisfies KindRecord;
