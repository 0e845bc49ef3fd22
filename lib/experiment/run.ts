// An experiment from its cells to its tables, in as many sittings as it takes. Owns the order, the one model on the GPU and what becomes of
// failures; refuses the single run.
import { CompressoError } from "../core/errors.ts";
import type { Device } from "../gpu/device.ts";
import { makeFolder } from "../files/atomic.ts";
import { FolderLock } from "../files/lock.ts";
import { loadModel } from "../disk/load_model.ts";
import { type Model } from "../model/model.ts";
import { guardCallbacks } from "./callbacks.ts";
import { type CellEvents, measureCell, outcomeOf, pruneCell, takeMeasures } from "./cell.ts";
import { failureOf, messageOfState, triesOf } from "./failure.ts";
import { checkUnchanged, type ExperimentPlan, planCells, refreshed } from "./plan.ts";
import { makeReport, writeReport } from "./report.ts";
import { resolveExperiment } from "./resolve.ts";
import type { Writer } from "./rows.ts";
import { checkPlanOptions, checkRunOptions } from "./run_options.ts";
import { missingOf, Store } from "./store.ts";
import type {
  CellFailure,
  Experiment,
  ExperimentOverrides,
  ExperimentReport,
  ExperimentResult,
  PlannedCell,
  RunExperimentOptions,
} from "./types.ts";

/**
 * Runs the cells of an experiment: each prunes a model and measures it, in a folder of its own, and what is finished is not done again. After
 * every cell the tables are written anew: `report.md`, `report.json` and charts.
 *
 * @throws CompressoError("usage") for an experiment that cannot work, for options that do not exist, and where another sitting works in the folder;
 * "mismatch" for cells whose definition is no longer that of their results, unless `redo` is set, and for files that change while the sitting goes on;
 * the signal's reason where it fires; what one of the options' functions throws, as it is, which stops the work as the signal does. What a single cell
 * throws, or `onModel` as a `CompressoError`, is recorded, and the next one runs.
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
  using lock = new FolderLock(store.out);
  await lock.take();
  const plan = await planCells(resolved, store, { only: options.only });
  const todo = await toDo(plan, options), failures = new Map<string, CellFailure>();
  if (todo.length > 0) await tellLeftOut(plan, options);
  rethrow();
  await makeFolder(store.out);
  await lock.take();
  using slot = new ModelSlot(options.device, options);
  const reportNow = async (): Promise<
    { after: ExperimentPlan; report: ExperimentReport; files: readonly string[] }
  > => {
    const after = await refreshed(plan, store);
    const report = await makeReport(resolved, after, store);
    return { after, report, files: await writeReport(report, store) };
  };
  let index = 0;
  try {
    for (const cell of todo) {
      options.signal.throwIfAborted();
      await options.onCell?.(cell, { index: index++, count: todo.length });
      rethrow();
      const failure = await workOn(cell, { plan, store, slot, options });
      // Of a cell that came to its end all the same.
      rethrow();
      if (failure) {
        failures.set(cell.name, failure);
        await options.onFailure?.(cell, failure);
        rethrow();
      }
      await reportNow();
      // Nothing works on this device any more: the others wait for the next sitting, in which this one comes last.
      if (failure && options.device.isBroken) {
        await options.onNote?.(
          "the GPU has failed, so this sitting ends; the same command goes on, with this run last",
        );
        rethrow();
        break;
      }
    }
  } catch (error) {
    // The program's own, as it was thrown, whatever has become of it on its way.
    rethrow();
    throw error;
  } finally {
    // Also after Ctrl-C: the finished cells are in the tables.
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
 * What a sitting would work on, without a GPU and without writing: the chosen cells with their steps, tokens, folders and state. Tasks of
 * one's own and schedules' scripts that are trusted are imported for it: what tells them apart may lie in what they import. Other scripts are asked
 * what they steer in a process of their own, where this one may start it.
 *
 * @throws CompressoError as {@link runExperiment} does before its first cell, but for cells whose definition has changed: their state says so.
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

/** Says of which files rows were left out, once they are read. */
async function tellLeftOut(
  { cache }: ExperimentPlan,
  { onNote }: Pick<RunExperimentOptions, "onNote">,
): Promise<void> {
  for (const line of cache.untold()) await onNote?.(line);
}

/** Cells that this sitting works on; those that failed come last, so that none that always fails keeps another one from its turn. */
async function toDo({ cells }: ExperimentPlan, options: RunExperimentOptions): Promise<PlannedCell[]> {
  const { evaluateOnly = false, redo = false, maxCells = Infinity, onNote } = options;
  if (maxCells !== Infinity && !(Number.isInteger(maxCells) && maxCells >= 0)) {
    throw new CompressoError("usage", {
      what: "cannot run so many cells",
      rule: "maxCells is a whole number, at least 0",
      value: String(maxCells),
      fix: "leave it out for all of them",
    });
  }
  const changed = refusedCells(cells, { redo }), [first] = changed;
  if (first?.state.kind === "changed") {
    throw new CompressoError("mismatch", {
      what: `cannot go on with cell ${first.name}${changed.length > 1 ? ` and ${changed.length - 1} more` : ""}`,
      rule: "a cell's definition is that of the sitting that began it",
      value: first.state.what,
      fix: evaluateOnly
        ? "give the options that they were run with, or choose others by --only; --redo without --evaluate-only runs them anew"
        : "run them anew with --redo, or choose another --out",
    });
  }
  const lacking = cells.filter(({ state }) => state.kind === "unmeasured" && !state.hasModel);
  const [lack] = lacking;
  if (lack?.state.kind === "unmeasured" && (evaluateOnly || !redo)) {
    await onNote?.(
      `${lacking.length} cells lack ${lack.state.missing.join(", ")}, and their models were not kept; --redo${
        evaluateOnly ? " without --evaluate-only" : ""
      } runs them anew`,
    );
  }
  const anew = cells.filter((cell) => ["changed", "failed"].includes(cell.state.kind) && !hasPruned(cell));
  if (evaluateOnly && redo && anew.length > 0) {
    await onNote?.(
      `${anew.length} cells have failed or changed and have no model to measure: --redo without --evaluate-only runs them anew`,
    );
  }
  return sittingOf(cells, { evaluateOnly, redo, maxCells });
}

