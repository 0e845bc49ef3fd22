// Initial log α without data: near a constant for each kind, as published.
import { normal } from "../core/random.ts";
import type { UnitTable } from "../units/table.ts";

/**
 * How log α starts: from the saliency of the units, see `maskStart` and `openStart`, or near a constant for each kind,
 * see `constantLogAlpha`.
 */
export const START_RULES = ["saliency", "constant"] as const satisfies readonly StartRule[];
/** Name of a start rule. */
export type StartRule = "saliency" | "constant";

/** log α of a head, a KV group, a hidden dim or a whole layer. */
const WHOLE_PARTS = 10;
/** log α of an FFN column: the logit of 0.99. */
const COLUMNS = Math.log(0.99 / 0.01);

/** Standard deviation around them. */
const DEVIATION = 1e-2;
/** Separates these draws from others of the same seed. */
const START_STREAM = 0x57a7;

/**
 * Initial log α as in Compresso's published code: normal with deviation 0.01, around log(0.99 / 0.01) for FFN columns
 * and around 10 for all other units. Its clamp, `rates.logAlphaLimit`, reduces the 10 to log 100 at the first update.
 */
export function constantLogAlpha(
  { count, ranges: { ffn } }: UnitTable,
  { seed }: { readonly seed: number },
): Float32Array<ArrayBuffer> {
  const mean = (unit: number): number => unit >= ffn.first && unit < ffn.end ? COLUMNS : WHOLE_PARTS;
  return Float32Array.from(
    { length: count },
    (_, unit) => mean(unit) + DEVIATION * normal(seed, START_STREAM, unit),
  );
}
