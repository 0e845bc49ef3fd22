import { type KindRecord, noHeadsToCut, NORMS_OVER_HEADS } from "./kind.ts";

/** KV groups: a KV head with all query heads that read it. */
export const kv = {
  name: "kv",
  place: "attention",
  help: "whole KV groups",
  many: "KV groups",
  nameOf: (index, layer) => `KV group ${index} of layer ${layer}`,
  count: ({ layers }) => layers.reduce((sum, { kvHeads }) => sum + kvHeads, 0),
  limits: ["heads", "protect"],
  masks: ["head"],
  headsOf: ({ heads, kvHeads }) => kvHeads > 0 ? heads / kvHeads : 1,
  nothing: noHeadsToCut("KV group"),
  misfit: NORMS_OVER_HEADS,
} as const satisfies KindRecord;
