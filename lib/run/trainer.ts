// One training step on the GPU: the plans of its passes and updates, and the arrays that a checkpoint holds.
import { CompressoError } from "../core/errors.ts";
import type { Ranks } from "../ranks/ranks.ts";
import { adamw, GRAD_SQUARES, record, sum } from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { Plan, u32 } from "../gpu/plan.ts";
import { writeTargets } from "../nn/head.ts";
import { strideOf } from "../nn/padding.ts";
import type { LoraConfig, LoraWeights } from "../spec/lora.ts";
import { initialLora, packLora, unpackLora } from "../nn/lora.ts";
import { type MaskValues, type SlotGradients, unpackMasks, writeMasks } from "../nn/mask_slots.ts";
import type { Pass } from "../nn/context.ts";
import { createPass, recordGradients, shiftLabels } from "../nn/pass.ts";
import { type StepState, writeStepState } from "../nn/train/step_state.ts";
import type { LayerTerms } from "../masks/baselines.ts";
import { CONSTRAINT_FLOATS, createMaskLearner, type MaskLearner, momentFloats } from "../masks/learner.ts";
import type { UnitTable } from "../units/table.ts";
import type { Batch } from "../data/batches.ts";
import { createFocus, type Focus, focusedLabels } from "./focus.ts";
import { createGradientSum, createRankSum, type MicroBatch, microBatches } from "./micro_batches.ts";
import type { Model } from "../model/model.ts";
import { createShares } from "./shares.ts";
import { createWeightProbe, type WeightProbe } from "./methods/weight_probe.ts";
import type { StepKind, StepNumbers, TrainerArrays } from "./contract.ts";

/** Options of {@link createTrainer}. */
export interface TrainerOptions {
  /** Sequences of a micro-batch. */
  readonly batch: number;
  /** Micro-batches of a step. Default 1. */
  readonly accumulate?: number;
  /** Processes that share the micro-batches out. Default: this one alone. */
  readonly ranks?: Ranks | undefined;
  /** Called when micro-batches are dealt anew, with the number of each rank. */
  readonly onDealt?: ((counts: readonly number[]) => void) | undefined;
  readonly seq: number;
  readonly seed: number;
  readonly lora: LoraConfig;
  readonly table: UnitTable;
  /** See `PruneOptions.recompute`. Default true. */
  readonly recompute?: boolean;
  /** Whether steps drop elements before LoRA's A, at the rate of their state; default: where LoRA has a dropout. */
  readonly drops?: boolean;
}

/** What a step computed. */
export interface Inspection {
  /** Whether the residual stream is finite: after the embedding, then after each layer. */
  readonly streams: readonly boolean[];
  /** Whether the loss of every token is finite. */
  readonly loss: boolean;
  /** Gradients of LoRA by name, and of all slots. */
  readonly gradients: LoraWeights;
  readonly slots: Float32Array;
}

/** Trains LoRA and masks of one model. Dispose it to free its buffers. */
export interface Trainer extends Disposable {
  readonly pass: Pass;
  readonly learner: MaskLearner;
  /**
   * Runs one step, of all micro-batches. On abort everything that {@link Trainer.save} returns is as before the step. With a focus below 1,
   * steps of kind "lora" learn from that share of the labels (see `hurtTargets`), at the cost of one more forward pass.
   * The recorded loss is that of all labels.
   */
  step(
    kind: StepKind,
    batch: Batch,
    options: { readonly state: StepState; readonly signal?: AbortSignal; readonly focus?: number },
  ): Promise<void>;
  /** Numbers of the last steps, up to {@link RING_SLOTS} of them, in order. */
  numbers(firstStep: number, count: number): Promise<StepNumbers[]>;
  /** Gradients of all slots at the present masks over one micro-batch, without any update. */
  maskGradients(
    batch: Batch,
    options: { readonly state: StepState; readonly signal?: AbortSignal },
  ): Promise<SlotGradients>;
  /** Σ|w·∂L/∂w| of the base's weights at the present masks over one micro-batch, by layer, without any update. */
  weightTerms(
    batch: Batch,
    options: { readonly state: StepState; readonly signal?: AbortSignal },
  ): Promise<LayerTerms[]>;
  /**
   * Forward and backward of a step without its update, up to the first micro-batch with a value that is not finite, and
   * which of that one's values are. Learned masks are sampled, unless they were set.
   */
  inspect(kind: StepKind, batch: Batch, options: { readonly state: StepState }): Promise<Inspection>;
  /** dL/dz of all slots in the last step of kind "masks" or "gradual". */
  slotGradients(): Promise<Float32Array>;
  masks(): Promise<Required<MaskValues>>;
  /**
   * Sets z of the kinds that are given. If they include units, the next step of kind "masks" samples no unit, and log α
   * gets no gradient through its masks.
   */
  setMasks(masks: MaskValues): void;
  /** Number of calls of `setMasks`; masks read at the same count are unchanged. */
  readonly maskWrites: number;
  /** Whether masks of units were set since the last step began. */
  readonly isWritten: boolean;
  logAlpha(): Promise<Float32Array<ArrayBuffer>>;
  setLogAlpha(values: Float32Array<ArrayBuffer>): void;
  loraWeights(): Promise<LoraWeights>;
  setLora(weights: ReadonlyMap<string, Float32Array>): void;
  save(): Promise<TrainerArrays>;
  restore(arrays: TrainerArrays): void;
}

