// Typed records of a run, the public stream that command line, reports and scripts read. Owns their shape; refuses to write files.
import type { LayerState } from "../schedule/definition.ts";
import type { Alarm } from "./monitors/alarm.ts";

/** The three stages, in order. */
export type Stage = "finetune" | "prune" | "postfinetune";

/** One training step. */
export interface StepRecord {
  /** Stage of the step. */
  readonly stage: Stage;
  /**
   * Steps done in the whole run, this one included. One that is not larger than that of the record before says that the run went back: all
   * records from that step on are void, and the steps are done anew.
   */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Mean cross-entropy over the batch's labels, in nats. */
  readonly loss: number;
  /** Sparsity that the schedule asks for; null outside the pruning stage. */
  readonly target: number | null;
  /** Expected sparsity ŝ after the step; null outside the pruning stage. */
  readonly expected: number | null;
  /** Multiplier of the gap. */
  readonly lambda1: number;
  /** Multiplier of the squared gap. */
  readonly lambda2: number;
  /** Global norm of the LoRA gradients before clipping; in the last stage those of the labels that it learns from, see `PruneOptions.focus`. */
  readonly gradNorm: number;
  /** Learning rate of LoRA. */
  readonly learningRate: number;
  /** Tokens that were not padding. */
  readonly tokens: number;
  /** Labels in the loss. */
  readonly labelTokens: number;
  /** Tokens a second since the last records came in, padding left out. */
  readonly tokensPerSecond: number;
  /** GPU memory in use, bytes. */
  readonly gpuBytes: number;
  /** Largest GPU memory that was planned for the run, bytes. */
  readonly plannedGpuBytes: number;
  /** Shares cut of each layer's heads and FFN columns: expected ones while masks are learned, else exact; null where they were not read at this step. */
  readonly layers: readonly LayerState[] | null;
  /** What the monitors said at this step; at the first one after the run went back, also why it did. */
  readonly alarms: readonly Alarm[];
}
