import type { KindRecord } from "./kind.ts";

/** Whole experts with their rows of the router, which are cut without training; see lib/run/experts/. */
export const experts = {
  name: "experts",
  place: null,
  help: "whole ones; alone, without steps",
  many: "experts",
  nameOf: (index, layer) => `expert ${index} of layer ${layer}`,
  count: ({ layers }) => layers.reduce((sum, { experts: own }) => sum + (own?.count ?? 0), 0),
  limits: [],
  masks: [],
  nothing: () => ({ rule: "experts are cut before a run", value: "experts" }),
  misfit: {
    isFor: ({ router }) => router === undefined,
    rule: "layers have experts",
    value: "this model is dense",
    fix: "take experts out of the units: heads, kv, ffn, hidden and layers can be cut",
  },
} as const satisfies KindRecord;
