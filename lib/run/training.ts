// A run on the GPU: its position, its steps, and how states are saved and restored.
import { VERSION } from "../core/version.ts";
import { digestOf } from "../core/digest.ts";
import type { RunIdentity } from "../core/identity.ts";
import type { Batches } from "../data/batches.ts";
import type { Lifetime } from "../model/lifetime.ts";
import type { Model } from "../model/model.ts";
import { checkAlike } from "../ranks/alike.ts";
import type { LayerState } from "../schedule/definition.ts";
import type { ScriptOpener } from "../schedule/open.ts";
import { type Allocated, allocateRun, freeRun, type RunSetup, selectorOf } from "./allocate.ts";
import type { RunPosition, RunState, Stage, StagePlan, StepRates, TrainerArrays } from "./contract.ts";
import { handleOf, refuseHandle, type RunHandle } from "./hooks.ts";
import { identityOf } from "./identity.ts";
import { layerStates } from "./layer_states.ts";
import type { MemoryPlan } from "./memory/plan.ts";
import { stagesOf } from "./methods/stages.ts";
import {
  afterStep,
  begun,
  endedEarly,
  firstPosition,
  hardened,
  isBefore,
  reopened,
  seeing,
  stepsOf,
} from "./position.ts";
import { goesBeforeSize } from "./size_goal.ts";
import { type Steered, steered, type Steerer } from "./steering.ts";
import { hasWaited, isMeasured, validated } from "./validation.ts";
import { aimOf, lastAim, type PendingStep, type PreparedStep, stepNumbers, stepStateOf } from "./step.ts";

/**
 * Trains a run. A step, a stage or a state changes the position and the arrays on the GPU together. Nothing is judged
 * here, and nothing is saved.
 */
export class Training {
  /** The model of the run. */
  readonly model: Model;
  readonly stages: readonly StagePlan[];
  /** Where the run stands. */
  position: RunPosition;
  /** Steps whose numbers are still on the GPU. */
  pending: readonly PendingStep[] = [];
  readonly #life: Lifetime;
  readonly #batches: Batches;
  #setup: RunSetup;
  #allocated: Allocated | null = null;

