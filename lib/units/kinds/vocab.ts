import type { KindRecord } from "./kind.ts";

/** Tokens of the vocabulary, which are cut before a run; see lib/slice/vocabulary/. */
export const vocab = {
  name: "vocab",
  place: null,
  help: "tokens",
  many: "tokens",
  nameOf: (index) => `token ${index}`,
  count: () => 0,
  limits: [],
  masks: [],
  nothing: () => ({ rule: "the vocabulary is cut before a run", value: "vocab" }),
} as const satisfies KindRecord;
