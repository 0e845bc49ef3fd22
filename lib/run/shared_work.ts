// What runs of one model on the same rows share, as those of a sweep: work that is done once, and where the next one begins.
import type { OneShotScores } from "./methods/one_shot_scores.ts";
import type { Measured } from "./quality.ts";

/** Results of work that all of the runs would repeat; null until one has done it. */
export interface SharedWork {
  /**
   * Scores of a one-shot method, which do not depend on the sparsity.
   *
   * @internal
   */
  scores: OneShotScores | null;
  /** Held-out sequences that each of them measures. */
  readonly sequences: number;
  /**
   * What was measured of the model before pruning.
   *
   * @internal
   */
  dense: Measured | null;
}

/** A run as one of several. */
export interface RunOfMany {
  /** What they share. Default: nothing. */
  readonly work?: SharedWork;
  /** File that keeps the state at the end of the pruning stage, before masks become hard: the next run continues there. */
  readonly keptState?: string;
  /** Whether model files are written; default true. Records and run.json always are. */
  readonly writesModel?: boolean;
}