/** Cells for whose sake a sitting with these options is refused: their definition is no longer that of their results. */
export function refusedCells(
  cells: readonly PlannedCell[],
  { redo = false }: Pick<RunExperimentOptions, "redo">,
): PlannedCell[] {
  return redo ? [] : cells.filter(({ state }) => state.kind === "changed");
}

/** Cells that a sitting with these options works on, in its order. */
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

/** Whether a sitting with these options takes no step of a cell: its pruned model lies there, and measures are all that is missing. */
export function isMeasuredAlone(
  cell: PlannedCell,
  { evaluateOnly = false, redo = false }: Pick<RunExperimentOptions, "evaluateOnly" | "redo">,
): boolean {
  // What lacks measures alone is measured where its model lies there, also after a failure.
  return hasPruned(cell) && !(redo && !evaluateOnly && cell.state.kind === "failed");
}

/** Whether a cell's pruned model lies there. */
function hasPruned({ state }: PlannedCell): boolean {
  return state.kind === "pruned" || (state.kind === "unmeasured" && state.hasModel) ||
    (state.kind === "failed" && state.isPruned);
}

/**
 * Runs and measures one cell, and records how that went; returns why it failed, if it did. Throws only where the user or an error of their own
 * functions has stopped it, and `CompressoError("mismatch")` where its files have changed since the sitting began.
 */
async function workOn(cell: PlannedCell, { plan, store, slot, options }: {
  readonly plan: ExperimentPlan;
  readonly store: Store;
  readonly slot: ModelSlot;
  readonly options: RunExperimentOptions;
}): Promise<CellFailure | null> {
  const { name, folder, identity, state, model: { path, baseDtype } } = cell, { measures, cache } = plan;
  const { onRecord, onPhase, signal } = options;
  const events: CellEvents = { onRecord, onPhase, signal, onAlarm: (alarm) => options.onAlarm?.(cell, alarm) };
  const redoes = options.redo === true && options.evaluateOnly !== true &&
    (state.kind === "changed" || state.kind === "failed");
  const before = await store.result(folder);
  // One that lay there after a sitting that ended well was kept on purpose.
  const wasKept = state.kind === "unmeasured" && state.hasModel && (state.failure?.isKept ?? state.failure === null);
  let isPruned = isMeasuredAlone(cell, options), isBegun = false;
  await checkUnchanged(cell, { measured: isPruned });
  const anew = redoes || (state.kind === "unmeasured" && !isPruned);
  try {
    // Anew begins with the run itself: what fails before it must not cost what the cell has.
    if (!anew && !isPruned) await store.begin(folder, identity, { anew });
    const model = await slot.use(path, baseDtype, cell);
    const denseDir = store.dense(cell.model);
    await takeMeasures(model, missingOf(measures, await store.measured(denseDir)), { dir: denseDir, store, events });
    if (!isPruned) {
      const writer = (what: string): Writer => ({
        model,
        weights: cell.model.weights,
        folder: store.data,
        signal,
        onProgress: (share) => onPhase?.(`writing texts ${what}`, share),
      });
      const rows = await cache.rows(cell.source, writer("to train on"));
      const { calibration: beside } = cell;
      const calibration = beside === null ? null : await cache.rows(beside, writer("for calibration"));
      await tellLeftOut(plan, options);
      await pruneCell(cell, model, { rows, calibration, store, events, anew, onBegin: () => isBegun = true });
      isPruned = true;
      if (before?.outcome === null) await store.dropResult(folder);
    }
    const { device, tokenizer } = model;
    // A dense model beside the pruned one might not fit.
    slot.release();
    await measureCell(cell, { device, tokenizer }, { store, measures, events });
    await store.setResult(folder, { cell: name, identity, outcome: await outcomeOf(cell, store), failure: null });
    if (options.keep !== "models" && options.evaluateOnly !== true && !wasKept) await store.dropModel(folder);
    return null;
  } catch (error) {
    if (signal?.aborted) {
      // It goes on from where it is, and has not failed there.
      if (isBegun && before?.outcome === null) await store.dropResult(folder);
      throw error;
    }
    const failure = failureOf(error, cell);
    // Measures that were taken stay, also where another one failed.
    const own = isPruned ? await outcomeOf(cell, store).catch(() => null) : null;
    const outcome = own ?? (isBegun ? null : before?.outcome ?? null);
    if (!isBegun && state.kind === "changed") {
      // Its folder is that of its earlier definition.
      await store.setRetry(folder, { identity, failure });
      return failure;
    }
    const missing = missingOf(measures, await store.measured(store.cell(folder)));
    await store.setResult(folder, {
      cell: name,
      identity,
      outcome,
      failure: {
        ...failure,
        missing: Object.fromEntries(missing.map(({ id, identity }) => [id, identity])),
        ...(wasKept || options.keep === "models" ? { isKept: true } : {}),
      },
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
      ...(signal ? { signal } : {}),
      onProgress: (share) => onPhase?.("loading the model", share),
    });
    this.#model = model;
    this.#key = key;
    try {
      await onModel?.(model, cell);
    } catch (error) {
      // The next cell asks anew.
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
