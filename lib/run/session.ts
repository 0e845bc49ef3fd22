// A prune session: a stream of step records through the stages, then slice() and export().
import config from "../../deno.json" with { type: "json" };
import { checkAlike } from "../ranks/alike.ts";
import { digestOf } from "../core/digest.ts";
import type { Batches } from "../data/batches.ts";
import { CompressoError, option } from "../core/errors.ts";
import { type FileSystem, isThere } from "../files/system.ts";
import type { RunIdentity } from "../core/identity.ts";
import type { Row } from "../data/rows.ts";
import { Lifetime } from "../model/lifetime.ts";
import type { Model } from "../model/model.ts";
import type { LayerState, RecordView } from "../schedule/definition.ts";
import type { ScriptOpener } from "../schedule/open.ts";
import type { SessionExportOptions } from "../slice/export_options.ts";
import { unpackMasks } from "../nn/mask_slots.ts";
import { type Allocated, allocateRun, freeRun, type RunSetup, selectorOf } from "./allocate.ts";
import { type Checkpoint, noCheckpoint, readCheckpoint, resumedBy, writeCheckpoint } from "./checkpoint.ts";
import type { RunPosition, RunState, Stage, StagePlan, StepRecord, TrainerArrays } from "./contract.ts";
import { encodeRun, withCalibration } from "./data.ts";
import { exportRun } from "./export_run.ts";
import { type FinishedRun, finishRun } from "./finish.ts";
import { sequencesToMeasure } from "./calibration.ts";
import { measuredSequences, type QualityData, qualityData, type TaskLoader } from "./quality.ts";
import { handleOf, refuseHandle, type RunHandle } from "./hooks.ts";
import { changesBetween, identityOf } from "./identity.ts";
import { layerStates } from "./layer_states.ts";
import type { MemoryPlan } from "./memory/plan.ts";
import { stagesOf } from "./methods/stages.ts";
import type { Finding } from "./monitors/alarm.ts";
import { brokenFinding, brokenNumbers, findCause } from "./monitors/find_cause.ts";
import type { CutForRun } from "./vocabulary.ts";
import { stopError, stoppedAt } from "./monitors/judge.ts";
import {
  goodState,
  keptStates,
  oversee,
  overseeEnd,
  overseeHard,
  type Overseen,
  type Oversight,
  oversightOf,
  wentBack,
} from "./monitors/oversee.ts";
import { asShortage } from "./monitors/shortage.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import { resolveOptions } from "./options/resolve.ts";
import {
  checkTrained,
  type PruneResult,
  readResult,
  refuseResult,
  type RunSummary,
  type SlicedModel,
} from "./result.ts";
import { aimRun, goesBeforeSize } from "./size_goal.ts";
import type { RunOfMany } from "./shared_work.ts";
import { recordsAt, recordView, type Steered, steered, type Steerer } from "./steering.ts";
import {
  aimOf,
  choosesNext,
  endedEarly,
  firstPosition,
  hardLookOf,
  lastAim,
  lookOf,
  masksOf,
  NOTHING_DONE,
  type PendingStep,
  positionAfter,
  type PreparedStep,
  recordsOf,
  reopened,
  stepNumbers,
  stepsOf,
  stepStateOf,
} from "./step.ts";
import { RING_SLOTS } from "./step_plans.ts";
import type { Trainer } from "./trainer.ts";

/** Seconds after which records are read from the GPU, unless the ring is half full before. */
const FLUSH_SECONDS = 0.4;

