// The loop of a run: drives stages and steps, reads their numbers, applies the monitors, and keeps and saves states.
import { CompressoError } from "../core/errors.ts";
import type { RunIdentity } from "../core/identity.ts";
import { unpackMasks } from "../nn/mask_slots.ts";
import type { FileSystem } from "../files/system.ts";
import type { Lifetime } from "../model/lifetime.ts";
import type { RecordView } from "../schedule/definition.ts";
import { type Checkpoint, resumedBy, writeCheckpoint } from "./checkpoint.ts";
import type { MaskLook, PruneAim, RunState, StagePlan, StepRecord, TrainerArrays } from "./contract.ts";
import type { Finding } from "./monitors/alarm.ts";
import { brokenFinding, brokenNumbers, findCause } from "./monitors/find_cause.ts";
import { AlarmError, stopError, stoppedAt } from "./monitors/judge.ts";
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
import { choosesNext, isLookedAt, lookedAt, nextStage, recalling } from "./position.ts";
import { checkTrained, type PruneResult, readResult } from "./result.ts";
import { recordView } from "./steering.ts";
import { hardLookOf, lookOf, masksOf, recordsOf } from "./step.ts";
import { RING_SLOTS } from "./step_plans.ts";
import type { Training } from "./training.ts";
import { isMeasured } from "./validation.ts";

/** Seconds after which records are read from the GPU, unless the ring is half full before. */
const READ_SECONDS = 0.4;

type Records<Result> = AsyncGenerator<StepRecord, Result, undefined>;

/** A step whose numbers were read, or a look at the masks after the last one. */
interface Read {
  /** Null if only the masks are looked at. */
  readonly record: StepRecord | null;
  /** Settings of the step. */
  readonly aim: PruneAim | null;
  /** The masks; only of the last step that was read. */
  readonly look: MaskLook | null;
}

/** What the loop needs in addition to the training. */
export interface LoopParts {
  readonly life: Lifetime;
  readonly files: FileSystem;
  /** File that keeps the state at the end of the pruning stage; undefined for none. */
  readonly keptState: string | undefined;
}

/** Drives a run from where it stands to its end. */
export class Loop {
  readonly #run: Training;
  readonly #parts: LoopParts;
  readonly #oversight: Oversight;
  /** States to go back to, oldest first; the last one belongs to the current stage. */
  #kept: readonly RunState[] = [];
  /** Records since the last kept state. */
  #since: RecordView[] = [];
  #lastRead = performance.now();
  /** When the run saved itself. By seconds it does so first after its first step. */
  #lastSave = -Infinity;
  /** The periodic checkpoint that is being written during the next step. */
  #writing: Promise<void> | null = null;

  /** Makes the loop of a run. */
  constructor(run: Training, parts: LoopParts) {
    const { setup: { options, table }, steps } = run;
    this.#run = run;
    this.#parts = parts;
    this.#oversight = oversightOf(options, table, { steps });
  }

