// Rows that tell units apart beside those that are trained on. Owns their batches, and the texts that a model writes for it; refuses scores and files.
import { CompressoError } from "../errors.ts";
import type { Row, TextRow } from "../io/datasets.ts";
import type { Example } from "../io/prompts.ts";
import { type Batch, createBatches, encodeRows, type EncodeRowsOptions } from "./batches.ts";
import type { Model } from "./model.ts";
import { textFields, writeTexts } from "./qat.ts";

/** Calibration rows as a run uses them. */
export interface CalibrationData {
  /** Hash of all sequences. */
  readonly digest: string;
  /** The same batches at every call, whatever the run's seed. */
  batches(): Iterable<Batch>;
}

/** Sequences that are looked at, up to a whole batch; texts that a model writes for itself. */
export const CALIBRATION_SEQUENCES = 32;

/** Encodes the rows as those of the run are. Throws `CompressoError("input")` as `encodeRows` does. */
export function encodeCalibration(
  rows: readonly Row[],
  { batch, padId, ...encoding }: EncodeRowsOptions & { readonly batch: number; readonly padId: number },
): Omit<CalibrationData, "digest"> & { readonly examples: readonly Example[] } {
  const examples = encode(rows, encoding), { seq } = encoding;
  const count = Math.ceil(Math.min(CALIBRATION_SEQUENCES, examples.length) / batch);
  return {
    examples,
    *batches(): Generator<Batch> {
      const batches = createBatches(examples, { batch, seq, seed: 1, padId });
      for (let index = 0; index < count; index++) yield batches.next();
    },
  };
}

function encode(rows: readonly Row[], encoding: EncodeRowsOptions): readonly Example[] {
  try {
    return encodeRows(rows, encoding).examples;
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    throw new CompressoError(error.code, { ...error.parts, what: `${error.parts.what}, as calibration` }, {
      cause: error,
    });
  }
}

/**
 * Lets the model write its own calibration rows, the same at every call: {@link CALIBRATION_SEQUENCES} texts of `tokens` tokens at most, or as many as its context has.
 *
 * @throws CompressoError as `writeTexts` does.
 */
export async function writeCalibration(
  model: Model,
  { tokens, signal, onText }: {
    readonly tokens: number;
    readonly signal?: AbortSignal | undefined;
    /** Called after each text, with how many there are and will be. */
    readonly onText?: ((done: number, total: number) => void) | undefined;
  },
): Promise<TextRow[]> {
  const rows: TextRow[] = [], count = CALIBRATION_SEQUENCES;
  const most = model.spec.maxPosition - (model.tokenizer?.leading.length ?? 0);
  for await (const written of writeTexts(model, { count, tokens: Math.min(tokens, most), signal })) {
    const { text, ...extra } = textFields(written);
    rows.push({ kind: "text", text, extra });
    onText?.(rows.length, count);
  }
  return rows;
}
