// Runs an experiment: cells in order, one model on the GPU at a time, failures recorded, the report written after every cell.
import { option, refuse } from "../core/errors.ts";
import type { Device } from "../gpu/device.ts";
import { makeFolder } from "../files/atomic.ts";
import { Leases } from "../files/lease.ts";
import { FolderLock } from "../files/lock.ts";
import { loadModel } from "../local/load_model.ts";
import { type Model } from "../model/model.ts";
import { guardCallbacks } from "./callbacks.ts";
import { type CellEvents, measureCell, pruneCell, takeMeasures } from "./cell.ts";
import { failureOf, messageOfState, triesOf } from "./failure.ts";
import { checkUnchanged, type ExperimentPlan, planCells, refreshed } from "./plan.ts";
import { makeReport, writeReport } from "./report.ts";
import { resolveExperiment } from "./resolve.ts";
import type { Writer } from "./rows.ts";
import { checkPlanOptions, checkRunOptions } from "./run_options.ts";
import { missingOf, Store } from "./store.ts";
import type {
  CellFailure,
  CellFile,
  Experiment,
  ExperimentOverrides,
  ExperimentReport,
  ExperimentResult,
  PlannedCell,
  RunExperimentOptions,
} from "./types.ts";

/**
 * Runs the cells of an experiment. Each cell prunes a model and measures it, in a separate folder. Finished cells are
 * not run again. After every cell the report is written: `report.md`, `experiment.html`, `report.json` and charts. An error of a single
 * cell is recorded, and the next cell runs. A `CompressoError` that `onModel` throws is such an error.
 *
 * @throws CompressoError("usage") for an experiment that cannot work, unknown options, and a folder that another call
 * uses.
 * @throws CompressoError("mismatch") for cells whose definition changed since their results, unless `redo` is set, and
 * for files that change during the work.
 * @throws the signal's reason, and errors of the options' functions: both stop the work.
 * @example
 * ```ts
 * import { openDevice } from "compresso";
 * import { defineExperiment, runExperiment } from "compresso/experiment";
 *
 * using device = await openDevice();
 * const out = await Deno.makeTempDir();
 * const { report } = await runExperiment(
 *   defineExperiment({
 *     name: "rank",
 *     model: "demo",
 *     base: { sparsity: 0.2, steps: 2, prefinetune: 0, postfinetune: 0, batch: 1, seq: 96, prompt: false },
 *     grid: { rank: [2, 4] },
 *   }),
 *   { device, out },
 * );
 * if (report.groups.length !== 2) throw new Error("a cell is missing");
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export async function runExperiment(experiment: Experiment, given: RunExperimentOptions): Promise<ExperimentResult> {
  checkRunOptions(given);
  const { options, rethrow } = guardCallbacks(given);
  const resolved = resolveExperiment(experiment, options), store = new Store(options.out);
  const leases = leasesOf(store, options);
  using lock = new FolderLock(store.out);
  if (leases) await lock.check();
  else await lock.take();
  const plan = await planCells(resolved, store, { only: options.only });
  const todo = await toDo(plan, options), failures = new Map<string, CellFailure>();
  if (todo.length > 0) await noteLeftOut(plan, options);
  rethrow();
  await makeFolder(store.out);
  if (!leases) await lock.take();
  using slot = new ModelSlot(options.device, options);
  const reportNow = async (): Promise<
    { after: ExperimentPlan; report: ExperimentReport; files: readonly string[] }
  > => {
    await using _alone = leases ? await leases.wait("report") : null;
    const after = await refreshed(plan, store);
    const report = await makeReport(resolved, after, store);
    return { after, report, files: await writeReport(report, store) };
  };
  let index = 0;
  try {
    for await (const { cell, lost } of turnsOf(todo, { plan, store, leases, options })) {
      options.signal.throwIfAborted();
      await options.onCell?.(cell, { index: index++, count: todo.length });
      rethrow();
      const signal = lost ? AbortSignal.any([options.signal, lost]) : options.signal;
      const work = workOn(cell, { plan, store, slot, leases, options: { ...options, signal } });
      const failure = await (lost ? work.catch((error) => onlyLost(error, lost, options.signal)) : work);
      // Also where the cell finished.
      rethrow();
      if (failure) {
        failures.set(cell.name, failure);
        await options.onFailure?.(cell, failure);
        rethrow();
      }
      await reportNow();
      // The device has failed. The other cells wait for the next call, which runs this cell last.
      if (failure && options.device.isBroken) {
        await options.onNote?.(
          "the GPU failed, so the experiment stops here; run it again to continue, with this run last",
        );
        rethrow();
        break;
      }
    }
  } catch (error) {
    // An error of the program's functions comes first.
    rethrow();
    throw error;
  } finally {
    // Also after a stop: the report has the finished cells.
    if (index === 0 || options.signal.aborted) await reportNow();
  }
  const { after, report, files } = await reportNow();
  return {
    report,
    files,
    failed: after.cells.flatMap(({ name: cell, state }) => {
      const message = failures.get(cell)?.message ?? messageOfState(state);
      return message === null ? [] : [{ cell, message }];
    }),
    left: after.cells.filter(({ state }) => state.kind !== "done").length,
  };
}

/**
 * The chosen cells with their steps, tokens, folders and states. It needs no GPU and writes nothing. It imports task
 * modules and trusted schedule scripts; other scripts run in separate processes, if these may be started.
 *
 * @throws CompressoError as {@link runExperiment} before its first cell, except for cells whose definition changed:
 * their state says so
 * @example
 * ```ts
 * import { defineExperiment, planExperiment } from "compresso/experiment";
 *
 * const cells = await planExperiment(
 *   defineExperiment({ name: "rank", model: "demo", base: { sparsity: 0.2, steps: 20 }, grid: { rank: [2, 4] } }),
 *   { out: "runs/rank" },
 * );
 * if (cells.reduce((sum, { steps }) => sum + steps, 0) !== 2 * (2 + 20 + 6)) throw new Error("other steps");
 * ```
 */