/** Options of {@link PruneSession.slice}. */
export interface SliceOptions {
  /** Called while the sliced model is compared with the masked one, with the share that is done, 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

/** What a run needs from the system. */
export interface RunPlatform {
  /** Where checkpoints and exports are written. */
  readonly files: FileSystem;
  /** Opens schedules that are scripts; null refuses scripts. */
  readonly openScript: ScriptOpener | null;
  /** Reads the data of tasks; null refuses tasks. */
  readonly loadTasks: TaskLoader | null;
}

/** What a session needs besides its options. */
export interface SessionParts extends RunPlatform {
  /** The options with all defaults. */
  readonly resolved: ResolvedOptions;
  /** The vocabulary that was cut before, if `units` has "vocab"; its model is the run's. */
  readonly vocabulary?: CutForRun | undefined;
  /** How the run is one of several. Default: it is alone. */
  readonly ofMany?: RunOfMany;
  /** Provides the calibration rows once every other check of the run has passed; it may use `cacheBytes` of GPU memory. */
  readonly calibrate?:
    | ((how: { readonly cacheBytes: number; readonly signal: AbortSignal }) => Promise<readonly Row[]>)
    | undefined;
}

/**
 * A prune run, from its first step to the export. Dispose it to free its GPU memory: at once while it is paused,
 * otherwise as soon as the current work has stopped. Using it afterwards throws `CompressoError("usage")`. Disposing
 * saves no checkpoint.
 */
export class PruneSession implements AsyncIterable<StepRecord>, Disposable {
  readonly #model: Model;
  readonly #files: FileSystem;
  readonly #openScript: ScriptOpener | null;
  readonly #loadTasks: TaskLoader | null;
  readonly #vocabulary: CutForRun | null;
  readonly #ofMany: RunOfMany;
  #setup: RunSetup;
  #calibrate: SessionParts["calibrate"];
  readonly #batches: Batches;
  readonly #stages: readonly StagePlan[];
  readonly #oversight: Oversight;
  readonly #life: Lifetime;
  #position: RunPosition;
  #allocated: Allocated | null = null;
  #allocating: Promise<void> | null = null;
  /** States to roll back to, oldest first; the last one belongs to the current stage. */
  #kept: readonly RunState[] = [];
  /** Records since the last kept state. */
  #since: RecordView[] = [];
  #pending: PendingStep[] = [];
  #lastFlush = performance.now();
  /** One stream for all loops: the next loop continues where the last one stopped. Created anew after an error. */
  #stream: AsyncGenerator<StepRecord, void, undefined> | null = null;
  #isDone = false;
  /** The periodic checkpoint that is being written beside the next step. */
  #writing: Promise<void> | null = null;
  /** Records as they were yielded, one per step. */
  readonly #records: StepRecord[] = [];
  /** Position at which a resumed run continued. */
  #before: Pick<RunPosition, "step" | "recent"> = { step: 0, recent: [] };
  readonly #startedAt = performance.now();
  #result: PruneResult | null = null;
  #finished: FinishedRun | null = null;
  /** What quality is measured on; null before the run is prepared. */
  #qualityData: QualityData | null = null;

  /** Use {@link prune}. Throws `CompressoError` for rows and goals that cannot work, before any GPU work. */
  constructor(
    model: Model,
    original: PruneOptions,
    { resolved, files, openScript, loadTasks, calibrate, vocabulary, ofMany = {} }: SessionParts,
  ) {
    if (resolved.vocab && !vocabulary) throw vocabularyLeft();
    const aim = aimRun(model, resolved), data = encodeRun(model, aim.options, original);
    this.#model = model;
    this.#files = files;
    this.#openScript = openScript;
    this.#loadTasks = loadTasks;
    this.#calibrate = calibrate;
    this.#vocabulary = vocabulary ?? null;
    this.#life = new Lifetime("session", original.signal);
    this.#ofMany = ofMany;
    const { work } = ofMany;
    this.#setup = { ...aim, ...data, original: { ...original, signal: this.#life.signal }, ...(work ? { work } : {}) };
    this.#batches = data.makeBatches(aim.options.seed, aim.options.accumulate);
    this.#stages = stagesOf(aim.options);
    this.#position = firstPosition(this.#batches.cursor);
    this.#oversight = oversightOf(aim.options, aim.table, { steps: this.steps });
  }

  /** Options with all defaults filled in. */
  get options(): ResolvedOptions {
    return this.#setup.options;
  }

