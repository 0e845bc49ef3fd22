// Answers of a model on disk.
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Row } from "../data/row.ts";
import type { Model } from "../model/model.ts";
import { ANSWER_NAMES, answerFields, type AnswersOptions, type OwnAnswer, writeAnswers } from "./answers.ts";
import type { SelfDataFileOptions } from "./self_data_file.ts";
import { type SelfDataResult, writeSeries } from "./series_file.ts";

/** Options of {@link writeAnswerFile}. */
export interface AnswerFileOptions
  extends Omit<AnswersOptions, "skip">, Pick<SelfDataFileOptions, "resume" | "identity" | "onStart"> {
  /**
   * The file, JSON lines of `{"instruction": …, "input": …, "output": …}`, with `"ended": false` for an answer that was
   * cut off. Until the file is complete, its rows are in `PATH.part`.
   */
  readonly path: string;
  /** Called, and awaited, after each answer. */
  readonly onAnswer?: ((answer: OwnAnswer) => void | Promise<void>) | undefined;
}

const NAMES: NamesOf<AnswerFileOptions> = {
  ...ANSWER_NAMES,
  path: "text",
  resume: "switch",
  identity: true,
  onStart: true,
  onAnswer: true,
};

/** Version of the file's format. */
export const ANSWER_FORMAT = 1;

/**
 * Writes {@link writeAnswers} to a file, as `writeTextFile` writes texts: a stopped or crashed run leaves `PATH.part`,
 * from which `resume` makes the same file as a run that was not stopped. Rows may be added at the end on resuming.
 *
 * @throws CompressoError("mismatch") for resuming with other settings.
 * @throws CompressoError("usage") for fewer rows than are there.
 * @throws CompressoError("input") if the disk refuses the file; and what {@link writeAnswers} throws.
 */
export async function writeAnswerFile(
  model: Model,
  rows: readonly Row[],
  options: AnswerFileOptions,
): Promise<SelfDataResult> {
  checkNames(options, NAMES, { whose: "writeAnswerFile" });
  const { path, resume, identity = {}, onStart, onAnswer, tokens, temperature = 0, seed = 1, prompt = null, ...how } =
    options;
  const settings = { tokens, temperature, seed, prompt };
  // The options and rows are checked before the part of an earlier run is touched.
  const rowsAfter = (skip: number): AsyncIterable<OwnAnswer> =>
    writeAnswers(model, rows, { ...how, ...settings, skip });
  rowsAfter(0);
  return await writeSeries({
    path,
    count: rows.length,
    resume,
    settings: { ...settings, ...identity, answers: ANSWER_FORMAT },
    ranks: how.ranks,
    onStart,
  }, { rowsAfter, fieldsOf: answerFields, onRow: onAnswer });
}
