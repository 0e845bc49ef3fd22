// What a prune run leaves in its folder. Owns these names, and the refusal of files that are there or are not; refuses to write or remove any.
import { join } from "node:path";
import { CompressoError, type ErrorParts } from "../core/errors.ts";
import { exists } from "../files/exists.ts";
import { ADAPTER_FOLDER, UNMERGED_FOLDER } from "../slice/export_adapter.ts";
import type { CheckpointOptions } from "./options/options.ts";

/** Name of the checkpoint within the folder of a run. */
export const CHECKPOINT_FILE = "checkpoint.safetensors";

/** Name of the records within the folder of a run. */
export const RECORDS_FILE = "records.jsonl";

/** Name of the texts that the model wrote for calibration. */
export const CALIBRATION_FILE = "calibration.jsonl";

/** What tells a folder with a run; records alone, of one that was killed before its first checkpoint, do not. */
export const RUN_FILES = ["run.json", "model", "model.gguf", UNMERGED_FOLDER, ADAPTER_FOLDER, CHECKPOINT_FILE] as const;

/** Folders among them, which a crash within their replacement may leave aside. */
export const MODEL_FOLDERS = ["model", UNMERGED_FOLDER, ADAPTER_FOLDER] as const;

/** Those that are there. */
export async function presentFiles(out: string): Promise<string[]> {
  const found: string[] = [];
  for (const name of RUN_FILES) if (await exists(join(out, name))) found.push(name);
  return found;
}

/** Refuses a folder that holds an earlier run. Throws `CompressoError("usage")`. */
export async function refuseEarlierRun(out: string): Promise<void> {
  const found = await presentFiles(out);
  if (found.length === 0) return;
  const isUnfinished = found.includes(CHECKPOINT_FILE);
  throw new CompressoError("usage", {
    what: `cannot start a run in ${out}`,
    rule: "the folder holds no earlier run",
    value: `it holds ${found.join(", ")}`,
    fix: isUnfinished
      ? "go on with --resume, start anew with --overwrite, or choose another --out"
      : "start anew with --overwrite, or choose another --out",
  });
}

/**
 * The checkpoint that a run goes on from; null where it begins. Throws `CompressoError("usage")` where it may have something otherwise than a file that is
 * not there.
 */
export async function resumedFrom(checkpoint: CheckpointOptions | undefined): Promise<CheckpointOptions | null> {
  if (!checkpoint?.resume) return null;
  const { path, mayDiffer = [] } = checkpoint;
  if (await exists(path)) return checkpoint;
  if (mayDiffer.length === 0) return null;
  throw noCheckpoint({
    what: `cannot go on otherwise in ${mayDiffer.join(", ")}`,
    rule: `the checkpoint is there to go on from: ${path}`,
    fix: "name the checkpoint of the run, or leave mayDiffer out",
  });
}

/** Refuses to resume the run in a folder without a checkpoint. Throws `CompressoError("usage")`. */
export async function checkResumable(out: string): Promise<void> {
  if (await exists(join(out, CHECKPOINT_FILE))) return;
  throw noCheckpoint({
    what: `cannot resume the run in ${out}`,
    rule: `the folder holds ${CHECKPOINT_FILE}`,
    fix: "start it without --resume",
  });
}

/** The error of a run that is to go on where no checkpoint is. */
function noCheckpoint(parts: Pick<ErrorParts, "what" | "rule" | "fix">): CompressoError {
  return new CompressoError("usage", { ...parts, value: "there is none" });
}
