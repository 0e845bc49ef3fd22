// Describes in one line how the rows of a run are used.
import type { DataReport, LeftOut } from "../../../lib/data/rows.ts";
import { type EncodeReport, placesOf } from "../../../lib/data/encode_report.ts";
import { formatCount, formatShare, rowsNamed } from "../../terminal/output.ts";

/** A note on rows without an end token, from which the model does not learn where to stop. */
export const NO_ENDS = ", none with an end token (the tokenizer adds none)";

/** Rows that are left out while reading, with the first few places; null for none. */
export function readingNote({ skipped, broken }: Pick<DataReport, "skipped" | "broken">): string | null {
  const some = (what: string, rows: readonly LeftOut[]): string[] =>
    rowsNamed(what, { count: rows.length, first: rows });
  return [...some("empty", skipped), ...some("broken", broken)].join(", ") || null;
}

/**
 * How the rows are used, with the first few places of truncated and omitted rows. Rows split by packing are normal and
 * not listed.
 */
export function dataLine(data: EncodeReport, { seq }: { readonly seq: number }): string {
  const some = (kind: keyof EncodeReport["lines"], what: string): string[] =>
    rowsNamed(what, { count: data[kind], first: placesOf(data, kind) });
  return [
    `${formatCount(data.examples)} ${data.examples === 1 ? "example" : "examples"}${
      data.packed ? ` of ${seq} tokens, rows packed` : ""
    }`,
    ...some("truncated", `cut to ${seq} tokens`),
    ...(data.leftOver > 0 ? [`${formatCount(data.leftOver)} tokens left out`] : []),
    ...some("skipped", "left out"),
    ...some("empty", "empty"),
    ...some("broken", "broken"),
    ...(data.heldOut > 0 ? [`the last ${data.heldOut} rows held out`] : []),
    ...(data.promptTokens > 0
      ? [`the prompt takes ${data.promptTokens} tokens a row, ${promptShare(data)}${unseen({ ...data, seq })}`]
      : []),
  ].join(", ");
}

/** The share of all tokens that the prompt takes, and how to reduce it if it is large. */
export function promptShare(
  { promptTokens, rows, skipped, tokens, leftOver }: Pick<
    EncodeReport,
    "promptTokens" | "rows" | "skipped" | "tokens" | "leftOver"
  >,
): string {
  const share = promptTokens * (rows - skipped) / Math.max(1, tokens + leftOver);
  const advice = share < MUCH ? "" : " (--prompt FILE gives a shorter one, --no-prompt leaves it out)";
  return `${formatShare(share)} of all${advice}`;
}

/** Share of the tokens from which to give the hint. */
const MUCH = 0.1;

/** Hint for a prompt that does not fit in a sequence together with an answer. */
export function unseen({ promptTokens, seq }: Pick<EncodeReport, "promptTokens"> & { readonly seq: number }): string {
  return promptTokens < seq ? "" : `, so no answer has all of it before it in a sequence of ${seq}`;
}
