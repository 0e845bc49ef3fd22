// Calibration rows, on which units are scored besides the training rows: their batches, and texts that the model itself
// writes.
import { CompressoError } from "../core/errors.ts";
import type { Row, TextRow } from "../data/rows.ts";
import type { Example } from "../data/prompts/encode.ts";
import { type Batch, type Batches, createBatches } from "../data/batches.ts";
import { encodeRows, type EncodeRowsOptions } from "../data/encode_rows.ts";
import type { EncodeReport } from "../data/encode_report.ts";
import type { Model } from "../model/model.ts";
import { kindOfMethod } from "./methods/all.ts";
import { learnsBesideCalibration } from "./methods/stages.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { type SelfDataOptions, textFields, writeTexts, writtenRoom } from "../generate/self_data.ts";

/** Calibration rows as a run uses them. */
export interface CalibrationData {
  /** Hash of all sequences. */
  readonly digest: string;
  /** The same batches at every call, independent of the run's seed. */
  batches(): Iterable<Batch>;
}

/** Number of calibration sequences, up to a whole batch; also the most texts that a model writes for itself. */
export const CALIBRATION_SEQUENCES = 32;

/**
 * Number of texts that a model writes for itself: a third of the sequences of its run, so that a short run does not
 * calibrate longer than it trains. One-shot methods use nothing else and need not train at all.
 */
export function calibrationTexts(
  { method, steps, prefinetune, postfinetune, batch }: Pick<
    ResolvedOptions,
    "method" | "steps" | "prefinetune" | "postfinetune" | "batch"
  >,
): number {
  if (kindOfMethod(method) === "one-shot") return CALIBRATION_SEQUENCES;
  return Math.min(CALIBRATION_SEQUENCES, Math.ceil((prefinetune + steps + postfinetune) * batch / 3));
}

/** Up to {@link CALIBRATION_SEQUENCES} sequences of the calibration rows and as many of the training rows, without padding. */
export function sequencesToMeasure(
  { calibration, makeBatches }: {
    readonly calibration: CalibrationData | null;
    readonly makeBatches: (seed: number) => Batches;
  },
  { batch, seq, seed }: Pick<ResolvedOptions, "batch" | "seq" | "seed">,
): number[][] {
  const training = makeBatches(seed), count = Math.min(CALIBRATION_SEQUENCES, training.length);
  const sequencesOf = ({ tokens, lengths }: Batch): number[][] =>
    Array.from({ length: batch }, (_, row) => [...tokens.slice(row * seq, row * seq + (lengths?.[row] ?? seq))]);
  const rows = Array.from({ length: Math.ceil(count / batch) }, () => sequencesOf(training.next()));
  return [...Iterator.from(calibration?.batches() ?? []).flatMap(sequencesOf), ...rows.flat().slice(0, count)];
}

/** Encodes calibration rows like the rows of the run. Throws `CompressoError("input")` as `encodeRows` does. */
export function encodeCalibration(
  rows: readonly Row[],
  { batch, padId, ...encoding }: EncodeRowsOptions & { readonly batch: number; readonly padId: number },
): Omit<CalibrationData, "digest"> & { readonly examples: readonly Example[]; readonly report: EncodeReport } {
  const { examples, report } = encode(rows, encoding), { seq } = encoding;
  const count = Math.ceil(Math.min(CALIBRATION_SEQUENCES, examples.length) / batch);
  return {
    examples,
    report,
    *batches(): Generator<Batch> {
      const batches = createBatches(examples, { batch, seq, seed: 1, padId });
      for (let index = 0; index < count; index++) yield batches.next();
    },
  };
}

function encode(rows: readonly Row[], encoding: EncodeRowsOptions): ReturnType<typeof encodeRows> {
  try {
    return encodeRows(rows, encoding);
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    throw error.with({ at: "as calibration" });
  }
}

/**
 * The default of calibration: "own" texts for masks learned from saliency with a prior, "none" otherwise and for a
 * resumed run that started without.
 */
export function calibrationDefault(
  options: Pick<ResolvedOptions, "method" | "start" | "rates">,
  { resume, areThere }: {
    readonly resume: boolean;
    /** Whether the folder of the run has texts. */
    readonly areThere: boolean;
  },
): "own" | "none" {
  return learnsBesideCalibration(options) && (areThere || !resume) ? "own" : "none";
}

/**
 * Lets the model write its own calibration rows, the same at every call: `count` texts (default {@link
 * CALIBRATION_SEQUENCES}) of at most `tokens` tokens, or as many as its context holds.
 *
 * @throws CompressoError as `writeTexts` does.
 */
export async function writeCalibration(
  model: Model,
  { tokens, count = CALIBRATION_SEQUENCES, ...how }:
    & Pick<SelfDataOptions, "tokens" | "ranks" | "signal" | "cacheBytes" | "onProgress">
    & { readonly count?: number },
): Promise<TextRow[]> {
  const rows: TextRow[] = [];
  const most = writtenRoom(model.spec, model.tokenizer);
  for await (const written of writeTexts(model, { count, tokens: Math.min(tokens, most), ...how })) {
    const { text, ...extra } = textFields(written);
    rows.push({ kind: "text", text, extra });
  }
  return rows;
}
