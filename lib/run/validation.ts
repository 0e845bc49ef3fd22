// The loss on held-out rows during a run: when it is measured, which state is the best, and when waiting for a better one ends.
import { type Batch, positionsOf } from "../data/batches.ts";
import { countLabels, type Example, IGNORED_LABEL } from "../data/prompts/encode.ts";
import type { HeldOutPoint, RunPosition, StagePlan } from "./contract.ts";
import type { ResolvedOptions } from "./options/options.ts";

/** Held-out losses of a finished run. */
export interface ValidationSummary {
  /** The lowest one of the last stage. What is written is LoRA as it was after this step. */
  readonly best: HeldOutPoint;
  /** That of the last measured step. */
  readonly last: HeldOutPoint;
  /** Whether the last stage ended before its last step, since the loss fell no more. */
  readonly isEarly: boolean;
}

/** Options of held-out losses. */
export type ValidationOptions = Pick<ResolvedOptions, "evalEvery" | "patience">;

/** Whether the held-out loss is measured after the last step, and was not yet. */
export function isMeasured(
  { step, stageStep, validation }: RunPosition,
  { steps }: Pick<StagePlan, "steps">,
  { evalEvery }: ValidationOptions,
): boolean {
  if (evalEvery === 0 || step === 0 || validation?.last.step === step) return false;
  return step % evalEvery === 0 || stageStep === steps;
}

/** Position after the held-out loss was measured. A loss that is not finite is never the best. */
export function validated(position: RunPosition, loss: number, { stage }: Pick<StagePlan, "stage">): RunPosition {
  const { validation, step } = position, last = { step, loss };
  if (stage !== "postfinetune") return { ...position, validation: { last, best: null, waited: 0 } };
  const best = validation?.best ?? null, isBest = Number.isFinite(loss) && (best === null || loss < best.loss);
  const waited = isBest ? 0 : (validation?.waited ?? 0) + 1;
  return { ...position, validation: { last, best: isBest ? last : best, waited } };
}

/** Whether the last stage ends here, since the held-out loss has not fallen for as many measures as its patience. */
export function hasWaited(
  { validation }: Pick<RunPosition, "validation">,
  { stage }: Pick<StagePlan, "stage">,
  { patience }: ValidationOptions,
): boolean {
  return stage === "postfinetune" && patience > 0 && (validation?.waited ?? 0) >= patience;
}

/** Held-out losses of a run at its end; null if there are none. */
export function validationSummary(
  { validation }: Pick<RunPosition, "validation">,
  { patience }: ValidationOptions,
): ValidationSummary | null {
  if (!validation?.best) return null;
  const { best, last } = validation;
  return { best, last, isEarly: hasWaited({ validation }, { stage: "postfinetune" }, { evalEvery: 1, patience }) };
}

/** Held-out sequences as batches in their order; the last one is filled with padding. */
export function heldOutBatches(
  sequences: readonly Example[],
  { batch, seq, padId }: { readonly batch: number; readonly seq: number; readonly padId: number },
): Batch[] {
  return Array.from({ length: Math.ceil(sequences.length / batch) }, (_, index) => {
    const rows = sequences.slice(index * batch, (index + 1) * batch);
    const tokens = new Uint32Array(batch * seq).fill(padId), labels = new Int32Array(batch * seq).fill(IGNORED_LABEL);
    for (const [row, one] of rows.entries()) {
      tokens.set(one.tokens, row * seq);
      labels.set(one.labels, row * seq);
    }
    const positions = rows.some((row) => row.positions !== undefined) ? new Uint32Array(batch * seq) : null;
    if (positions) { for (const [row, one] of rows.entries()) positions.set(positionsOf(one, seq), row * seq); }
    const sumOf = (count: (one: typeof rows[number]) => number): number =>
      rows.reduce((sum, one) => sum + count(one), 0);
    const realTokens = sumOf((one) => one.tokens.length), labelTokens = sumOf((one) => countLabels(one.labels));
    return { tokens, labels, realTokens, labelTokens, ...(positions ? { positions } : {}) };
  });
}