/** Steps that the GPU records before the host must read them. */
export const RING_SLOTS = 256;
const RING_FLOATS = 16;
const SUM_GROUPS = 64;

/** Allocates everything and sets LoRA to its initial values (B = 0). */
export function createTrainer(model: Model, options: TrainerOptions): Trainer {
  const { device, weights, spec } = model, { batch, accumulate: count = 1, ranks, seq, table } = options;
  const shares = createShares(count, options);
  const { lora: config, recompute = true, drops = (config.dropout ?? 0) > 0 } = options;
  using stack = new DisposableStack();
  let owned = stack;
  const own = <T extends Disposable>(resource: T): T => owned.use(resource);
  const learner = own(createMaskLearner(device, table)), { maskGrads } = learner;
  const pass = own(createPass(device, weights, { batch, seq, backward: true, recompute, maskGrads, lora: config }));
  const metrics = own(device.createBuffer("metrics", 32));
  const sums = own(device.createBuffer("sums", 4 * SUM_GROUPS));
  const ring = own(device.createBuffer("ring", 4 * RING_SLOTS * RING_FLOATS));
  const { lora, masks, act, state } = pass;
  if (!lora) throw new Error("createTrainer: the pass has no LoRA");
  const summed = [
    { buffer: lora.grads, count: lora.count },
    { buffer: masks.dz, count: 2 * masks.layout.count },
    { buffer: metrics, count: 1 },
  ];
  const gradientSum = ranks
    ? own(createRankSum(device, summed, ranks))
    : count > 1
    ? own(createGradientSum(device, summed))
    : null;
  const lastMasks = own(device.createBuffer("last mask z", 4 * masks.layout.count));
  const places: readonly (readonly [Exclude<keyof TrainerArrays, "written">, DeviceBuffer, number])[] = [
    ["lora", lora.params, lora.count],
    ["loraM", lora.m, lora.count],
    ["loraV", lora.v, lora.count],
    ["logAlpha", learner.logAlpha, table.count],
    ["maskMoments", learner.moments, momentFloats(table)],
    ["constraint", learner.constraint, CONSTRAINT_FLOATS],
    ["slots", masks.z, masks.layout.count],
  ];
  const restoreMasks = own(new Plan(device));
  restoreMasks.copy(lastMasks, masks.z, { bytes: lastMasks.bytes });
  if (!device.isDry) device.write(lora.params, packLora(spec, lora, initialLora(lora, { seed: options.seed })));

  /** Forward and backward; `samples` says whether learned masks are drawn before, as by a step's first micro-batch. */
  const gradients = (
    kind: StepKind,
    { isStep, samples = isStep, observeWeights }: {
      readonly isStep: boolean;
      readonly samples?: boolean;
      readonly observeWeights?: WeightProbe["observe"];
    },
  ): Plan => {
    const dropout = isStep && drops;
    const context = pass.plan({ dropout, maskGrads: kind === "lora" ? new Set() : learner.maskGrads });
    if (kind === "masks" && samples) {
      context.plan.copy(masks.z, lastMasks, { bytes: masks.z.bytes });
      learner.recordSample(context.plan, { state, slots: masks, isWritten: () => isAtWritten });
    }
    recordGradients(observeWeights ? { ...context, observeWeights } : context);
    return own(context.plan.finish());
  };
  const recordMean = (plan: Plan): void =>
    recordSum(plan, { x: act.loss, count: act.rows, into: metrics, index: 0, square: false, scaled: true }, {
      state,
      sums,
    });
  const mean = gradientSum && own(new Plan(device));
  if (mean) {
    recordMean(mean);
    mean.finish();
  }
  const updates = (kind: StepKind, { isFocused = false } = {}): Plan => {
    const plan = own(new Plan(device));
    plan.section("update");
    if (!isFocused && !mean) recordMean(plan);
    recordSum(
      plan,
      { x: lora.grads, count: lora.count, into: metrics, index: GRAD_SQUARES, square: true, scaled: false },
      { state, sums },
    );
    const width = Math.min(lora.count, 65535 * 64);
    plan.dispatch(
      compileKernel(device, adamw),
      [lora.grads, state, metrics, lora.params, lora.m, lora.v, { params: [u32(lora.count), u32(width)] }],
      { groups: [Math.ceil(width / 64), Math.ceil(lora.count / width)], cost: 20 * lora.count },
    );
    if (kind === "masks") learner.recordUpdate(plan, { state, slots: masks });
    plan.dispatch(
      compileKernel(device, record),
      [metrics, learner.constraint, state, ring, { params: [u32(RING_SLOTS)] }],
      { groups: [1] },
    );
    return plan.finish();
  };
  interface StepPlans {
    /** Forward and backward of the first micro-batch. */
    readonly gradients: Plan;
    /** The same of the others, at the same masks. */
    readonly others: Plan;
    readonly update: Plan;
  }
  const plans: { [K in StepKind]?: StepPlans } = {};
  const makePlans = (kind: StepKind): StepPlans => {
    const first = gradients(kind, { isStep: true }), isSame = count === 1 || kind !== "masks";
    const others = isSame ? first : gradients(kind, { isStep: true, samples: false });
    return { gradients: first, others, update: updates(kind) };
  };
  const plansOf = (kind: StepKind): StepPlans => plans[kind] ??= makePlans(kind);
  let probe: Plan | null = null, maskWrites = 0;
  /** Whether masks of units were set since the last step began, and whether that step ran at such. */
  let isWritten = false, isAtWritten = false;
  let focused: { readonly gradients: Focus; readonly update: Plan } | null = null;
  let terms: { readonly probe: WeightProbe; readonly plan: Plan } | null = null;

  const partsOf = (data: Batch): MicroBatch[] => microBatches(data, { count, rows: act.rows });
  const scaleOf = ({ labelTokens }: Batch): number => 1 / Math.max(1, labelTokens);
  const load = ({ tokens, labels, firstRow }: MicroBatch, stepState: StepState): void => {
    if (device.isDry) return;
    device.write(act.tokens, tokens);
    writeTargets(pass, shiftLabels(labels, { seq }));
    writeStepState(device, state, { ...stepState, firstRow });
  };
  const loadOne = (data: Batch, stepState: StepState): void =>
    load({ ...data, firstRow: 0 }, { ...stepState, lossScale: scaleOf(data) });
  /** Runs the passes of this rank's micro-batches; the gradients of all, summed up, are where those of one would be. */
  const runParts = async (
    data: Batch,
    stepState: StepState,
    run: (part: MicroBatch, state: StepState, index: number) => Promise<void>,
  ): Promise<void> => {
    const whole = { ...stepState, lossScale: scaleOf(data) };
    await gradientSum?.begin();
    const { start, end } = shares.range, startedAt = performance.now();
    for (const [index, part] of partsOf(data).slice(start, end).entries()) {
      load(part, whole);
      await run(part, { ...whole, firstRow: part.firstRow }, index);
      await gradientSum?.add();
    }
    const seconds = (performance.now() - startedAt) / 1000;
    await gradientSum?.finish();
    await shares.add(seconds);
  };

  /** What the last pass left in its buffers. */
  const look = async (): Promise<Inspection> => {
    const streams: boolean[] = [], floats = act.rows * strideOf(spec.hidden);
    // The first stream that is not finite is enough.
    for (const x of act.x) {
      streams.push(await allFinite(device, x, { count: floats, most: Math.max(READ_FLOATS, lora.count) }));
      if (streams.at(-1) === false) break;
    }
    return {
      streams,
      loss: (await device.readFloats(act.loss, act.rows)).every(Number.isFinite),
      gradients: unpackLora(spec, lora, await device.readFloats(lora.grads, lora.count)),
      slots: await device.readFloats(masks.dz, masks.layout.count),
    };
  };

  owned = stack.move();
  return {
    pass,
    learner,
    async step(kind, data, { state: stepState, signal, focus: share = 1 }): Promise<void> {
      const { gradients: first, others, update } = plansOf(kind), stop = signal ? { signal } : {};
      if (share < 1) {
        if (kind !== "lora") throw new Error("a step with a focus trains LoRA alone");
        focused ??= {
          gradients: own(createFocus(pass, { dropout: drops, recordMean })),
          update: updates(kind, { isFocused: true }),
        };
        const { gradients: focus, update: focusedUpdate } = focused;
        const lossScale = 1 / Math.max(1, focusedLabels(partsOf(data), { seq, share }));
        await runParts(
          data,
          stepState,
          (part, own) => focus.run(part, { state: { ...own, lossScale }, share, ...stop }),
        );
        return await focusedUpdate.run();
      }
      let hasBegun = false;
      try {
        await runParts(data, stepState, async (_part, _state, index) => {
          signal?.throwIfAborted();
          if (index === 0) {
            hasBegun = true; // from here on the first submit is certain, and with it the copy of z
            [isAtWritten, isWritten] = [isWritten, false];
          }
          await (index === 0 ? first : others).run(stop);
          await mean?.run();
        });
      } catch (error) {
        if (hasBegun) {
          isWritten = isAtWritten;
          if (kind === "masks") await restoreMasks.run();
        }
        throw error;
      }
      await update.run();
    },
    async numbers(firstStep, count): Promise<StepNumbers[]> {
      const values = await device.readFloats(ring, RING_SLOTS * RING_FLOATS);
      return Array.from({ length: count }, (_, index) => numbersOf(values, firstStep + index));
    },
    async maskGradients(data, { state: stepState, signal }): Promise<SlotGradients> {
      plansOf("lora"); // first, as the memory plan has it: without dropout scratch is smaller, and would not be used again
      probe ??= gradients("masks", { isStep: false });
      loadOne(data, stepState);
      await probe.run(signal ? { signal } : {});
      const { count } = masks.layout, both = await device.readFloats(masks.dz, 2 * count);
      return { dz: both.subarray(0, count), squares: both.subarray(count) };
    },
    async weightTerms(data, { state: stepState, signal }): Promise<LayerTerms[]> {
      plansOf("lora"); // first, as for maskGradients
      if (!terms) {
        const made = own(createWeightProbe(pass));
        terms = { probe: made, plan: gradients("lora", { isStep: false, observeWeights: made.observe }) };
      }
      loadOne(data, stepState);
      await terms.plan.run(signal ? { signal } : {});
      return await terms.probe.read();
    },
    async inspect(kind, data, { state: stepState }): Promise<Inspection> {
      [isAtWritten, isWritten] = [isWritten, false];
      const { gradients: first, others } = plansOf(kind);
      const parts = partsOf(data), whole = { ...stepState, lossScale: scaleOf(data) };
      for (const [index, part] of parts.entries()) {
        load(part, whole);
        await (index === 0 ? first : others).run();
        const found = await look();
        if (index === parts.length - 1 || !isFine(found)) return found;
      }
      throw new Error("a step has at least one micro-batch");
    },
    setMasks(values): void {
      writeMasks(device, masks, spec, values);
      maskWrites++;
      isWritten ||= [...maskGrads].some((kind) => values[kind] !== undefined);
    },
    get maskWrites(): number {
      return maskWrites;
    },
    get isWritten(): boolean {
      return isWritten;
    },
    slotGradients: () => device.readFloats(masks.dz, masks.layout.count),
    masks: async () => unpackMasks(spec, masks.layout, await device.readFloats(masks.z, masks.layout.count)),
    logAlpha: () => device.readFloats(learner.logAlpha, table.count),
    setLora: (weights) => device.write(lora.params, packLora(spec, lora, weights)),
    setLogAlpha: (values) => device.write(learner.logAlpha, values),
    loraWeights: async () => unpackLora(spec, lora, await device.readFloats(lora.params, lora.count)),
    async save(): Promise<TrainerArrays> {
      const parts = await device.read(places.map(([, buffer, count]) => ({ buffer, bytes: 4 * count })));
      const of = (name: keyof TrainerArrays): Float32Array<ArrayBuffer> =>
        new Float32Array(parts[places.findIndex(([own]) => own === name)] ?? new ArrayBuffer(0));
      return {
        lora: of("lora"),
        loraM: of("loraM"),
        loraV: of("loraV"),
        logAlpha: of("logAlpha"),
        maskMoments: of("maskMoments"),
        constraint: of("constraint"),
        slots: of("slots"),
        written: Float32Array.of(isWritten ? 1 : 0),
      };
    },
    restore(arrays): void {
      for (const [name, , count] of places) if (arrays[name].length !== count) throw otherShape(arrays[name], count);
      for (const [name, buffer] of places) device.write(buffer, arrays[name]);
      isWritten = arrays.written[0] === 1;
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

function isFine({ streams, loss, gradients, slots }: Inspection): boolean {
  return loss && streams.every(Boolean) && slots.every(Number.isFinite) &&
    [...gradients.values()].every((values) => values.every(Number.isFinite));
}

function otherShape({ length }: Float32Array, count: number): CompressoError {
  return new CompressoError("mismatch", {
    what: "cannot continue from this state",
    rule: "LoRA and units are as many as those of the run that saved it",
    value: `${length} numbers then, ${count} now`,
    fix: "change no option that changes shapes, such as lora, units and rules",
  });
}

function recordSum(
  plan: Plan,
  { x, count, into, index, square, scaled }: {
    readonly x: DeviceBuffer;
    readonly count: number;
    readonly into: DeviceBuffer;
    readonly index: number;
    readonly square: boolean;
    readonly scaled: boolean;
  },
  { state, sums }: { readonly state: DeviceBuffer; readonly sums: DeviceBuffer },
): void {
  const kernel = compileKernel(plan.device, sum);
  const perGroup = Math.max(1, Math.ceil(count / SUM_GROUPS)), groups = Math.ceil(count / perGroup);
  plan.dispatch(
    kernel,
    [x, state, sums, { params: [u32(count), u32(perGroup), u32(square ? 1 : 0), u32(0), u32(0)] }],
    {
      groups: [groups],
      cost: 4 * count,
    },
  );
  plan.dispatch(
    kernel,
    [sums, state, into, { params: [u32(groups), u32(groups), u32(0), u32(scaled ? 1 : 0), u32(index)] }],
    { groups: [1] },
  );
}

/** f32 values that are read at once, or as many as LoRA has, where all of a large buffer is looked at: the plan of a run's memory has room for that. */
const READ_FLOATS = 2 ** 16;

async function allFinite(
  device: Device,
  buffer: DeviceBuffer,
  { count, most }: { readonly count: number; readonly most: number },
): Promise<boolean> {
  for (let done = 0; done < count; done += most) {
    const values = await device.readFloats(buffer, Math.min(most, count - done), 4 * done);
    if (!values.every(Number.isFinite)) return false;
  }
  return true;
}

function numbersOf(ring: Float32Array, step: number): StepNumbers {
  const at = (index: number): number => ring[(step % RING_SLOTS) * RING_FLOATS + index] ?? NaN;
  return {
    step,
    loss: at(0),
    gradNorm: Math.sqrt(at(GRAD_SQUARES)),
    expected: at(8 + 2),
    projected: at(8 + 7),
    lambda1: at(8 + 3),
    lambda2: at(8 + 4),
  };
}
