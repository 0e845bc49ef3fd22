// Reads a run's folder for a report: records.jsonl, run.json, the checkpoint of an unfinished run, evaluations.
import { isObject } from "../core/guards.ts";
import { CompressoError, option } from "../core/errors.ts";
import { z } from "../core/packages.ts";
import { disk } from "../files/disk.ts";
import { exists, isFolder, namesIn } from "../files/exists.ts";
import { lastPart } from "../files/path.ts";
import { textIfThere } from "../files/text_file.ts";
import { openSafetensors } from "../formats/safetensors/read.ts";
import type { StepRecord } from "../run/contract.ts";
import { CHECKPOINT_FILE } from "../run/folder.ts";
import type { MaskSummary } from "../run/mask_summary.ts";
import { namesOneShot } from "../run/methods/names.ts";
import { type Alarm, ALARM_ACTIONS, MONITOR_NAMES } from "../run/monitors/alarm.ts";
import { allAlarms } from "../run/monitors/shown_alarms.ts";
import { OPTION_PATHS } from "../run/options/table.ts";
import type { RunSummary } from "../run/result.ts";
import { DEFAULT_SCHEDULE, SCHEDULE_NAMES } from "../schedule/builtin.ts";
import type { OriginFile } from "../slice/export_options.ts";
import { type Evaluation, readEvaluation } from "./evaluation.ts";
import { keepsLayers } from "./vocabulary.ts";

/** What a report reads of run.json. */
export type ReportSummary = Pick<
  RunSummary,
  | "sparsity"
  | "parameters"
  | "layers"
  | "hidden"
  | "maskedVsSliced"
  | "heldoutLoss"
  | "evaluation"
  | "vocabulary"
  | "seconds"
  | "wallSeconds"
  | "resumedAfter"
  | "tokensPerSecond"
  | "peakGpuBytes"
  | "changes"
  | "versions"
  | "before"
  | "masks"
  | "fileBytes"
>;

/** One run of a report. */
export interface ReportRun {
  /** What it is called in legends. */
  readonly name: string;
  /** Path of its folder; null where it has none. */
  readonly folder: string | null;
  /** Its steps so far. */
  readonly records: readonly StepRecord[];
  /** What run.json says; null while the run is under way, or where it was interrupted. */
  readonly summary: ReportSummary | null;
  /** Options with their defaults; null where they are not known. */
  readonly options: Readonly<Record<string, unknown>> | null;
  /** Names and sizes of the model and the data; none where they are not known. */
  readonly origin: readonly OriginFile[];
  /** The GPU that ran it; null where it is not known. */
  readonly adapter: string | null;
  /** Measurements of the models. */
  readonly evaluations: readonly Evaluation[];
  /** Why files that are named like an evaluation could not be read: half-written ones, or those of other programs. */
  readonly unread: readonly string[];
  /** Alarms of its monitors, at steps that were taken back too. */
  readonly alarms: readonly Alarm[];
  /** The masks of a run under way and the step that they are of; null where they are not known. */
  readonly liveMasks: { readonly step: number; readonly masks: MaskSummary } | null;
}

const RECORDS_FILE = "records.jsonl", SUMMARY_FILE = "run.json";

/** JSON has no NaN: it is written as null. */
const number = z.number().nullable().transform((value) => value ?? NaN);
const share = z.number().nullable();
const count = z.int().nonnegative();

const ALARM = z.object({
  monitor: z.enum(MONITOR_NAMES),
  step: count,
  action: z.enum(ALARM_ACTIONS),
  restored: count.nullable().default(null),
  message: z.string(),
  change: z.string(),
});

const RECORD = z.object({
  stage: z.enum(["finetune", "prune", "postfinetune"]),
  step: z.int().positive(),
  steps: z.int().positive(),
  loss: number,
  target: share,
  expected: share,
  lambda1: number,
  lambda2: number,
  gradNorm: number,
  learningRate: number,
  tokens: count,
  labelTokens: count,
  tokensPerSecond: number,
  gpuBytes: count,
  plannedGpuBytes: count,
  layers: z.array(z.object({ heads: number, ffn: number, sparsity: number })).nullable(),
  alarms: z.array(ALARM),
});