export async function planExperiment(
  experiment: Experiment,
  options: Pick<RunExperimentOptions, "out" | "only"> & ExperimentOverrides,
): Promise<readonly PlannedCell[]> {
  checkPlanOptions(options);
  const { out, only, ...overrides } = options;
  return (await planCells(resolveExperiment(experiment, overrides), new Store(out), { only })).cells;
}

/** The leases of an experiment that several processes work on; null for one process. */
function leasesOf(store: Store, { shared = false, shard }: RunExperimentOptions): Leases | null {
  if (shared === false && !shard) return null;
  return new Leases(store.leases, typeof shared === "object" ? shared : {});
}

/** A cell to work on, and a signal that fires where another process took it over. */
interface Turn {
  readonly cell: PlannedCell;
  readonly lost: AbortSignal | null;
}

/** The cells one after the other; with leases, the cells that no other process works on, until all are done. */
async function* turnsOf(todo: readonly PlannedCell[], { plan, store, leases, options }: {
  readonly plan: ExperimentPlan;
  readonly store: Store;
  readonly leases: Leases | null;
  readonly options: RunExperimentOptions & { readonly signal: AbortSignal };
}): AsyncGenerator<Turn, void, undefined> {
  if (!leases) return yield* todo.map((cell) => ({ cell, lost: null }));
  let turns = 0;
  const { maxCells = Infinity, signal } = options, left = new Set(todo);
  while (left.size > 0) {
    const before = turns;
    for (const planned of [...left]) {
      if (turns >= maxCells) return;
      await using lease = await leases.take(planned.name);
      if (!lease) continue;
      left.delete(planned);
      const cell = { ...planned, state: await store.stateOf(planned.folder, planned.identity, plan.measures) };
      // Another process may have finished it, or failed at it.
      const isLeft = sittingOf([cell], options).length > 0 && triesOf(cell.state) <= triesOf(planned.state);
      if (!isLeft) continue;
      turns++;
      yield { cell, lost: lease.lost };
    }
    signal.throwIfAborted();
    if (turns === before && left.size > 0) await leases.pause();
  }
}

/** Ignores the error of a cell that another process took over; throws any other error. */
function onlyLost(error: unknown, lost: AbortSignal, stop: AbortSignal): null {
  if (lost.aborted && !stop.aborted) return null;
  throw error;
}

/** Notes the files whose rows were left out in part. */
async function noteLeftOut(
  { cache }: ExperimentPlan,
  { onNote }: Pick<RunExperimentOptions, "onNote">,
): Promise<void> {
  for (const line of cache.newNotes()) await onNote?.(line);
}

