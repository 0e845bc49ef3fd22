// Types that the files of a run share: its position, its steps, and the state of its trainer and monitors. Types only.
import type { LayerState, RecordView } from "../schedule/definition.ts";
import type { Alarm } from "./monitors/alarm.ts";
import type { BatchCursor } from "../data/batches.ts";
import type { DeviceLimits } from "../gpu/types.ts";
import type { GgufDtype } from "../slice/export_options.ts";
import type { FileKind } from "../units/file_size.ts";

/**
 * What a step trains: LoRA alone at the current masks; LoRA and masks; or LoRA, while also computing the gradients of
 * the masks.
 */
export type StepKind = "lora" | "masks" | "gradual";

/** All that changes in training, as a checkpoint holds it. */
export interface TrainerArrays {
  readonly lora: Float32Array<ArrayBuffer>;
  readonly logAlpha: Float32Array<ArrayBuffer>;
  readonly maskMoments: Float32Array<ArrayBuffer>;
  readonly constraint: Float32Array<ArrayBuffer>;
  readonly slots: Float32Array<ArrayBuffer>;
  /** One number: 1 if masks were set after the last step, so that the next step uses them; else 0. */
  readonly written: Float32Array<ArrayBuffer>;
  /** Arrays of the optimizer by name, and `best` where held-out losses are measured, each as long as `lora`. */
  readonly [name: string]: Float32Array<ArrayBuffer>;
}

/** The held-out loss of a step. */
export interface HeldOutPoint {
  /** Completed steps. */
  readonly step: number;
  /** Mean cross-entropy of a label, in nats. */
  readonly loss: number;
}

/** What a run remembers of its held-out losses. */
export interface ValidationState {
  /** The last one. */
  readonly last: HeldOutPoint;
  /** The lowest one of the last stage; null before that stage. */
  readonly best: HeldOutPoint | null;
  /** Measures since the lowest one. */
  readonly waited: number;
}

/** Numbers of one step as the GPU recorded them. */
export interface StepNumbers {
  readonly step: number;
  readonly loss: number;
  /** Global norm of the LoRA gradients before clipping. */
  readonly gradNorm: number;
  /** Expected sparsity ŝ before the step's update and after its projection. */
  readonly expected: number;
  readonly projected: number;
  readonly lambda1: number;
  readonly lambda2: number;
}

/** A stage of a run. */
export interface StagePlan {
  readonly stage: Stage;
  readonly kind: StepKind;
  readonly steps: number;
}

/** The three stages, in order. */
export type Stage = "finetune" | "prune" | "postfinetune";

/** Record of one training step: what a schedule sees of it, and numbers of this machine and run. */
export interface StepRecord extends RecordView {
  /**
   * Completed steps of the whole run, this one included. If it is not larger than that of the previous record, the run
   * rolled back: all records from that step on are void, and the steps are repeated.
   */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /**
   * Global norm of the LoRA gradients before clipping. In the last stage it covers only the labels that the stage
   * learns from, see `PruneOptions.focus`.
   */
  readonly gradNorm: number;
  /** Tokens of the step, without padding. */
  readonly tokens: number;
  /** Labels that the loss counts. */
  readonly labelTokens: number;
  /** Tokens per second since the last records were read, without padding. */
  readonly tokensPerSecond: number;
  /** GPU memory in use, bytes. */
  readonly gpuBytes: number;
  /** Largest GPU memory that was planned for the run, bytes. */
  readonly plannedGpuBytes: number;
  /**
   * Shares cut of each layer's heads and FFN columns: expected while masks are learned, otherwise exact; null if they
   * were not read at this step.
   */
  readonly layers: readonly LayerState[] | null;
  /** Mean cross-entropy of the held-out labels after this step, in nats; absent if it was not measured. */
  readonly heldout?: number;
  /** Alarms of this step. The first record after a rollback also has the alarms that caused the rollback. */
  readonly alarms: readonly Alarm[];
}

/** History of the losses. */
export interface LossHistory {
  /** The last losses, oldest first. */
  readonly last: readonly number[];
  /** The lowest mean so far; null before the first loss. Before the fourth step a mean is over fewer losses. */
  readonly lowest: number | null;
}