  /** Steps of all stages. */
  get steps(): number {
    return stepsOf(this.#stages, this.#position);
  }

  /** How the rows were encoded. */
  get data(): PruneResult["data"] {
    return this.#setup.report;
  }

  /**
   * Plans the memory, allocates, and reads the checkpoint of a resumed run. Iteration does this too. Returns the steps
   * and records that were done before.
   *
   * @throws CompressoError("gpu") where the run does not fit, with what would fit.
   */
  async prepare(): Promise<{ readonly steps: number; readonly records: number }> {
    this.#life.check();
    // A finished run needs no allocation.
    if (!this.#result) await (this.#allocating ??= this.#life.during(() => this.#allocate()));
    return { steps: this.#position.step, records: this.#position.records };
  }

  /**
   * Runs the steps and yields their records. Leaving the loop pauses the run, and the next loop continues there.
   * Leaving saves nothing: to stop with a checkpoint, fire the option `signal` and let the loop throw.
   *
   * @throws AlarmError where an alarm stops the run; its code is "numeric", of the monitor `memory` "gpu".
   * @throws CompressoError("gpu") where the run does not fit, or the device fails.
   * @throws CompressoError("mismatch") for a checkpoint of another run.
   * @throws CompressoError("input") for a schedule that fails.
   * @throws the signal's reason.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StepRecord, void, undefined> {
    for (;;) {
      const next = await this.#life.during(() => this.#next());
      if (next.done) return;
      yield next.value;
    }
  }

  /**
   * Masks, LoRA and figures of the finished run. {@link slice} and {@link export} use these same arrays.
   *
   * @throws CompressoError("usage") before a loop over the records has finished.
   */
  result(): PruneResult {
    this.#life.check();
    return this.#result ?? refuseResult(this.#position, { steps: this.steps });
  }

  /**
   * Slices the model and verifies that it equals the masked one. Frees the trainer, so only the model keeps GPU memory.
   *
   * @throws CompressoError("mismatch") where logits differ by more than 1e-3 of their range, with the first layer that
   *   differs.
   */
  async slice({ onProgress }: SliceOptions = {}): Promise<SlicedModel> {
    const { sliced } = await this.#life.during(() => this.#finish(this.#life.signal, onProgress));
    return sliced;
  }

  /**
   * Writes `dir/model/`, `dir/model.gguf`, with `saveAdapter` the adapter, `dir/records.jsonl` with the yielded records
   * and, last, `dir/run.json`. Returns the contents of run.json. All models are written completely beside their places
   * before any is moved there. `generation` is added to the base's generation_config.json, apart from token ids.
   *
   * @throws CompressoError("input") where other files are in their places, unless `replace` is set.
   * @throws CompressoError("usage") for options, layouts, formats and types that do not exist.
   */
  async export(dir: string, options: SessionExportOptions = {}): Promise<RunSummary> {
    return await this.#life.during(async () => {
      const own = this.#life.signal, signal = options.signal ? AbortSignal.any([options.signal, own]) : own;
      return await exportRun(dir, options, {
        model: this.#model,
        dense: this.#vocabulary?.dense ?? this.#model,
        kept: this.#vocabulary?.kept ?? null,
        files: this.#files,
        options: this.options,
        hooks: this.#setup.original.hooks ?? {},
        records: this.#records,
        before: this.#before,
        startedAt: this.#startedAt,
        writesModel: this.#ofMany.writesModel ?? true,
        sequences: () => sequencesToMeasure(this.#setup, this.options),
        finish: () => this.#finish(signal),
        signal,
      });
    });
  }

  /** Stops the current work, frees the trainer and ends a schedule's process. */
  [Symbol.dispose](): void {
    this.#life.end(() => this.#free());
  }

  async #finish(signal: AbortSignal, onProgress?: SliceOptions["onProgress"]): Promise<FinishedRun> {
    if (this.#finished) return this.#finished;
    const result = this.result(), data = this.#qualityData;
    if (!data) throw new Error("the run is not prepared");
    this.#free();
    const { work } = this.#ofMany, how = { vocabulary: this.#vocabulary, work, signal, onProgress };
    return this.#finished = await finishRun(result, { model: this.#model, options: this.options, data, ...how });
  }

  async #allocate(): Promise<void> {
    try {
      const { original: { evaluate: evaluation }, options: { seq } } = this.#setup, { signal } = this.#life;
      this.#qualityData ??= await qualityData(this.#model, this.#setup, {
        seq,
        most: this.#ofMany.work?.sequences ?? measuredSequences(this.options),
        evaluation,
        loadTasks: this.#loadTasks,
        signal,
      });
      const found = await this.#checkpointToResume();
      this.#allocated = await allocateRun(this.#model, this.#setup, {
        state: () => stepStateOf(this.options, this.#position, { rate: 0, target: 0, rates: this.options.rates }),
        goesBeforeSize: () => goesBeforeSize(this.#position, this.options),
        openScript: this.#openScript,
        complete: (steerer, plan) => this.#complete(found, steerer, plan),
      });
      this.#life.check();
      if (found) await this.#restore(found, this.#allocated.steerer);
      else await this.#keep();
      if (this.#records.length === 0) this.#before = this.#position;
      await this.#checkRanks();
    } catch (error) {
      this.#free();
      throw error;
    }
  }

