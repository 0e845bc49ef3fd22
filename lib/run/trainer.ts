// Trains LoRA and masks of one model, step by step, and holds the arrays of a checkpoint.
import { GRAD_SQUARES } from "../../kernels/mod.ts";
import { type CompressoError, refusal } from "../core/errors.ts";
import { existing } from "../core/guards.ts";
import type { Batch } from "../data/batches.ts";
import type { Device } from "../gpu/device.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { LayerTerms } from "../masks/baselines.ts";
import { CONSTRAINT_FLOATS, type MaskLearner, momentFloats } from "../masks/learner.ts";
import type { Model } from "../model/model.ts";
import type { Pass } from "../nn/context.ts";
import { lossByRow, writeTargets } from "../nn/head.ts";
import { initialLora, packLora, unpackLora } from "../nn/lora.ts";
import { writeRows } from "../nn/key_ranges.ts";
import { type MaskValues, type SlotGradients, unpackMasks, writeMasks } from "../nn/mask_slots.ts";
import { strideOf } from "../nn/padding.ts";
import { shiftLabels } from "../nn/pass.ts";
import { type StepState, writeStepState } from "../nn/train/step_state.ts";
import type { LoraWeights } from "../spec/lora.ts";
import type { StepKind, StepNumbers, TrainerArrays } from "./contract.ts";
import { focusedLabels } from "./focus.ts";
import { type MicroBatch, microBatches } from "./micro_batches.ts";
import { createShares, type Shares } from "./shares.ts";
import { RING_FLOATS, RING_SLOTS, type StepOptions, StepPlans } from "./step_plans.ts";

/** Options of a {@link Trainer}. */
export interface TrainerOptions extends StepOptions {
  /** Seed of LoRA's initial values. */
  readonly seed: number;
  /** Whether it keeps the best LoRA, see {@link Trainer.keepBest}. Default false. */
  readonly keepsBest?: boolean | undefined;
  /** Called when micro-batches are dealt to ranks again, with the number of each rank. */
  readonly onDealt?: ((counts: readonly number[]) => void) | undefined;
}

/** Which values of a step are finite, and its gradients. */
export interface Inspection {
  /** Whether the residual stream is finite: after the embedding, then after each layer. */
  readonly streams: readonly boolean[];
  /** Whether the loss of every token is finite. */
  readonly loss: boolean;
  /** Gradients of LoRA by name, and of all slots. */
  readonly gradients: LoraWeights;
  readonly slots: Float32Array;
}

/** A state of a step, and the signal that stops it. */
interface At {
  readonly state: StepState;
  readonly signal?: AbortSignal | undefined;
}

/** Trains LoRA and masks of one model. Dispose it to free its buffers. */
export class Trainer implements Disposable {
  readonly #model: Model;
  readonly #options: TrainerOptions;
  readonly #plans: StepPlans;
  readonly #shares: Shares;
  /** The arrays of a checkpoint that are on the GPU. */
  readonly #places: readonly { readonly name: string; readonly buffer: DeviceBuffer; readonly count: number }[];
  /** LoRA as it was kept last; zeros before. Null if it is never kept. */
  #best: Float32Array<ArrayBuffer> | null;
  #maskWrites = 0;
  /** Whether masks of units were set since the last step began, and whether that step ran at such. */
  #isWritten = false;
  #isAtWritten = false;

