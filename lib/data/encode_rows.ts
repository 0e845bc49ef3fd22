// Token ids and labels of a whole data set, packed or row by row, with a report.
import { CompressoError, option, refuse } from "../core/errors.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { type EncodeReport, firstPlaces } from "./encode_report.ts";
import { pack, packedText, windows } from "./packing.ts";
import {
  countLabels,
  type EncodedRow,
  encodeExample,
  type EncodeOptions,
  type Example,
  hasEnded,
  promptCostOf,
} from "./prompts/encode.ts";
import { checkedRow, placeName, placeOf, type RowPlace } from "./row.ts";
import type { DataReport, Row, TextRow } from "./rows.ts";

/** Options of {@link encodeRows}. */
export interface EncodeRowsOptions extends EncodeOptions {
  /** Whether rows are joined to full sequences, see `pack`. Default: true. */
  readonly packing?: boolean | undefined;
  /** Whether packed rows begin at position 0 and do not see each other, see `pack`. Default: false. */
  readonly documentMask?: boolean | undefined;
  /** What the reading of the rows left out, to be a part of the report. */
  readonly reading?: DataReport | undefined;
  /** Rows of the model's embedding; a row with a token beyond cannot be encoded. Default: as many as there are tokens. */
  readonly vocab?: number | undefined;
  /** Whether rows that cannot be encoded, such as conversations that the chat template refuses, are left out and counted. Default: false. */
  readonly skipBroken?: boolean | undefined;
}

/**
 * Encodes all rows. Rows are packed, or each is one sequence, shortened to `seq`; a text may become several. Counts
 * what was shortened or left out.
 *
 * @throws CompressoError("input") if no example is left, and for a row that cannot be encoded, unless `skipBroken`.
 */
export function encodeRows(
  rows: readonly Row[],
  options: EncodeRowsOptions,
): { examples: Example[]; report: EncodeReport } {
  const { seq, reading } = options;
  checkSize("seq", seq, 2);
  const packed = rows.length > 0 && (options.packing ?? true);
  const { examples, leftOver, truncated, divided, skipped, refused } = encode(rows, options);
  const promptTokens = promptCostOf(rows, options);
  if (examples.length === 0) {
    if (refused[0] && refused.length === rows.length) throw allRefused(refused[0].error, rows.length);
    const prompt = promptTokens > 0 ? `; the prompt alone takes ${promptTokens}` : "";
    const [rule, fix] = rows.length === 0
      ? ["there are rows to train on", "give rows"]
      : rows.every(({ kind }) => kind === "text")
      ? ["at least one text has two tokens", "give longer texts"]
      : [`at least one row has a response within ${option("seq")} tokens`, longerFix(rows, options, promptTokens)];
    const value = `${rows.length} rows, seq ${seq}${prompt}`;
    refuse("input", "cannot train on these data", { rule, value, fix });
  }
  const tokens = examples.reduce((sum, example) => sum + example.tokens.length, 0);
  const empty = reading?.skipped ?? [];
  const broken = [...reading?.broken ?? [], ...refused.map(({ place }) => place)].sort((a, b) => a.row - b.row);
  const report: EncodeReport = {
    rows: rows.length,
    heldOut: 0,
    examples: examples.length,
    truncated: truncated.length,
    divided: divided.length,
    skipped: skipped.length,
    empty: empty.length,
    broken: broken.length,
    tokens,
    labelTokens: examples.reduce((sum, { labels }) => sum + countLabels(labels), 0),
    padding: examples.length * seq - tokens,
    packed,
    leftOver,
    promptTokens,
    ...firstPlaces({ truncated, divided, skipped, empty, broken }),
  };
  return { examples, report };
}

/** How rows that are too long become short enough; leaving the prompt out is named only where that suffices. */
function longerFix(rows: readonly Row[], options: EncodeRowsOptions, promptTokens: number): string {
  const raise = `raise ${option("seq")}`;
  if (promptTokens === 0) return raise;
  const { examples } = encode(rows, { ...options, prompt: null, skipBroken: true });
  return examples.length === 0 ? raise : `${raise}, or leave the prompt out: ${option("prompt", "null")}`;
}

/** The error of the first row, where leaving rows out leaves none. */
export function allRefused(error: CompressoError, rows: number): CompressoError {
  const { parts: { fix = "fix the rows" } } = error.cause instanceof CompressoError ? error.cause : error;
  const all = `${fix}: of ${rows} rows none can be encoded`;
  return error.with({ fix: all });
}

/** The sequences of {@link encodeRows}, none where no row has a response within `seq`, and the places of rows that were left out as broken. */
export function sequencesOf(
  rows: readonly Row[],
  options: EncodeRowsOptions,
): { readonly examples: readonly Example[]; readonly broken: readonly RowPlace[] } {
  const { examples, refused } = encode(rows, options);
  return { examples, broken: refused.map(({ place }) => place) };
}