/** The cells to work on. Failed cells come last, so a cell that always fails delays no other. */
async function toDo({ cells: chosen }: ExperimentPlan, options: RunExperimentOptions): Promise<PlannedCell[]> {
  const { evaluateOnly = false, redo = false, maxCells = Infinity, onNote, shard, shared = false } = options;
  const cells = shard ? chosen.filter((_, index) => index % shard.count === shard.index - 1) : chosen;
  if (maxCells !== Infinity && !(Number.isInteger(maxCells) && maxCells >= 0)) {
    refuse("usage", "cannot run so many cells", { rule: "maxCells is a whole number, at least 0", value: maxCells });
  }
  const changed = refusedCells(cells, { redo }), [first] = changed;
  if (first?.state.kind === "changed") {
    refuse(
      "mismatch",
      `cannot continue cell ${first.name}${changed.length > 1 ? ` and ${changed.length - 1} more` : ""}`,
      {
        rule: "the definition of a cell does not change once it has begun",
        value: first.state.what,
        fix: evaluateOnly
          ? `give the options that they were run with, or choose others by ${option("only")}; ${
            option("redo")
          } without ${option("evaluateOnly")} runs them again`
          : `run them again with ${option("redo")}, or choose another ${option("out")}`,
      },
    );
  }
  const lacking = cells.filter(({ state }) => state.kind === "unmeasured" && !state.hasModel);
  const [lack] = lacking;
  if (lack?.state.kind === "unmeasured" && (evaluateOnly || !redo)) {
    await onNote?.(
      `${lacking.length} cells lack ${lack.state.missing.join(", ")}, and their models were not kept; redo${
        evaluateOnly ? " without evaluateOnly" : ""
      } runs them again`,
    );
  }
  const restarts = cells.filter((cell) => ["changed", "failed"].includes(cell.state.kind) && !hasPruned(cell));
  if (evaluateOnly && redo && restarts.length > 0) {
    await onNote?.(
      `${restarts.length} cells have failed or changed and have no model to measure: redo without evaluateOnly runs them again`,
    );
  }
  // If other processes may take some of the cells, this process counts only the cells that it takes itself.
  const most = shard || shared !== false ? Infinity : maxCells;
  return sittingOf(cells, { evaluateOnly, redo, maxCells: most });
}

/** Cells for which {@link runExperiment} throws with these options: their definition changed since their results. */
export function refusedCells(
  cells: readonly PlannedCell[],
  { redo = false }: Pick<RunExperimentOptions, "redo">,
): PlannedCell[] {
  return redo ? [] : cells.filter(({ state }) => state.kind === "changed");
}

/** Cells that {@link runExperiment} works on with these options, in order. */
export function sittingOf(
  cells: readonly PlannedCell[],
  { evaluateOnly = false, redo = false, maxCells = Infinity }: Pick<
    RunExperimentOptions,
    "evaluateOnly" | "redo" | "maxCells"
  >,
): PlannedCell[] {
  return cells.filter((cell) => {
    const { state } = cell;
    if (evaluateOnly) return hasPruned(cell);
    return state.kind !== "done" && (state.kind !== "unmeasured" || state.hasModel || redo);
  }).sort((a, b) => triesOf(a.state) - triesOf(b.state)).slice(0, maxCells);
}

/** Whether a cell's pruned model exists, so that only measures are taken. */
export function hasPruned({ state }: Pick<PlannedCell, "state">): boolean {
  return state.kind === "pruned" || (state.kind === "unmeasured" && state.hasModel);
}

/**
 * Runs and measures one cell and records the result. Returns why it failed, or null. Throws only the signal's reason,
 * errors of the caller's functions, and `CompressoError("mismatch")` if its files changed since it was planned.
 */
