// A prune run: fine-tune, prune, fine-tune, as a stream of step records. Owns the loop, its schedule and checkpoints; refuses files of models.
import { CompressoError } from "../errors.ts";
import type { Batch, Batches, EncodeReport } from "./batches.ts";
import { type LoraWeights } from "../nn/lora.ts";
import { type MaskValues, unpackMasks } from "../nn/masks.ts";
import type { StepState } from "../nn/step_state.ts";
import { hardenMasks } from "../prune/harden.ts";
import { createSaliency, initialLogAlpha } from "../prune/saliency.ts";
import { cubicSparsity, progressOf, stageRate } from "../prune/schedule.ts";
import { checkReachable, hardSparsity, type UnitTable, unitTable } from "../prune/units.ts";
import { readCheckpoint, type RunIdentity, type RunPosition, writeCheckpoint } from "./checkpoint.ts";
import { checkMemory } from "./memory_advice.ts";
import type { Model } from "./model.ts";
import { type CheckpointOptions, type PruneOptions, type ResolvedOptions, resolveOptions } from "./options.ts";
import type { Stage, StepRecord } from "./records.ts";
import { digestOf, encodeRun, type RunData } from "./run_data.ts";
import { adapterOf, createTrainer, RING_SLOTS, type StepKind, type StepNumbers, type Trainer } from "./trainer.ts";

/** What a finished run has learned. */
export interface PruneResult {
  /** Hard masks z; kept units may have soft values. */
  readonly masks: MaskValues;
  /** LoRA as trained. */
  readonly lora: { readonly rank: number; readonly alpha: number; readonly weights: LoraWeights };
  /** Wanted, expected at the end of the pruning stage, and of the hard masks. */
  readonly sparsity: { readonly target: number; readonly expected: number; readonly hard: number };
  /** log α of every unit at the end of the pruning stage. */
  readonly logAlpha: Float32Array;
  /** The units. */
  readonly table: UnitTable;
  /** What became of the rows. */
  readonly data: EncodeReport;
  /** Sequences that were not trained on. */
  readonly heldout: readonly (readonly number[])[];
  /** Seconds by stage. */
  readonly seconds: Readonly<Record<Stage, number>>;
  /** Tokens a second over all stages, padding left out. */
  readonly tokensPerSecond: number;
  /** Largest GPU memory in use, bytes. */
  readonly peakGpuBytes: number;
  /** The same as planned before the first step; see `planMemory`. */
  readonly plannedGpuBytes: number;
}

/** A run: iterate its records to drive it, then ask for its result. Dispose it to free the trainer's memory. */
export interface PruneRun extends AsyncIterable<StepRecord>, Disposable {
  /** Options with all defaults filled in. */
  readonly options: ResolvedOptions;
  /** Steps of the whole run. */
  readonly steps: number;
  /** What became of the rows. */
  readonly data: EncodeReport;
  /**
   * Plans the memory, allocates, and reads the checkpoint of a run that is resumed; iteration does it too. Steps and records that were done
   * before. Throws `CompressoError("gpu")` where the run does not fit, with what would.
   */
  prepare(): Promise<{ readonly steps: number; readonly records: number }>;
  /** What the last step left; throws before the last record was taken. */
  result(): PruneResult;
}

const SALIENCY_BATCHES = 8;
/** Records are read from the GPU when this much time has passed, or the ring is half full. */
const FLUSH_SECONDS = 0.4;

/** Prepares a run. Throws `CompressoError` for options that cannot work, before any GPU work. */
export function startPrune(model: Model, given: PruneOptions): PruneRun {
  const options = resolveOptions(given, model.spec);
  const table = unitTable(model.spec, options.units);
  checkReachable(table, options.sparsity);
  return new Run(model, { options, table, given, ...encodeRun(model, options) });
}

/** What is there from the first step on. */
interface Ready {
  readonly trainer: Trainer;
  /** What the device is to hold at most. */
  readonly plannedBytes: number;
}

interface Parts extends RunData {
  readonly options: ResolvedOptions;
  readonly table: UnitTable;
  readonly given: PruneOptions;
}

/** A step whose numbers are still on the GPU. */
interface Pending {
  readonly index: number;
  readonly stage: Stage;
  readonly target: number | null;
  readonly rate: number;
  readonly batch: Batch;
}

class Run implements PruneRun {
  readonly options: ResolvedOptions;
  readonly steps: number;
  readonly #model: Model;
  readonly #parts: Parts;
  readonly #batches: Batches;
  readonly #stages: readonly { readonly stage: Stage; readonly kind: StepKind; readonly steps: number }[];
  #position: RunPosition;
  #ready: Ready | null = null;
  #pending: Pending[] = [];
  #lastFlush = performance.now();
  #result: PruneResult | null = null;

