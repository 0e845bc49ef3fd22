// How the rows of a run are used, in one line.
import type { DataReport, LeftOut } from "../../../lib/data/rows.ts";
import { type EncodeReport, placesOf } from "../../../lib/data/encode_report.ts";
import { formatCount, formatShare, rowsNamed } from "../../terminal/output.ts";

/** A note on rows without an end token: the model would not learn where to end. */
export const NO_ENDS = ", none with an end token (the tokenizer adds none)";

/** Rows that are left out in reading, with the first few places; null for none. */
export function readingNote({ skipped, broken }: Pick<DataReport, "skipped" | "broken">): string | null {
  const some = (what: string, rows: readonly LeftOut[]): string[] =>
    rowsNamed(what, { count: rows.length, first: rows });
  return [...some("empty", skipped), ...some("broken", broken)].join(", ") || null;
}

/** How the rows are used, with the first few places of those that were cut or left out. Rows that packing splits are normal, and not listed. */
export function dataLine(data: EncodeReport, { seq }: { readonly seq: number }): string {
  const some = (kind: keyof EncodeReport["lines"], what: string): string[] =>
    rowsNamed(what, { count: data[kind], first: placesOf(data, kind) });
  return [
    `${formatCount(data.examples)} examples${data.packed ? ` of ${seq} tokens, rows packed` : ""}`,
    ...some("truncated", `cut to ${seq} tokens`),
    ...(data.leftOver > 0 ? [`${formatCount(data.leftOver)} tokens left out`] : []),
    ...some("skipped", "left out"),
    ...some("empty", "empty"),
    ...some("broken", "broken"),
    ...(data.heldOut > 0 ? [`the last ${data.heldOut} rows kept for the check`] : []),
    ...(data.promptTokens > 0
      ? [`the prompt takes ${data.promptTokens} tokens a row, ${promptShare(data)}${unseen({ ...data, seq })}`]
      : []),
  ].join(", ");
}

/** What share of all tokens the prompt takes, and how to save it where that is much. */
function promptShare({ promptTokens, rows, skipped, tokens, leftOver }: EncodeReport): string {
  const share = promptTokens * (rows - skipped) / Math.max(1, tokens + leftOver);
  const advice = share < MUCH ? "" : " (--prompt FILE gives a shorter one, --no-prompt leaves it out)";
  return `${formatShare(share)} of all${advice}`;
}

/** A share of the tokens that is worth a hint. */
const MUCH = 0.1;

/** Beside a prompt that no sequence holds together with an answer. */
export function unseen({ promptTokens, seq }: Pick<EncodeReport, "promptTokens"> & { readonly seq: number }): string {
  return promptTokens < seq ? "" : `, so no answer has all of it before it in a sequence of ${seq}`;
}