function encode(
  rows: readonly Row[],
  options: EncodeRowsOptions,
): Encoded & { readonly refused: readonly Refusal[] } {
  const refused: Refusal[] = [];
  const attempt: Attempt = (place, make) => {
    try {
      return { made: make() };
    } catch (error) {
      if (!options.skipBroken || !(error instanceof CompressoError)) throw error;
      refused.push({ place, error });
      return null;
    }
  };
  const encoded = options.packing ?? true ? packRows(rows, options, attempt) : encodeEach(rows, options, attempt);
  return { ...encoded, refused };
}

/** A row that cannot be encoded. */
interface Refusal {
  readonly place: RowPlace;
  readonly error: CompressoError;
}

/** Null if the row at this place cannot be encoded and is to be left out. */
type Attempt = <T>(place: RowPlace, make: () => T) => { readonly made: T } | null;

interface Encoded {
  readonly examples: Example[];
  readonly leftOver: number;
  readonly truncated: readonly RowPlace[];
  readonly divided: readonly RowPlace[];
  readonly skipped: readonly RowPlace[];
}

function packRows(rows: readonly Row[], options: EncodeRowsOptions, attempt: Attempt): Encoded {
  const parts: Example[] = [], places: RowPlace[] = [], skipped: RowPlace[] = [];
  for (const [index, row] of rows.entries()) {
    const place = placeOf(row, index);
    const part = attempt(
      place,
      () => row.kind === "text" ? packedPart(row, place, options) : packedTurns(row, place, options),
    );
    if (part?.made) {
      parts.push(part.made);
      places.push(place);
    } else if (part) skipped.push(place);
  }
  const { examples, leftOver, divided } = pack(parts, options.seq, options);
  return { examples, leftOver, truncated: [], divided: divided.flatMap((index) => places[index] ?? []), skipped };
}

/** A text to be joined; null if it has no tokens. */
function packedPart(row: TextRow, place: RowPlace, { tokenizer, vocab }: EncodeRowsOptions): Example | null {
  return named(place, () => {
    const part = packedText(row.text, tokenizer, { hasEnded: hasEnded(checkedRow(row)) });
    if (part) checkIds(part.tokens, vocab);
    return part;
  });
}

/** A whole row to be joined; null if nothing of it is learned. */
function packedTurns(row: Row, place: RowPlace, options: EncodeRowsOptions): Example | null {
  const { tokens, labels, labelTokens } = encodeRow(row, place, { ...options, seq: Infinity });
  return labelTokens > 0 ? { tokens, labels } : null;
}

function encodeEach(rows: readonly Row[], options: EncodeRowsOptions, attempt: Attempt): Encoded {
  const examples: Example[] = [], truncated: RowPlace[] = [], skipped: RowPlace[] = [];
  let leftOver = 0;
  for (const [index, row] of rows.entries()) {
    const place = placeOf(row, index);
    const encoded = attempt(place, () => encodeRow(row, place, options))?.made;
    if (!encoded) continue;
    const sequences = row.kind === "text" ? windows(encoded, options.seq) : encoded.labelTokens > 0 ? [encoded] : [];
    if (sequences.length === 0) skipped.push(place);
    else if (encoded.truncated) truncated.push(place);
    else leftOver += encoded.tokens.length - sequences.reduce((sum, { tokens }) => sum + tokens.length, 0);
    for (const { tokens, labels } of sequences) examples.push({ tokens, labels });
  }
  return { examples, leftOver, truncated, divided: [], skipped };
}

/** `encodeExample` whose errors say which row is refused; tokens beyond `vocab`, if that is given, are refused too. */
export function encodeRow(
  row: Row,
  place: RowPlace,
  { vocab, ...options }: EncodeOptions & Pick<EncodeRowsOptions, "vocab">,
): EncodedRow {
  return named(place, () => {
    const encoded = encodeExample(row, options);
    checkIds(encoded.tokens, vocab);
    return encoded;
  });
}

/** Work on the row at this place, which its errors name. */
function named<T>(place: RowPlace, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    const { fix: own = "fix or remove the row" } = error.parts;
    throw error.with({ at: placeName(place), fix: `${own}, or have such rows left out (${option("skipBroken")})` });
  }
}

/** Refuses tokens that a model has no embedding of. */
function checkIds(tokens: Uint32Array, vocab: number | undefined): void {
  if (vocab === undefined) return;
  const beyond = tokens.find((token) => token >= vocab);
  if (beyond === undefined) return;
  refuse("input", "cannot read a token that the model does not have", {
    rule: `the model has an embedding of each token: ids lie in [0, ${vocab})`,
    value: `token ${beyond}`,
    fix: "take its text out of the row, or take the tokenizer that the model was trained with",
  });
}

/** Refuses sequences longer than the model's context. Throws `CompressoError("usage")`. */
export function checkContext(seq: number, { maxPosition }: Pick<DecoderSpec, "maxPosition">): void {
  if (seq <= maxPosition) return;
  refuse("usage", "cannot train on sequences of this length", {
    rule: `the model's longest context is ${maxPosition} tokens`,
    value: seq,
    fix: `lower ${option("seq")}`,
    option: "seq",
  });
}

/** Refuses a size that is no whole number, or below `least`. Throws `CompressoError("usage")`. */
export function checkSize(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  refuse("usage", "cannot make batches", {
    rule: `${name} is an integer, at least ${least}`,
    value,
  });
}