const layer = z.object({ heads: count, kvHeads: count, ffn: count, window: z.int().positive().exactOptional() });
const change = z.object({ before: number, after: number });
const difference = z.object({ difference: number, stderr: number, low: number, high: number });
const bitsPerByte = z.object({ before: number, after: number, bytes: count });
const lossChange = z.object({
  before: number,
  after: number,
  perplexity: change,
  bitsPerByte: change.nullable(),
  difference,
  labels: count,
  bytes: count,
  sequences: count,
});
const choiceScore = z.object({
  acc: number,
  acc_norm: number,
  stderr: number,
  acc_norm_stderr: number,
  n: count,
  truncated: count,
});
const answerScore = z.object({ exact_match: number, stderr: number, n: count, truncated: count });
const taskChange = z.union([
  z.object({
    before: choiceScore,
    after: choiceScore,
    difference: z.object({ acc: difference, acc_norm: difference }),
  }),
  z.object({ before: answerScore, after: answerScore, difference: z.object({ exact_match: difference }) }),
]);
const SUMMARY = z.object({
  sparsity: z.object({ target: number, expected: number, hard: number }),
  parameters: z.object({ before: count, after: count }),
  layers: z.array(layer),
  hidden: count,
  maskedVsSliced: z.object({ maxAbs: number, range: number }),
  heldoutLoss: lossChange.nullable(),
  evaluation: z.object({ text: lossChange.nullable(), tasks: z.record(z.string(), taskChange) }),
  vocabulary: z.object({
    before: count,
    after: count,
    counted: count,
    coverage: number,
    growth: number,
    heldout: bitsPerByte.nullable(),
    text: bitsPerByte.nullable(),
  }).nullable(),
  seconds: z.object({ finetune: number, prune: number, postfinetune: number }),
  wallSeconds: number,
  resumedAfter: count,
  tokensPerSecond: number,
  peakGpuBytes: count,
  adapter: z.string(),
  options: z.record(z.string(), z.unknown()),
  inputs: z.record(z.string(), z.unknown()),
  origin: z.array(z.object({ role: z.enum(["model", "data", "calibration"]), name: z.string(), bytes: count })),
  before: z.object({
    layers: z.array(layer),
    hidden: count,
    headDim: count,
    ungated: z.literal(true).exactOptional(),
    bytes: z.number(),
  }),
  masks: z.object({
    heads: z.array(z.array(z.number())),
    ffn: z.array(z.array(z.number())),
    hidden: z.array(z.number()),
  }),
  fileBytes: z.array(z.object({
    file: z.string(),
    bytes: count,
    smaller: z.array(z.object({ dtype: z.string(), bytes: count })).exactOptional(),
  })),
  alarms: z.array(ALARM),
  changes: z.array(z.object({ step: count, differences: z.array(z.string()) })),
  versions: z.object({ compresso: z.string(), deno: z.string() }),
});

/**
 * Reads a run's folder: records.jsonl, run.json where the run is finished, and files named `eval….json`, as `compresso eval --json` prints
 * them. An unfinished run is read as far as it is.
 *
 * Throws `CompressoError("input")` where the folder holds no run, and for broken lines and records of another version, with file and line.
 */
export async function readRun(folder: string): Promise<ReportRun> {
  const recordsPath = `${folder}/${RECORDS_FILE}`, summaryPath = `${folder}/${SUMMARY_FILE}`;
  const [recordsText, summaryText] = await Promise.all([
    textIfThere(recordsPath, { mayBeCut: true }),
    textIfThere(summaryPath),
  ]);
  const parsed = summaryText === null ? null : parseSummary(summaryText, summaryPath);
  // A run that cuts the vocabulary alone may have no steps.
  if (recordsText === null && !(parsed && keepsLayers(parsed))) throw await noRun(folder);
  const records = parseRecords(recordsText ?? "", { path: recordsPath, isFinished: parsed !== null });
  const own = { name: lastPart(folder), folder, records, liveMasks: null, ...await readEvaluations(folder) };
  if (parsed) {
    const { options, inputs, adapter, origin, alarms, ...summary } = parsed;
    return {
      ...own,
      summary,
      options: { ...options, ...inputsOf(inputs, options["method"]) },
      adapter,
      origin,
      alarms,
    };
  }
  const { identity, stopped } = await checkpointFacts(`${folder}/${CHECKPOINT_FILE}`);
  return {
    ...own,
    summary: null,
    options: identity && optionsOf(identity),
    adapter: typeof identity?.["adapter"] === "string" ? identity["adapter"] : null,
    origin: [],
    alarms: allAlarms([records.flatMap(({ alarms }) => alarms), stopped]),
  };
}

/**
 * Records of a run, one a line. Of a run that is not finished the last line may be half written, and is left out then.
 * Throws `CompressoError("input")` naming the line.
 */
