// Names of the files in a run's folder, and the checks of a folder before a run starts or resumes.
import { type CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { exists } from "../files/exists.ts";
import { ADAPTER_FOLDER, UNMERGED_FOLDER } from "../slice/export_options.ts";

/** Name of the checkpoint within the folder of a run. */
export const CHECKPOINT_FILE = "checkpoint.safetensors";

/** Name of the records within the folder of a run. */
export const RECORDS_FILE = "records.jsonl";

/** Name of the summary within the folder of a finished run. */
export const SUMMARY_FILE = "run.json";

/** Name of the list of the tokens that a cut vocabulary keeps, by their ids before. */
export const VOCABULARY_FILE = "vocabulary.json";

/** Name of the measures of experts, by which another share of them is cut. */
export const SCORES_FILE = "scores.json";

/** Name of the texts that the model wrote for calibration. */
export const CALIBRATION_FILE = "calibration.jsonl";

/**
 * Files that show that a folder holds a run. Records alone do not: a run killed before its first checkpoint leaves
 * them.
 */
export const RUN_FILES = [
  ...[
    SUMMARY_FILE,
    "model",
    "model.gguf",
    UNMERGED_FOLDER,
    ADAPTER_FOLDER,
    VOCABULARY_FILE,
    SCORES_FILE,
    CHECKPOINT_FILE,
  ] as const,
];

/** The folders of {@link RUN_FILES}. A crash while one is replaced may leave it under a temporary name. */
export const MODEL_FOLDERS = ["model", UNMERGED_FOLDER, ADAPTER_FOLDER] as const;

/** The files of {@link RUN_FILES} that a folder contains. */
export async function presentFiles(out: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of RUN_FILES) if (await exists(`${out}/${name}`)) found.push(name);
  return found;
}

/** Refuses a folder that holds an earlier run. Throws `CompressoError("usage")`. */
export async function refuseEarlierRun(out: string): Promise<void> {
  refuseFound(out, await presentFiles(out));
}

/** Refuses a folder in which these files of an earlier run were found. Throws `CompressoError("usage")` if there are any. */
export function refuseFound(out: string, found: readonly string[]): void {
  if (found.length === 0) return;
  const isUnfinished = found.includes(CHECKPOINT_FILE);
  refuse("usage", `cannot start a run in ${out}`, {
    rule: "the folder holds no earlier run",
    value: `it holds ${found.join(", ")}`,
    fix: isUnfinished
      ? `continue with ${option("resume")}, start over with ${option("export.replace")}, or choose another ${
        option("out")
      }`
      : `start over with ${option("export.replace")}, or choose another ${option("out")}`,
  });
}

/** Refuses to resume the run in a folder without a checkpoint. Throws `CompressoError("usage")`. */
export async function checkResumable(out: string): Promise<void> {
  if (!await exists(`${out}/${CHECKPOINT_FILE}`)) refuseResuming(out);
}

/** Refuses to resume a run that has no checkpoint. Throws `CompressoError("usage")`. */
export function refuseResuming(out: string): never {
  refuse("usage", `cannot resume the run in ${out}`, {
    rule: `the folder holds ${CHECKPOINT_FILE}`,
    value: "no checkpoint",
    fix: `start it without ${option("resume")}, or let the folder decide by ${option("resume", "auto")}`,
    option: "resume",
  });
}

/** The error of calibration texts that would replace a file that no run has written. */
export function textsThere(textsPath: string): CompressoError {
  return refusal("usage", `cannot write ${textsPath}`, {
    rule: "calibration texts do not replace an existing file",
    value: "the file exists",
    fix: `give it by ${option("calibration")}, choose another ${option("out")}, start with ${
      option("export.replace")
    }, or take ${option("calibration", "none")}`,
  });
}
