// `compresso report RUN…`: runs as one HTML file.
import type { CommandUnknownOpts } from "../packages.ts";
import { basename, dirname, join, resolve } from "node:path";
import { refuse } from "../../lib/core/errors.ts";
import { writeFileAtomically } from "../../lib/files/atomic.ts";
import { exists, namesIn } from "../../lib/files/exists.ts";
import { readEvaluation } from "../../lib/report/evaluation.ts";
import { readRun } from "../../lib/report/read_run.ts";
import { recordsCsv } from "../../lib/report/records_csv.ts";
import { RECORDS_FILE } from "../../lib/run/folder.ts";
import { renderReport } from "../../lib/report/report.ts";
import { verb } from "../command.ts";
import { formatBytes, note, print, printJson } from "../terminal/output.ts";
import { refuseInputs } from "../refuse_inputs.ts";
import { REPORT_FILE, runRecords } from "./prune/run_folder.ts";
import { addFlags, type FlagTable, type FlagValues, JSON_FLAG } from "../options/flags.ts";

const FLAGS = {
  out: {
    type: "text",
    placeholder: "file",
    help: `the file to write (default for one run: ${REPORT_FILE} in its folder)`,
  },
  eval: {
    type: "value",
    placeholder: "file",
    initially: [],
    parse: (file: string, before: readonly string[]): readonly string[] => [...before, file],
    help:
      "file with the output of `eval --json`, to show with the runs; may be repeated (a run's own eval….json are shown anyway)",
  },
  csv: {
    type: "text",
    placeholder: "file",
    defaultText: "none",
    help: "also write the numbers of all steps to this file, as comma-separated values with a column for the run",
  },
  title: { type: "value", placeholder: "text", defaultText: "the names of the runs", help: "headline" },
  json: JSON_FLAG,
} as const satisfies FlagTable;

/** Where sweeps and experiments write the comparison of their runs. */
const COMPARISONS = ["sweep.html", "experiment.html"] as const;

/** Declares the verb. */
export function reportVerb(): CommandUnknownOpts {
  const command = verb("report", {
    description:
      "Write one HTML page about runs: sizes, evaluation, loss, sparsity, masks, layers, training, alarms, options.",
    examples: [
      "report runs/demo",
      "report runs/demo --eval dense.json --eval pruned.json",
      "report runs/learned runs/gradual --out comparison.html",
      "report runs/rank --csv steps.csv",
    ],
    notes:
      `The page is one file that needs no network: it can be mailed, printed, and read without scripts. A run that is
still running or was interrupted is shown up to its last step.`,
  }).argument(
    "<run...>",
    "folder of a run, or of an experiment or a sweep for all of its runs; the charts show several runs together",
  );
  return addFlags(command, FLAGS).action(async (named: readonly string[], flags: FlagValues<typeof FLAGS>) => {
    const { out, csv, eval: evalFiles, title, json } = flags;
    // One after the other: a wrong path leaves no file of another half-read.
    const path = out ?? outOf(named), folders = (await Array.fromAsync(named, (one) => runFolders(one))).flat();
    // A folder such as "." has its name from where it is.
    const runs = await Array.fromAsync(
      folders,
      async (folder) => ({ ...await readRun(folder), name: basename(resolve(folder)) }),
    );
    const evaluations = await Array.fromAsync(evalFiles, (one) => readEvaluation(one));
    for (const why of runs.flatMap(({ unread }) => unread)) note(`compresso: left out of the report: ${why}`);
    const read = [...evalFiles, ...(await Array.fromAsync(folders, (one) => runRecords(one))).flat()];
    await refuseInputs(path, read, { option: "--out" });
    if (csv !== undefined) await refuseInputs(csv, [...read, path], { option: "--csv" });
    const html = renderReport(runs, { evaluations: evaluations.flat(), ...(title === undefined ? {} : { title }) });
    const bytes = await write(path, html);
    if (csv !== undefined) await write(csv, recordsCsv(runs));
    if (json) {
      printJson({
        file: path,
        bytes,
        ...(csv === undefined ? {} : { csv }),
        runs: runs.map(({ name }) => name),
      });
    } else print(`${path}  ${formatBytes(bytes)}${csv === undefined ? "" : `\n${csv}`}`);
    for (const folder of named) {
      for (const file of COMPARISONS) {
        if (await exists(join(folder, file))) note(`compresso: ${join(folder, file)} compares the runs of ${folder}`);
      }
    }
  });
}

/** Writes a file, with its folder. Returns its bytes. */
async function write(path: string, text: string): Promise<number> {
  const made = await newFolderOf(path);
  await writeFileAtomically(path, text);
  if (made !== null) note(`compresso: made the folder ${made}`);
  return new TextEncoder().encode(text).length;
}

/** The folder of a run, or the folders of all runs of an experiment or a sweep. */
async function runFolders(folder: string): Promise<string[]> {
  const points = (await namesIn(folder)).filter((name) => name.startsWith("sparsity-"));
  const cells = (await namesIn(join(folder, "cells"))).map((name) => join("cells", name));
  const found: string[] = [];
  for (const name of [...points, ...cells]) {
    if (await exists(join(folder, name, RECORDS_FILE))) found.push(join(folder, name));
  }
  return found.length > 0 ? found : [folder];
}

/** The folder of a file, where writing will make it; null if it is there. Throws `CompressoError("usage")` if more than one folder is missing. */
async function newFolderOf(path: string): Promise<string | null> {
  const folder = dirname(path);
  if (await exists(folder)) return null;
  if (await exists(dirname(folder))) return folder;
  refuse("usage", `cannot write to ${path}`, {
    rule: "at most the last folder of --out is new",
    value: `there is no ${dirname(folder)}`,
  });
}

function outOf(folders: readonly string[]): string {
  const [folder] = folders;
  if (folder !== undefined && folders.length === 1) return join(folder, REPORT_FILE);
  refuse("usage", "cannot tell where the report goes", {
    rule: "a report of several runs is named with --out",
    value: `${folders.length} runs, no --out`,
    fix: "add --out report.html",
  });
}
