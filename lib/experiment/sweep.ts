// A sweep: one run that passes through several sparsities, and what the model is worth at each.
import { aimRun } from "../run/size_goal.ts";
import { CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { digestOf } from "../core/digest.ts";
import { isObject } from "../core/guards.ts";
import { differencesOf, type Json, type RunIdentity } from "../core/identity.ts";
import { makeFolder, writeFileAtomically } from "../files/atomic.ts";
import { exists, namesIn } from "../files/exists.ts";
import { FolderLock } from "../files/lock.ts";
import type { Row } from "../data/rows.ts";
import { readRows } from "../local/rows.ts";
import type { Model } from "../model/model.ts";
import { CALIBRATION_FILE, CHECKPOINT_FILE, RECORDS_FILE } from "../run/folder.ts";
import { decidingOptions } from "../run/identity.ts";
import { kindOfMethod, nameOfMethod } from "../run/methods/all.ts";
import { learnsBesideCalibration } from "../run/methods/stages.ts";
import type { ResolvedOptions, RunOptions } from "../run/options/options.ts";
import { resolveOptions } from "../run/options/resolve.ts";
import type { FolderOptions } from "../run/prune_to_folder.ts";
import type { RunSummary } from "../run/result.ts";
import { readSummary } from "../run/run_json.ts";
import { runInto, type RunIntoOptions, type SinkOptions } from "../run/run_into.ts";
import { folderSink, type FolderSinkOptions } from "../run/sink/folder.ts";
import { heldOutSequences } from "../run/quality.ts";
import type { RunOfMany, SharedWork } from "../run/shared_work.ts";
import { defineSchedule, type Schedule } from "../schedule/definition.ts";
import { sourceDigest } from "../spec/source_digest.ts";
import { type SweepPoint, sweepPoint, type SweepResult, sweepResult } from "./sweep_points.ts";
import { sweepChart, sweepPage } from "./sweep_report.ts";

/** Options of {@link sweep}: options of `pruneToFolder`. A sweep sets the target and the schedule itself. */
export interface SweepOptions extends
  Omit<
    RunOptions,
    "checkpoint" | "calibration" | "schedule" | "trustSchedule" | "onScheduleLog" | "vocab" | "ranks" | "onDealt"
  >,
  SinkOptions,
  Pick<FolderOptions, "out" | "checkpointEvery" | "export"> {
  /** Sparsities, in (0, 1), in ascending order. */
  readonly sparsities: readonly number[];
  /** Whether the model is fine-tuned at each sparsity, for `postfinetune` steps. Default false: as pruning left it. */
  readonly recover?: boolean | undefined;
  /** Whether the model of each sparsity is written. Default false: each has records and run.json alone. */
  readonly writesModels?: boolean | undefined;
  /** Whether to resume the sweep in `out`. */
  readonly resume?: boolean | undefined;
  /** Called before each sparsity, with its place from 0, and whether it was measured before. */
  readonly onPoint?: (sparsity: number, place: { readonly index: number; readonly isDone: boolean }) => void;
}

/** File of a sweep's results. */
export const SWEEP_FILE = "sweep.json";
/** State at the end of a sparsity's pruning, at which the next one begins. */
const STATE_FILE = "state.safetensors";

/**
 * Prunes to several sparsities in one run, and measures the model at each. Learned masks and gradual saliency continue from
 * one sparsity to the next; a one-shot method scores its units once.
 *
 * Each sparsity has a folder `sparsity-N` in `out`, as of `pruneToFolder`; `sweep.json`, `sweep.svg` and `sweep.html`
 * hold the results, and are there from the first sparsity on.
 *
 * @throws CompressoError("usage") for sparsities that are out of range, not ascending or out of reach, and for a folder
 *   that holds another sweep, unless it is resumed or `export.replace` is set.
 * @throws CompressoError("mismatch") if a resumed sweep has other options, rows or another model.
 * @throws what `pruneToFolder` does.
 * @example
 * ```ts
 * import { loadModel, openDevice, readRows } from "compresso";
 * import { sweep } from "compresso/experiment";
 * import { demoData } from "compresso/model";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"), { limit: 40 }), out = await Deno.makeTempDir();
 * const how = { rows, out, method: "magnitude", steps: 0, batch: 1, seq: 64 } as const;
 * const { points, knee } = await sweep(model, { ...how, sparsities: [0.1, 0.3] });
 * for (const { sparsity, parameters, heldout } of points) console.log(sparsity, parameters, heldout?.after);
 * console.log(knee?.sparsity);
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export async function sweep(model: Model, options: SweepOptions): Promise<SweepResult> {
  const { sparsities, resume = false, out, onPoint } = options;
  checkSparsities(sparsities);
  const plan = planSweep(model, options), { replace = false } = options.export ?? {};
  using lock = new FolderLock(out);
  await lock.check();
  const identity = await identityOf(model, options, plan);
  if (resume) await checkSame(out, identity);
  else if (await exists(`${out}/${SWEEP_FILE}`) && !replace) throw sweepThere(out);
  await makeFolder(out);
  await lock.take();
  if (!resume) await clearSweep(out);
  const types = { ggufDtype: options.export?.ggufDtype };
  const work: SharedWork = { scores: null, dense: null, sequences: heldOutSequences(plan.asked, options) },
    points: SweepPoint[] = [];
  for (const [index, sparsity] of sparsities.entries()) {
    const folder = folderOf(out, sparsity), done = resume ? await finishedPoint(folder) : null;
    onPoint?.(sparsity, { index, isDone: done !== null });
    const summary = done ?? await runPoint(model, options, { plan, index, work });
    points.push(sweepPoint(model, summary, { folder, ...types }));
    const before = sparsities[index - 1];
    if (before !== undefined) await remove(`${folderOf(out, before)}/${STATE_FILE}`);
    const result = sweepResult(model, points, { method: nameOfMethod(plan.asked.method), ...types });
    await writeFileAtomically(`${out}/${SWEEP_FILE}`, JSON.stringify({ identity, ...result }, null, 2) + "\n");
    await writeFileAtomically(`${out}/sweep.svg`, sweepChart(result));
    await writeFileAtomically(`${out}/sweep.html`, sweepPage(result));
  }
  return sweepResult(model, points, { method: nameOfMethod(plan.asked.method), ...types });
}

/** What all sparsities share, and the step of the pruning stage at the end of each. */
interface SweepPlan {
  /** Options of a run to the largest sparsity, with all defaults. */
  readonly asked: ResolvedOptions;
  /** Steps of the pruning stage done at the end of each sparsity. */
  readonly ends: readonly number[];
  /** Whether each sparsity continues from the previous one. Otherwise units are scored once, and each sparsity is cut by these scores. */
  readonly isStepwise: boolean;
}

/** Resolves the options, and refuses sparsities out of reach. */
function planSweep(model: Model, options: SweepOptions): SweepPlan {
  const { sparsities, recover = false, method = "compresso", steps, postfinetune = 0 } = options;
  if (!recover && postfinetune > 0) {
    refuse("usage", `cannot use ${option("postfinetune")}`, {
      rule: "only a sweep that recovers the model at each sparsity has a last stage",
      value: `${postfinetune} steps without recovery`,
    });
  }
  if (options.units?.includes("vocab")) {
    refuse("usage", "cannot sweep the vocabulary", {
      rule: "it is cut once, before the other units",
      value: options.units.join(","),
      fix: "cut it first, then sweep the model that this gives",
    });
  }
  const isStepwise = kindOfMethod(method) !== "one-shot", most = sparsities.at(-1) ?? 0;
  const asked = resolveOptions({ ...plainOptions(options), sparsity: most }, model.spec, {
    source: model.source,
    ...options.export,
  });
  aimRun(model, asked);
  const ends: number[] = [];
  for (const sparsity of sparsities) ends.push(Math.max((ends.at(-1) ?? 0) + 1, Math.round(steps * sparsity / most)));
  if (isStepwise && (ends.at(-1) ?? 0) > steps) {
    refuse("usage", `cannot use ${option("steps")}`, {
      rule: "the pruning stage has at least one step for each sparsity",
      value: `${steps} steps, ${sparsities.length} sparsities`,
      option: "steps",
    });
  }
  return { asked, ends, isStepwise };
}

/** The options of a run, without the options that only a sweep has. */
function plainOptions(
  { sparsities: _list, recover = false, writesModels: _writes, resume: _resume, onPoint: _onPoint, ...rest }:
    SweepOptions,
): RunOptions {
  const { out: _out, export: _files, calibration, identity: _facts, checkpointEvery: _every, ...others } = rest;
  const { onStart: _a, onRecord: _b, onPhase: _c, onCalibration: _d, ...run } = others;
  const isBare = !recover && kindOfMethod(run.method ?? "compresso") === "one-shot";
  return {
    ...run,
    ...(recover ? {} : { postfinetune: 0 }),
    ...(isBare ? { prefinetune: 0, steps: 0 } : {}),
    calibration: calibration === "none" ? undefined : calibration === "own" ? [] : calibration,
  };
}

/** Runs one sparsity into its folder. */
async function runPoint(
  model: Model,
  options: SweepOptions,
  { plan: { asked, ends, isStepwise }, index, work }: {
    readonly plan: SweepPlan;
    readonly index: number;
    readonly work: SharedWork;
  },
): Promise<RunSummary> {
  const { out, sparsities, writesModels = false, resume = false, export: files = {} } = options;
  const sparsity = sparsities[index] ?? 0, before = sparsities[index - 1], folder = folderOf(out, sparsity);
  const isBegun = resume && await exists(`${folder}/${CHECKPOINT_FILE}`), goesOn = isStepwise && before !== undefined;
  if (goesOn && !isBegun) await beginAt(folderOf(out, before), folder);
  const { calibration: _rows, ...plain } = plainOptions(options),
    { onStart, onRecord, onPhase, onCalibration } = options;
  const { method, start, rates: { mask, saliencyDecay } } = asked;
  const learned = kindOfMethod(method) === "learned"
    ? { rates: { ...options.rates, mask, ...(start === "saliency" ? { saliencyDecay } : {}) } }
    : {};
  const stepwise = {
    steps: ends[index] ?? 0,
    prefinetune: asked.prefinetune,
    postfinetune: asked.postfinetune,
    schedule: sweepSchedule(sparsities, { ends, warmup: asked.rates.warmup }),
    ...learned,
  };
  const { identity, checkpointEvery, layout, units } = options,
    shared = { export: { ...files, replace: true }, identity, onPhase };
  const place: FolderSinkOptions = {
    ...shared,
    checkpointEvery,
    layout,
    units,
    out: folder,
    resume: isBegun || goesOn,
    mayDiffer: goesOn ? ["sparsity", "steps"] : undefined,
  };
  const run: RunIntoOptions = {
    ...plain,
    ...(isStepwise ? stepwise : {}),
    ...await calibrationOf(options, { index, asked }),
    onStart,
    onRecord,
    onCalibration,
    ...shared,
    sparsity,
  };
  const isLast = index === sparsities.length - 1;
  const ofMany: RunOfMany = {
    work,
    writesModel: writesModels,
    keptState: isStepwise && !isLast ? `${folder}/${STATE_FILE}` : undefined,
  };
  await makeFolder(folder);
  using sink = await folderSink(model, place);
  return await runInto(sink, model, run, ofMany);
}

/** The calibration texts that the model wrote for the first sparsity are used for all. */
async function calibrationOf(
  { calibration, out, sparsities }: SweepOptions,
  { index, asked }: { readonly index: number; readonly asked: ResolvedOptions },
): Promise<Pick<SinkOptions, "calibration">> {
  const path = `${folderOf(out, sparsities[0] ?? 0)}/${CALIBRATION_FILE}`;
  const isOwn = calibration === "own" && !learnsBesideCalibration(asked);
  if (isOwn && index > 0 && await exists(path)) return { calibration: (await readRows(path)).rows };
  return { calibration };
}

/** Puts the state at the end of a sparsity's pruning, its records and calibration texts into the folder of the next. */
async function beginAt(before: string, folder: string): Promise<void> {
  await makeFolder(folder);
  for (const name of [RECORDS_FILE, CALIBRATION_FILE]) {
    if (await exists(`${before}/${name}`)) await Deno.copyFile(`${before}/${name}`, `${folder}/${name}`);
  }
  const state = `${before}/${STATE_FILE}`, begun = `${folder}/${CHECKPOINT_FILE}`;
  if (!await exists(state)) {
    refuse("input", `cannot continue from ${before}`, {
      rule: "it holds the state at the end of its pruning",
      value: `there is no ${STATE_FILE}`,
      fix: `start the sweep again with ${option("export.replace")}`,
    });
  }
  // A copy that was cut off must not be taken for a checkpoint.
  await Deno.copyFile(state, `${begun}.part`);
  await Deno.rename(`${begun}.part`, begun);
}

/**
 * The schedule of a sweep: from each sparsity to the next by a cubic curve, which arrives after `warmup` of the steps
 * between them; for the rest it holds, so that masks settle before they are cut.
 */
export function sweepSchedule(
  sparsities: readonly number[],
  { ends, warmup }: { readonly ends: readonly number[]; readonly warmup: number },
): Schedule {
  return defineSchedule({
    sparsity: ({ step }) => {
      const found = ends.findIndex((end) => step < end), at = found < 0 ? ends.length - 1 : found;
      const start = ends[at - 1] ?? 0, from = sparsities[at - 1] ?? 0, to = sparsities[at] ?? 0;
      const done = Math.min(1, (step - start + 1) / (warmup * ((ends[at] ?? 0) - start)));
      return done >= 1 ? to : to + (from - to) * (1 - done) ** 3;
    },
  });
}

function checkSparsities(sparsities: readonly number[]): void {
  const isList = Array.isArray(sparsities) && sparsities.length > 0;
  const isRising = isList && sparsities.every((one, index) => one > (sparsities[index - 1] ?? 0) && one < 1);
  if (isRising) return;
  refuse("usage", "cannot sweep these sparsities", {
    rule: "they are shares above 0 and below 1, in ascending order",
    value: isList ? sparsities.join(", ") : "none",
  });
}

/** Folder of a sparsity. */
function folderOf(out: string, sparsity: number): string {
  return `${out}/sparsity-${Number((100 * sparsity).toPrecision(10))}`;
}

/** What must be equal for a sweep to resume an earlier one. */
async function identityOf(
  model: Model,
  { sparsities, recover = false, writesModels = false, rows, valRows, evaluate = {}, identity = {}, calibration }:
    SweepOptions,
  { asked }: SweepPlan,
): Promise<RunIdentity> {
  const { text = null, questions = null, taskData = null, tasks = [] } = evaluate;
  const texts = typeof calibration === "object" ? calibration : [];
  const digest = (list: readonly Row[]): string => digestOf(list.map((row) => JSON.stringify(row)));
  return {
    ...decidingOptions(asked),
    ...identity,
    weights: identity["weights"] ?? await sourceDigest(model.source),
    sparsities: [...sparsities],
    recover,
    writesModels,
    rows: digest([...rows, ...texts]),
    ...(valRows ? { valRows: digest(valRows) } : {}),
    calibration: typeof calibration === "string" ? calibration : `${texts.length} rows`,
    evaluate: {
      text: text === null ? null : digestOf([text]),
      questions,
      taskData,
      tasks: tasks.map((task) => typeof task === "string" ? task : task.name),
    },
  } satisfies Record<string, Json | undefined>;
}

/** Refuses to resume another sweep. */
async function checkSame(out: string, identity: RunIdentity): Promise<void> {
  const path = `${out}/${SWEEP_FILE}`;
  // A sweep that stopped before its first sparsity was measured has no results.
  if (!await exists(path)) return;
  let found: unknown = null;
  try {
    found = JSON.parse(await Deno.readTextFile(path));
  } catch { /* refused below */ }
  const then = isObject(found) && isObject(found["identity"]) ? found["identity"] : null;
  const differences = then === null ? ["it cannot be read"] : differencesOf(then as RunIdentity, identity);
  if (differences.length === 0) return;
  refuse("mismatch", `cannot resume the sweep in ${out}`, {
    rule: "options, rows and model are those of the first run",
    value: differences.join("; "),
    fix: `give the same options, or another ${option("out")}`,
  });
}

/** The summary of a sparsity that is done; null if it is not. */
async function finishedPoint(folder: string): Promise<RunSummary | null> {
  return await exists(`${folder}/${CHECKPOINT_FILE}`) ? null : await readSummary(folder);
}

/** Removes an earlier sweep. */
async function clearSweep(out: string): Promise<void> {
  for (const name of await namesIn(out)) {
    if (/^(?:sweep\.(?:json|svg|html)|sparsity-[\d.e-]+)$/.test(name)) {
      await Deno.remove(`${out}/${name}`, { recursive: true });
    }
  }
}

async function remove(path: string): Promise<void> {
  if (await exists(path)) await Deno.remove(path);
}

function sweepThere(out: string): CompressoError {
  return refusal("usage", `cannot start a sweep in ${out}`, {
    rule: "the folder holds no earlier sweep",
    value: `it holds ${SWEEP_FILE}`,
    fix: `continue with ${option("resume")}, start again with ${option("export.replace")}, or choose another ${
      option("out")
    }`,
  });
}
