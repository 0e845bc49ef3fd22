// The loss of the model before and after pruning on the sequences that a run holds out.
import { IGNORED_LABEL } from "../data/prompts/encode.ts";
import type { Adapters, Model } from "../model/model.ts";
import type { RunData } from "./data.ts";

/** Loss on held-out rows. */
export interface HeldoutLoss {
  /** Mean cross-entropy of a label in nats, of the model as it was given. */
  readonly before: number;
  /** The same with masks and LoRA: of the pruned model, in the dtype of the base. */
  readonly after: number;
  /** Labels: tokens of the responses, or all of a text. */
  readonly labels: number;
}

/**
 * Measures the loss of both models. Each sequence runs alone, padded to `seq` tokens, which takes less memory than a
 * step. Null if there are too few rows to hold any out.
 */
export async function heldoutLoss(
  model: Model,
  { heldout, heldoutLabels }: Pick<RunData, "heldout" | "heldoutLabels">,
  { adapters, seq, signal, onProgress }: {
    readonly adapters: Adapters;
    readonly seq: number;
    readonly signal: AbortSignal;
    /** Called after each sequence with the share that is done, from 0 to 1. */
    readonly onProgress?: (share: number) => void;
  },
): Promise<HeldoutLoss | null> {
  const labels = heldoutLabels.flatMap((own) => own.slice(1)).filter((id) => id !== IGNORED_LABEL).length;
  if (labels === 0) return null;
  let done = 0;
  const mean = async (own: Adapters): Promise<number> => {
    let sum = 0;
    for (const [row, ids] of heldout.entries()) {
      const tokens = new Uint32Array(seq), targets = new Int32Array(seq).fill(IGNORED_LABEL);
      tokens.set(ids);
      targets.set(heldoutLabels[row] ?? []);
      for (const loss of await model.tokenLosses(tokens, targets, { batch: 1, adapters: own, signal })) sum += loss;
      onProgress?.(++done / (2 * heldout.length));
    }
    return sum / labels;
  };
  const before = await mean({}), after = await mean(adapters);
  await model.release();
  return { before, after, labels };
}
