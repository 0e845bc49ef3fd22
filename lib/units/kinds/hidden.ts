import type { KindRecord } from "./kind.ts";

/** Hidden dims: dims of the residual stream, cut of all layers, the embedding and the head alike. */
export const hidden = {
  name: "hidden",
  place: "hidden",
  help: null,
  many: "hidden dims",
  nameOf: (index) => `hidden dim ${index}`,
  count: ({ hidden }) => hidden,
  limits: ["hidden", "align"],
  masks: ["hidden"],
  nothing: ({ hidden }, { minimum, fit }) => ({
    rule: "the hidden size is above its least width and the alignment",
    value: `hidden size ${hidden}, at least ${minimum.hidden}, aligned to ${fit.hidden}`,
  }),
  // Mean and variance over all H dims, the cut ones 0, are no multiples of those over the D kept ones:
  // (x − D/H·mean)/√variance has another offset in each row, which no weight of a smaller norm gives.
  misfit: {
    isFor: ({ norm }) => norm !== undefined,
    rule: "the model has RMSNorm: a LayerNorm over the kept dims is not a scaled LayerNorm over all",
    value: "this model has LayerNorm",
    fix: "take hidden out of the units: heads, kv, ffn and layers can be cut",
  },
} as const satisfies KindRecord;
