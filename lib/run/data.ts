// Prepares the rows of a run: batches to train on, held-out sequences, and calibration rows.
import { type Batch, type Batches, createBatches, digestOfAll } from "../data/batches.ts";
import { encodeRows, sequencesOf } from "../data/encode_rows.ts";
import { type CompressoError, type ErrorParts, option, refusal, refuse } from "../core/errors.ts";
import type { Row } from "../data/rows.ts";
import { COLLABORATIVE_PROMPT } from "../data/prompts/encode.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { type EncodeReport, withBroken } from "../data/encode_report.ts";
import { type CalibrationData, encodeCalibration } from "./calibration.ts";
import type { Model } from "../model/model.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import { calibrationRows, promptGiven } from "./options/resolve.ts";
import { heldOutBatches } from "./validation.ts";

/** Rows as a run uses them. */
export interface RunData {
  /** How the training rows were encoded. */
  readonly report: EncodeReport;
  /**
   * Up to 32 sequences, or all if `val` or `valRows` is given, from rows that are not trained on if there are enough, for measuring quality; the masked and the
   * sliced model are compared on some of them.
   */
  readonly heldout: readonly (readonly number[])[];
  /** Their labels, −100 where nothing is predicted; empty if the rows are trained on. */
  readonly heldoutLabels: readonly (readonly number[])[];
  /** The same as batches. */
  readonly heldOutBatches: readonly Batch[];
  /** Hash of all examples. */
  readonly digest: string;
  /** The same of given held-out rows; null if they are from the end of the data. */
  readonly heldOutDigest: string | null;
  /** Batches of `batch` rows, or of so many micro-batches of them. */
  readonly makeBatches: (seed: number, microBatches?: number) => Batches;
  /** Encodes calibration rows as these are. */
  readonly encodeCalibration: (rows: readonly Row[]) => ReturnType<typeof encodeCalibration>;
  /** Rows to score units on besides the training rows; null if there are none. */
  readonly calibration: CalibrationData | null;
}

/**
 * Encodes the rows of a run.
 *
 * @throws CompressoError("input") for a model without tokenizer, tokens without an embedding, and fewer sequences than ranks.
 * @throws CompressoError("usage") for a prompt that only texts would get.
 */
export function encodeRun(
  { tokenizer, spec: { vocab } }: { readonly spec: Pick<DecoderSpec, "vocab"> } & Pick<Model, "tokenizer">,
  { rows, prompt, packing, documentMask = false, allTokens = false, batch, seq, val = null, evalEvery = 0 }:
    & Pick<ResolvedOptions, "rows" | "prompt" | "packing" | "batch" | "seq">
    & Partial<Pick<ResolvedOptions, "documentMask" | "allTokens" | "val" | "evalEvery">>,
  given: Pick<
    PruneOptions,
    "reading" | "calibrationReading" | "skipBroken" | "calibration" | "prompt" | "checkpoint" | "ranks" | "valRows"
  > = {},
): RunData {
  const { reading, calibrationReading, skipBroken = false, ranks, valRows } = given,
    calibration = calibrationRows(given);
  refusePrompt(rows, given);
  if (!calibration) refuseReading(given);
  if (!tokenizer) throw noTokenizer("cannot train on text");
  const encoding = { tokenizer, prompt, packing, documentMask, allTokens, seq, skipBroken, vocab };
  // Rows of a program may have no numbers: then their index among all rows, held-out ones included, is used.
  const numbered = (all: readonly Row[]): Row[] =>
    all.map((row, index) => ({ ...row, number: row.number ?? index + 1 }));
  const [training, heldoutRows] = valRows ? [numbered(rows), numbered(valRows)] : splitRows(numbered(rows), val);
  const isAsked = val !== null || valRows !== undefined;
  const { examples, report } = encodeRows(training, { ...encoding, reading });
  if (ranks && examples.length < ranks.size) throw tooManyRanks(ranks.size, { sequences: examples.length });
  // All held-out rows may be too long for `seq`: training rows fill in.
  const apart = sequencesOf(heldoutRows, encoding), most = isAsked ? Infinity : HELD_OUT;
  const packed = apart.examples.slice(0, most);
  // A model reads a sequence as one row: rows that do not see each other are apart where quality is measured.
  const sequences = documentMask
    ? sequencesOf(heldoutRows, { ...encoding, packing: false }).examples.slice(0, most)
    : packed;
  if (sequences.length === 0 && (isAsked || evalEvery > 0)) {
    throw valRows ? noneOfRows(valRows.length) : noneHeldOut(rows.length, heldoutRows.length);
  }
  const heldout = sequences.length > 0 ? sequences : examples.slice(-HELD_OUT);
  // Tokenizers may have a pad token for which the model has no embedding.
  const padId = [tokenizer.padId, tokenizer.eosId].find((id) => id !== null && id < vocab) ?? 0;
  const data: RunData = {
    report: { ...withBroken(report, apart.broken), heldOut: valRows ? 0 : heldoutRows.length },
    heldout: heldout.map(({ tokens }) => [...tokens]),
    heldoutLabels: sequences.map(({ labels }) => [...labels]),
    heldOutBatches: heldOutBatches(packed, { batch, seq, padId }),
    digest: digestOfAll(examples),
    heldOutDigest: valRows ? digestOfAll(packed) : null,
    makeBatches: (seed, count = 1) => createBatches(examples, { batch: count * batch, seq, seed, padId }),
    encodeCalibration: (rows) => encodeCalibration(rows, { ...encoding, reading: calibrationReading, batch, padId }),
    calibration: null,
  };
  return calibration ? withCalibration(data, calibration) : data;
}

