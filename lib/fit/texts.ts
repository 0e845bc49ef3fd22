// The rows of a fit: most score units and choose tokens, and the text of the others measures every choice.
import { refuse } from "../core/errors.ts";
import { encodeRow } from "../data/encode_rows.ts";
import { placeOf } from "../data/row.ts";
import type { Row } from "../data/rows.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** Rows for cuts, and the text for measures. */
export interface FitTexts {
  readonly rows: readonly Row[];
  readonly text: string;
}

/** Largest share of the rows that is kept for measures. */
const MEASURED = 0.25;

/**
 * Takes rows from the end until they have `tokens` tokens, for measures; a quarter of the rows at most. No cut sees them.
 *
 * @throws CompressoError("input") for fewer than two rows.
 */
export function splitTexts(
  rows: readonly Row[],
  { tokenizer, tokens: wanted }: { readonly tokenizer: Tokenizer; readonly tokens: number },
): FitTexts {
  const most = Math.max(1, Math.floor(MEASURED * rows.length)), texts: string[] = [];
  if (rows.length < 2) {
    refuse("input", "cannot measure what a cut loses", {
      rule: "there are rows to cut by, and others to measure on",
      value: `${rows.length} rows`,
      fix: "give more rows",
      option: "data",
    });
  }
  for (let found = 0; found < wanted && texts.length < most;) {
    const index = rows.length - texts.length - 1, row = rows[index];
    if (!row) break;
    const { tokens } = encodeRow(row, placeOf(row, index), { tokenizer, prompt: null, seq: Infinity });
    found += tokens.length;
    texts.unshift(tokenizer.decode([...tokens], { skipSpecial: true }));
  }
  return { rows: rows.slice(0, rows.length - texts.length), text: texts.join("\n") };
}
