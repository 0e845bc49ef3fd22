// What a training step has on the GPU: its buffers, and the plans of its passes and updates, each recorded when it is
// first used.
import { GRAD_SQUARES, record, sum } from "../../kernels/mod.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { Plan, u32 } from "../gpu/plan.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { MaskLearner } from "../masks/learner.ts";
import type { Model } from "../model/model.ts";
import type { Pass } from "../nn/context.ts";
import type { Lora } from "../nn/lora.ts";
import { recordLoss } from "../nn/head.ts";
import { createPass, recordForward, recordGradients } from "../nn/pass.ts";
import { CROSS_ENTROPY, type Objective } from "../nn/train/objective.ts";
import { createOptimizer, type OptimizerName, type OptimizerState } from "../nn/train/optimizer.ts";
import type { Ranks } from "../ranks/ranks.ts";
import type { LoraConfig } from "../spec/lora.ts";
import type { UnitTable } from "../units/table.ts";
import type { StepKind } from "./contract.ts";
import { createFocus, type Focus } from "./focus.ts";
import { createWeightProbe, type WeightProbe } from "./methods/weight_probe.ts";
import { createGradientSum, createRankSum, type GradientSum } from "./micro_batches.ts";

/** What decides the plans of a step. */
export interface StepOptions {
  /** Sequences of a micro-batch. */
  readonly batch: number;
  /** Micro-batches of a step. Default 1. */
  readonly accumulate?: number;
  /** Processes that share the micro-batches out. Default: this one alone. */
  readonly ranks?: Ranks | undefined;
  readonly seq: number;
  /** See `PruneOptions.documentMask`. Default false. */
  readonly documentMask?: boolean | undefined;
  readonly lora: LoraConfig;
  readonly table: UnitTable;
  /** See `PruneOptions.objective`. Default: cross-entropy. */
  readonly objective?: Objective | undefined;
  /** See `PruneOptions.optimizer`. Default "adamw". */
  readonly optimizer?: OptimizerName | undefined;
  /** See `PruneOptions.recompute`. Default true. */
  readonly recompute?: boolean;
  /** Whether steps drop elements before LoRA's A, at the rate of their state; default: where LoRA has a dropout. */
  readonly drops?: boolean;
}

/** Steps that the GPU records before the host must read them. */
export const RING_SLOTS = 256;
/** Numbers of a recorded step. */
export const RING_FLOATS = 16;
const SUM_GROUPS = 64;

/** The plans of a kind of step. */
interface KindPlans {
  /** Forward and backward of the first micro-batch. */
  readonly first: Plan;
  /** The same of the others, at the same masks. */
  readonly others: Plan;
  readonly update: Plan;
}

/** Buffers and plans of a step. Dispose it to free them. */
export class StepPlans implements Disposable {
  readonly device: Device;
  readonly pass: Pass;
  readonly lora: Lora;
  readonly learner: MaskLearner;
  readonly optimizer: OptimizerState;
  /** Null if a step has one micro-batch. */
  readonly gradientSum: GradientSum | null;
  /** Adds the loss of a micro-batch to the metrics; null if the update does. */
  readonly mean: Plan | null;
  /** Puts the masks back that a step of kind "masks" replaced. */
  readonly restoreMasks: Plan;
  /** Numbers of the last steps [RING_SLOTS, RING_FLOATS]. */
  readonly ring: DeviceBuffer;
  readonly #options: StepOptions;
  readonly #drops: boolean;
  readonly #isAtWritten: () => boolean;
  readonly #owned: DisposableStack;
  readonly #metrics: DeviceBuffer;
  readonly #sums: DeviceBuffer;
  readonly #lastMasks: DeviceBuffer;
  readonly #kinds = new Map<StepKind, KindPlans>();
  #losses: Plan | null = null;
  #probe: Plan | null = null;
  #focused: { readonly gradients: Focus; readonly update: Plan } | null = null;
  #terms: { readonly probe: WeightProbe; readonly plan: Plan } | null = null;