function tooManyRanks(count: number, { sequences }: { readonly sequences: number }): CompressoError {
  return refusal("input", `cannot train on ${count} ranks`, {
    rule: "the data have at least one sequence for each rank",
    value: sequences,
    fix: "start fewer ranks, or give more rows",
  });
}

/** Adds calibration rows to the data. */
export function withCalibration<T extends RunData>(data: T, rows: readonly Row[]): T {
  const { examples, batches, report } = data.encodeCalibration(rows);
  return {
    ...data,
    report: { ...data.report, calibration: report },
    calibration: { digest: digestOfAll(examples), batches },
  };
}

/** Refuses a report of reading without the rows that it describes. Throws `CompressoError("usage")`. */
export function refuseReading({ calibrationReading }: Pick<PruneOptions, "calibrationReading">): void {
  if (calibrationReading === undefined) return;
  refuse("usage", `cannot use ${option("calibrationReading")}`, {
    rule: "it describes how given calibration rows were read",
    value: "no calibration rows",
    fix: "leave it out, or give the rows",
  });
}

/**
 * Refuses a prompt that no row would get, except on resuming a run that had it. The collaborative prompt is the default
 * of all rows.
 */
function refusePrompt(
  rows: readonly Row[],
  given: Pick<PruneOptions, "prompt" | "calibration" | "checkpoint">,
): void {
  const { checkpoint } = given, prompt = promptGiven(given), calibration = calibrationRows(given) ?? [];
  const isNamed = prompt !== null && prompt !== COLLABORATIVE_PROMPT;
  if (!isNamed || checkpoint?.resume || rows.length === 0) return;
  if ([...rows, ...calibration].some(({ kind }) => kind !== "text")) return;
  throw promptForTexts({
    what: "cannot train with a prompt of one's own",
    fix: "leave the prompt out, or train on instructions",
  });
}

/** The error of a prompt for texts, which get none. */
export function promptForTexts({ what, fix }: Pick<ErrorParts, "what" | "fix">): CompressoError {
  return refusal("usage", what, {
    rule: "a prompt stands before instructions and conversations",
    value: "the data are texts",
    fix,
  });
}

/** Most rows, and sequences of them, that are held out. */
const HELD_OUT = 32;

/**
 * Number of rows to hold out, from the end. By default at most a tenth of them, so 0 if there are fewer than ten.
 * Otherwise `val` of them, or that share, but never all.
 */
export function heldOutOf(rows: number, val: number | null = null): number {
  if (val === null) return Math.min(HELD_OUT, Math.floor(rows / 10));
  return Math.max(0, Math.min(rows - 1, Math.floor(val < 1 ? val * rows : val)));
}

/** The error of a run that is to measure held-out rows without any. */
function noneHeldOut(rows: number, heldOut: number): CompressoError {
  return refusal("input", "cannot measure the loss on held-out rows", {
    rule: `at least one row is held out, and fits ${option("seq")}`,
    value: `${heldOut} of ${rows} rows are held out`,
    fix: `give more rows, or more of them by ${option("val")}`,
    option: "val",
  });
}

/** The error of held-out rows that were given, none of which can be measured. */
function noneOfRows(rows: number): CompressoError {
  return refusal("input", "cannot measure the loss on these held-out rows", {
    rule: `at least one of them has a response within ${option("seq")}`,
    value: `${rows} rows`,
    fix: `give others, or raise ${option("seq")}`,
    option: "valRows",
  });
}

function splitRows<T>(rows: readonly T[], val: number | null): [training: readonly T[], heldout: readonly T[]] {
  const count = heldOutOf(rows.length, val);
  return [rows.slice(0, rows.length - count), rows.slice(rows.length - count)];
}
