// A prune run: fine-tune, prune, fine-tune, as a stream of step records. Owns the loop, its schedule and checkpoints; refuses files of models.
import { CompressoError } from "../errors.ts";
import type { Batches, EncodeReport } from "./batches.ts";
import { unpackMasks } from "../nn/masks.ts";
import { withBiases } from "../nn/spec.ts";
import type { StepState } from "../nn/step_state.ts";
import { progressOf, stageRate } from "../prune/schedule.ts";
import { hardSparsity, keptUnits, type UnitTable } from "../prune/units.ts";
import { readCheckpoint, type RunIdentity, type RunPosition, writeCheckpoint } from "./checkpoint.ts";
import { type Chooser, createChooser } from "./chooser.ts";
import type { RunHandle } from "./hooks.ts";
import { checkMemory } from "./memory_advice.ts";
import { type StagePlan, stagesOf } from "./methods.ts";
import type { Model } from "./model.ts";
import { withCompensation } from "./one_shot.ts";
import { type CheckpointOptions, type PruneOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import type { PruneResult, PruneRun } from "./prune_result.ts";
import type { Stage, StepRecord } from "./records.ts";
import { encodeRun, type RunData } from "./run_data.ts";
import { identityOf, type PendingStep, recordOf, stepStateOf } from "./run_parts.ts";
import { aimRun, hardenAt, type SizeGoal } from "./size_goal.ts";
import { openSteerer, RECORDS_SEEN, recordView, type Steerer, type Steering } from "./steering.ts";
import { createTrainer, RING_SLOTS, type Trainer } from "./trainer.ts";

/** Records are read from the GPU when this much time has passed, or the ring is half full. */
const FLUSH_SECONDS = 0.4;

/** Prepares a run. Throws `CompressoError` for options that cannot work, before any GPU work. */
export function startPrune(model: Model, given: PruneOptions): PruneRun {
  const aim = aimRun(model, resolveOptions(given, model.spec));
  return new Run(model, { ...aim, given, ...encodeRun(model, aim.options, given) });
}

/** What is there from the first step on. */
interface Ready {
  readonly trainer: Trainer;
  readonly steerer: Steerer;
  readonly chooser: Chooser;
  /** The model that is trained: that of the run, or one with biases beside it. */
  readonly model: Model;
  /** What the device is to hold at most. */
  readonly plannedBytes: number;
}

interface Parts extends RunData {
  readonly options: ResolvedOptions;
  readonly table: UnitTable;
  readonly goal: SizeGoal | null;
  readonly given: PruneOptions;
}

class Run implements PruneRun {
  readonly options: ResolvedOptions;
  readonly #model: Model;
  readonly #parts: Parts;
  readonly #batches: Batches;
  readonly #stages: readonly StagePlan[];
  #position: RunPosition;
  #ready: Ready | null = null;
  #pending: PendingStep[] = [];
  #lastFlush = performance.now();
  #result: PruneResult | null = null;

  constructor(model: Model, parts: Parts) {
    this.options = parts.options;
    this.#model = model;
    this.#parts = parts;
    this.#batches = parts.makeBatches(parts.options.seed);
    this.#stages = stagesOf(parts.options);
    this.#position = {
      stage: 0,
      stageStep: 0,
      step: 0,
      loraUpdates: 0,
      maskUpdates: 0,
      cursor: this.#batches.cursor,
      records: 0,
      expected: null,
      target: null,
      layerTargets: null,
      leftOut: 0,
      recent: [],
      seconds: {},
      tokens: 0,
    };
  }

  get steps(): number {
    return this.#stages.reduce((sum, { steps }) => sum + steps, 0) - this.#position.leftOut;
  }

  get data(): EncodeReport {
    return this.#parts.report;
  }

  async prepare(): Promise<{ readonly steps: number; readonly records: number }> {
    const { checkpoint } = this.#parts.given;
    if (!this.#ready) {
      this.#ready = await this.#allocate();
      if (checkpoint?.resume && await exists(checkpoint.path)) await this.#restore(checkpoint);
    }
    return { steps: this.#position.step, records: this.#position.records };
  }

  get #now(): Ready {
    if (!this.#ready) throw new Error("the run is not prepared");
    return this.#ready;
  }

  get #trainer(): Trainer {
    return this.#now.trainer;
  }

  async #allocate(): Promise<Ready> {
    const { options, table, goal } = this.#parts, { batch, seq, seed, lora, recompute } = options;
    const { device, weights: { baseDtype } } = this.#model, isFlap = options.method === "flap";
    const spec = isFlap ? withBiases(this.#model.spec, ["o", "down"]) : this.#model.spec;
    const adapter = { limits: device.limits, isCpu: device.facts.isCpu };
    const plan = await checkMemory(spec, { ...options, baseDtype, adapter }, {
      memoryLimit: device.memoryLimit,
      deviceBytes: device.bytes,
    });
    device.resetPeak();
    const { schedule, trustSchedule: trust, signal } = this.#parts.given;
    const steerer = await openSteerer(table, options, { schedule, trust, signal });
    const model = isFlap ? await withCompensation(this.#model) : this.#model;
    const trainer = createTrainer(model, { batch, seq, seed, lora, table, recompute });
    const chooser = createChooser({
      model,
      table,
      options,
      trainer,
      signal,
      makeBatches: this.#parts.makeBatches,
      harden: hardenAt(goal, () => this.#position.leftOut > 0),
      maskGradients: (data) =>
        trainer.maskGradients(data, {
          state: this.#state(0, 0),
          ...(signal ? { signal } : {}),
        }),
    });
    return { trainer, steerer, chooser, model, plannedBytes: plan.peakBytes + plan.otherBytes };
  }

  async #restore(checkpoint: CheckpointOptions): Promise<void> {
    const { path, mayDiffer } = checkpoint;
    const { position, arrays } = await readCheckpoint(path, { identity: this.#identity(), mayDiffer });
    this.#position = position;
    this.#batches.seek(position.cursor);
    this.#trainer.restore(arrays);
    const pruning = this.#stages.findIndex(({ stage }) => stage === "prune");
    if (position.stage > pruning) await this.#now.chooser.resumed();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StepRecord, void, undefined> {
    const { given } = this.#parts, every = given.checkpoint?.every ?? Infinity;
    await this.prepare();
    this.#lastFlush = performance.now();
    try {
      for (; this.#position.stage < this.#stages.length; this.#nextStage()) {
        const stage = this.#stages[this.#position.stage];
        if (!stage) break;
        const isFirst = this.#position.stageStep === 0;
        if (isFirst) await given.hooks?.beforeStage?.(stage.stage, this.#handle(stage.stage));
        if (isFirst && stage.stage === "prune") await this.#now.chooser.begin();
        while (this.#position.stageStep < stage.steps) {
          if (!await this.#step(stage)) break;
          const due = this.#position.step % every === 0;
          if (due || this.#shouldFlush()) yield* await this.#flush();
          if (due) await this.#save();
        }
        yield* await this.#flush();
        if (stage.stage === "prune") await this.#harden();
        await given.hooks?.afterStage?.(stage.stage, this.#handle(stage.stage));
      }
      if (!this.#result) await this.#save();
      await this.#finish();
    } catch (error) {
      if (given.signal?.aborted && given.checkpoint) {
        yield* await this.#flush();
        await this.#save();
      }
      throw error;
    } finally {
      await this.#ready?.steerer[Symbol.asyncDispose]();
    }
  }

  result(): PruneResult {
    if (this.#result) return this.#result;
    throw new CompressoError("usage", {
      what: "cannot give the result of the run",
      rule: "the run is at its end",
      value: `step ${this.#position.step} of ${this.steps}`,
      mend: "take its records to the last one first",
    });
  }

  [Symbol.dispose](): void {
    this.#ready?.trainer[Symbol.dispose]();
    if (this.#ready && this.#ready.model !== this.#model) this.#ready.model[Symbol.dispose]();
  }

  /** What a step of the pruning stage aims at; null in other stages. */
  async #steer({ stage, steps }: StagePlan): Promise<Steering | null> {
    if (stage !== "prune") return null;
    const { stageStep: step, recent: records } = this.#position;
    return await this.#now.steerer.at({ step, steps, records, logAlpha: () => this.#trainer.logAlpha() });
  }

  /** Runs one step; false where the schedule ends the stage before it. */
  async #step({ stage, kind, steps }: StagePlan): Promise<boolean> {
    const { options, given } = this.#parts;
    const start = performance.now();
    const steering = await this.#steer({ stage, kind, steps });
    if (steering?.end) {
      this.#position = { ...this.#position, leftOut: steps - this.#position.stageStep };
      return false;
    }
    const rates = steering?.rates ?? options.rates, target = steering?.target ?? null;
    const rate = stageRate(stage, rates)(progressOf(this.#position.stageStep, steps));
    await given.hooks?.beforeStep?.(this.#handle(stage));
    const batch = this.#batches.next();
    const state = this.#state(rate, target ?? 0, rates);
    const { chooser } = this.#now, step = this.#position.stageStep;
    const hard = target === null
      ? null
      : await chooser.beforeStep({ step, target, layers: steering?.layers ?? null, freeze: steering?.freeze ?? [] });
    try {
      await this.#trainer.step(kind, batch, { state, ...(given.signal ? { signal: given.signal } : {}) });
    } catch (error) {
      this.#batches.seek(this.#position.cursor);
      throw error;
    }
    if (target !== null) await chooser.afterStep();
    this.#pending.push({ index: this.#position.step, stage, target, rate, batch, hard });
    const position = this.#position;
    this.#position = {
      ...position,
      target: target ?? position.target,
      layerTargets: steering?.layers ?? position.layerTargets,
      stageStep: position.stageStep + 1,
      step: position.step + 1,
      loraUpdates: position.loraUpdates + 1,
      maskUpdates: position.maskUpdates + (kind === "masks" ? 1 : 0),
      cursor: this.#batches.cursor,
      seconds: { ...position.seconds, [stage]: (position.seconds[stage] ?? 0) + (performance.now() - start) / 1000 },
      tokens: position.tokens + batch.realTokens,
    };
    return true;
  }

  #handle(stage: Stage): RunHandle {
    const { table } = this.#parts, trainer = this.#trainer;
    return {
      stage,
      step: this.#position.step,
      table,
      logAlpha: () => trainer.logAlpha(),
      setLogAlpha: (values) => trainer.setLogAlpha(values),
      masks: () => trainer.masks(),
      setMasks: (masks) => trainer.setMasks(masks),
      lora: () => trainer.loraWeights(),
      setLora: (weights) => trainer.setLora(weights),
    };
  }

  #state(rate: number, target: number, rates = this.options.rates): StepState {
    return stepStateOf(this.options, this.#position, { rate, target, rates });
  }

  #shouldFlush(): boolean {
    return this.#now.steerer.needsRecords || this.#parts.given.hooks?.afterStep !== undefined ||
      this.#pending.length >= RING_SLOTS / 2 || performance.now() - this.#lastFlush > FLUSH_SECONDS * 1000;
  }

  /** Reads the numbers of the pending steps and makes records of them. Throws where a loss is not finite. */
  async #flush(): Promise<StepRecord[]> {
    const pending = this.#pending, first = pending[0];
    if (!first) return [];
    const numbers = await this.#trainer.numbers(first.index, pending.length);
    this.#pending = [];
    const now = performance.now(), seconds = Math.max(1e-6, (now - this.#lastFlush) / 1000);
    this.#lastFlush = now;
    const tokens = pending.reduce((sum, { batch }) => sum + batch.realTokens, 0);
    const run = {
      steps: this.steps,
      tokensPerSecond: tokens / seconds,
      gpuBytes: this.#model.device.bytes,
      plannedGpuBytes: this.#now.plannedBytes,
    };
    const records = pending.map((step, index) => recordOf(step, numbers[index], run));
    this.#position = {
      ...this.#position,
      records: this.#position.records + records.length,
      recent: [...this.#position.recent, ...records.map(recordView)].slice(-RECORDS_SEEN),
    };
    for (const record of records) await this.#parts.given.hooks?.afterStep?.(record, this.#handle(record.stage));
    const broken = records.find(({ loss, gradNorm }) => !Number.isFinite(loss) || !Number.isFinite(gradNorm));
    if (broken) {
      throw new CompressoError("numeric", {
        what: `cannot go on after step ${broken.step}`,
        rule: "loss and gradients are finite",
        value: `loss ${broken.loss}, gradient norm ${broken.gradNorm}`,
        mend: "lower the learning rates, or load the base in f32",
      });
    }
    return records;
  }

  /** Ends the pruning stage: exactly as many units fall as the last target of the schedule demands. */
  async #harden(): Promise<void> {
    const target = this.#position.target ?? this.options.sparsity;
    this.#position = {
      ...this.#position,
      target,
      expected: await this.#now.chooser.end(target, this.#position.layerTargets),
    };
  }

  async #finish(): Promise<void> {
    const { table, options, report, heldout } = this.#parts, { spec, device } = this.#model, trainer = this.#trainer;
    const { slots, logAlpha } = await trainer.save();
    const masks = unpackMasks(spec, table.layout, slots);
    const kept = keptUnits(table, slots);
    const { seconds, tokens, expected, target } = this.#position;
    const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
    this.#result = {
      source: this.#now.chooser.source ?? this.#model.source,
      masks,
      lora: { ...options.lora, weights: await trainer.loraWeights() },
      sparsity: { target: target ?? options.sparsity, expected: expected ?? NaN, hard: hardSparsity(table, kept) },
      logAlpha,
      table,
      data: report,
      heldout,
      seconds: {
        finetune: seconds["finetune"] ?? 0,
        prune: seconds["prune"] ?? 0,
        postfinetune: seconds["postfinetune"] ?? 0,
      },
      tokensPerSecond: total > 0 ? tokens / total : 0,
      peakGpuBytes: device.peakBytes,
      plannedGpuBytes: this.#now.plannedBytes,
    };
  }

  #nextStage(): void {
    this.#position = { ...this.#position, stage: this.#position.stage + 1, stageStep: 0 };
  }

  async #save(): Promise<void> {
    const checkpoint = this.#parts.given.checkpoint;
    if (!checkpoint) return;
    const arrays = await this.#trainer.save();
    await writeCheckpoint(checkpoint.path, { identity: this.#identity(), position: this.#position, arrays });
  }

  #identity(): RunIdentity {
    const { options, given } = this.#parts;
    return identityOf(this.#model, this.#parts, { options, given, schedule: this.#now.steerer.identity });
  }
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}