  constructor(model: Model, parts: Parts) {
    const { prefinetune, steps, postfinetune, seed } = parts.options;
    this.options = parts.options;
    this.#model = model;
    this.#parts = parts;
    this.#batches = parts.makeBatches(seed);
    this.#stages = [
      { stage: "finetune", kind: "lora", steps: prefinetune },
      { stage: "prune", kind: "masks", steps },
      { stage: "postfinetune", kind: "lora", steps: postfinetune },
    ];
    this.steps = prefinetune + steps + postfinetune;
    this.#position = {
      stage: 0,
      stageStep: 0,
      step: 0,
      loraUpdates: 0,
      maskUpdates: 0,
      cursor: this.#batches.cursor,
      records: 0,
      expected: null,
      seconds: {},
      tokens: 0,
    };
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

  get #trainer(): Trainer {
    if (!this.#ready) throw new Error("the run is not prepared");
    return this.#ready.trainer;
  }

  async #allocate(): Promise<Ready> {
    const { options, table } = this.#parts, { batch, seq, seed, lora, recompute } = options;
    const { spec, device, weights: { baseDtype } } = this.#model;
    const adapter = { limits: device.limits, isCpu: device.facts.isCpu };
    const plan = await checkMemory(spec, { ...options, baseDtype, adapter }, {
      memoryLimit: device.memoryLimit,
      deviceBytes: device.bytes,
    });
    device.resetPeak();
    const trainer = createTrainer(this.#model, { batch, seq, seed, lora, table, recompute });
    return { trainer, plannedBytes: plan.peakBytes + plan.otherBytes };
  }

  async #restore(checkpoint: CheckpointOptions): Promise<void> {
    const { position, arrays } = await readCheckpoint(checkpoint.path, { identity: this.#identity() });
    this.#position = position;
    this.#batches.seek(position.cursor);
    this.#trainer.restore(arrays);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<StepRecord, void, undefined> {
    const { given } = this.#parts, every = given.checkpoint?.every ?? Infinity;
    await this.prepare();
    this.#lastFlush = performance.now();
    try {
      for (; this.#position.stage < this.#stages.length; this.#nextStage()) {
        const stage = this.#stages[this.#position.stage];
        if (!stage) break;
        if (stage.stage === "prune" && this.#position.stageStep === 0 && stage.steps > 0) await this.#initialise();
        while (this.#position.stageStep < stage.steps) {
          await this.#step(stage);
          const due = this.#position.step % every === 0;
          if (due || this.#shouldFlush()) yield* await this.#flush();
          if (due) await this.#save();
        }
        yield* await this.#flush();
        if (stage.stage === "prune") await this.#harden();
      }
      if (!this.#result) await this.#save();
      await this.#finish();
    } catch (error) {
      if (given.signal?.aborted && given.checkpoint) {
        yield* await this.#flush();
        await this.#save();
      }
      throw error;
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
  }

  /** Starts log α from the saliency of the units on batches of their own. */
  async #initialise(): Promise<void> {
    const { table, makeBatches, options, given } = this.#parts, trainer = this.#trainer;
    const batches = makeBatches((options.seed + 0x5a11) >>> 0);
    const saliency = createSaliency(table);
    const count = Math.min(SALIENCY_BATCHES, Math.max(2, Math.ceil(options.steps / 10)));
    for (let index = 0; index < count; index++) {
      const state = this.#state({ rate: 0, target: 0 });
      const signal = given.signal ? { signal: given.signal } : {};
      saliency.add(await trainer.maskGradients(batches.next(), { state, ...signal }));
    }
    trainer.setLogAlpha(initialLogAlpha(saliency.perParameter(), { spread: options.rates.spread }));
  }

  async #step(
    { stage, kind, steps }: { readonly stage: Stage; readonly kind: StepKind; readonly steps: number },
  ): Promise<void> {
    const { options, given } = this.#parts, { rates } = options;
    const start = performance.now();
    const progress = progressOf(this.#position.stageStep, steps);
    const target = stage === "prune"
      ? cubicSparsity({ target: options.sparsity, warmup: rates.warmup })(progress)
      : null;
    const rate = stageRate(stage, { peak: rates.lora })(progress);
    const batch = this.#batches.next();
    const state = this.#state({ rate, target: target ?? 0 });
    try {
      await this.#trainer.step(kind, batch, { state, ...(given.signal ? { signal: given.signal } : {}) });
    } catch (error) {
      this.#batches.seek(this.#position.cursor);
      throw error;
    }
    this.#pending.push({ index: this.#position.step, stage, target, rate, batch });
    const position = this.#position;
    this.#position = {
      ...position,
      stageStep: position.stageStep + 1,
      step: position.step + 1,
      loraUpdates: position.loraUpdates + 1,
      maskUpdates: position.maskUpdates + (kind === "masks" ? 1 : 0),
      cursor: this.#batches.cursor,
      seconds: { ...position.seconds, [stage]: (position.seconds[stage] ?? 0) + (performance.now() - start) / 1000 },
      tokens: position.tokens + batch.realTokens,
    };
  }

  #state({ rate, target }: { readonly rate: number; readonly target: number }): StepState {
    const { options } = this.#parts, { rates } = options;
    return {
      seed: options.seed,
      step: this.#position.step,
      lossScale: 1,
      target,
      loraRate: rate,
      maskRate: rates.mask,
      lambdaRate: rates.lambda,
      noise: rates.noise,
      temperature: rates.temperature,
      loraUpdates: this.#position.loraUpdates + 1,
      maskUpdates: this.#position.maskUpdates + 1,
      clipNorm: rates.clipNorm,
      weightDecay: rates.weightDecay,
      tracking: rates.tracking,
    };
  }

  #shouldFlush(): boolean {
    return this.#pending.length >= RING_SLOTS / 2 || performance.now() - this.#lastFlush > FLUSH_SECONDS * 1000;
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
    const records = pending.map((step, index) => this.#record(step, numbers[index], tokens / seconds));
    this.#position = { ...this.#position, records: this.#position.records + records.length };
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

  #record(
    { stage, target, rate, batch, index }: Pending,
    numbers: StepNumbers | undefined,
    tokensPerSecond: number,
  ): StepRecord {
    return {
      stage,
      step: index + 1,
      steps: this.steps,
      loss: numbers?.loss ?? NaN,
      target,
      expected: target === null ? null : numbers?.projected ?? NaN,
      lambda1: numbers?.lambda1 ?? NaN,
      lambda2: numbers?.lambda2 ?? NaN,
      gradNorm: numbers?.gradNorm ?? NaN,
      learningRate: rate,
      tokens: batch.realTokens,
      labelTokens: batch.labelTokens,
      tokensPerSecond,
      gpuBytes: this.#model.device.bytes,
      plannedGpuBytes: this.#ready?.plannedBytes ?? NaN,
    };
  }

  /** Ends the pruning stage: exactly as many units as the target demands fall, the others keep their deterministic z. */
  async #harden(): Promise<void> {
    const { table, options } = this.#parts, trainer = this.#trainer;
    const { logAlpha, constraint } = await trainer.save();
    const { sparsity: target, layout, rates } = options;
    trainer.setMasks(hardenMasks(table, logAlpha, { target, temperature: rates.temperature, layout }));
    this.#position = { ...this.#position, expected: constraint[7] ?? NaN };
  }

  async #finish(): Promise<void> {
    const { table, options, report, heldout } = this.#parts, { spec, device } = this.#model, trainer = this.#trainer;
    const { slots, logAlpha } = await trainer.save();
    const masks = unpackMasks(spec, table.layout, slots);
    const kept = Uint8Array.from({ length: table.count }, (_, unit) => slots[table.slotFirst[unit] ?? 0] === 0 ? 0 : 1);
    const { seconds, tokens, expected } = this.#position;
    const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
    this.#result = {
      masks,
      lora: { rank: options.lora.rank, alpha: options.lora.alpha, weights: await trainer.loraWeights() },
      sparsity: { target: options.sparsity, expected: expected ?? NaN, hard: hardSparsity(table, kept) },
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
      plannedGpuBytes: this.#ready?.plannedBytes ?? NaN,
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
    const { options, given, report } = this.#parts,
      { rows: _rows, recompute: _recompute, rates, lora, units, ...plain } = options;
    return {
      ...plain,
      units: units.join(","),
      lora: JSON.stringify(lora),
      rates: JSON.stringify(rates),
      examples: `${report.examples} examples, ${report.tokens} tokens, ${this.#parts.digest}`,
      model: digestOf([JSON.stringify(this.#model.spec)]),
      baseDtype: this.#model.weights.baseDtype,
      adapter: adapterOf(this.#model.device),
      ...given.checkpoint?.identity,
    };
  }
}

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}