/** Earlier masks, as bits in base64, since a checkpoint contains them. */
export interface MaskHistory {
  /** Units that were closed at the last looks, oldest first. */
  readonly looks: readonly string[];
}

/** All that monitors remember; checkpoints have it, so that a resumed run raises the same alarms. */
export interface MonitorState {
  /** Findings that still hold. */
  readonly active: readonly string[];
  readonly losses: LossHistory;
  readonly masks: MaskHistory | null;
  /** Whether, at the last record after the warm-up, a schedule's frozen units or layer targets overrode the target. */
  readonly isLoose: boolean;
}

/** Units of one kind over all layers. */
export interface KindState {
  /** Name for messages. */
  readonly name: string;
  /** Index of the first prunable unit. */
  readonly first: number;
  /** Number of prunable units. */
  readonly count: number;
  /** Number of all units of the kind, protected ones included. */
  readonly all: number;
  /** Share of the prunable units that is cut. */
  readonly cut: number;
  /** Share of the prunable units in what sparsity counts. */
  readonly share: number;
}

/** The masks at one step. */
export interface MaskLook {
  readonly layers: readonly LayerState[];
  /** Kinds that are pruned. */
  readonly kinds: readonly KindState[];
  /** 1 for every unit that is more cut than not. */
  readonly closed: Uint8Array;
  /** The first value of a unit that is not finite; null if all are finite. */
  readonly broken: string | null;
}

/** Numbers of the training loop. */
export interface Rates {
  /**
   * Peak learning rate of LoRA. The rate rises over the first half of the first stage and is constant in the pruning
   * stage. In the last stage it starts at `postfinetune` and falls to a tenth as a cosine. `warmup` does not affect it.
   * 0 without `postfinetune` disables LoRA, even if a schedule sets a rate.
   */
  readonly lora: number;
  /** Peak learning rate of LoRA in the last stage. Default: `lora`; a preset's value applies only without `lora`. */
  readonly postfinetune: number;
  /** Learning rate of log α. */
  readonly mask: number;
  /** Rate of λ's ascent. */
  readonly lambda: number;
  /**
   * β of hard concrete. Together with the spread of log α it determines how many units have z between 0 and 1 during
   * training, unlike in the hard masks at the end: many with the published 2/3, few with a tenth.
   */
  readonly temperature: number;
  /** Scale τ of the noise of hard concrete; 1 as in Louizos et al. */
  readonly noise: number;
  /** Spread of the initial log α over the units, if it starts from saliency. */
  readonly spread: number;
  /**
   * Share of itself that the running saliency keeps at each step. log α follows its logarithm, if it starts from
   * saliency. With 1 the saliency is constant, and log α follows its own gradient alone.
   */
  readonly saliencyDecay: number;
  /**
   * Weight of the prior that is added to the running saliency, if log α starts from saliency. It covers what a few
   * batches do not show. 0 disables it. The prior has two parts:
   *
   * - what the weights of a unit suggest, in medians of its kind and layer;
   * - the saliency on calibration rows, if there are any, scaled by the means of each kind.
   */
  readonly prior: number;
  /** Share of the pruning stage after which the target is reached; in the rest, masks and LoRA train at that target. */
  readonly warmup: number;
  /**
   * Share of the gap to the schedule that the projection closes at every step. 0 leaves the gap to λ; goals of layers
   * and parts are met all the same.
   */
  readonly tracking: number;
  /** log α is clamped to ± this after each update, before the projection. */
  readonly logAlphaLimit: number;
  /** Largest global norm of the LoRA gradients, above 0. */
  readonly clipNorm: number;
  /** Decoupled weight decay of LoRA. */
  readonly weightDecay: number;
}

/** Rates of a step, and the dropout that a schedule sets for it. */
export interface StepRates extends Rates {
  /** Default: that of the run's LoRA. */
  readonly dropout?: number;
}

/** Number of times that the rates of a run were halved. */
export interface Halved {
  /** Halvings of all rates, by rollbacks. */
  readonly halvings: number;
  /** Halvings of single rates from before other rates got new values. */
  readonly halvedBefore?: Readonly<Record<string, number>> | undefined;
}

