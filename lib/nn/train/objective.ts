// What a run minimises: a weighted sum of losses of the logits (kernels/shared/loss.ts lists them).
import { comparesLogits, LOSSES, lossKernel, type LossName } from "../../../kernels/mod.ts";
import { existing } from "../../core/guards.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../../gpu/plan.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import type { Activations } from "../activations.ts";
import { createMaskSlots, type MaskSlots } from "../mask_slots.ts";
import type { Span } from "../ops.ts";
import { strideOf } from "../padding.ts";

/** Weights of losses by name; a loss without one has no part in the sum. */
export type Objective = { readonly [name in LossName]?: number | undefined };

/** Names of the losses, in the order in which they are added. */
export const LOSS_NAMES = Object.keys(LOSSES) as readonly LossName[];

/** The objective of runs that name none, and the loss of evaluations. */
export const CROSS_ENTROPY: Objective = { crossEntropy: 1 };

/** Whether an objective is the default one. */
export function isCrossEntropy(objective: Objective = CROSS_ENTROPY): boolean {
  return LOSS_NAMES.every((name) => (objective[name] ?? 0) === (CROSS_ENTROPY[name] ?? 0));
}

/** The losses that have a weight. */
export function lossesOf(objective: Objective): readonly LossName[] {
  return LOSS_NAMES.filter((name) => (objective[name] ?? 0) !== 0);
}

/** Whether an objective compares with the dense model, whose logits then have to be recorded first. */
export function comparesWithDense(objective: Objective): boolean {
  return comparesLogits(lossesOf(objective));
}

/** The dense model in a pass: what it has in place of masks and LoRA, and what it leaves for the loss. */
export interface DenseReference extends Disposable {
  /** Masks that are 1. */
  readonly masks: MaskSlots;
  /** What its head reads [rows, strideOf(embeddingWidth)]. */
  readonly final: DeviceBuffer;
  /** Its logits of a chunk [headRows, strideOf(vocab)]. */
  readonly logits: DeviceBuffer;
}

/** Allocates what {@link DenseReference} names, for a pass with these buffers. */
export function createDenseReference(device: Device, spec: DecoderSpec, act: Activations): DenseReference {
  using stack = new DisposableStack();
  const masks = stack.use(createMaskSlots(device, spec));
  const final = stack.use(device.createBuffer("forward: dense final", act.final.bytes));
  const logits = stack.use(device.createBuffer("head: dense logits", act.logits.bytes));
  const owned = stack.move();
  return { masks, final, logits, [Symbol.dispose]: () => owned.dispose() };
}

/**
 * Loss of a chunk of rows. With `gradient`, logits := dlogits. Shapes: logits, dense [rows, stride]; targets, loss
 * [tokens].
 */
export function recordObjective(
  plan: Plan,
  objective: Objective,
  io: {
    readonly targets: Span;
    readonly state: Span;
    readonly logits: Span;
    readonly loss: Span;
    /** Logits of the dense model, for losses that compare with it. */
    readonly dense?: Span | undefined;
  },
  { rows, vocab, firstRow, gradient, cap, lanes = plan.device.facts.isCpu ? 8 : 256 }: {
    readonly rows: number;
    readonly vocab: number;
    readonly firstRow: number;
    readonly gradient: boolean;
    /** Soft cap of the logits. Default: none. */
    readonly cap?: number | undefined;
    /** Workgroup size. Default: on a CPU its vector width, as barriers between vectors cost more than they save. */
    readonly lanes?: 8 | 256;
  },
): void {
  const losses = lossesOf(objective), compares = comparesLogits(losses);
  const dense = compares ? [existing(io.dense, "logits of the dense model")] : [];
  plan.dispatch(
    compileKernel(plan.device, sourceOf(lossKernel, { losses, isCapped: cap !== undefined, lanes })),
    [io.targets, io.state, ...dense, io.logits, io.loss, {
      params: [
        ...[rows, strideOf(vocab), vocab, firstRow, gradient ? 1 : 0].map(u32),
        f32(cap ?? 0),
        ...losses.map((name) => f32(objective[name] ?? 0)),
      ],
    }],
    { groups: [rows], cost: (compares ? 60 : 30) * rows * vocab },
  );
}
