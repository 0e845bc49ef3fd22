import { livingLayers } from "../rules.ts";
import type { KindRecord } from "./kind.ts";

/** Whole layers: attention and FFN together. */
export const layers = {
  name: "layers",
  place: "layers",
  help: "whole ones",
  many: "layers",
  nameOf: (_, layer) => `layer ${layer}`,
  count: livingLayers,
  limits: ["layers", "protect"],
  masks: ["head", "ffn"],
  isOnePerLayer: true,
  nothing: (spec, { protect, minimum }) => ({
    rule: "fewer layers stay at least than may be cut",
    value: `${livingLayers(spec)} layers, ${protect.size} protected, at least ${Math.max(1, minimum.layers)}`,
  }),
  misfit: {
    isFor: ({ normPlaces, layerScale }) => normPlaces === "residual" || layerScale === true,
    rule:
      "the model has no norm or factor after the residual sum, since these change the stream even without their layer",
    value: "this model has such norms or factors",
    fix: "take layers out of the units: heads, kv and ffn can be cut",
  },
} as const satisfies KindRecord;