  /** Refuses to train beside ranks that differ: at the start, and by the state at steps at which it is read. */
  async #checkRanks(arrays?: TrainerArrays): Promise<void> {
    const { ranks } = this.#setup.original;
    if (!ranks) return;
    const { step } = this.#position;
    await checkAlike(
      ranks,
      arrays ? { step, state: digestOf(Object.values(arrays)) } : {
        ...this.#identity(this.#now.steerer),
        version: config.version,
        step,
      },
    );
  }

  /** The checkpoint to resume from; null if the run starts from the beginning. */
  async #checkpointToResume(): Promise<Checkpoint | null> {
    const { checkpoint } = this.#setup.original;
    if (!checkpoint?.resume) return null;
    const { path, mayDiffer = [] } = checkpoint, files = this.#files;
    if (await isThere(files, path)) return await readCheckpoint(path, { files });
    if (mayDiffer.length > 0) throw noCheckpoint(path, mayDiffer);
    return null;
  }

  /** Loads the calibration rows if they are missing, unless the checkpoint belongs to another run. */
  async #complete(found: Checkpoint | null, steerer: Steerer, { peakBytes, stages }: MemoryPlan): Promise<RunSetup> {
    const calibrate = this.#calibrate, { checkpoint } = this.#setup.original;
    if (!calibrate) return this.#setup;
    if (found && checkpoint) {
      const calibration = found.identity["calibration"] ?? "texts that the model writes itself";
      changesBetween(found.identity, { ...this.#identity(steerer), calibration }, checkpoint);
    }
    const { ranks } = this.#setup.original;
    // Before they share this work: later checks come too late for it.
    if (ranks) await checkAlike(ranks, { ...this.#identity(steerer), version: config.version });
    // The other half is for the rest of what writing them needs.
    const rows = await calibrate({ cacheBytes: (peakBytes - stages.weights) / 2, signal: this.#life.signal });
    this.#calibrate = undefined;
    return this.#setup = withCalibration(this.#setup, rows);
  }

  get #now(): Allocated {
    if (!this.#allocated) throw new Error("the run is not prepared");
    return this.#allocated;
  }

  get #trainer(): Trainer {
    return this.#now.trainer;
  }

  async #restore(found: Checkpoint, steerer: Steerer): Promise<void> {
    const { checkpoint } = this.#setup.original;
    if (!checkpoint) return;
    const { path, mayDiffer } = checkpoint, { scheduled } = steerer;
    const { kept, ...state } = resumedBy(found, this.#identity(steerer), { path, mayDiffer, scheduled });
    await this.#adopt(state);
    this.#kept = kept;
    const last = kept.at(-1)?.position.step ?? 0;
    this.#since = state.position.recent.filter(({ step }) => step > last);
  }

  /** Continues from a state. Its schedule may end the stage again, or not. */
  async #adopt({ position, arrays }: RunState): Promise<void> {
    const pruning = this.#stages.findIndex(({ stage }) => stage === "prune");
    this.#position = reopened(position, this.#stages[position.stage]?.stage);
    this.#pending = [];
    this.#batches.seek(position.cursor);
    this.#trainer.restore(arrays);
    const selector = selectorOf(this.#setup, this.#now); // the old selector may hold data from after the state
    if (position.stage > pruning || position.begun === "hard") await selector.resumed();
    this.#allocated = { ...this.#now, selector };
  }

  /** Keeps the current state for a rollback. */
  async #keep(arrays: TrainerArrays | null = null): Promise<void> {
    const state = { position: this.#position, arrays: arrays ?? await this.#trainer.save() };
    this.#kept = keptStates([...this.#kept, state], state.position.step);
    this.#since = [];
  }

  async #next(): Promise<IteratorResult<StepRecord, void>> {
    if (this.#isDone) return { done: true, value: undefined };
    const stream = this.#stream ??= this.#drive();
    try {
      const result = await stream.next();
      if (result.done) {
        this.#life.check();
        this.#isDone = this.#stream === stream; // otherwise an error has ended it
        return result;
      }
      // After a rollback steps are repeated.
      while ((this.#records.at(-1)?.step ?? 0) >= result.value.step) this.#records.pop();
      this.#records.push(result.value);
      return result;
    } catch (error) {
      if (this.#stream === stream) this.#stream = null;
      throw error;
    }
  }

  async *#drive(): AsyncGenerator<StepRecord, void, undefined> {
    const { original, options } = this.#setup;
    await this.prepare();
    // A step that failed has already taken its batch.
    this.#batches.seek(this.#position.cursor);
    this.#lastFlush = performance.now();
    try {
      for (let stage = this.#stage; stage; stage = this.#stage) yield* this.#driveStage(stage);
      await checkTrained(this.#trainer);
      await this.#act(await this.#overseeEnd());
      // Nothing goes back from here on: the last state, which is the present one, is enough.
      if (!this.#result) await this.#save({ kept: this.#kept.slice(-1) });
      this.#result = await readResult(this.#now, this.#setup, { model: this.#model, position: this.#position });
    } catch (error) {
      if (this.#life.isOver) throw error;
      const failed = original.signal?.aborted && original.checkpoint
        ? yield* this.#saveStopped(original.signal, error)
        : error;
      const isSaved = original.checkpoint !== undefined;
      const explained = await asShortage(failed, { ...this.#now, options, isSaved, step: this.#position.step });
      if (explained !== failed) await this.#save({ state: this.#kept.at(-1) });
      throw explained;
    } finally {
      await this.#writing?.catch(() => {}); // another error is on its way
      await this.#allocated?.steerer[Symbol.asyncDispose]();
    }
  }

  get #stage(): StagePlan | undefined {
    return this.#stages[this.#position.stage];
  }

  /** Runs a stage to its end, or until a rollback. */
  async *#driveStage(stage: StagePlan): AsyncGenerator<StepRecord, void, undefined> {
    const { hooks, checkpoint } = this.#setup.original, every = checkpoint?.every ?? Infinity;
    await this.#enter(stage);
    while (this.#position.stageStep < stage.steps && this.#position.begun !== "hard") {
      if (!await this.#step(stage)) break;
      await this.#written();
      const { step, stageStep } = this.#position, due = step % every === 0;
      const looks = this.#oversight.looksAt(step) || stageStep === stage.steps;
      if ((due || looks || this.#shouldFlush()) && (yield* this.#flush({ looks }))) return;
      if (due) await this.#save({ isBeside: true });
    }
    await this.#written();
    if (yield* this.#flush({ looks: true })) return;
    if (stage.stage === "prune" && this.#position.begun !== "hard") {
      const { keptState } = this.#ofMany;
      if (keptState !== undefined) await this.#save({ path: keptState });
      await this.#harden();
    }
    await hooks?.afterStage?.(stage.stage, this.#handle(stage.stage));
    this.#position = { ...this.#position, stage: this.#position.stage + 1, stageStep: 0, ...NOTHING_DONE };
    await this.#keep();
  }

  /** Prepares the first step of a stage. */
  async #enter({ stage }: StagePlan): Promise<void> {
    if (this.#position.stageStep > 0 || this.#position.begun) return;
    if (stage === "prune") await this.#now.selector.begin();
    await this.#setup.original.hooks?.beforeStage?.(stage, this.#handle(stage));
    this.#position = { ...this.#position, begun: "stage" };
  }

  #free(): void {
    if (this.#allocated) freeRun(this.#allocated, this.#model);
    this.#allocated = null;
    this.#allocating = null;
  }

  /** Evaluates the schedule for the current step. */
  async #steer({ stage, steps }: StagePlan): Promise<Steered> {
    const { stageStep: step, recent: records, aim: last } = this.#position;
    const layers = async (): Promise<readonly LayerState[]> => {
      const seen = this.#position.seen ?? await layerStates(this.#setup, this.#trainer, { stage, last });
      this.#position = { ...this.#position, seen };
      return seen;
    };
    return await steered(this.#now.steerer, stage, { step, steps, records, layers });
  }

  /** Prepares a step; null if the schedule ends the stage before it. */
  async #prepareStep(plan: StagePlan): Promise<PreparedStep | null> {
    const { stage, kind, steps } = plan, { options, original, table } = this.#setup;
    const { stageStep, step: index, aim: last } = this.#position, { steering, set, end } = await this.#steer(plan);
    if (end) return null;
    const { rates, rate, target, focus } = stepNumbers(plan, this.#position, { options, steering, set });
    if (this.#position.begun !== "step") await original.hooks?.beforeStep?.(this.#handle(stage));
    this.#position = { ...this.#position, begun: "step" };
    const batch = this.#batches.next();
    const state = stepStateOf(options, this.#position, { rate, target: target ?? 0, rates });
    const { selector } = this.#now;
    const hard = steering
      ? await selector.beforeStep({ ...steering, rates, step: stageStep })
      : await selector.settle();
    const aim = steering && aimOf({ ...steering, rates }, { ...options, step: stageStep, steps, last, table });
    return { index, stage, kind, batch, state, focus, rate, target, hard, aim, layers: steering?.layers ?? null };
  }

  /** Runs a step; false if the schedule ends the stage before it. */
  async #step(plan: StagePlan): Promise<boolean> {
    const { signal } = this.#life, start = performance.now();
    const step = await this.#prepareStep(plan), position = this.#position;
    this.#life.check(); // a hook may have ended it
    if (!step) {
      this.#position = endedEarly(position, plan);
      return false;
    }
    await this.#trainer.step(step.kind, step.batch, { ...step, signal });
    if (step.target !== null) await this.#now.selector.afterStep();
    this.#pending.push(step);
    const seconds = (performance.now() - start) / 1000;
    this.#position = positionAfter(position, step, { cursor: this.#batches.cursor, seconds });
    return true;
  }

  #handle(stage: Stage, { step } = this.#position): RunHandle {
    return handleOf({ stage, step, table: this.#setup.table }, () => {
      this.#life.check();
      return this.#allocated?.trainer ?? refuseHandle();
    });
  }

  #shouldFlush(): boolean {
    const { options: { method }, original: { hooks, ranks } } = this.#setup,
      choice = { stage: this.#stage?.stage, method };
    return choosesNext(this.#position, choice) || this.#now.steerer.needsRecords || hooks?.afterStep !== undefined ||
      ranks !== undefined || // at the same steps on all ranks
      this.#pending.length >= RING_SLOTS / 2 || performance.now() - this.#lastFlush > FLUSH_SECONDS * 1000;
  }

  /**
   * Reads the numbers of the pending steps, yields their records and applies the monitors. With `looks` it reads the
   * masks too and keeps the state. Returns true after a rollback.
   *
   * @throws AlarmError where an alarm stops the run.
   */
  async *#flush({ looks }: { readonly looks: boolean }): AsyncGenerator<StepRecord, boolean, undefined> {
    const pending = this.#pending, first = pending[0], { hooks, onMasks } = this.#setup.original;
    const isNew = looks && this.#position.looked !== this.#position.step;
    if (!first && !isNew) return false;
    const numbers = first ? await this.#trainer.numbers(first.index, pending.length) : [];
    const arrays = isNew ? await this.#trainer.save() : null,
      look = arrays && lookOf(this.#setup, arrays, this.#position);
    if (arrays) await this.#checkRanks(arrays);
    if (isNew) this.#position = { ...this.#position, looked: this.#position.step };
    if (arrays && look?.broken === null) onMasks?.(this.#position.step, masksOf(this.#setup, arrays, this.#position));
    this.#pending = [];
    const now = performance.now(), seconds = (now - this.#lastFlush) / 1000;
    this.#lastFlush = now;
    const { bytes, memoryLimit: limit } = this.#model.device, planned = this.#now.plannedBytes;
    const run = { steps: this.steps, seconds, gpuBytes: bytes, plannedGpuBytes: planned };
    const records = recordsOf(pending, numbers, run);
    for (const [index, plain] of (records.length > 0 ? records : [null]).entries()) {
      const own = index >= records.length - 1 ? look : null, step = plain?.step ?? this.#position.step;
      const seen = oversee({ ...this.#position, aim: pending[index]?.aim ?? this.#position.aim }, {
        record: plain,
        look: own,
        broken: await this.#broken(step, brokenNumbers(plain, own), own?.broken),
        memory: { bytes, planned, limit },
        goodStep: goodState(this.#kept, step).position.step,
      }, this.#oversight);
      const { record } = seen, at = this.#position; // after a search for broken numbers: that of the state on the GPU
      const hook = (): unknown => record && hooks?.afterStep?.(record, this.#handle(record.stage, at));
      this.#position = seen.position;
      if (record) this.#since.push(recordView(record));
      const [done] = await Promise.allSettled([Promise.try(hook)]);
      if (record) yield record; // even if the hook fails
      // A hook may have changed the arrays since they were read, and may also have thrown.
      const isBack = await this.#act(seen), read = hooks?.afterStep ? null : arrays;
      if (own && !isBack && this.#oversight.keepsAt(this.#position.step)) await this.#keep(read);
      if (done.status === "rejected") throw done.reason;
      if (isBack) return true;
    }
    return false;
  }

  /**
   * Carries out a verdict. Returns true after a rollback. Throws where the run stops, after saving the state to
   * continue from.
   */
  async #act({ position, verdict }: Pick<Overseen, "position" | "verdict">): Promise<boolean> {
    this.#position = position;
    if (verdict.action === null || verdict.action === "warn") return false;
    const good = goodState(this.#kept, verdict.step), isBack = verdict.action !== "stop";
    const state = isBack ? { ...good, position: wentBack(good.position, verdict, this.#position) } : good;
    // Assigned before the awaits: a signal may interrupt them.
    [this.#kept, this.#since] = [isBack ? [state] : this.#kept.slice(0, this.#kept.indexOf(good) + 1), []];
    await this.#adopt(state);
    await this.#save({ state: isBack ? undefined : stoppedAt(state, verdict) });
    if (!isBack) throw stopError(verdict);
    return true;
  }

  /** The finding for numbers that are not finite, searched by repeating the step; null if there are none. */
  async #broken(at: number, numbers: string, masks?: string | null): Promise<Finding | null> {
    const from = this.#kept.at(-1);
    if (numbers === "" || !from) return null;
    await this.#adopt(from);
    // The schedule must see the same records again, since it decides by them.
    const records = [...from.position.recent, ...this.#since];
    const recall = (): void => {
      this.#position = { ...this.#position, recent: recordsAt(records, this.#position.step) };
    };
    try {
      const plan = this.#stage, stage = plan?.stage ?? "postfinetune";
      if (plan) await this.#enter(plan);
      for (recall(); plan && this.#position.step < at - 1; recall()) if (!await this.#step(plan)) break;
      const step = plan && await this.#prepareStep(plan);
      const parts = { ...this.#now, table: this.#setup.table };
      return brokenFinding(step ? await findCause(parts, step, masks) : null, { stage, step: at, numbers });
    } finally {
      await this.#adopt(from);
    }
  }

  /**
   * Ends the pruning stage: cuts exactly as many units as the last target requires; none if a schedule ended the stage
   * before its first step.
   */
  async #harden(): Promise<void> {
    const { isSkipped, ...aim } = lastAim(this.#position, this.#setup), { target } = aim;
    const expected = isSkipped ? 0 : await this.#now.selector.end(aim);
    this.#position = { ...this.#position, target, expected, aim: null, begun: "hard" };
    const seen = hardLookOf(this.#setup, await this.#trainer.save(), this.#position);
    await this.#act(overseeHard(this.#position, { ...seen, isSkipped }, this.#oversight));
  }

  /** Checks the masks at the end of the run, which hooks may have changed since they became hard. */
  async #overseeEnd(): Promise<ReturnType<typeof overseeEnd>> {
    const arrays = await this.#trainer.save(), { table: { spec, layout }, goal } = this.#setup;
    const excess = goal && goal.excess(unpackMasks(spec, layout, arrays.slots));
    return overseeEnd(this.#position, { ...hardLookOf(this.#setup, arrays, this.#position), excess }, this.#oversight);
  }

  /** Saves the current state, or the given one if the current state cannot be used. Default path: that of the checkpoint, if any. */
  async #save(
    { state, kept: states = this.#kept, path = this.#setup.original.checkpoint?.path, isBeside = false }: {
      readonly state?: RunState | undefined;
      /** States to go back to. Default: all that are kept. */
      readonly kept?: readonly RunState[];
      readonly path?: string | undefined;
      /** Whether the file is written beside what follows; {@link #written} waits for it. */
      readonly isBeside?: boolean;
    } = {},
  ): Promise<void> {
    const position = this.#position;
    if (path === undefined) return;
    const present = state ?? { position, arrays: await this.#trainer.save() };
    const kept = states.filter((one) => one.position.step <= present.position.step);
    const identity = this.#identity(this.#now.steerer);
    await this.#written();
    this.#writing = writeCheckpoint(path, { identity, ...present, kept }, { files: this.#files });
    if (!isBeside) return await this.#written();
    this.#writing.catch(() => {}); // thrown by what waits for it
  }

  /** Waits for the checkpoint that is being written. */
  async #written(): Promise<void> {
    const writing = this.#writing;
    this.#writing = null;
    await writing;
  }

  /**
   * Saves the state of a run that a signal stopped, or the last kept state if the signal also interrupts the monitors.
   * Returns the error to throw.
   */
  async *#saveStopped({ reason }: AbortSignal, error: unknown): AsyncGenerator<StepRecord, unknown, undefined> {
    try {
      yield* this.#flush({ looks: false });
      await this.#save();
    } catch (late) {
      if (late !== reason) return late;
      await this.#save({ state: this.#kept.at(-1) });
    }
    return error;
  }

  #identity({ identity: schedule }: Steerer): RunIdentity {
    const { options, original } = this.#setup;
    return identityOf(this.#model, this.#setup, { options, schedule, beside: original.checkpoint?.identity });
  }
}

function vocabularyLeft(): CompressoError {
  return new CompressoError("usage", {
    what: "cannot prune this model with the unit vocab",
    rule: "a vocabulary is cut before the session that prunes the layers",
    value: option("units", "vocab"),
    fix: "cut it by pruneToFolder, or by cutModel and leave vocab out of the units",
    option: "units",
  });
}

/** Prunes a model on any system, such as in a browser with files in memory. See `prune` for files on disk. */
export function pruneOn(platform: RunPlatform, model: Model, options: PruneOptions): PruneSession {
  return new PruneSession(model, options, {
    ...platform,
    resolved: resolveOptions(options, model.spec, { source: model.source }),
  });
}
