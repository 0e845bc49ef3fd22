// The rows of a run as batches to train on, sequences that are held out, and calibration rows.
import { type Batches, createBatches, digestOfAll } from "../data/batches.ts";
import { encodeRows, sequencesOf } from "../data/encode_rows.ts";
import { CompressoError, type ErrorParts } from "../core/errors.ts";
import type { Row } from "../data/rows.ts";
import { COLLABORATIVE_PROMPT } from "../data/prompts/encode.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { type EncodeReport, withBroken } from "../data/encode_report.ts";
import { type CalibrationData, encodeCalibration } from "./calibration.ts";
import type { Model } from "../model/model.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";

/** Rows as a run uses them. */
export interface RunData {
  /** What became of the rows that are trained on. */
  readonly report: EncodeReport;
  /** Up to 8 sequences for comparing the masked with the sliced model: of rows that are not trained on, where there are enough. */
  readonly heldout: readonly (readonly number[])[];
  /** Their labels, −100 where nothing is predicted; none where they are rows that are trained on. */
  readonly heldoutLabels: readonly (readonly number[])[];
  /** Hash of all examples. */
  readonly digest: string;
  readonly makeBatches: (seed: number) => Batches;
  /** Encodes calibration rows as these are. */
  readonly encodeCalibration: (rows: readonly Row[]) => ReturnType<typeof encodeCalibration>;
  /** Rows that tell units apart beside these; null where there are none. */
  readonly calibration: CalibrationData | null;
}

/**
 * Encodes the rows of a run. Throws `CompressoError("input")` for a model without tokenizer, and for tokens that it has no embedding of; "usage" for a prompt
 * that is named for texts alone.
 */
export function encodeRun(
  { tokenizer, spec: { vocab } }: { readonly spec: Pick<DecoderSpec, "vocab"> } & Pick<Model, "tokenizer">,
  { rows, prompt, packing, batch, seq }: ResolvedOptions,
  given: Pick<PruneOptions, "reading" | "calibrationReading" | "skipBroken" | "calibration" | "prompt" | "checkpoint"> =
    {},
): RunData {
  const { reading, calibrationReading, skipBroken = false, calibration } = given;
  refusePrompt(rows, given);
  if (!calibration) refuseReading(given);
  if (!tokenizer) throw noTokenizer("cannot train on text");
  const encoding = { tokenizer, prompt, packing, seq, skipBroken, vocab };
  // Rows of a program may have no numbers: theirs are the places among all, also of those that are held out.
  const [training, heldoutRows] = splitRows(rows.map((row, index) => ({ ...row, number: row.number ?? index + 1 })));
  const { examples, report } = encodeRows(training, { ...encoding, ...(reading ? { reading } : {}) });
  // Rows that are held out may all be too long for `seq`: what they cannot give is taken from those that are trained on.
  const apart = sequencesOf(heldoutRows, encoding), sequences = apart.examples.slice(0, HELD_OUT);
  const heldout = sequences.length > 0 ? sequences : examples.slice(-HELD_OUT);
  // Tokenizers may have a pad token that the model has no embedding of.
  const padId = [tokenizer.padId, tokenizer.eosId].find((id) => id !== null && id < vocab) ?? 0;
  const data: RunData = {
    report: { ...withBroken(report, apart.broken), heldOut: heldoutRows.length },
    heldout: heldout.map(({ tokens }) => [...tokens]),
    heldoutLabels: sequences.map(({ labels }) => [...labels]),
    digest: digestOfAll(examples),
    makeBatches: (seed) => createBatches(examples, { batch, seq, seed, padId }),
    encodeCalibration: (rows) => encodeCalibration(rows, { ...encoding, reading: calibrationReading, batch, padId }),
    calibration: null,
  };
  return calibration ? withCalibration(data, calibration) : data;
}

/** The data with rows that tell units apart beside them. */
export function withCalibration<T extends RunData>(data: T, rows: readonly Row[]): T {
  const { examples, batches, report } = data.encodeCalibration(rows);
  return {
    ...data,
    report: { ...data.report, calibration: report },
    calibration: { digest: digestOfAll(examples), batches },
  };
}

/** Refuses what became of rows in reading where no rows are given that it is of. Throws `CompressoError("usage")`. */
export function refuseReading({ calibrationReading }: Pick<PruneOptions, "calibrationReading">): void {
  if (calibrationReading === undefined) return;
  throw new CompressoError("usage", {
    what: "cannot use calibrationReading",
    rule: "it says what became of the calibration rows that are given",
    value: "none are given",
    fix: "leave it out, or give the rows",
  });
}

/** Refuses a prompt that no row would get, but where a run may go on that had it. The collaborative one is the default of all rows. */
function refusePrompt(
  rows: readonly Row[],
  { prompt, calibration = [], checkpoint }: Pick<PruneOptions, "prompt" | "calibration" | "checkpoint">,
): void {
  const isNamed = typeof prompt === "string" && prompt !== COLLABORATIVE_PROMPT;
  if (!isNamed || checkpoint?.resume || rows.length === 0) return;
  if ([...rows, ...calibration].some(({ kind }) => kind !== "text")) return;
  throw promptForTexts({
    what: "cannot train with a prompt of one's own",
    fix: "leave the prompt out, or train on instructions",
  });
}

/** The error of a prompt that is named for texts, which get none. */
export function promptForTexts(parts: Pick<ErrorParts, "what" | "fix">): CompressoError {
  return new CompressoError("usage", {
    rule: "a prompt stands before instructions and conversations",
    value: "the data are texts",
    ...parts,
  });
}

/** Rows, and sequences of them, that are held out at most: the comparison holds the logits of all on the CPU. */
const HELD_OUT = 8;

/** How many of so many rows a run keeps from training: the last ones, a tenth at most, so of fewer than ten none. */
export function heldOutOf(rows: number): number {
  return Math.min(HELD_OUT, Math.floor(rows / 10));
}

function splitRows<T>(rows: readonly T[]): [training: readonly T[], heldout: readonly T[]] {
  const count = heldOutOf(rows.length);
  return [rows.slice(0, rows.length - count), rows.slice(rows.length - count)];
}
