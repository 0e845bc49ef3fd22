// Reads a run's folder for a report: records.jsonl, run.json, the checkpoint of an unfinished run, evaluations.
import { isObject } from "../core/guards.ts";
import { CompressoError, option, refusal } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { exists, isFolder, namesIn } from "../files/exists.ts";
import { lastPart } from "../files/path.ts";
import { textIfThere } from "../files/text_file.ts";
import { openSafetensors } from "../formats/safetensors/read.ts";
import type { StepRecord } from "../run/contract.ts";
import { CHECKPOINT_FILE, RECORDS_FILE } from "../run/folder.ts";
import type { MaskSummary } from "../run/mask_summary.ts";
import { namesOneShot } from "../run/methods/all.ts";
import type { Alarm } from "../run/monitors/alarm.ts";
import { allAlarms } from "../run/monitors/shown_alarms.ts";
import { OPTION_PATHS } from "../run/options/table.ts";
import type { RunSummary } from "../run/result.ts";
import { alarmsOf, parseRecords, readSummary } from "../run/run_json.ts";
import { DEFAULT_SCHEDULE, SCHEDULE_NAMES } from "../schedule/builtin.ts";
import type { OriginFile } from "../slice/export_options.ts";
import { type Evaluation, readEvaluation } from "./evaluation.ts";
import { keepsLayers } from "./vocabulary.ts";

/** One run of a report. */
export interface ReportRun {
  /** What it is called in legends. */
  readonly name: string;
  /** Path of its folder; null for a run without a folder. */
  readonly folder: string | null;
  /** Its steps so far. */
  readonly records: readonly StepRecord[];
  /** What run.json says; null while the run is under way, or where it was interrupted. */
  readonly summary: RunSummary | null;
  /** Options with their defaults; null if they are not known. */
  readonly options: Readonly<Record<string, unknown>> | null;
  /** Names and sizes of the model and the data; none where they are not known. */
  readonly origin: readonly OriginFile[];
  /** The GPU that ran it; null if it is not known. */
  readonly adapter: string | null;
  /** Measurements of the models. */
  readonly evaluations: readonly Evaluation[];
  /** Why files named like an evaluation could not be read: they are half-written, or of other programs. */
  readonly unread: readonly string[];
  /** Alarms of its monitors, also at steps that a rollback undid. */
  readonly alarms: readonly Alarm[];
  /** The masks of a run under way and the step that they are of; null if they are not known. */
  readonly liveMasks: { readonly step: number; readonly masks: MaskSummary } | null;
}

/**
 * Reads a run's folder: records.jsonl, run.json if the run is finished, and files named `eval….json` with the output of
 * `compresso eval --json`. Of an unfinished run, the steps so far are read.
 *
 * Throws `CompressoError("input")` if the folder holds no run, and for broken lines and records of another version, with file and line.
 */
export async function readRun(folder: string): Promise<ReportRun> {
  const path = `${folder}/${RECORDS_FILE}`;
  const [lines, summary] = await Promise.all([textIfThere(path, { mayBeCut: true }), readSummary(folder)]);
  // A run that cuts the vocabulary alone may have no steps.
  if (lines === null && !(summary && keepsLayers(summary))) throw await noRun(folder);
  const records = parseRecords(lines ?? "", { path, isFinished: summary !== null });
  const own = { name: lastPart(folder), folder, records, summary, liveMasks: null, ...await readEvaluations(folder) };
  if (summary) {
    const { options, inputs, adapter, origin, alarms } = summary;
    return { ...own, options: { ...options, ...inputsOf(inputs, options.method) }, adapter, origin, alarms };
  }
  const { identity, stopped } = await checkpointFacts(`${folder}/${CHECKPOINT_FILE}`);
  return {
    ...own,
    options: identity && optionsOf(identity),
    adapter: typeof identity?.["adapter"] === "string" ? identity["adapter"] : null,
    origin: [],
    alarms: allAlarms([records.flatMap(({ alarms }) => alarms), stopped]),
  };
}

/** What the checkpoint of an unfinished run says of its options, and of the alarms that stopped it; nothing if there is none, or it cannot be read now. */
async function checkpointFacts(
  path: string,
): Promise<{ readonly identity: Readonly<Record<string, unknown>> | null; readonly stopped: readonly Alarm[] }> {
  try {
    const { metadata } = await openSafetensors(await disk.open(path));
    const meta: unknown = JSON.parse(metadata.get("compresso") ?? "null");
    const [identity, position] = isObject(meta) ? [meta["identity"], meta["position"]] : [];
    const stopped = alarmsOf(isObject(position) ? position["stopped"] : []);
    return { identity: isObject(identity) ? identity : null, stopped };
  } catch {
    return { identity: null, stopped: [] };
  }
}

/**
 * The inputs that a report lists among the options. run.json has them in `inputs`, a checkpoint in its identity. One-shot methods use a schedule only if
 * the user gave one.
 */
function inputsOf(
  { schedule, baseDtype }: Readonly<Record<string, unknown>>,
  method: unknown,
): Readonly<Record<string, unknown>> {
  const isDefault = schedule === DEFAULT_SCHEDULE || schedule === DEFAULT_NAME;
  return {
    ...(baseDtype === undefined ? {} : { baseDtype }),
    ...(schedule === undefined || (isDefault && namesOneShot(method))
      ? {}
      : { schedule: isDefault ? DEFAULT_NAME : schedule }),
  };
}

/** Name of the default schedule. */
const [DEFAULT_NAME] = SCHEDULE_NAMES;

/** The options among a checkpoint's facts, in the form of run.json. */
function optionsOf(identity: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const options = Object.fromEntries(
    Object.entries(identity).filter(([name]) => OPTIONS.has(name))
      // Of calibration rows it has a digest.
      .map(([name, value]) => [name, name === "calibration" ? typeof value === "string" : value]),
  );
  return { ...options, ...inputsOf(identity, identity["method"]) };
}

/** The first parts of the options' paths. */
const OPTIONS: ReadonlySet<string> = new Set(OPTION_PATHS.map((path) => path.split(".", 1)[0] ?? path));

/** Whether a file of this name in a run's folder is taken for an evaluation of the run. */
export function isEvaluationFile(name: string): boolean {
  return name.startsWith("eval") && name.endsWith(".json");
}

async function readEvaluations(folder: string): Promise<Pick<ReportRun, "evaluations" | "unread">> {
  const evaluations: Evaluation[] = [], unread: string[] = [];
  for (const name of (await namesIn(folder)).filter(isEvaluationFile)) {
    try {
      evaluations.push(...await readEvaluation(`${folder}/${name}`));
    } catch (error) {
      if (!(error instanceof CompressoError) || error.code !== "input") throw error;
      unread.push(error.message);
    }
  }
  return { evaluations, unread };
}

async function noRun(folder: string): Promise<CompressoError> {
  return refusal("input", `cannot report ${folder}`, {
    rule: `a run's folder holds ${RECORDS_FILE}`,
    value: await isFolder(folder) ? "it holds none" : await exists(folder) ? "it is no folder" : "no such folder",
    fix: `name the folder that a run was given as ${option("out")}`,
  });
}
