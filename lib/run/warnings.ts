// What a finished run warns of: nothing was measured, or the model got much worse.
import { LOSS_WARNING } from "./evaluation.ts";
import type { RunSummary } from "./result.ts";

/** The measures before and after that a run warns of. */
export type Qualities = Pick<RunSummary, "heldoutLoss" | "evaluation" | "vocabulary">;

/**
 * Warns if nothing was measured, or if a loss (bits per byte, if the vocabulary was cut) is not finite or rose so much that the model may be
 * of little use.
 */
export function warningsOf(
  { heldoutLoss, evaluation: { text, tasks }, vocabulary }: Qualities,
): RunSummary["warnings"] {
  const isMeasured = heldoutLoss ?? text ?? vocabulary?.heldout ?? vocabulary?.text ?? Object.keys(tasks).length > 0;
  if (!isMeasured) return [{ measure: "none", ratio: null, message: "neither a loss nor a task was measured" }];
  const measures = [
    ["heldoutLoss", "the loss on held-out rows is", heldoutLoss],
    ["textLoss", "the loss on the text is", text],
    ["heldoutBits", "bits per byte of held-out rows are", vocabulary?.heldout],
    ["textBits", "bits per byte of the text are", vocabulary?.text],
  ] as const;
  return measures.flatMap(([measure, words, found]) => {
    if (!found || found.after <= LOSS_WARNING * found.before) return [];
    const ratio = found.after / found.before;
    const isFinite = Number.isFinite(ratio);
    const rise = isFinite ? `${ratio.toFixed(2)} times that before pruning, more than ${LOSS_WARNING}` : "not finite";
    return [{ measure, ratio: isFinite ? ratio : null, message: `${words} ${rise}` }];
  });
}
