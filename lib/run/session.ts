// A prune session: a stream of step records through the stages, then slice() and export().
import { VERSION } from "../core/version.ts";
import { checkAlike } from "../ranks/alike.ts";
import { CompressoError, option, refusal } from "../core/errors.ts";
import { type FileSystem, isThere } from "../files/system.ts";
import type { Row } from "../data/rows.ts";
import { Lifetime } from "../model/lifetime.ts";
import type { Model } from "../model/model.ts";
import type { ScriptOpener } from "../schedule/open.ts";
import type { SessionExportOptions } from "../slice/export_options.ts";
import { type RunSetup } from "./allocate.ts";
import { type Checkpoint, noCheckpoint, readCheckpoint } from "./checkpoint.ts";
import type { RunPosition, StepRecord } from "./contract.ts";
import { encodeRun, withCalibration } from "./data.ts";
import { type ExpectedCut, expectedCut } from "./expected_cut.ts";
import { exportRun } from "./export_run.ts";
import { type FinishedRun, finishRun } from "./finish.ts";
import { sequencesToMeasure } from "./calibration.ts";
import { PartTimer } from "./parts_of_time.ts";
import { heldOutSequences, type QualityData, qualityData, type TaskLoader } from "./quality.ts";
import { changesBetween } from "./identity.ts";
import type { MemoryPlan } from "./memory/plan.ts";
import type { CutForRun } from "./vocabulary.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import { resolveOptions } from "./options/resolve.ts";
import { type PruneResult, refuseResult, type RunSummary, type SlicedModel } from "./result.ts";
import { aimRun } from "./size_goal.ts";
import type { RunOfMany } from "./shared_work.ts";
import type { Steerer } from "./steering.ts";
import { Loop } from "./loop.ts";
import { Training } from "./training.ts";

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
  /** What the run shares with others of a sweep. Default: nothing. */
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
  readonly #parts: SessionParts;
  readonly #life: Lifetime;
  readonly #run: Training;
  readonly #loop: Loop;
  readonly #startedAt = performance.now();
  readonly #timer = new PartTimer();
  /** Absent once it has provided the rows. */
  #calibrate: SessionParts["calibrate"];
  #preparing: Promise<void> | null = null;
  /** One stream for all loops: the next loop continues where the last one stopped. A new one after an error. */
  #stream: AsyncGenerator<StepRecord, PruneResult, undefined> | null = null;
  /** Records as they were yielded, one per step. */
  readonly #records: StepRecord[] = [];
  /** Position at which a resumed run continued. */
  #before: Pick<RunPosition, "step" | "recent"> = { step: 0, recent: [] };
  #result: PruneResult | null = null;
  #finished: FinishedRun | null = null;
  /** What quality is measured on; null before the run is prepared. */
  #qualityData: QualityData | null = null;

  /** Use {@link prune}. Throws `CompressoError` for rows and goals that cannot work, before any GPU work. */
  constructor(model: Model, original: PruneOptions, parts: SessionParts) {
    const { resolved, files, calibrate, vocabulary, ofMany: { work, keptState } = {} } = parts;
    if (resolved.vocab && !vocabulary) throw vocabularyLeft();
    const aim = aimRun(model, resolved), data = encodeRun(model, aim.options, original);
    const life = new Lifetime("session", original.signal), signal = life.signal;
    const setup = { ...aim, ...data, original: { ...original, signal }, work };
    this.#model = model;
    this.#parts = parts;
    this.#life = life;
    this.#calibrate = calibrate;
    this.#run = new Training(model, setup, { life });
    this.#loop = new Loop(this.#run, { life, files, keptState });
  }

  /** Options with all defaults filled in. */
  get options(): ResolvedOptions {
    return this.#run.setup.options;
  }

  /** Steps of all stages. */
  get steps(): number {
    return this.#run.steps;
  }

  /** What the run will cut, as far as it is known before its first step; null for a run to a size. */
  get expected(): ExpectedCut | null {
    const { setup } = this.#run;
    return expectedCut(setup.options, setup);
  }

  /** How the rows were encoded. */
  get data(): PruneResult["data"] {
    return this.#run.setup.report;
  }

  /**
   * Plans the memory, allocates, and reads the checkpoint of a resumed run. Iteration does this too. Returns the steps
   * and records that were done before.
   *
   * @throws CompressoError("gpu") if the run does not fit, with what would fit.
   */
  async prepare(): Promise<{ readonly steps: number; readonly records: number }> {
    this.#life.check();
    // A finished run needs no allocation.
    if (!this.#result) {
      await (this.#preparing ??= this.#timer.during("preparing", () => this.#life.during(() => this.#prepare())));
    }
    const { step: steps, records } = this.#run.position;
    return { steps, records };
  }

  /**
   * Runs the steps and yields their records. Leaving the loop pauses the run, and the next loop continues there.
   * Leaving saves nothing: to stop with a checkpoint, fire the option `signal` and let the loop throw.
   *
   * @throws AlarmError if an alarm stops the run. Its code is "gpu" for the monitor `memory`, otherwise "numeric".
   * @throws CompressoError("gpu") if the run does not fit, or the device fails.
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
    return this.#result ?? refuseResult(this.#run.position, this);
  }

  /**
   * Slices the model and verifies that it equals the masked one. Frees the trainer, so only the model keeps GPU memory.
   *
   * @throws CompressoError("mismatch") if logits differ by more than 1e-3 of their range, with the first layer that
   *   differs.
   */
  async slice({ onProgress }: SliceOptions = {}): Promise<SlicedModel> {
    const { sliced } = await this.#life.during(() => this.#finish(this.#life.signal, onProgress));
    return sliced;
  }

  /**
   * Writes `dir/model/`, `dir/model.gguf`, with `saveAdapter` the adapter, `dir/records.jsonl` with the yielded records
   * and, last, `dir/run.json`. Returns the contents of run.json. All models are written completely under
   * temporary names before any is moved to its place. `generation` is added to the base's generation_config.json, apart from token ids.
   *
   * @throws CompressoError("input") if other files are in their places, unless `replace` is set.
   * @throws CompressoError("usage") for options, layouts, formats and types that do not exist.
   */
  async export(dir: string, options: SessionExportOptions = {}): Promise<RunSummary> {
    return await this.#life.during(async () => {
      const own = this.#life.signal, signal = options.signal ? AbortSignal.any([options.signal, own]) : own;
      const { files, vocabulary, ofMany = {} } = this.#parts, { setup } = this.#run;
      return await exportRun(dir, options, {
        model: this.#model,
        dense: vocabulary?.dense ?? this.#model,
        kept: vocabulary?.kept ?? null,
        files,
        options: this.options,
        hooks: setup.original.hooks ?? {},
        records: this.#records,
        before: this.#before,
        startedAt: this.#startedAt,
        timer: this.#timer,
        writesModel: ofMany.writesModel ?? true,
        sequences: () => sequencesToMeasure(setup, setup.options),
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
    const result = this.result(), data = this.#qualityData, { vocabulary = null, ofMany: { work } = {} } = this.#parts;
    if (!data) throw new Error("the run is not prepared");
    const identity = this.#run.identity();
    this.#free();
    const how = { model: this.#model, options: this.options, data, vocabulary, work, timer: this.#timer };
    try {
      return this.#finished = await finishRun(result, { ...how, signal, onProgress });
    } catch (error) {
      await this.#loop.saveGood(error, identity);
      throw error;
    }
  }

  async #prepare(): Promise<void> {
    const run = this.#run, { setup } = run, { files, openScript, loadTasks, ofMany } = this.#parts;
    const { original: { evaluate: evaluation, checkpoint }, options } = setup, { signal } = this.#life;
    try {
      const usual = ofMany?.work?.sequences ?? heldOutSequences(options, setup.original),
        most = ofMany?.measures === false ? 0 : usual,
        how = { seq: options.seq, most, evaluation };
      this.#qualityData ??= await qualityData(this.#model, setup, { ...how, loadTasks, signal });
      const found = await checkpointOf(checkpoint, files);
      await run.allocate({ openScript, complete: (steerer, plan) => this.#complete(found, steerer, plan) });
      await this.#loop.begin(found);
      if (this.#records.length === 0) this.#before = run.position;
      await run.checkRanks();
    } catch (error) {
      this.#free();
      throw error;
    }
  }

  /** Provides the calibration rows if they are missing, unless the checkpoint belongs to another run. */
  async #complete(found: Checkpoint | null, steerer: Steerer, { peakBytes, stages }: MemoryPlan): Promise<RunSetup> {
    const { setup } = this.#run, { checkpoint, ranks } = setup.original, calibrate = this.#calibrate;
    if (!calibrate) return setup;
    const identity = this.#run.identity(steerer);
    if (found && checkpoint) {
      const calibration = found.identity["calibration"] ?? "texts that the model writes itself";
      changesBetween(found.identity, { ...identity, calibration }, checkpoint);
    }
    // Ranks share the work below, so they are compared before it.
    if (ranks) await checkAlike(ranks, { ...identity, version: VERSION });
    // The other half is for everything else that generation needs.
    const rows = await calibrate({ cacheBytes: (peakBytes - stages.weights) / 2, signal: this.#life.signal });
    this.#calibrate = undefined;
    return withCalibration(setup, rows);
  }

  async #next(): Promise<IteratorResult<StepRecord, void>> {
    const end = { done: true, value: undefined } as const;
    if (this.#result) return end;
    await this.prepare();
    const stream = this.#stream ??= this.#loop.drive();
    try {
      const { done, value } = await this.#timer.during("steps", () => stream.next());
      if (done) {
        this.#life.check();
        if (this.#stream === stream) this.#result = value; // otherwise an error has ended it
        return end;
      }
      // After a rollback steps are repeated.
      while ((this.#records.at(-1)?.step ?? 0) >= value.step) this.#records.pop();
      this.#records.push(value);
      return { done: false, value };
    } catch (error) {
      if (this.#stream === stream) this.#stream = null;
      throw error;
    }
  }

  #free(): void {
    this.#run.free();
    this.#preparing = null;
  }
}

/** The checkpoint to resume from; null if the run starts from the beginning. */
async function checkpointOf(
  checkpoint: PruneOptions["checkpoint"],
  files: FileSystem,
): Promise<Checkpoint | null> {
  if (!checkpoint?.resume) return null;
  const { path, mayDiffer = [] } = checkpoint;
  if (await isThere(files, path)) return await readCheckpoint(path, { files });
  if (mayDiffer.length > 0) throw noCheckpoint(path, mayDiffer);
  return null;
}

function vocabularyLeft(): CompressoError {
  return refusal("usage", "cannot prune this model with the unit vocab", {
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
