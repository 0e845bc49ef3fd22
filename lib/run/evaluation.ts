// What a run measures in addition to held-out rows, with the limits.
import type { EvaluateOptions } from "../eval/evaluate.ts";

/** A text and tasks on which the model is measured before and after pruning, in addition to held-out rows. */
export interface Evaluation {
  /** As of `evaluate`. */
  readonly tasks?: EvaluateOptions["tasks"] | undefined;
  /** As of `evaluate`. */
  readonly taskData?: EvaluateOptions["taskData"] | undefined;
  /** A text. The first 40 windows of 512 tokens of its first 200,000 characters are measured, each read alone. */
  readonly text?: string | undefined;
  /** Questions of each task, or of each of its subsets, at most; default 100. */
  readonly questions?: number | undefined;
}

/** Tokens of a window of the text, or the model's context where that is less. */
export const WINDOW = 512;
/** Most windows of the text. */
export const MOST_WINDOWS = 40;
/** Most characters of the text. */
export const MOST_CHARS = 200_000;
/** Questions of a task by default. */
export const QUESTIONS = 100;
/** Loss after pruning over that before, above which `prune` warns. */
export const LOSS_WARNING = 1.25;
