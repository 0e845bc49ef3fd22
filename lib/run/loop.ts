// A prune run: fine-tune, prune, fine-tune, as a stream of step records. Owns the loop, its schedule and checkpoints; refuses files of models.
import type { Batches } from "../data/batches.ts";
import type { LayerState, RecordView } from "../schedule/definition.ts";
import { type RunIdentity } from "../core/identity.ts";
import { readCheckpoint, writeCheckpoint } from "./checkpoint.ts";
import { type RunHandle, whileAlive } from "./hooks.ts";
import { Lifetime } from "../model/lifetime.ts";
import { stagesOf } from "./methods/names.ts";
import type { Model } from "../model/model.ts";
import type { Finding } from "./monitors/alarm.ts";
import { brokenFinding, brokenNumbers, findCause } from "./monitors/find_cause.ts";
import { stopError, stoppedAt } from "./monitors/judge.ts";
import {
  goodState,
  keptStates,
  oversee,
  overseeHard,
  type Overseen,
  type Oversight,
  oversightOf,
  wentBack,
} from "./monitors/oversee.ts";
import { asShortage } from "./monitors/shortage.ts";
import type { CheckpointOptions, PruneOptions, ResolvedOptions } from "./options/options.ts";
import { pausable } from "./pausable.ts";
import type { PreparedRun, PruneResult, PruneRun } from "./prune_result.ts";
import { allocateRun, chooserOf, type Ready, type RunParts } from "./ready.ts";
import { encodeRun } from "./data.ts";
import { checkTrained, freeRun, readResult, watchEnd } from "./run_end.ts";
import { resumedFrom } from "./folder.ts";
import {
  aimOf,
  choosesNext,
  endedEarly,
  firstPosition,
  handleOf,
  hardLookOf,
  identityOf,
  lastAim,
  lookOf,
  masksOf,
  NOTHING_DONE,
  type PendingStep,
  placeAt,
  positionAfter,
  type PreparedStep,
  recordsOf,
  refuseResult,
  reopened,
  stepNumbers,
  stepsOf,
  stepStateOf,
} from "./run_parts.ts";
import { aimRun } from "./size_goal.ts";
import { recordsAt, recordView, type Steered, steered, type Steerer } from "./steering.ts";
import { RING_SLOTS, type Trainer } from "./trainer.ts";
import type { RunPosition, RunState, Stage, StagePlan, StepRecord, TrainerArrays } from "./contract.ts";
import { layerStates } from "./layer_states.ts";
import { resolveOptions } from "./options/resolve.ts";

/** Records are read from the GPU when this much time has passed, or the ring is half full. */
const FLUSH_SECONDS = 0.4;

/** Prepares a run. Throws `CompressoError` for options that cannot work, before any GPU work. */
export function startPrune(model: Model, given: PruneOptions): PruneRun {
  const aim = aimRun(model, resolveOptions(given, model.spec));
  return new Run(model, { ...aim, given, ...encodeRun(model, aim.options, given) });
}

class Run implements PruneRun {
  readonly options: ResolvedOptions;
  readonly #model: Model;
  readonly #parts: RunParts;
  readonly #batches: Batches;
  readonly #stages: readonly StagePlan[];
  readonly #oversight: Oversight;
  #position: RunPosition;
  #ready: Ready | null = null;
  #allocating: Promise<void> | null = null;
  /** States to go back to, oldest first; the last one is of the present stage. */
  #kept: readonly RunState[] = [];
  /** Records since the last of these states. */
  #since: RecordView[] = [];
  #pending: PendingStep[] = [];
  readonly #place = placeAt(() => ({ options: this.options, position: this.#position }));
  #lastFlush = performance.now();
  #result: PruneResult | null = null;
  readonly #life: Lifetime;
  readonly #stream: AsyncIterable<StepRecord, void, undefined>;

  constructor(model: Model, parts: RunParts) {
    this.options = parts.options;
    this.#model = model;
    const life = this.#life = new Lifetime("session", parts.given.signal);
    this.#stream = pausable(() => this.#drive(), life);
    this.#parts = { ...parts, given: { ...parts.given, signal: life.signal } };
    this.#batches = parts.makeBatches(parts.options.seed);
    this.#stages = stagesOf(parts.options);
    this.#position = firstPosition(this.#batches.cursor);
    this.#oversight = oversightOf(parts.options, parts.table, { steps: this.steps });
  }

