// A step that learns only from the labels that pruning affected most: how they are chosen, and the passes that it
// takes.
import { compensates, nameOfMethod } from "./methods/all.ts";
import { option, refuse } from "../core/errors.ts";
import type { Plan } from "../gpu/plan.ts";
import { lossByRow, recordLoss, writeTargets } from "../nn/head.ts";
import { createMaskSlots } from "../nn/mask_slots.ts";
import type { Pass } from "../nn/context.ts";
import { recordBackward, recordForward, shiftLabels } from "../nn/pass.ts";
import { CROSS_ENTROPY } from "../nn/train/objective.ts";
import { type StepState, writeStepState } from "../nn/train/step_state.ts";
import type { MicroBatch } from "./micro_batches.ts";
import { stagesOf } from "./methods/stages.ts";
import type { ResolvedOptions } from "./options/options.ts";

/** Losses of a batch by row, in nats; 0 if there is no target. */
export interface TokenLosses {
  /** Losses of the pruned model with LoRA. */
  readonly own: Float32Array;
  /** Losses of the model before pruning, without LoRA. */
  readonly dense: Float32Array;
}

/**
 * Chooses the targets whose loss exceeds that of the model before pruning most. Pruning affected them most, and
 * training can recover them. Rho-1 chooses tokens in the same way with a reference model (Lin et al., "Rho-1: Not All
 * Tokens Are What You Need", arXiv 2404.07965).
 *
 * @param targets - Next-token targets [rows]; a row without a target has −1.
 * @param share - Share of the targets that stay, rounded up.
 * @returns The targets, −1 if one does not stay.
 */
export function hurtTargets(
  targets: Int32Array,
  { own, dense }: TokenLosses,
  share: number,
): Int32Array<ArrayBuffer> {
  const excess = own.map((loss, row) => {
    const above = loss - (dense[row] ?? NaN);
    return Number.isNaN(above) ? -Infinity : above;
  });
  const rows = [...targets.keys()].filter((row) => (targets[row] ?? -1) >= 0);
  // Ties are broken by index. The difference of two equal infinite losses is NaN, hence −Infinity above.
  rows.sort((a, b) => ((excess[b] ?? 0) - (excess[a] ?? 0)) || a - b);
  const chosen = new Int32Array(targets.length).fill(-1);
  for (const row of rows.slice(0, shareOf(rows.length, share))) chosen[row] = targets[row] ?? -1;
  return chosen;
}

/** How many of so many targets a share is, rounded up. */
function shareOf(count: number, share: number): number {
  return Math.ceil(share * count * BELOW);
}

/** Rounding may lift the product of a share and a count just above an integer; this factor compensates for it. */
const BELOW = 1 - 1e-12;

/**
 * Refuses a share out of range, a method that does not support it, and a run without a last stage. Throws
 * `CompressoError("usage")`.
 */
export function checkFocus(
  options: Pick<ResolvedOptions, "focus" | "method" | "prefinetune" | "steps" | "postfinetune">,
): void {
  const { focus, method } = options, isShare = focus > 0 && focus <= 1;
  const hasStage = stagesOf(options).some(({ stage, steps }) => stage === "postfinetune" && steps > 0);
  if (isShare && (focus === 1 || (!compensates(method) && hasStage))) return;
  const [rule, value] = !isShare ? ["it lies above 0, and is 1 at most", `a focus of ${focus}`] : hasStage
    ? [
      `its labels are chosen by the model before pruning, which ${nameOfMethod(method)}'s compensation has changed`,
      `method ${nameOfMethod(method)}, a focus of ${focus}`,
    ]
    : ["the last stage, which learns from them, has steps", "no steps"];
  refuse("usage", "cannot learn from this share of the labels", { rule, value, fix: `leave ${option("focus")} out` });
}

/** Number of labels that a step learns from, over all of its micro-batches. */
export function focusedLabels(
  parts: readonly MicroBatch[],
  { seq, share }: { readonly seq: number; readonly share: number },
): number {
  return parts.reduce((sum, { labels }) => {
    return sum + shareOf(shiftLabels(labels, { seq }).filter((target) => target >= 0).length, share);
  }, 0);
}

/** Computes gradients of a part of a batch's labels. Dispose it to free its buffers. */
export interface Focus extends Disposable {
  /**
   * Gradients like those of a whole loaded micro-batch. The mean loss of all labels is recorded before any label is left
   * out. `state` has the loss scale of the labels that the step learns from.
   */
  run(
    batch: MicroBatch,
    options: { readonly state: StepState; readonly share: number; readonly signal?: AbortSignal | undefined },
  ): Promise<void>;
}

/** Allocates open masks and the plans of three passes; `recordMean` records the mean of `act.loss`. */
export function createFocus(
  pass: Pass,
  { dropout, recordMean }: { readonly dropout: boolean; readonly recordMean: (plan: Plan) => void },
): Focus {
  const { device, act, weights: { spec } } = pass;
  using stack = new DisposableStack();
  const open = pass.dense?.masks ?? stack.use(createMaskSlots(device, spec));
  // Labels are chosen by how far the objective lies above the dense model's cross-entropy.
  const ofDense = { ...pass.plan(), lora: null, masks: open, objective: CROSS_ENTROPY, dense: null };
  recordForward(ofDense);
  recordLoss(ofDense, { gradient: false });
  if (pass.dense) ofDense.plan.copy(act.final, pass.dense.final, { bytes: act.final.bytes });
  const dense = stack.use(ofDense.plan.finish());
  const ofOwn = pass.plan({ dropout });
  recordForward(ofOwn);
  recordLoss(ofOwn, { gradient: false });
  recordMean(ofOwn.plan);
  const own = stack.use(ofOwn.plan.finish());
  const ofGradients = pass.plan({ dropout });
  recordBackward(ofGradients);
  const gradients = stack.use(ofGradients.plan.finish());
  const owned = stack.move();
  return {
    async run(batch, { state, share, signal }): Promise<void> {
      const stop = { signal };
      const targets = shiftLabels(batch.labels, { seq: act.shape.seq });
      const lossesOf = async (plan: Plan): Promise<Float32Array> => {
        await plan.run(stop);
        return device.isDry ? new Float32Array(0) : lossByRow(await device.readFloats(act.loss, act.rows), targets);
      };
      // The pass of the pruned model comes last, since backward uses its activations.
      const losses = { dense: await lossesOf(dense), own: await lossesOf(own) };
      if (!device.isDry) {
        writeTargets(pass, hurtTargets(targets, losses, share));
        writeStepState(device, pass.state, state);
      }
      await gradients.run(stop);
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}