  /** Allocates everything and sets LoRA to its initial values (B = 0). */
  constructor(model: Model, options: TrainerOptions) {
    const { device } = model, { table, accumulate = 1, seed } = options;
    this.#model = model;
    this.#options = options;
    this.#shares = createShares(accumulate, options);
    this.#plans = new StepPlans(model, options, () => this.#isAtWritten);
    const { lora, learner, optimizer, pass: { masks } } = this.#plans;
    this.#places = [
      { name: "lora", buffer: lora.params, count: lora.count },
      ...optimizer.arrays.map((array) => ({ ...array, count: lora.count })),
      { name: "logAlpha", buffer: learner.logAlpha, count: table.count },
      { name: "maskMoments", buffer: learner.moments, count: momentFloats(table) },
      { name: "constraint", buffer: learner.constraint, count: CONSTRAINT_FLOATS },
      { name: "slots", buffer: masks.z, count: masks.layout.count },
    ];
    this.#best = options.keepsBest ? new Float32Array(lora.count) : null;
    if (!device.isDry) this.setLora(initialLora(lora, { seed }));
  }

  /** The buffers of its passes. */
  get pass(): Pass {
    return this.#plans.pass;
  }

  /** What learns the masks. */
  get learner(): MaskLearner {
    return this.#plans.learner;
  }

  /**
   * Runs one step, of all micro-batches. On abort everything that {@link save} returns is as before the step. With a
   * focus below 1, steps of kind "lora" learn from that share of the labels (see `hurtTargets`), at the cost of one more
   * forward pass. The recorded loss is that of all labels.
   */
  async step(
    kind: StepKind,
    batch: Batch,
    { state, signal, focus = 1 }: At & { readonly focus?: number },
  ): Promise<void> {
    const { first, others, update } = this.#plans.of(kind), stop = { signal };
    if (focus < 1) return await this.#focusedStep(kind, batch, { state, focus, ...stop });
    let hasBegun = false;
    try {
      await this.#runParts(batch, state, async (_part, _state, index) => {
        signal?.throwIfAborted();
        if (index === 0) {
          hasBegun = true; // from here on the first submit is certain, and with it the copy of z
          [this.#isAtWritten, this.#isWritten] = [this.#isWritten, false];
        }
        await (index === 0 ? first : others).run(stop);
        await this.#plans.mean?.run();
      });
    } catch (error) {
      if (hasBegun) {
        this.#isWritten = this.#isAtWritten;
        if (kind === "masks") await this.#plans.restoreMasks.run();
      }
      throw error;
    }
    await update.run();
  }

  async #focusedStep(
    kind: StepKind,
    batch: Batch,
    { state, focus: share, ...stop }: At & { readonly focus: number },
  ): Promise<void> {
    if (kind !== "lora") throw new Error("a step with a focus trains LoRA alone");
    const { gradients, update } = this.#plans.focused;
    const lossScale = 1 / Math.max(1, focusedLabels(this.#partsOf(batch), { seq: this.#options.seq, share }));
    await this.#runParts(
      batch,
      state,
      (part, own) => gradients.run(part, { state: { ...own, lossScale }, share, ...stop }),
    );
    await update.run();
  }

  /** Numbers of the last steps, up to {@link RING_SLOTS} of them, in order. */
  async numbers(firstStep: number, count: number): Promise<StepNumbers[]> {
    const values = await this.#device.readFloats(this.#plans.ring, RING_SLOTS * RING_FLOATS);
    return Array.from({ length: count }, (_, index) => numbersOf(values, firstStep + index));
  }

  /** Gradients of all slots at the present masks over one micro-batch, without any update. */
  async maskGradients(batch: Batch, { state, signal }: At): Promise<SlotGradients> {
    const { probe } = this.#plans, { masks } = this.pass, { count } = masks.layout;
    this.#loadOne(batch, state);
    await probe.run({ signal });
    const both = await this.#device.readFloats(masks.dz, 2 * count);
    return { dz: both.subarray(0, count), squares: both.subarray(count) };
  }

  /** Σ|w·∂L/∂w| of the base's weights at the present masks over one micro-batch, by layer, without any update. */
  async weightTerms(batch: Batch, { state, signal }: At): Promise<LayerTerms[]> {
    const { probe, plan } = this.#plans.terms;
    this.#loadOne(batch, state);
    await plan.run({ signal });
    return await probe.read();
  }

  /**
   * Repeats forward and backward of a step without its update, up to the first micro-batch with a value that is not
   * finite, and inspects that micro-batch. Learned masks are sampled, unless they were set.
   */
  async inspect(kind: StepKind, batch: Batch, { state }: Pick<At, "state">): Promise<Inspection> {
    [this.#isAtWritten, this.#isWritten] = [this.#isWritten, false];
    const { first, others } = this.#plans.of(kind);
    const parts = this.#partsOf(batch), whole = { ...state, lossScale: scaleOf(batch) };
    for (const [index, part] of parts.entries()) {
      this.#load(part, whole);
      await (index === 0 ? first : others).run();
      const found = await this.#look();
      if (index === parts.length - 1 || !isFine(found)) return found;
    }
    throw new Error("a step has at least one micro-batch");
  }

  /** Sum of the cross-entropy of a batch's labels at the present masks and LoRA, in nats. Nothing is trained. */
  async loss(batch: Batch, { state, signal }: At): Promise<number> {
    const { act } = this.pass, device = this.#device;
    this.#loadOne(batch, state);
    await this.#plans.losses.run({ signal });
    const targets = shiftLabels(batch.labels, { seq: this.#options.seq });
    const losses = lossByRow(await device.readFloats(act.loss, act.rows), targets);
    return losses.reduce((sum, one) => sum + one, 0);
  }

  /** Keeps the present LoRA as the best one. */
  async keepBest(): Promise<void> {
    const { lora } = this.#plans;
    this.#best = await this.#device.readFloats(lora.params, lora.count);
  }

  /** Sets LoRA to the best one. */
  takeBest(): void {
    if (this.#best) this.#device.write(this.#plans.lora.params, this.#best);
  }

  /** dL/dz of all slots in the last step of kind "masks" or "gradual". */
  slotGradients(): Promise<Float32Array> {
    const { masks } = this.pass;
    return this.#device.readFloats(masks.dz, masks.layout.count);
  }

  /** z of all slots. */
  async masks(): Promise<Required<MaskValues>> {
    const { masks: { z, layout } } = this.pass;
    return unpackMasks(this.#model.spec, layout, await this.#device.readFloats(z, layout.count));
  }

  /**
   * Sets z of the kinds that are given. If they include units, the next step of kind "masks" samples no unit, and log α
   * gets no gradient through its masks.
   */
  setMasks(masks: MaskValues): void {
    writeMasks(this.#device, this.pass.masks, this.#model.spec, masks);
    this.#maskWrites++;
    this.#isWritten ||= [...this.learner.maskGrads].some((kind) => masks[kind] !== undefined);
  }

  /** Number of calls of `setMasks`; masks read at the same count are unchanged. */
  get maskWrites(): number {
    return this.#maskWrites;
  }

  /** Whether masks of units were set since the last step began. */
  get isWritten(): boolean {
    return this.#isWritten;
  }

  /** log α of all units. */
  logAlpha(): Promise<Float32Array<ArrayBuffer>> {
    return this.#device.readFloats(this.learner.logAlpha, this.#options.table.count);
  }

  /** Sets log α of all units. */
  setLogAlpha(values: Float32Array<ArrayBuffer>): void {
    this.#device.write(this.learner.logAlpha, values);
  }

  /** A and B of all projections. */
  async loraWeights(): Promise<LoraWeights> {
    const { lora } = this.#plans;
    return unpackLora(this.#model.spec, lora, await this.#device.readFloats(lora.params, lora.count));
  }

  /** Sets A and B of all projections. */
  setLora(weights: ReadonlyMap<string, Float32Array>): void {
    const { lora } = this.#plans;
    this.#device.write(lora.params, packLora(this.#model.spec, lora, weights));
  }

  /** All that changes in training. */
  async save(): Promise<TrainerArrays> {
    const parts = await this.#device.read(this.#places.map(({ buffer, count }) => ({ buffer, bytes: 4 * count })));
    const arrays = Object.fromEntries(
      this.#places.map(({ name }, index) => [name, new Float32Array(parts[index] ?? new ArrayBuffer(0))]),
    );
    const best = this.#best ? { best: this.#best } : {};
    return { ...arrays, written: Float32Array.of(this.#isWritten ? 1 : 0), ...best } as TrainerArrays;
  }

  /**
   * Continues from what {@link save} gave.
   *
   * @throws CompressoError("mismatch") for arrays of other lengths.
   */
  restore(arrays: TrainerArrays): void {
    const saved = this.#places.map((place) => ({ ...place, values: existing(arrays[place.name], place.name) }));
    for (const { values, count } of saved) if (values.length !== count) throw otherShape(values, count);
    for (const { buffer, values } of saved) this.#device.write(buffer, values);
    this.#isWritten = arrays.written[0] === 1;
    if (this.#best) this.#best = existing(arrays["best"], "best");
  }

  get #device(): Device {
    return this.#model.device;
  }

  #partsOf(batch: Batch): MicroBatch[] {
    return microBatches(batch, { count: this.#options.accumulate ?? 1, rows: this.pass.act.rows });
  }

  #load({ tokens, labels, positions, firstRow }: MicroBatch, state: StepState): void {
    const { pass } = this, device = this.#device;
    if (device.isDry) return;
    device.write(pass.act.tokens, tokens);
    if (pass.ranges) writeRows(pass, positions);
    writeTargets(pass, shiftLabels(labels, { seq: this.#options.seq }));
    writeStepState(device, pass.state, { ...state, firstRow });
  }

  #loadOne(batch: Batch, state: StepState): void {
    this.#load({ ...batch, positions: batch.positions, firstRow: 0 }, { ...state, lossScale: scaleOf(batch) });
  }

  /** Runs the passes of this rank's micro-batches; the gradients of all, summed up, are where those of one would be. */
  async #runParts(
    batch: Batch,
    state: StepState,
    run: (part: MicroBatch, state: StepState, index: number) => Promise<void>,
  ): Promise<void> {
    const { gradientSum } = this.#plans, whole = { ...state, lossScale: scaleOf(batch) };
    await gradientSum?.begin();
    const { start, end } = this.#shares.range, startedAt = performance.now();
    for (const [index, part] of this.#partsOf(batch).slice(start, end).entries()) {
      this.#load(part, whole);
      await run(part, { ...whole, firstRow: part.firstRow }, index);
      await gradientSum?.add();
    }
    const seconds = (performance.now() - startedAt) / 1000;
    await gradientSum?.finish();
    await this.#shares.add(seconds);
  }

  /** What the last pass left in its buffers. */
  async #look(): Promise<Inspection> {
    const { lora, pass: { act, masks } } = this.#plans, { spec } = this.#model, device = this.#device;
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
  }

  [Symbol.dispose](): void {
    this.#plans[Symbol.dispose]();
  }
}

function scaleOf({ labelTokens }: Batch): number {
  return 1 / Math.max(1, labelTokens);
}

function isFine({ streams, loss, gradients, slots }: Inspection): boolean {
  return loss && streams.every(Boolean) && slots.every(Number.isFinite) &&
    [...gradients.values()].every((values) => values.every(Number.isFinite));
}

function otherShape({ length }: Float32Array, count: number): CompressoError {
  return refusal("mismatch", "cannot continue from this state", {
    rule: "LoRA and units have the sizes of the run that saved the state",
    value: `${length} numbers then, ${count} now`,
  });
}

/** f32 values per read of a large buffer, or LoRA's size if larger: the memory plan has room for that. */
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