  get steps(): number {
    return stepsOf(this.#stages, this.#position);
  }

  get data(): PruneRun["data"] {
    return this.#parts.report;
  }

  async prepare(): Promise<PreparedRun> {
    if (!this.#result) await (this.#allocating ??= this.#life.during(() => this.#allocate())); // else nothing is left
    return { steps: this.#position.step, records: this.#position.records, recent: this.#position.recent };
  }

  async #allocate(): Promise<void> {
    try {
      const from = await resumedFrom(this.#parts.given.checkpoint);
      this.#ready = await allocateRun(this.#model, this.#parts, this.#place);
      this.#life.check();
      if (from) await this.#restore(from, this.#ready.steerer);
      else await this.#keep();
    } catch (error) {
      this.#free();
      throw error;
    }
  }

  get #now(): Ready {
    if (!this.#ready) throw new Error("the run is not prepared");
    return this.#ready;
  }

  get #trainer(): Trainer {
    return this.#now.trainer;
  }

  async #restore({ path, mayDiffer }: CheckpointOptions, { scheduled }: Steerer): Promise<void> {
    const { kept, ...state } = await readCheckpoint(path, { identity: this.#identity(), mayDiffer, scheduled });
    await this.#adopt(state);
    this.#kept = kept;
    const last = kept.at(-1)?.position.step ?? 0;
    this.#since = state.position.recent.filter(({ step }) => step > last);
  }

  /** Goes on from a state; a schedule may end its stage anew, or no more. */
  async #adopt({ position, arrays }: RunState): Promise<void> {
    const pruning = this.#stages.findIndex(({ stage }) => stage === "prune");
    this.#position = reopened(position, this.#stages[position.stage]?.stage);
    this.#pending = [];
    this.#batches.seek(position.cursor);
    this.#trainer.restore(arrays);
    const chooser = chooserOf(this.#parts, this.#now, this.#place);
    if (position.stage > pruning || position.begun === "hard") await chooser.resumed();
    this.#ready = { ...this.#now, chooser }; // what the other one remembers is of the state before
  }

  /** Keeps the present state to go back to. */
  async #keep(arrays: TrainerArrays | null = null): Promise<void> {
    const state = { position: this.#position, arrays: arrays ?? await this.#trainer.save() };
    this.#kept = keptStates([...this.#kept, state], state.position.step);
    this.#since = [];
  }

  [Symbol.asyncIterator](): AsyncIterator<StepRecord, void, undefined> {
    return this.#stream[Symbol.asyncIterator]();
  }

  async *#drive(): AsyncGenerator<StepRecord, void, undefined> {
    const { given, options } = this.#parts;
    await this.prepare();
    // A step that failed has taken its batch.
    this.#batches.seek(this.#position.cursor);
    this.#lastFlush = performance.now();
    try {
      for (let stage = this.#stage; stage; stage = this.#stage) yield* this.#driveStage(stage);
      await checkTrained(this.#trainer);
      const end = await watchEnd(this.#now, this.#parts, { position: this.#position, oversight: this.#oversight });
      await this.#act(end);
      if (!this.#result) await this.#save();
      this.#result = await readResult(this.#now, this.#parts, { model: this.#model, position: this.#position });
    } catch (error) {
      if (this.#life.isOver) throw error;
      const failed = given.signal?.aborted && given.checkpoint ? yield* this.#saveStopped(given.signal, error) : error;
      const explained = await asShortage(failed, { ...this.#now, options, given, step: this.#position.step });
      if (explained !== failed) await this.#save(this.#kept.at(-1));
      throw explained;
    } finally {
      await this.#ready?.steerer[Symbol.asyncDispose]();
    }
  }

  get #stage(): StagePlan | undefined {
    return this.#stages[this.#position.stage];
  }

  /** Runs a stage to its end, or until the run goes back. */
  async *#driveStage(stage: StagePlan): AsyncGenerator<StepRecord, void, undefined> {
    const { hooks, checkpoint } = this.#parts.given, every = checkpoint?.every ?? Infinity;
    await this.#enter(stage);
    while (this.#position.stageStep < stage.steps && this.#position.begun !== "hard") {
      if (!await this.#step(stage)) break;
      const { step, stageStep } = this.#position, due = step % every === 0;
      const looks = this.#oversight.looksAt(step) || stageStep === stage.steps;
      if ((due || looks || this.#shouldFlush()) && (yield* this.#flush({ looks }))) return;
      if (due) await this.#save();
    }
    if (yield* this.#flush({ looks: true })) return;
    if (stage.stage === "prune" && this.#position.begun !== "hard") await this.#harden();
    await hooks?.afterStage?.(stage.stage, this.#handle(stage.stage));
    this.#position = { ...this.#position, stage: this.#position.stage + 1, stageStep: 0, ...NOTHING_DONE };
    await this.#keep();
  }

  /** What comes before the first step of a stage. */
  async #enter({ stage }: StagePlan): Promise<void> {
    if (this.#position.stageStep > 0 || this.#position.begun) return;
    if (stage === "prune") await this.#now.chooser.begin();
    await this.#parts.given.hooks?.beforeStage?.(stage, this.#handle(stage));
    this.#position = { ...this.#position, begun: "stage" };
  }

  result(): PruneResult {
    return this.#result ?? refuseResult(this.#position, { steps: this.steps });
  }

  [Symbol.dispose](): void {
    this.#life.end(() => this.#free());
  }

  #free(): void {
    if (this.#ready) freeRun(this.#ready, this.#model);
    this.#ready = null;
    this.#allocating = null;
  }

  /** What a step of the pruning stage aims at, and what a schedule sets in the others. */
  async #steer({ stage, steps }: StagePlan): Promise<Steered> {
    const { stageStep: step, recent: records, aim: last } = this.#position;
    const layers = async (): Promise<readonly LayerState[]> => {
      const seen = this.#position.seen ?? await layerStates(this.#parts, this.#trainer, { stage, last });
      this.#position = { ...this.#position, seen };
      return seen;
    };
    return await steered(this.#now.steerer, stage, { step, steps, records, layers });
  }

  /** All that a step needs; null where the schedule ends the stage before it. */
  async #prepareStep(plan: StagePlan): Promise<PreparedStep | null> {
    const { stage, kind, steps } = plan, { options, given, table } = this.#parts;
    const { stageStep, step: index, aim: last } = this.#position, { steering, set, end } = await this.#steer(plan);
    if (end) return null;
    const { rates, rate, target, focus } = stepNumbers(plan, this.#position, { options, steering, set });
    if (this.#position.begun !== "step") await given.hooks?.beforeStep?.(this.#handle(stage));
    this.#position = { ...this.#position, begun: "step" };
    const batch = this.#batches.next();
    const state = stepStateOf(options, this.#position, { rate, target: target ?? 0, rates });
    const { chooser } = this.#now;
    const hard = steering ? await chooser.beforeStep({ ...steering, rates, step: stageStep }) : await chooser.settle();
    const aim = steering && aimOf({ ...steering, rates }, { ...options, step: stageStep, steps, last, table });
    return { index, stage, kind, batch, state, focus, rate, target, hard, aim, layers: steering?.layers ?? null };
  }

  /** Runs one step; false where the schedule ends the stage before it. */
  async #step(plan: StagePlan): Promise<boolean> {
    const { signal } = this.#life, start = performance.now();
    const step = await this.#prepareStep(plan), position = this.#position;
    this.#life.check(); // a hook may have ended it
    if (!step) {
      this.#position = endedEarly(position, plan);
      return false;
    }
    await this.#trainer.step(step.kind, step.batch, { ...step, signal });
    if (step.target !== null) await this.#now.chooser.afterStep();
    this.#pending.push(step);
    const seconds = (performance.now() - start) / 1000;
    this.#position = positionAfter(position, step, { cursor: this.#batches.cursor, seconds });
    return true;
  }

  #handle(stage: Stage, { step } = this.#position): RunHandle {
    return whileAlive(handleOf(this.#trainer, { stage, step, table: this.#parts.table }), this.#life);
  }

  #shouldFlush(): boolean {
    const { options: { method }, given: { hooks } } = this.#parts, choice = { stage: this.#stage?.stage, method };
    return choosesNext(this.#position, choice) || this.#now.steerer.needsRecords || hooks?.afterStep !== undefined ||
      this.#pending.length >= RING_SLOTS / 2 || performance.now() - this.#lastFlush > FLUSH_SECONDS * 1000;
  }

  /**
   * Reads the numbers of the pending steps, makes records of them and asks the monitors; with `looks` also of the masks, whose state is then kept.
   * True where the run went back. Throws where an alarm stops it.
   */
  async *#flush({ looks }: { readonly looks: boolean }): AsyncGenerator<StepRecord, boolean, undefined> {
    const pending = this.#pending, first = pending[0], { hooks, onMasks } = this.#parts.given;
    const isNew = looks && this.#position.looked !== this.#position.step;
    if (!first && !isNew) return false;
    const numbers = first ? await this.#trainer.numbers(first.index, pending.length) : [];
    const arrays = isNew ? await this.#trainer.save() : null,
      look = arrays && lookOf(this.#parts, arrays, this.#position);
    if (isNew) this.#position = { ...this.#position, looked: this.#position.step };
    if (arrays && look?.broken === null) onMasks?.(this.#position.step, masksOf(this.#parts, arrays, this.#position));
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
      const { record } = seen, at = this.#position; // after broken numbers that of the state which lies on the GPU
      const hook = (): unknown => record && hooks?.afterStep?.(record, this.#handle(record.stage, at));
      this.#position = seen.position;
      if (record) this.#since.push(recordView(record));
      const [done] = await Promise.allSettled([Promise.try(hook)]);
      if (record) yield record; // it counts as told, whatever the hook makes of it
      // A hook may have changed what was read before it, and thrown.
      const isBack = await this.#act(seen), read = hooks?.afterStep ? null : arrays;
      if (own && !isBack && this.#oversight.keepsAt(this.#position.step)) await this.#keep(read);
      if (done.status === "rejected") throw done.reason;
      if (isBack) return true;
    }
    return false;
  }

  /** Does what the monitors demand. True where the run went back; throws where it stops, ready to go on from what was saved. */
  async #act({ position, verdict }: Pick<Overseen, "position" | "verdict">): Promise<boolean> {
    this.#position = position;
    if (verdict.action === null || verdict.action === "warn") return false;
    const good = goodState(this.#kept, verdict.step), isBack = verdict.action !== "stop";
    const state = isBack ? { ...good, position: wentBack(good.position, verdict, this.#position) } : good;
    // First: a signal may stop what follows.
    [this.#kept, this.#since] = [isBack ? [state] : this.#kept.slice(0, this.#kept.indexOf(good) + 1), []];
    await this.#adopt(state);
    await this.#save(isBack ? undefined : stoppedAt(state, verdict));
    if (!isBack) throw stopError(verdict);
    return true;
  }

  /** What to say of numbers that are not finite: the run goes back to the step to find out; null where there are none. */
  async #broken(at: number, numbers: string, masks?: string | null): Promise<Finding | null> {
    const from = this.#kept.at(-1);
    if (numbers === "" || !from) return null;
    await this.#adopt(from);
    // A schedule has to see the records that it saw: it decides by them.
    const records = [...from.position.recent, ...this.#since];
    const recall = (): void => {
      this.#position = { ...this.#position, recent: recordsAt(records, this.#position.step) };
    };
    try {
      const plan = this.#stage, stage = plan?.stage ?? "postfinetune";
      if (plan) await this.#enter(plan);
      for (recall(); plan && this.#position.step < at - 1; recall()) if (!await this.#step(plan)) break;
      const step = plan && await this.#prepareStep(plan);
      const parts = { ...this.#now, table: this.#parts.table };
      return brokenFinding(step ? await findCause(parts, step, masks) : null, { stage, step: at, numbers });
    } finally {
      await this.#adopt(from);
    }
  }

  /** Ends the pruning stage: exactly as many units fall as the last target demands; none where a schedule ended it before its first step. */
  async #harden(): Promise<void> {
    const { isSkipped, ...aim } = lastAim(this.#position, this.#parts), { target } = aim;
    const expected = isSkipped ? 0 : await this.#now.chooser.end(aim);
    this.#position = { ...this.#position, target, expected, aim: null, begun: "hard" };
    const seen = hardLookOf(this.#parts, await this.#trainer.save(), this.#position);
    await this.#act(overseeHard(this.#position, { ...seen, isSkipped }, this.#oversight));
  }

  /** Saves the present state, or one to go on from where the present one is of no use. */
  async #save(state?: RunState): Promise<void> {
    const checkpoint = this.#parts.given.checkpoint, position = this.#position;
    if (!checkpoint) return;
    const present = state ?? { position, arrays: await this.#trainer.save() };
    const kept = this.#kept.filter((one) => one.position.step <= present.position.step);
    await writeCheckpoint(checkpoint.path, { identity: this.#identity(), ...present, kept });
  }

  /** Saves the state of a run that a signal stopped, or the last one kept where it stops the monitors. Returns the error, or what kept it from that. */
  async *#saveStopped({ reason }: AbortSignal, error: unknown): AsyncGenerator<StepRecord, unknown, undefined> {
    try {
      yield* this.#flush({ looks: false });
      await this.#save();
    } catch (late) {
      if (late !== reason) return late;
      await this.#save(this.#kept.at(-1));
    }
    return error;
  }

  #identity(): RunIdentity {
    const { options, given } = this.#parts;
    return identityOf(this.#model, this.#parts, { options, given, schedule: this.#now.steerer.identity });
  }
}
