import { leastFfn } from "../rules.ts";
import type { KindRecord } from "./kind.ts";

/** FFN columns: a row of gate and up, and a column of down. */
export const ffn = {
  name: "ffn",
  place: "ffn",
  help: null,
  many: "FFN columns",
  nameOf: (index, layer) => `FFN column ${index} of layer ${layer}`,
  count: ({ layers }) => layers.reduce((sum, { ffn }) => sum + ffn, 0),
  limits: ["ffn", "align", "protect"],
  masks: ["ffn"],
  nothing: (spec, { minimum, align }) => ({
    rule: "an unprotected layer has an FFN wider than its minimum",
    value: `widest FFN ${Math.max(0, ...spec.layers.map(({ ffn }) => ffn))}, at least ${
      leastFfn(spec, minimum)
    }, aligned to ${align}`,
  }),
} as const satisfies KindRecord;