/** Position of a run. */
export interface RunPosition extends Halved {
  /** Index of the stage, and steps done in it and in all. */
  readonly stage: number;
  readonly stageStep: number;
  readonly step: number;
  readonly loraUpdates: number;
  readonly maskUpdates: number;
  readonly cursor: BatchCursor;
  /** Records yielded so far. */
  readonly records: number;
  /** Expected sparsity at the end of the pruning stage; null before. */
  readonly expected: number | null;
  /** Sparsity that the last step of the pruning stage aimed at; null before. */
  readonly target: number | null;
  /** Targets of single layers at that step. */
  readonly layerTargets: readonly (number | null)[] | null;
  /**
   * What was done before the next step: "stage" the start of its stage; "step" the hook `beforeStep` as well; "hard" if
   * the pruning stage is over and its masks are hard, so that no step of it follows; null for nothing.
   */
  readonly begun: "stage" | "step" | "hard" | null;
  /** The layers as a schedule saw them before that hook; null if it did not look. */
  readonly seen: readonly LayerState[] | null;
  /** Steps that a schedule skipped by ending the pruning stage. */
  readonly leftOut: number;
  /** Skipped steps of other stages, by stage; absent if there are none. */
  readonly leftOutside?: Readonly<Record<string, number>>;
  /** The last records that a schedule sees, oldest first. */
  readonly recent: readonly RecordView[];
  /** Seconds spent so far, by stage. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Tokens seen so far, padding left out. */
  readonly tokens: number;
  /** Settings of the last step of the pruning stage; null if the last step was of another stage. */
  readonly aim: PruneAim | null;
  /** Alarms so far, without those of undone steps that did not cause the rollback. */
  readonly alarms: readonly Alarm[];
  /** Alarms for the next record. */
  readonly unsaid: readonly Alarm[];
  /** Alarms of the later step at which the run stopped; absent once the run is resumed. */
  readonly stopped?: readonly Alarm[];
  /** Step after which the masks were last looked at. */
  readonly looked: number;
  /** State of the monitors. */
  readonly monitors: MonitorState;
  /** Held-out losses; absent if none was measured. */
  readonly validation?: ValidationState;
  /** Changes of options on resuming; absent if there were none. */
  readonly changes?: readonly RunChange[];
}

/** Options that changed when a run was resumed. */
export interface RunChange {
  /** Steps done by then. */
  readonly step: number;
  /** The differences, one per line: `schedule: cubic then, linear now`. */
  readonly differences: readonly string[];
}

/** How monitors judge a step of the pruning stage. */
export interface PruneAim {
  /** Rates at which masks are learned. */
  readonly temperature: number;
  readonly noise: number;
  /** Whether the warm-up is over. */
  readonly isWarm: boolean;
  /** Whether the target alone decides what is cut, without targets of single layers or frozen units. */
  readonly isBound: boolean;
}

/** A state of a run. */
export interface RunState {
  readonly position: RunPosition;
  readonly arrays: TrainerArrays;
}

/**
 * The largest size of the pruned model; the run comes within one unit of it. It is one of:
 *
 * - parameters of the whole model: embedding, norms and head included, a tied head once;
 * - bytes of the folder's safetensors, header included, without config and tokenizer;
 * - bytes of the whole GGUF, with its tokenizer and `name`, by default "pruned by Compresso". The type `auto` is that of
 *   the model that is read.
 */
export type WantedSize<Gguf extends GgufDtype = GgufDtype> =
  | { readonly parameters: number }
  | { readonly bytes: number; readonly file: FileKind<Gguf>; readonly name?: string };

/** What an adapter changes about a plan. */
export interface PlannedAdapter {
  /** Limits of the device. */
  readonly limits: DeviceLimits;
  /** Whether a CPU runs the shaders: weights and operands are then in textures. */
  readonly isCpu: boolean;
  /** Size of the subgroups that kernels of a CPU adapter use, which have parameters of their own; default null: none. */
  readonly subgroupSize?: number | null;
}
