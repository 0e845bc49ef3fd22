// What a run gives: its handle while it goes on, and what it has learned at its end. Owns the contract; refuses the loop.
import type { WeightSource } from "../spec/source.ts";
import type { LoraConfig, LoraWeights } from "../spec/lora.ts";
import type { MaskValues } from "../nn/mask_slots.ts";
import type { RecordView } from "../schedule/definition.ts";
import type { UnitTable } from "../units/units.ts";
import type { EncodeReport } from "../data/encode_report.ts";
import type { Alarm } from "./monitors/alarm.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { RunChange, Stage, StepRecord } from "./contract.ts";

/** What a finished run has learned. Its arrays are those that `slice()` and `export()` of the session cut by: copy what is to be changed. */
export interface PruneResult {
  /** Weights to slice: the model's own, or with FLAP's compensation in their biases. */
  readonly source: WeightSource;
  /** Hard masks z: 0 of what is cut; of what stays 1, unless `keptMasks` or a hook has it otherwise. */
  readonly masks: MaskValues;
  /** LoRA as trained. */
  readonly lora: LoraConfig & { readonly weights: LoraWeights };
  /** Wanted, expected at the end of the pruning stage, and of the hard masks. */
  readonly sparsity: { readonly target: number; readonly expected: number; readonly hard: number };
  /**
   * At the end of the pruning stage, of every unit: log α of learned masks; under "gradual" the running mean of squared gradients that ranks them,
   * under a one-shot method their places in its ranking. Where a hook set it after that stage, what it set.
   */
  readonly logAlpha: Float32Array<ArrayBuffer>;
  /** The units. */
  readonly table: UnitTable;
  /** What became of the rows. */
  readonly data: EncodeReport;
  /** Up to 8 sequences for comparisons: not trained on, but where rows are too few, or those held out do not fit. */
  readonly heldout: readonly (readonly number[])[];
  /** Labels of these, −100 where nothing is predicted; none where they were trained on. */
  readonly heldoutLabels: readonly (readonly number[])[];
  /** Seconds that steps took, by stage; what a method measures before them, and the choice of units after them, is not among them. */
  readonly seconds: Readonly<Record<Stage, number>>;
  /** Tokens a second over all stages, padding left out. */
  readonly tokensPerSecond: number;
  /** Largest GPU memory in use, bytes. */
  readonly peakGpuBytes: number;
  /** The same as planned before the first step; see `planMemory`. */
  readonly plannedGpuBytes: number;
  /** What the monitors said, in order; alarms of steps that were undone are left out, but for those that led back. */
  readonly alarms: readonly Alarm[];
  /** Where the run went on otherwise than it began, as `mayDiffer` allows; none for most runs. */
  readonly changes: readonly RunChange[];
}

/** What a run has behind it. */
export interface PreparedRun {
  /** Steps done. */
  readonly steps: number;
  /** Records given of them. */
  readonly records: number;
  /** The last records, oldest first, 32 at most. */
  readonly recent: readonly RecordView[];
}

/**
 * A run: iterate its records to drive it, then ask for its result. A loop that is left pauses it, and the next one goes on right there. Dispose
 * it to free the trainer's memory and end a schedule's process. Neither saves a checkpoint: see `CheckpointOptions`.
 */
export interface PruneRun extends AsyncIterable<StepRecord>, Disposable {
  /** Options with all defaults filled in. */
  readonly options: ResolvedOptions;
  /** Steps of the whole run. */
  readonly steps: number;
  /** What became of the rows. */
  readonly data: EncodeReport;
  /**
   * Plans the memory, allocates, and reads the checkpoint of a run that is resumed; iteration does it too. Steps and records that were done
   * before, and the last records. Throws `CompressoError("gpu")` where the run does not fit, with what would.
   */
  prepare(): Promise<PreparedRun>;
  /** What the last step left; throws before a loop over the records has come to its end. */
  result(): PruneResult;
}
