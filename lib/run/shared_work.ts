// What a run is given by its caller besides its options: work that the runs of a sweep share, the state from which the
// next one continues, and options that are resolved already.
import type { OneShotScores } from "./methods/one_shot_scores.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { Measured } from "./quality.ts";

/** Results of work that all runs would repeat. Each is null until a run has done the work. */
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

/** Settings of a run that is one of several, or whose caller knows more of it. */
export interface RunOfMany {
  /** The options with all defaults, of a caller that needs them before the run. Default: the run resolves them. */
  readonly resolved?: ResolvedOptions;
  /** What they share. Default: nothing. */
  readonly work?: SharedWork;
  /** File that keeps the state at the end of the pruning stage, before masks become hard: the next run continues there. */
  readonly keptState?: string | undefined;
  /** Whether the model is measured before and after; default true. Without, the run has no figures of quality. */
  readonly measures?: boolean;
  /** Whether model files are written; default true. Records and run.json always are. */
  readonly writesModel?: boolean;
}
