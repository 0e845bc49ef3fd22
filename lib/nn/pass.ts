// A pass over a fixed number of tokens: the buffers and context of forward, loss and backward.
import type { Device } from "../gpu/device.ts";
import { Plan } from "../gpu/plan.ts";
import { createActivations, type PassShape } from "./activations.ts";
import type { DecoderContext, Pass, RangeBuffers } from "./context.ts";
import { recordInput, recordInputBackward, recordLayer, recordLayerBackward } from "./decoder.ts";
import { headRowsFor, recordFinalNorm, recordLoss } from "./head.ts";
import { refuseExperts } from "./experts.ts";
import { windowsOf } from "../spec/decoder.ts";
import { type LoraConfig } from "../spec/lora.ts";
import { createLora } from "./lora.ts";
import { createMaskSlots, type MaskKind } from "./mask_slots.ts";
import { createRopeTables } from "./rope.ts";
import {
  comparesWithDense,
  createDenseReference,
  CROSS_ENTROPY,
  type DenseReference,
  type Objective,
} from "./train/objective.ts";
import { createStepState } from "./train/step_state.ts";
import { createRangeBuffers } from "./key_ranges.ts";
import type { Weights } from "./weights.ts";

/** Options of {@link createPass}. */
export interface PassOptions extends PassShape {
  /** Allocates what backward needs. Default false. */
  readonly backward?: boolean;
  /** Whether backward recomputes most of a layer, so that little is kept (gradient checkpointing). Default true. */
  readonly recompute?: boolean;
  /** Kinds of masks whose gradients backward computes. Default: all kinds. */
  readonly maskGrads?: ReadonlySet<MaskKind>;
  readonly lora?: LoraConfig | null;
  /** What backward minimises. Default: cross-entropy. */
  readonly objective?: Objective | undefined;
  /**
   * What a sequence is, if not one text: token trees, written by `writeTree`, not supported with backward; or rows that
   * do not see each other, written by `writeRows`.
   */
  readonly ranges?: RangeBuffers["of"] | undefined;
  /** Tokens per chunk of the output head. Default: as many as fit 32 MiB of logits. */
  readonly headRows?: number;
}

/** Allocates a pass over `batch` sequences of `seq` tokens. */
export function createPass(device: Device, weights: Weights, options: PassOptions): Pass {
  const { spec } = weights, { batch, seq, backward = false, lora: config = null } = options;
  if (backward) refuseExperts(spec, "cannot train this model");
  if (options.ranges === "trees" && backward) throw new Error("a pass over trees has no backward");
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  try {
    const headRows = options.headRows ?? headRowsFor(spec.vocab, batch * seq);
    const hasOutputNorms = spec.normPlaces !== undefined && spec.normPlaces !== "residual";
    const keepsWrites = hasOutputNorms || (options.maskGrads?.has("hidden") ?? true);
    const { recompute = true } = options, rank = config?.rank ?? 0;
    const act = own(createActivations(device, spec, { batch, seq, backward, recompute, keepsWrites, rank, headRows }));
    const masks = own(createMaskSlots(device, spec));
    const lora = config ? own(createLora(device, spec, { ...config, trains: backward })) : null;
    const state = own(createStepState(device));
    const { ranges: of } = options, windows = windowsOf(spec), convolves = spec.convolution !== undefined;
    const ranges = of ? own(createRangeBuffers(device, of, { rows: batch * seq, windows, convolves })) : null;
    const rope = own(createRopeTables(device, spec, seq));
    const { objective = CROSS_ENTROPY } = options;
    const dense = backward && comparesWithDense(objective) ? own(createDenseReference(device, spec, act)) : null;
    return {
      device,
      weights,
      act,
      masks,
      lora,
      state,
      ranges,
      dense,
      plan: ({ dropout = false, maskGrads = new Set<MaskKind>() } = {}) => {
        if (maskGrads.has("hidden") && !keepsWrites) throw new Error("this pass keeps nothing for hidden masks");
        const parts = { weights, act, masks, lora, rope, state, objective, dense };
        const context = { plan: new Plan(device), ...parts, dropout, maskGrads };
        return ranges ? { ...context, ranges } : context;
      },
      [Symbol.dispose]: dispose,
    };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Records the layers: act.x[layers] from act.tokens. */
export function recordForward(context: DecoderContext): void {
  recordInput(context);
  context.weights.layers.forEach((_, index) => recordLayer(context, index));
}

/**
 * Records forward, loss and backward: act.loss, the LoRA gradients (=), and the requested mask gradients and their
 * squares (=) in masks.dz.
 */
export function recordGradients(context: DecoderContext): void {
  if (context.dense) recordDense(context, context.dense);
  recordForward(context);
  recordBackward(context);
}

/** Records the forward pass of the dense model, up to what its head reads. The activations are overwritten. */
function recordDense(context: DecoderContext, { masks, final }: DenseReference): void {
  const { plan, act } = context, ofDense = { ...context, lora: null, masks, dropout: false };
  recordForward(ofDense);
  recordFinalNorm(ofDense);
  plan.copy(act.final, final, { bytes: final.bytes });
}

/**
 * Records loss and backward of a forward pass whose activations are still in the buffers of {@link recordForward}; see
 * {@link recordGradients}.
 */
export function recordBackward(context: DecoderContext): void {
  const { plan, weights, masks } = context;
  recordLoss(context, { gradient: true });
  plan.clear(masks.dz);
  for (let index = weights.layers.length - 1; index >= 0; index--) recordLayerBackward(context, index);
  recordInputBackward(context);
}

/**
 * Next-token targets of label sequences in the Hugging Face convention (unshifted, −100 = ignored):
 * targets[t] = labels[t + 1].
 */
export function shiftLabels(labels: ArrayLike<number>, { seq }: { readonly seq: number }): Int32Array<ArrayBuffer> {
  const targets = new Int32Array(labels.length).fill(-1);
  for (let i = 0; i + 1 < labels.length; i++) {
    const next = labels[i + 1] ?? -100;
    if ((i + 1) % seq !== 0 && next >= 0) targets[i] = next;
  }
  return targets;
}
