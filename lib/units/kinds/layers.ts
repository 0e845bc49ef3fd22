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
    isFor: ({ normPlaces }) => normPlaces === "residual",
    rule: "the model has no norm after the residual sum, since such a norm changes the stream even without its layer",
    value: "this model has norms of the residual stream",
    fix: "take layers out of the units: heads, kv and ffn can be cut",
  },
} as const satisfies KindRecord;
