// Checks and clears the folder of a prune run before the run starts.
import { join, sep } from "node:path";
import { refuse } from "../../../lib/core/errors.ts";
import { destination, unwritable } from "../../../lib/files/atomic.ts";
import { exists, namesIn } from "../../../lib/files/exists.ts";
import { FolderLock } from "../../../lib/files/lock.ts";
import { differencesOf } from "../../../lib/core/identity.ts";
import { decidingOptions } from "../../../lib/run/identity.ts";
import type { ResolvedOptions } from "../../../lib/run/options/options.ts";
import { isEvaluationFile } from "../../../lib/report/read_run.ts";
import {
  CALIBRATION_FILE,
  CHECKPOINT_FILE,
  presentFiles,
  RECORDS_FILE,
  refuseEarlierRun,
  RUN_FILES,
} from "../../../lib/run/folder.ts";
import type { RunSummary } from "../../../lib/run/result.ts";
import { readSummary } from "../../../lib/run/run_json.ts";

/** Name of a run's report in its folder. */
export const REPORT_FILE = "report.html";

/**
 * Refuses a folder that another run writes to, or that holds an earlier run, unless that is to be replaced or resumed.
 * Also refuses to replace a run whose output is `model`, the model to prune.
 */
export async function checkRunFolder(
  out: string,
  { resume, overwrite, model }: {
    readonly resume: boolean;
    readonly overwrite: boolean;
    readonly model: string;
  },
): Promise<void> {
  await refuseFile(out);
  await new FolderLock(out).check();
  if (overwrite) await refuseOwnModel(out, model);
  if (!resume && !overwrite) await refuseEarlierRun(out);
}

/** Refuses an --out that exists and is no folder. Throws `CompressoError("usage")`. */
export async function refuseFile(out: string): Promise<void> {
  const info = await Deno.stat(out).catch(() => null);
  if (!info || info.isDirectory) return;
  const rule = "--out is a folder", fix = "choose another --out";
  refuse("usage", `cannot write to ${out}`, { rule, value: "a file", fix });
}

/**
 * Removes the files of an earlier run, so that a run that stops early does not leave the model of another run. Keeps
 * its calibration texts if they are among the `files` that this run reads.
 */
export async function clearRunFolder(
  out: string,
  { files }: { readonly files: readonly (string | undefined)[] },
): Promise<void> {
  // The summary is removed last. If a file before it cannot be removed, as in a folder of another user, everything is
  // still there.
  for (const name of (await presentFiles(out)).toReversed()) {
    // The target of a link, which the next run writes to as well.
    await Deno.remove(await destination(join(out, name)), { recursive: true }).catch((error) => {
      throw unwritable(join(out, name), error);
    });
  }
  // A report or an evaluation of the earlier run would look like one of this run. Measurements are renamed instead of
  // deleted.
  await Deno.remove(join(out, REPORT_FILE)).catch(() => undefined);
  if (!await isAmong(join(out, CALIBRATION_FILE), files)) {
    await Deno.remove(join(out, CALIBRATION_FILE)).catch(() => undefined);
  }
  const names = await namesIn(out);
  for (const name of names.filter(isEvaluationFile)) {
    let aside = `earlier-${name}`;
    for (let number = 2; names.includes(aside); number++) aside = `earlier-${number}-${name}`;
    await Deno.rename(join(out, name), join(out, aside)).catch((error) => {
      throw unwritable(join(out, name), error);
    });
  }
}

/** Output files of a run, whether they exist yet or not. */
export async function runRecords(out: string): Promise<string[]> {
  const names = new Set([...RUN_FILES, RECORDS_FILE, ...(await namesIn(out)).filter(isEvaluationFile)]);
  return [...names].map((name) => join(out, name));
}

/** Refuses to replace the run that the model comes from: its files would be removed before the model is read. */
async function refuseOwnModel(out: string, model: string): Promise<void> {
  const own = await realPath(model);
  for (const name of RUN_FILES) {
    const path = await realPath(join(out, name));
    if (own === null || path === null || (own !== path && !own.startsWith(path + sep))) continue;
    refuse("usage", `cannot replace the run in ${out}`, {
      rule: "the model to prune is not among the files that --overwrite removes",
      value: `${model} is ${join(out, name)} or lies in it`,
      fix: "choose another --out, or move the model first",
    });
  }
}

/** The file that a path refers to; null if it does not exist. */
async function realPath(path: string): Promise<string | null> {
  return await Deno.realPath(path).catch(() => null);
}

/** Whether a path refers to one of the files. */
export async function isAmong(path: string, files: readonly (string | undefined)[]): Promise<boolean> {
  const own = await realPath(path);
  if (own === null) return false;
  for (const file of files) if (file !== undefined && await realPath(file) === own) return true;
  return false;
}

/** Whether there is a run that is stopped or finished. */
export async function holdsRun(out: string): Promise<boolean> {
  return await isResumable(out) || await isFinished(out);
}

/** Whether the folder holds a finished run: without the model, run.json is left over from an interrupted removal. */
async function isFinished(out: string): Promise<boolean> {
  const found = await presentFiles(out);
  return found.includes("run.json") && !found.includes(CHECKPOINT_FILE) &&
    (found.includes("model.gguf") || await exists(join(out, "model", "config.json")));
}

/** Whether a stopped run can be resumed. */
export async function isResumable(out: string): Promise<boolean> {
  return (await presentFiles(out)).includes(CHECKPOINT_FILE);
}

/**
 * Summary of the finished run in the folder; null if it is not finished. `now` are the current options, and `inputs`
 * the current inputs. Throws `CompressoError("mismatch")` if run.json holds others.
 */
export async function finishedRun(
  out: string,
  { now: optionsNow, inputs }: {
    readonly now: () => Promise<ResolvedOptions>;
    readonly inputs: () => Promise<Readonly<Record<string, string>>>;
  },
): Promise<RunSummary | null> {
  if (!await isFinished(out)) return null;
  const summary = await readSummary(out);
  if (!summary) return null;
  const { inputs: made } = summary; // empty of a run of a program
  const present = Object.keys(made).length > 0 ? await inputs() : {};
  const now = {
    ...decidingOptions(await optionsNow()),
    ...Object.fromEntries(Object.keys(made).map((key) => [key, present[key]])),
  };
  const differing = differencesOf({ ...decidingOptions(summary.options), ...made }, now);
  if (differing.length === 0) return summary;
  refuse("mismatch", `cannot resume the run in ${out}`, {
    rule: "options, model and data are those of the first run, which is finished",
    value: differing.join("; "),
    fix: "start again with --overwrite, or choose another --out",
  });
}
