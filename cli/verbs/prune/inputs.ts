// Reads the inputs of a run other than its model: rows, texts of a vocabulary and of measures. Their digests show if a resumed run has the same inputs.
import { refuse } from "../../../lib/core/errors.ts";
import type { Row } from "../../../lib/data/rows.ts";
import { DEMO, demoData, modelPath } from "../../../lib/local/open_model.ts";
import { dataPath, readRows } from "../../../lib/local/rows.ts";
import { scheduleName } from "../../../lib/experiment/identity.ts";
import { isOfPath } from "../../../lib/files/bytes.ts";
import { fileDigest, modelDigest } from "../../../lib/files/fingerprint.ts";
import { parseScores } from "../../../lib/run/experts/scores_file.ts";
import type { PruneOptions } from "../../../lib/run/options/options.ts";
import { trainsNothing } from "../../../lib/run/options/resolve.ts";
import type { TableFlags } from "../../options/table_flags.ts";
import { readText } from "../../terminal/read_text.ts";
import { calibrationName } from "./calibration.ts";
import type { RunFlags } from "./flags.ts";

/** The text and tasks that are measured in addition to held-out rows. */
export async function evaluationOf(
  { evalText, evalTasks, taskData, evalLimit }: TableFlags,
): Promise<Pick<PruneOptions, "evaluate">> {
  const text = evalText === undefined ? undefined : await readText(evalText);
  return { evaluate: { text, tasks: evalTasks, taskData, questions: evalLimit } };
}

/** Digests and names of the inputs of a run. */
export type Inputs =
  & Readonly<Record<"model" | "baseDtype" | "data" | "calibration" | "schedule" | "files", string>>
  & { readonly vocabulary?: string; readonly validation?: string };

/** Scores of --scores; undefined without. */
export async function savedScores({ scores }: RunFlags): Promise<PruneOptions["scores"]> {
  return scores === undefined ? undefined : parseScores(await readText(scores), { path: scores });
}

/** Rows of --vocab-data; undefined without. */
export async function vocabularyRows(
  { vocabData, textField, skipBroken }: RunFlags,
): Promise<readonly Row[] | undefined> {
  if (vocabData === undefined) return undefined;
  return (await readRows(vocabData, { textField, skipBroken })).rows;
}

/** Rows of --val-data; undefined without. */
export async function validationRows(
  { valData, textField, skipBroken }: RunFlags,
): Promise<readonly Row[] | undefined> {
  if (valData === undefined) return undefined;
  return (await readRows(valData, { textField, skipBroken })).rows;
}

/** The data of a run: the demo has its own; null where experts are cut by scores that are given. */
export function dataPathOf(
  path: string,
  { data, units, steps, vocabData, scores }: Pick<TableFlags, "data" | "units" | "steps" | "vocabData" | "scores">,
): string | null {
  if (data !== undefined) return data;
  if (path === DEMO) return demoData("train");
  if (scores !== undefined) return null;
  if (vocabData !== undefined && trainsNothing({ units, steps })) return vocabData;
  refuse("usage", "cannot start without data", {
    rule: "--data names instruction rows or texts; only demo has its own",
    value: "no --data",
    fix: "add --data FILE; compresso data generate lets a model write one",
  });
}

/** What determines a run and its files besides its options. */
export async function inputsOf(path: string, flags: RunFlags): Promise<Inputs> {
  const { baseDtype, calibration, schedule, trust, textField, limitRows, skipBroken } = flags;
  const { dtype, ggufDtype, ggufSize, ggufImatrix, saveAdapter } = flags;
  const data = dataPathOf(path, flags);
  try {
    return {
      model: await modelDigest(await modelPath(path)),
      baseDtype: baseDtype ?? "f16",
      data: data === null
        ? "none"
        : `${await fileDigest(await dataPath(data))} ${JSON.stringify({ textField, limitRows, skipBroken })}`,
      calibration: await calibrationName(calibration),
      schedule: await scheduleName(schedule, { trust }),
      files: JSON.stringify({ dtype, ggufDtype, ggufSize, ggufImatrix, saveAdapter }),
      ...(flags.vocabData === undefined ? {} : { vocabulary: await fileDigest(await dataPath(flags.vocabData)) }),
      ...(flags.valData === undefined ? {} : { validation: await fileDigest(await dataPath(flags.valData)) }),
    };
  } catch (error) {
    if (!isOfPath(error)) throw error;
    refuse("input", "cannot tell whether the run is the same", {
      rule: "model and data are there, and may be read",
      value: error.message,
      fix: "check the paths, and the permissions to them",
      cause: error,
    });
  }
}