  /** Stands at the start of a run, without GPU memory. */
  constructor(model: Model, setup: RunSetup, { life }: { readonly life: Lifetime }) {
    const { options: { seed, accumulate } } = setup;
    this.model = model;
    this.#life = life;
    this.#setup = setup;
    this.#batches = setup.makeBatches(seed, accumulate);
    this.stages = stagesOf(setup.options);
    this.position = firstPosition(this.#batches.cursor);
  }

  /** What the run is made of, with calibration rows once it is allocated. */
  get setup(): RunSetup {
    return this.#setup;
  }

  /** Steps of all stages. */
  get steps(): number {
    return stepsOf(this.stages, this.position);
  }

  /** The current stage; undefined after the last one. */
  get stage(): StagePlan | undefined {
    return this.stages[this.position.stage];
  }

  /** Whether the run has GPU memory. */
  get isAllocated(): boolean {
    return this.#allocated !== null;
  }

  /** What the run has on the GPU. */
  get now(): Allocated {
    if (!this.#allocated) throw new Error("the run is not prepared");
    return this.#allocated;
  }

  /** Opens the schedule, plans the memory, lets `complete` fill in the rest of the setup, and allocates. */
  async allocate(
    { openScript, complete }: {
      readonly openScript: ScriptOpener | null;
      readonly complete: (steerer: Steerer, plan: MemoryPlan) => Promise<RunSetup>;
    },
  ): Promise<void> {
    const { rates } = this.#setup.options;
    this.#allocated = await allocateRun(this.model, this.#setup, {
      state: () => this.#state({ rate: 0, target: 0, rates }),
      goesBeforeSize: () => goesBeforeSize(this.position, this.#setup.options),
      openScript,
      complete: async (steerer, plan) => this.#setup = await complete(steerer, plan),
    });
    this.#life.check();
  }

  /** Frees the trainer, and ends a schedule's process. */
  free(): void {
    if (this.#allocated) freeRun(this.#allocated, this.model);
    this.#allocated = null;
  }

  /** What tells the run apart from others. */
  identity({ identity: schedule }: Steerer = this.now.steerer): RunIdentity {
    const { options, original } = this.#setup;
    return identityOf(this.model, this.#setup, { options, schedule, further: original.checkpoint?.identity });
  }

  /** Refuses ranks that differ, by the state at a step or by the run's identity. */
  async checkRanks(arrays?: TrainerArrays): Promise<void> {
    const { ranks } = this.#setup.original, { step } = this.position;
    if (!ranks) return;
    const state = arrays && { step, state: digestOf(Object.values(arrays)) };
    await checkAlike(ranks, state ?? { ...this.identity(), version: VERSION, step });
  }

  /** The present state. */
  async state(): Promise<RunState> {
    return { position: this.position, arrays: await this.now.trainer.save() };
  }

  /** Continues from a state. Its schedule may end the stage again, or not. */
  async adopt({ position, arrays }: RunState): Promise<void> {
    const pruning = this.stages.findIndex(({ stage }) => stage === "prune");
    this.position = reopened(position, this.stages[position.stage]?.stage);
    this.pending = [];
    this.seekBatch();
    this.now.trainer.restore(arrays);
    const selector = await selectorOf(this.#setup, this.now); // the old selector may hold data from after the state
    if (position.stage > pruning || position.begun === "hard") await selector.resumed();
    this.#allocated = { ...this.now, selector };
  }

  /** Takes the batch of the next step again: a step that failed has taken it already. */
  seekBatch(): void {
    this.#batches.seek(this.position.cursor);
  }

  /** Prepares the first step of a stage. */
  async enter({ stage }: StagePlan): Promise<void> {
    if (!isBefore(this.position)) return;
    if (stage === "prune") await this.now.selector.begin();
    await this.#setup.original.hooks?.beforeStage?.(stage, this.handle(stage));
    this.position = begun(this.position, "stage");
  }

  /** Runs a step; false if the schedule ends the stage before it. */
  async step(plan: StagePlan): Promise<boolean> {
    const { signal } = this.#life, start = performance.now();
    const step = await this.prepareStep(plan), position = this.position;
    this.#life.check(); // a hook may have ended it
    if (!step) {
      this.position = endedEarly(position, plan);
      return false;
    }
    await this.now.trainer.step(step.kind, step.batch, { ...step, signal });
    if (step.target !== null) await this.now.selector.afterStep();
    this.pending = [...this.pending, step];
    const seconds = (performance.now() - start) / 1000, tokens = step.batch.realTokens;
    this.position = afterStep(position, { ...step, tokens, seconds, cursor: this.#batches.cursor });
    return true;
  }

  /** Prepares a step; null if the schedule ends the stage before it. */
  async prepareStep(plan: StagePlan): Promise<PreparedStep | null> {
    const { stage, kind, steps } = plan, { options, original, table } = this.#setup;
    const { stageStep, step: index, aim: last } = this.position, { steering, set, end } = await this.#steer(plan);
    if (end) return null;
    const { rates, rate, target, focus } = stepNumbers(plan, this.position, { options, steering, set });
    if (this.position.begun !== "step") await original.hooks?.beforeStep?.(this.handle(stage));
    this.position = begun(this.position, "step");
    const batch = this.#batches.next(), state = this.#state({ rate, target: target ?? 0, rates });
    const { selector } = this.now;
    const hard = steering
      ? await selector.beforeStep({ ...steering, rates, step: stageStep })
      : await selector.settle();
    const aim = steering && aimOf({ ...steering, rates }, { ...options, step: stageStep, steps, last, table });
    return { index, stage, kind, batch, state, focus, rate, target, hard, aim, layers: steering?.layers ?? null };
  }

  /** Measures the held-out loss if it is due after the last step, and keeps LoRA if it is the lowest; null if it is not. */
  async validate(): Promise<number | null> {
    const { options, heldOutBatches } = this.#setup, { stage } = this, { rates } = options, { signal } = this.#life;
    if (!stage || !isMeasured(this.position, stage, options)) return null;
    const { trainer } = this.now, state = this.#state({ rate: 0, target: 0, rates });
    let sum = 0;
    for (const batch of heldOutBatches) sum += await trainer.loss(batch, { state, signal });
    const loss = sum / heldOutBatches.reduce((count, { labelTokens }) => count + labelTokens, 0);
    const position = validated(this.position, loss, stage), { validation } = position;
    if (validation?.best?.step === position.step) await trainer.keepBest();
    this.position = position;
    return loss;
  }

  /** Ends the last stage if its held-out loss has not fallen for long; whether it did. */
  endsEarly(plan: StagePlan): boolean {
    if (!hasWaited(this.position, plan, this.#setup.options)) return false;
    this.position = endedEarly(this.position, plan);
    return true;
  }

  /** Goes back to the LoRA of the lowest held-out loss, if it was measured. */
  takeBest(): void {
    const { validation, step } = this.position;
    if (validation?.best && validation.best.step !== step) this.now.trainer.takeBest();
  }

  /**
   * Ends the pruning stage: cuts exactly as many units as the last target requires; none if a schedule ended the stage
   * before its first step. Returns whether it did.
   */
  async harden(): Promise<boolean> {
    const { isSkipped, ...aim } = lastAim(this.position, this.#setup), { target } = aim;
    const expected = isSkipped ? 0 : await this.now.selector.end(aim);
    this.position = hardened(this.position, { target, expected });
    return isSkipped;
  }

  /** The handle of a hook at a position. */
  handle(stage: Stage, { step } = this.position): RunHandle {
    return handleOf({ stage, step, table: this.#setup.table }, () => {
      this.#life.check();
      return this.#allocated?.trainer ?? refuseHandle();
    });
  }

  /** Evaluates the schedule for the current step. */
  async #steer({ stage, steps }: StagePlan): Promise<Steered> {
    const { stageStep: step, recent: records, aim: last } = this.position;
    const layers = async (): Promise<readonly LayerState[]> => {
      const seen = this.position.seen ?? await layerStates(this.#setup, this.now.trainer, { stage, last });
      this.position = seeing(this.position, seen);
      return seen;
    };
    return await steered(this.now.steerer, stage, { step, steps, records, layers });
  }

  #state(
    numbers: { readonly rate: number; readonly target: number; readonly rates: StepRates },
  ): ReturnType<typeof stepStateOf> {
    return stepStateOf(this.#setup.options, this.position, numbers);
  }
}