async function workOn(cell: PlannedCell, { plan, store, slot, leases, options }: {
  readonly plan: ExperimentPlan;
  readonly store: Store;
  readonly slot: ModelSlot;
  readonly leases: Leases | null;
  readonly options: RunExperimentOptions;
}): Promise<CellFailure | null> {
  const { folder, identity, state, model: { path, baseDtype } } = cell, { measures, cache } = plan;
  const { onRecord, onPhase, signal } = options;
  const events: CellEvents = { onRecord, onPhase, signal, onAlarm: (alarm) => options.onAlarm?.(cell, alarm) };
  const redoes = options.redo === true && options.evaluateOnly !== true &&
    (state.kind === "changed" || state.kind === "failed");
  const wasKept = hasPruned(cell) && ((await store.cellFile(folder))?.keepsModel ?? false);
  let isPruned = hasPruned(cell), isBegun = false;
  await checkUnchanged(cell, { measured: isPruned });
  const restarts = redoes || (state.kind === "unmeasured" && !isPruned);
  const change = async (part: Partial<CellFile>): Promise<void> =>
    await store.setCell(folder, { ...await store.cellFile(folder) ?? { identity }, ...part });
  try {
    // With `restarts` the cell's files are removed when the run itself begins: an earlier failure must not cost them.
    if (!restarts && !isPruned) await store.begin(folder, identity, { restarts });
    const model = await slot.use(path, baseDtype, cell);
    const denseDir = store.dense(cell.model);
    {
      await using _alone = leases ? await leases.wait("dense models", signal) : null;
      await takeMeasures(model, missingOf(measures, await store.measured(denseDir)), { dir: denseDir, store, events });
    }
    if (!isPruned) {
      const writer = (what: string): Writer => ({
        model,
        weights: cell.model.weights,
        folder: store.data,
        signal,
        onProgress: (share) => onPhase?.(`writing texts ${what}`, share),
      });
      const { calibration: source } = cell, texts = leases ? await leases.wait("texts", signal) : null;
      await using _alone = texts;
      const rows = await cache.rows(cell.source, writer("to train on"));
      const calibration = source === null ? null : await cache.rows(source, writer("for calibration"));
      const heldOut = cell.heldOut === null ? null : await cache.rows(cell.heldOut, writer("to hold out"));
      await texts?.[Symbol.asyncDispose]();
      await noteLeftOut(plan, options);
      await pruneCell(cell, model, {
        rows,
        calibration,
        heldOut,
        store,
        events,
        restarts,
        onBegin: () => isBegun = true,
      });
      isPruned = true;
      await change({ failure: undefined });
    }
    const { device, tokenizer } = model;
    // The dense and the pruned model might not fit together.
    slot.release();
    await measureCell(cell, { device, tokenizer }, { store, measures, events });
    const keepsModel = options.keep === "models" || options.evaluateOnly === true || wasKept;
    await change({ isMeasured: true, keepsModel, failure: undefined, next: undefined });
    if (!keepsModel) await store.dropModel(folder);
    return null;
  } catch (error) {
    if (signal?.aborted) {
      // A stop is no failure: the cell continues from here.
      if (isBegun) await change({ failure: undefined });
      throw error;
    }
    const failure = failureOf(error, cell);
    if (!isBegun && state.kind === "changed") {
      // Its folder still holds the earlier definition.
      await change({ next: { identity, failure } });
      return failure;
    }
    const missing = missingOf(measures, await store.measured(store.cell(folder)));
    await change({
      keepsModel: wasKept || options.keep === "models",
      failure: { ...failure, missing: Object.fromEntries(missing.map(({ id, identity }) => [id, identity])) },
    });
    return failure;
  }
}

/** The one model that lies on the GPU. */
class ModelSlot implements Disposable {
  readonly #device: Device;
  readonly #options: Pick<RunExperimentOptions, "onModel" | "onPhase" | "signal">;
  #key = "";
  #model: Model | null = null;

  constructor(device: Device, options: Pick<RunExperimentOptions, "onModel" | "onPhase" | "signal">) {
    this.#device = device;
    this.#options = options;
  }

  async use(path: string, baseDtype: PlannedCell["model"]["baseDtype"], cell: PlannedCell): Promise<Model> {
    const key = `${path} ${baseDtype}`;
    if (this.#model && this.#key === key) return this.#model;
    this.release();
    const { onModel, onPhase, signal } = this.#options;
    const model = await loadModel(path, {
      device: this.#device,
      baseDtype,
      signal,
      onProgress: (share) => onPhase?.("loading the model", share),
    });
    this.#model = model;
    this.#key = key;
    try {
      await onModel?.(model, cell);
    } catch (error) {
      // The next cell loads it again.
      this.release();
      throw error;
    }
    return model;
  }

  release(): void {
    this.#model?.[Symbol.dispose]();
    this.#model = null;
  }

  [Symbol.dispose](): void {
    this.release();
  }
}