  /** Allocates the buffers. `isAtWritten` says whether a step runs at masks that were set, which it does not sample. */
  constructor({ device, weights }: Model, options: StepOptions, isAtWritten: () => boolean) {
    const { batch, accumulate: count = 1, ranks, seq, table, lora: config, recompute = true } = options;
    using stack = new DisposableStack();
    this.device = device;
    this.#options = options;
    this.#drops = options.drops ?? (config.dropout ?? 0) > 0;
    this.#isAtWritten = isAtWritten;
    this.learner = stack.use(new MaskLearner(device, table));
    const { maskGrads } = this.learner, { objective, documentMask } = options;
    this.pass = stack.use(
      createPass(device, weights, {
        ...{ batch, seq, backward: true, recompute, maskGrads, lora: config, objective },
        ranges: documentMask ? "rows" : undefined,
      }),
    );
    const { lora, masks } = this.pass;
    if (!lora) throw new Error("a trainer's pass has LoRA");
    this.lora = lora;
    this.optimizer = stack.use(createOptimizer(device, options.optimizer ?? "adamw", lora));
    this.#metrics = stack.use(device.createBuffer("metrics", 32));
    this.#sums = stack.use(device.createBuffer("sums", 4 * SUM_GROUPS));
    this.ring = stack.use(device.createBuffer("ring", 4 * RING_SLOTS * RING_FLOATS));
    const summed = [
      { buffer: lora.grads, count: lora.count },
      { buffer: masks.dz, count: 2 * masks.layout.count },
      { buffer: this.#metrics, count: 1 },
    ];
    if (ranks) this.gradientSum = stack.use(createRankSum(device, summed, ranks));
    else this.gradientSum = count > 1 ? stack.use(createGradientSum(device, summed)) : null;
    this.#lastMasks = stack.use(device.createBuffer("masks: last z", 4 * masks.layout.count));
    this.restoreMasks = stack.use(new Plan(device));
    this.restoreMasks.copy(this.#lastMasks, masks.z, { bytes: this.#lastMasks.bytes });
    this.mean = this.gradientSum && stack.use(new Plan(device));
    if (this.mean) this.#recordMean(this.mean);
    this.mean?.finish();
    this.#owned = stack.move();
  }

  /** Plans of a kind of step. */
  of(kind: StepKind): KindPlans {
    let plans = this.#kinds.get(kind);
    if (!plans) {
      const first = this.#gradients(kind, { isStep: true });
      const isSame = (this.#options.accumulate ?? 1) === 1 || kind !== "masks";
      const others = isSame ? first : this.#gradients(kind, { isStep: true, samples: false });
      this.#kinds.set(kind, plans = { first, others, update: this.#update(kind) });
    }
    return plans;
  }

  /** The passes and the update of a step that learns from a part of the labels. */
  get focused(): { readonly gradients: Focus; readonly update: Plan } {
    return this.#focused ??= {
      gradients: this.#owned.use(
        createFocus(this.pass, { dropout: this.#drops, recordMean: (plan) => this.#recordMean(plan) }),
      ),
      update: this.#update("lora", { isFocused: true }),
    };
  }

  /** Forward and the cross-entropy of each row, at the present masks and LoRA. */
  get losses(): Plan {
    this.of("lora"); // first, as for `probe`
    if (!this.#losses) {
      const context = { ...this.pass.plan(), objective: CROSS_ENTROPY, dense: null };
      recordForward(context);
      recordLoss(context, { gradient: false });
      this.#losses = this.#owned.use(context.plan.finish());
    }
    return this.#losses;
  }

  /** Forward and backward of masks without a step. */
  get probe(): Plan {
    this.of("lora"); // first, as the memory plan has it: without dropout scratch is smaller, and would not be used again
    return this.#probe ??= this.#gradients("masks", { isStep: false });
  }

  /** Forward and backward without a step that also sums Σ|w·∂L/∂w|. */
  get terms(): { readonly probe: WeightProbe; readonly plan: Plan } {
    this.of("lora"); // first, as for `probe`
    if (!this.#terms) {
      const probe = this.#owned.use(createWeightProbe(this.pass)), { observe } = probe;
      this.#terms = { probe, plan: this.#gradients("lora", { isStep: false, observeWeights: observe }) };
    }
    return this.#terms;
  }

  /**
   * Forward and backward; `samples` says whether learned masks are drawn before, as by a step's first micro-batch. What
   * is no step scores units, by cross-entropy: at the dense model the divergence from it has no gradient.
   */
  #gradients(
    kind: StepKind,
    { isStep, samples = isStep, observeWeights }: {
      readonly isStep: boolean;
      readonly samples?: boolean;
      readonly observeWeights?: WeightProbe["observe"];
    },
  ): Plan {
    const { pass, learner } = this, { masks, state } = pass;
    const maskGrads = kind === "lora" ? new Set<never>() : learner.maskGrads;
    const planned = pass.plan({ dropout: isStep && this.#drops, maskGrads });
    const context = isStep ? planned : { ...planned, objective: CROSS_ENTROPY, dense: null };
    if (kind === "masks" && samples) {
      context.plan.copy(masks.z, this.#lastMasks, { bytes: masks.z.bytes });
      learner.recordSample(context.plan, { state, slots: masks, isWritten: this.#isAtWritten });
    }
    recordGradients(observeWeights ? { ...context, observeWeights } : context);
    return this.#owned.use(context.plan.finish());
  }

  #update(kind: StepKind, { isFocused = false } = {}): Plan {
    const { device, learner, lora } = this, { state, masks } = this.pass, metrics = this.#metrics;
    const plan = this.#owned.use(new Plan(device));
    plan.section("update");
    if (!isFocused && !this.mean) this.#recordMean(plan);
    this.#recordSum(plan, lora.grads, { count: lora.count, index: GRAD_SQUARES, square: true, scaled: false });
    this.optimizer.record(plan, { state, metrics });
    if (kind === "masks") learner.recordUpdate(plan, { state, slots: masks });
    plan.dispatch(
      compileKernel(device, record),
      [metrics, learner.constraint, state, this.ring, { params: [u32(RING_SLOTS)] }],
      { groups: [1] },
    );
    return plan.finish();
  }

  #recordMean(plan: Plan): void {
    const { act } = this.pass;
    this.#recordSum(plan, act.loss, { count: act.rows, index: 0, square: false, scaled: true });
  }

  /** metrics[index] = Σ x, or Σ x² with `square`; times the step's loss scale with `scaled`. */
  #recordSum(
    plan: Plan,
    x: DeviceBuffer,
    { count, index, square, scaled }: {
      readonly count: number;
      readonly index: number;
      readonly square: boolean;
      readonly scaled: boolean;
    },
  ): void {
    const kernel = compileKernel(plan.device, sum), { state } = this.pass, sums = this.#sums;
    const perGroup = Math.max(1, Math.ceil(count / SUM_GROUPS)), groups = Math.ceil(count / perGroup);
    plan.dispatch(
      kernel,
      [x, state, sums, { params: [u32(count), u32(perGroup), u32(square ? 1 : 0), u32(0), u32(0)] }],
      { groups: [groups], cost: 4 * count },
    );
    plan.dispatch(
      kernel,
      [sums, state, this.#metrics, { params: [u32(groups), u32(groups), u32(0), u32(scaled ? 1 : 0), u32(index)] }],
      { groups: [1] },
    );
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}