export function parseRecords(
  text: string,
  { path, isFinished }: { readonly path: string; readonly isFinished: boolean },
): StepRecord[] {
  const lines = text.split("\n"), tail = lines.pop() ?? "", records: StepRecord[] = [];
  // Every whole line ends with a line feed.
  if (isFinished && tail !== "") lines.push(tail);
  lines.forEach((line, index) => {
    const at = `line ${index + 1} of ${path}`;
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (error) {
      throw broken(`cannot read ${at}`, {
        rule: "each line is a step's record as JSON",
        value: line === "" ? "an empty line" : error instanceof Error ? error.message : String(error),
        fix: "put the file back as the run wrote it, or make the run anew",
      });
    }
    const parsed = RECORD.safeParse(value);
    if (!parsed.success) {
      throw broken(`cannot use ${at}`, {
        rule: "it is a step's record as this version of Compresso writes it",
        value: firstIssue(parsed.error),
        fix: "report the run with the version that wrote it",
      });
    }
    records.push(parsed.data);
  });
  return records;
}

function parseSummary(text: string, path: string): z.infer<typeof SUMMARY> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw broken(`cannot read ${path}`, {
      rule: "it is JSON",
      value: error instanceof Error ? error.message : String(error),
      fix: "put the file back as the run wrote it, or make the run anew",
    });
  }
  const parsed = SUMMARY.safeParse(value);
  if (!parsed.success) {
    throw broken(`cannot use ${path}`, {
      rule: "it is a run's summary as this version of Compresso writes it",
      value: firstIssue(parsed.error),
      fix: "report the run with the version that wrote it",
    });
  }
  const { before, masks } = parsed.data;
  if (masks.heads.length !== before.layers.length || masks.ffn.length !== before.layers.length) {
    throw broken(`cannot use ${path}`, {
      rule: "masks has an entry for each layer",
      value: `${before.layers.length} layers, ${masks.heads.length} of heads, ${masks.ffn.length} of FFN columns`,
      fix: "put the file back as the run wrote it, or make the run anew",
    });
  }
  const wrong = before.layers.findIndex(({ heads, kvHeads }, index) => {
    return kvHeads > heads || masks.heads[index]?.length !== heads;
  });
  if (wrong >= 0) {
    const { heads, kvHeads } = before.layers[wrong] ?? {};
    throw broken(`cannot use ${path}`, {
      rule: "masks has a value for each head of a layer, and no layer has more KV heads than heads",
      value: `layer ${wrong} has ${heads} heads, ${kvHeads} KV heads and ${masks.heads[wrong]?.length} values`,
      fix: "put the file back as the run wrote it, or make the run anew",
    });
  }
  if (!isWithinDepth(parsed.data.options, MOST_DEPTH)) {
    throw broken(`cannot use ${path}`, {
      rule: `options are nested at most ${MOST_DEPTH} deep`,
      value: "they are nested deeper",
      fix: "put the file back as the run wrote it, or make the run anew",
    });
  }
  return parsed.data;
}

/** Levels of a run's options. */
const MOST_DEPTH = 32;

function isWithinDepth(value: unknown, most: number): boolean {
  if (typeof value !== "object" || value === null) return true;
  return most > 0 && Object.values(value).every((part) => isWithinDepth(part, most - 1));
}

/** What the checkpoint of an unfinished run says of its options, and of the alarms that stopped it; nothing where there is none, or it cannot be read now. */
async function checkpointFacts(
  path: string,
): Promise<{ readonly identity: Readonly<Record<string, unknown>> | null; readonly stopped: readonly Alarm[] }> {
  try {
    const { metadata } = await openSafetensors(await disk.open(path));
    const meta: unknown = JSON.parse(metadata.get("compresso") ?? "null");
    const [identity, position] = isObject(meta) ? [meta["identity"], meta["position"]] : [];
    const stopped = z.array(ALARM).safeParse(isObject(position) ? position["stopped"] : []);
    return { identity: isObject(identity) ? identity : null, stopped: stopped.data ?? [] };
  } catch {
    return { identity: null, stopped: [] };
  }
}

/**
 * What decides a run beside its options, as far as a report says it: run.json has it among the inputs, a checkpoint among its facts. What cuts in one
 * shot goes by no schedule but one that is given.
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

/** Inputs that {@link inputsOf} gives, which programs need not name. */
export const INPUT_NAMES: readonly string[] = ["baseDtype", "schedule"];

/** Of a checkpoint's facts those that are options, as run.json has them. */
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
  return new CompressoError("input", {
    what: `cannot report ${folder}`,
    rule: `a run's folder holds ${RECORDS_FILE}`,
    value: await isFolder(folder) ? "it holds none" : await exists(folder) ? "it is no folder" : "no such folder",
    fix: `name the folder that a run was given as ${option("out")}`,
  });
}

function firstIssue(error: z.ZodError): string {
  const [issue] = error.issues;
  return issue ? `${issue.path.join(".") || "the whole"}: ${issue.message}` : "it is not";
}

function broken(
  what: string,
  parts: { readonly rule?: string; readonly value: string; readonly fix?: string },
): CompressoError {
  return new CompressoError("input", { what, ...parts });
}
