// Where log α starts without looking at the model: a constant of each kind, as published. Owns these constants; refuses saliency (see saliency.ts).
import type { UnitTable } from "./unit_table.ts";

/** How log α starts: from the units' saliency, see `initialLogAlpha`, or at a constant of each kind, see {@link constantLogAlpha}. */
export const START_RULES = ["saliency", "constant"] as const;
/** Name of a start rule. */
export type StartRule = typeof START_RULES[number];

/** log α of a head, a KV group, a hidden dim or a whole layer. */
const WHOLE_PARTS = 10;
/** log α of an FFN column: the logit of a mask that is 0.99. */
const COLUMNS = Math.log(0.99 / 0.01);

/**
 * Initial log α of Compresso's published code (and of CoFi, whose masks it uses): log(0.99 / 0.01) for FFN columns, 10 for all else. Its clamp,
 * `rates.limit`, brings the 10 down to log 100 at the first update.
 */
export function constantLogAlpha({ count, ffnFirst, hiddenFirst }: UnitTable): Float32Array<ArrayBuffer> {
  return new Float32Array(count).fill(WHOLE_PARTS).fill(COLUMNS, ffnFirst, hiddenFirst);
}
