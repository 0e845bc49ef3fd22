// The folder of a prune run before the run: what stands there, and what may happen to it. Owns those rules; refuses the run.
import { join, sep } from "node:path";
import { CompressoError } from "../../../lib/core/errors.ts";
import { destination, unwritable } from "../../../lib/files/atomic.ts";
import { exists, namesIn } from "../../../lib/files/exists.ts";
import { FolderLock } from "../../../lib/files/lock.ts";
import { isObject } from "../../../lib/core/guards.ts";
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

/** Name of a run's report in its folder. */
export const REPORT_FILE = "report.html";

/**
 * Refuses a folder that another run writes to, or that holds an earlier one, unless it is to be replaced or resumed, and a replaced one that
 * holds `model`, the run's own.
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

/** Refuses an --out that is no folder, but may be missing. Throws `CompressoError("usage")`. */
export async function refuseFile(out: string): Promise<void> {
  const info = await Deno.stat(out).catch(() => null);
  if (!info || info.isDirectory) return;
  const rule = "--out is a folder", fix = "choose another --out";
  throw new CompressoError("usage", { what: `cannot write to ${out}`, rule, value: "a file", fix });
}

/**
 * Removes what an earlier run left, so that a run that stops early leaves no model that is not its own; but its calibration texts, where they
 * are among the `files` that this run reads.
 */
export async function clearRunFolder(
  out: string,
  { files }: { readonly files: readonly (string | undefined)[] },
): Promise<void> {
  // The summary last: where what comes before it cannot be removed, as in a folder of another user, all of it is still there.
  for (const name of (await presentFiles(out)).toReversed()) {
    // What a link leads to, where the next run writes too.
    await Deno.remove(await destination(join(out, name)), { recursive: true }).catch((error) => {
      throw unwritable(join(out, name), error);
    });
  }
  // A report or an evaluation of the earlier run would be taken for one of this run; what was measured is only put aside.
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

/** Files of a run that others are made of, whether they are there yet or not. */
export async function runRecords(out: string): Promise<string[]> {
  const names = new Set([...RUN_FILES, RECORDS_FILE, ...(await namesIn(out)).filter(isEvaluationFile)]);
  return [...names].map((name) => join(out, name));
}

/** Replacing an earlier run removes its files before the model is read. */
async function refuseOwnModel(out: string, model: string): Promise<void> {
  const own = await realPath(model);
  for (const name of RUN_FILES) {
    const path = await realPath(join(out, name));
    if (own === null || path === null || (own !== path && !own.startsWith(path + sep))) continue;
    throw new CompressoError("usage", {
      what: `cannot replace the run in ${out}`,
      rule: "the model to prune is not among the files that --overwrite removes",
      value: `${model} is ${join(out, name)} or lies in it`,
      fix: "choose another --out, or move the model first",
    });
  }
}

/** Where a path leads; null where nothing is. */
async function realPath(path: string): Promise<string | null> {
  return await Deno.realPath(path).catch(() => null);
}

/** Whether a path leads to one of the files. */
export async function isAmong(path: string, files: readonly (string | undefined)[]): Promise<boolean> {
  const own = await realPath(path);
  if (own === null) return false;
  for (const file of files) if (file !== undefined && await realPath(file) === own) return true;
  return false;
}

/** Whether a run that stopped can be resumed. */
export async function isResumable(out: string): Promise<boolean> {
  return (await presentFiles(out)).includes(CHECKPOINT_FILE);
}

/**
 * What the finished run in the folder has written; null where it is not finished. `now` are the options now, and
 * `inputs` what there is to run with. Throws `CompressoError("mismatch")` where run.json holds others.
 */
export async function finishedRun(
  out: string,
  { now: options, inputs }: {
    readonly now: ResolvedOptions;
    readonly inputs: () => Promise<Readonly<Record<string, string>>>;
  },
): Promise<RunSummary | null> {
  const found = await presentFiles(out);
  if (!found.includes("run.json") || found.includes(CHECKPOINT_FILE)) return null;
  const summary = await readSummary(join(out, "run.json"));
  // Without the model it is what a clearing that was stopped has left.
  if (!found.includes("model.gguf") && !(await exists(join(out, "model", "config.json")))) return null;
  const { inputs: made } = summary; // empty of a run of a program
  const present = Object.keys(made).length > 0 ? await inputs() : {};
  const now = {
    ...decidingOptions(options),
    ...Object.fromEntries(Object.keys(made).map((key) => [key, present[key]])),
  };
  const differing = differencesOf({ ...decidingOptions(summary.options), ...made }, now);
  if (differing.length === 0) return summary;
  throw new CompressoError("mismatch", {
    what: `cannot resume the run in ${out}`,
    rule: "options, model and data are those of the first run, which is finished",
    value: differing.join("; "),
    fix: "start anew with --overwrite, or choose another --out",
  });
}

async function readSummary(path: string): Promise<RunSummary> {
  let summary: RunSummary | null = null;
  try {
    summary = JSON.parse(await Deno.readTextFile(path));
  } catch { /* refused below */ }
  if (isObject(summary) && Array.isArray(summary.layers) && isObject(summary.options)) return summary;
  throw new CompressoError("input", {
    what: `cannot tell from ${path} whether its run is finished`,
    rule: "it is a run's summary, as `prune` writes it",
    value: "it cannot be read as one",
    fix: "start anew with --overwrite, or choose another --out",
  });
}