  /** Takes up the state of a checkpoint, or keeps that of the start. */
  async begin(found: Checkpoint | null): Promise<void> {
    const { checkpoint } = this.#run.setup.original;
    if (!found || !checkpoint) return await this.#keep();
    const { path, mayDiffer } = checkpoint, { scheduled } = this.#run.now.steerer;
    const { kept, ...state } = resumedBy(found, this.#run.identity(), { path, mayDiffer, scheduled });
    await this.#run.adopt(state);
    const last = kept.at(-1)?.position.step ?? 0;
    this.#kept = kept;
    this.#since = state.position.recent.filter(({ step }) => step > last);
  }

  /** Runs all remaining steps. Yields their records, and returns the result. */
  async *drive(): Records<PruneResult> {
    const run = this.#run, { life } = this.#parts, { original, options } = run.setup;
    run.seekBatch();
    this.#lastRead = performance.now();
    this.#lastSave = -Infinity;
    try {
      for (let stage = run.stage; stage; stage = run.stage) yield* this.#driveStage(stage);
      await checkTrained(run.now.trainer);
      await this.#act(await this.#judgeEnd());
      // No rollback is possible any more: the present state is enough.
      await this.#save({ kept: this.#kept.slice(-1) });
      return await readResult(run.now, run.setup, run);
    } catch (error) {
      if (life.isOver) throw error;
      const failed = original.signal?.aborted && original.checkpoint
        ? yield* this.#saveStopped(original.signal, error)
        : error;
      const isSaved = original.checkpoint !== undefined, { step } = run.position;
      const explained = await asShortage(failed, { ...run.now, options, isSaved, step });
      if (explained !== failed) await this.#save({ state: this.#kept.at(-1) });
      else await this.saveGood(failed);
      throw explained;
    } finally {
      await this.#writing?.catch(() => {}); // another error is on its way
      if (run.isAllocated) await run.now.steerer[Symbol.asyncDispose]();
    }
  }

  /** Runs a stage to its end, or until a rollback. */
  async *#driveStage(plan: StagePlan): Records<void> {
    const run = this.#run,
      { hooks, checkpoint } = run.setup.original,
      { every = Infinity, seconds = Infinity } = checkpoint ?? {};
    await run.enter(plan);
    while (run.position.stageStep < plan.steps && run.position.begun !== "hard") {
      if (run.endsEarly(plan) || !await run.step(plan)) break;
      await this.#written();
      const { step, stageStep } = run.position;
      const due = step % every === 0 || seconds < Infinity && performance.now() - this.#lastSave >= seconds * 1000;
      const looks = this.#oversight.looksAt(step) || stageStep === plan.steps;
      const measures = isMeasured(run.position, plan, run.setup.options);
      if ((due || looks || measures || this.#isReadDue()) && (yield* this.#flush({ looks }))) return;
      if (due) await this.#save({ isBeside: true });
    }
    await this.#written();
    if (yield* this.#flush({ looks: true })) return;
    if (plan.stage === "postfinetune") run.takeBest();
    if (plan.stage === "prune" && run.position.begun !== "hard") await this.#harden();
    await hooks?.afterStage?.(plan.stage, run.handle(plan.stage));
    run.position = nextStage(run.position);
    await this.#keep();
  }

  /** Whether the numbers of the pending steps are to be read before the next step. */
  #isReadDue(): boolean {
    const run = this.#run, { options: { method }, original: { hooks, ranks } } = run.setup;
    return choosesNext(run.position, { stage: run.stage?.stage, method }) || run.now.steerer.needsRecords ||
      hooks?.afterStep !== undefined || ranks !== undefined || // at the same steps on all ranks
      run.pending.length >= RING_SLOTS / 2 || performance.now() - this.#lastRead > READ_SECONDS * 1000;
  }

  /**
   * Reads the pending steps, yields their records and carries out what the monitors decide. With `looks` it reads the
   * masks too and keeps the state. Returns true after a rollback.
   *
   * @throws AlarmError if an alarm stops the run.
   */
  async *#flush({ looks }: { readonly looks: boolean }): Records<boolean> {
    const run = this.#run, { hooks } = run.setup.original, { reads, arrays } = await this.#read({ looks });
    for (const read of reads) {
      const seen = await this.#judge(read), { record } = seen;
      const at = run.position; // after a search for broken numbers: that of the state on the GPU
      const hook = (): unknown => record && hooks?.afterStep?.(record, run.handle(record.stage, at));
      run.position = seen.position;
      if (record) this.#since.push(recordView(record));
      const [done] = await Promise.allSettled([Promise.try(hook)]);
      if (record) yield record; // even if the hook fails
      const isBack = await this.#act(seen), isKept = read.look && !isBack;
      // A hook may have changed the arrays since they were read, and may also have thrown.
      if (isKept && this.#oversight.keepsAt(run.position.step)) await this.#keep(hooks?.afterStep ? null : arrays);
      if (done.status === "rejected") throw done.reason;
      if (isBack) return true;
    }
    return false;
  }

  /** Reads the numbers of the pending steps from the GPU and, where they were not read at this step, the masks. */
  async #read(
    { looks }: { readonly looks: boolean },
  ): Promise<{ readonly reads: readonly Read[]; readonly arrays: TrainerArrays | null }> {
    const run = this.#run, { pending, steps } = run, [first] = pending, isNew = looks && !isLookedAt(run.position);
    const numbers = first ? await run.now.trainer.numbers(first.index, pending.length) : [];
    const heldout = await run.validate();
    const arrays = isNew ? await run.now.trainer.save() : null, look = arrays && await this.#look(arrays);
    run.pending = [];
    const now = performance.now(), seconds = (now - this.#lastRead) / 1000;
    if (first || isNew) this.#lastRead = now;
    const gpuBytes = run.model.device.bytes, { plannedBytes: plannedGpuBytes } = run.now;
    const records = recordsOf(pending, numbers, { steps, seconds, gpuBytes, plannedGpuBytes });
    const isLast = (index: number): boolean => index === records.length - 1;
    const reads = records.map((record, index): Read => ({
      record: heldout !== null && isLast(index) ? { ...record, heldout } : record,
      aim: pending[index]?.aim ?? null,
      look: isLast(index) ? look : null,
    }));
    return { reads: reads.length === 0 && isNew ? [{ record: null, aim: null, look }] : reads, arrays };
  }

  /** Looks at the masks of the present step. */
  async #look(arrays: TrainerArrays): Promise<MaskLook> {
    const run = this.#run, look = lookOf(run.setup, arrays, run.position), { onMasks } = run.setup.original;
    await run.checkRanks(arrays);
    run.position = lookedAt(run.position);
    if (look.broken === null) onMasks?.(run.position.step, masksOf(run.setup, arrays, run.position));
    return look;
  }

  /** Applies the monitors to a step that was read. */
  async #judge({ record, aim, look }: Read): Promise<Overseen> {
    const run = this.#run, { bytes: present, memoryLimit: limit } = run.model.device;
    const memory = { bytes: record?.gpuBytes ?? present, planned: run.now.plannedBytes, limit };
    const position = { ...run.position, aim: aim ?? run.position.aim }, step = record?.step ?? position.step;
    const broken = await this.#findBroken(step, brokenNumbers(record, look), look?.broken);
    const goodStep = goodState(this.#kept, step).position.step;
    return oversee(position, { record, look, broken, memory, goodStep }, this.#oversight);
  }

  /**
   * Carries out a verdict. Returns true after a rollback. Throws if the run stops, after saving the state to
   * continue from.
   */
  async #act({ position, verdict }: Pick<Overseen, "position" | "verdict">): Promise<boolean> {
    this.#run.position = position;
    if (verdict.action === null || verdict.action === "warn") return false;
    const good = goodState(this.#kept, verdict.step), isBack = verdict.action !== "stop";
    const state = isBack ? { ...good, position: wentBack(good.position, verdict, position) } : good;
    // Assigned before the awaits: a signal may interrupt them.
    [this.#kept, this.#since] = [isBack ? [state] : this.#kept.slice(0, this.#kept.indexOf(good) + 1), []];
    await this.#run.adopt(state);
    await this.#save({ state: isBack ? undefined : stoppedAt(state, verdict) });
    if (!isBack) throw stopError(verdict);
    return true;
  }

  /** The finding for numbers that are not finite, searched by repeating the step; null if there are none. */
  async #findBroken(at: number, numbers: string, masks?: string | null): Promise<Finding | null> {
    const run = this.#run, from = this.#kept.at(-1);
    if (numbers === "" || !from) return null;
    await run.adopt(from);
    // The schedule must see the same records again, since it decides by them.
    const records = [...from.position.recent, ...this.#since];
    const recall = (): unknown => run.position = recalling(run.position, records);
    try {
      const plan = run.stage, stage = plan?.stage ?? "postfinetune";
      if (plan) await run.enter(plan);
      for (recall(); plan && run.position.step < at - 1; recall()) if (!await run.step(plan)) break;
      const step = plan && await run.prepareStep(plan), parts = { ...run.now, table: run.setup.table };
      return brokenFinding(step ? await findCause(parts, step, masks) : null, { stage, step: at, numbers });
    } finally {
      await run.adopt(from);
    }
  }

  /** Makes the masks hard at the end of the pruning stage, after keeping the state for the next run of a sweep. */
  async #harden(): Promise<void> {
    const run = this.#run, { keptState } = this.#parts;
    if (keptState !== undefined) await this.#save({ path: keptState });
    const isSkipped = await run.harden(), seen = hardLookOf(run.setup, await run.now.trainer.save(), run.position);
    await this.#act(overseeHard(run.position, { ...seen, isSkipped }, this.#oversight));
  }

  /** Checks the masks at the end of the run, which hooks may have changed since they became hard. */
  async #judgeEnd(): Promise<ReturnType<typeof overseeEnd>> {
    const { setup, now, position } = this.#run, arrays = await now.trainer.save();
    const { table: { spec, layout }, goal } = setup,
      excess = goal && goal.excess(unpackMasks(spec, layout, arrays.slots));
    return overseeEnd(position, { ...hardLookOf(setup, arrays, position), excess }, this.#oversight);
  }

  /** Keeps the current state for a rollback. */
  async #keep(arrays: TrainerArrays | null = null): Promise<void> {
    const { position } = this.#run, state = arrays ? { position, arrays } : await this.#run.state();
    this.#kept = keptStates([...this.#kept, state], state.position.step);
    this.#since = [];
  }

  /** Saves the current state, or the given one if the current state cannot be used. Default path: that of the checkpoint, if any. */
  async #save(
    { state, kept: states = this.#kept, path = this.#run.setup.original.checkpoint?.path, isBeside = false, identity }:
      {
        readonly state?: RunState | undefined;
        /** States to go back to. Default: all that are kept. */
        readonly kept?: readonly RunState[];
        readonly path?: string | undefined;
        /** Whether the file is written in the background; {@link #written} waits for it. */
        readonly isBeside?: boolean;
        /** Default: that of the run on the GPU. */
        readonly identity?: RunIdentity;
      } = {},
  ): Promise<void> {
    if (path === undefined) return;
    const present = state ?? await this.#run.state(), own = identity ?? this.#run.identity();
    const kept = states.filter((one) => one.position.step <= present.position.step);
    await this.#written();
    this.#lastSave = performance.now();
    this.#writing = writeCheckpoint(path, { identity: own, ...present, kept }, { files: this.#parts.files });
    if (!isBeside) return await this.#written();
    this.#writing.catch(() => {}); // thrown by what waits for it
  }

  /**
   * Saves the last good state if an error shows that weights ran away after the steps that the monitors saw, as when
   * units are scored: the present state holds these weights, and no rate could make a resumed run work. `identity` is
   * needed once the trainer is freed.
   */
  async saveGood(error: unknown, identity: RunIdentity = this.#run.identity()): Promise<void> {
    if (!(error instanceof CompressoError) || error.code !== "numeric" || error instanceof AlarmError) return;
    const { step } = this.#run.position, good = goodState(this.#kept, step);
    if (good.position.step < step) await this.#save({ state: good, identity });
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
  async *#saveStopped({ reason }: AbortSignal, error: unknown): Records<unknown> {
    try {
      yield* this.#flush({ looks: false });
      await this.#save();
    } catch (late) {
      if (late !== reason) return late;
      await this.#save({ state: this.#kept.at(-1) });
    }
    return error;
  }
}
