// Types of a prune run's options: as given, and with every default filled in.
import type { Objective } from "../../nn/train/objective.ts";
import type { OptimizerName } from "../../nn/train/optimizer.ts";
import type { Ranks } from "../../ranks/ranks.ts";
import type { GgufWriteType } from "../../formats/gguf/mixes.ts";
import type { Ranking } from "../../masks/baselines.ts";
import type { LoraConfig } from "../../spec/lora.ts";
import type { KeptRule } from "../../masks/harden.ts";
import type { LambdaRule } from "../../masks/lambda_rule.ts";
import type { Check } from "../../slice/verify.ts";
import type { Layout } from "../../units/layout.ts";
import type { StartRule } from "../../masks/initial_log_alpha.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { BaseDtype } from "../../nn/weights.ts";
import type { UnitKind } from "../../units/kinds/all.ts";
import type { UnitRules } from "../../units/rules.ts";
import type { DataReport, Row } from "../../data/rows.ts";
import type { SavedScores } from "../experts/scores_file.ts";
import type { RunHooks } from "../hooks.ts";
import type { MaskSummary } from "../mask_summary.ts";
import type { Evaluation } from "../evaluation.ts";
import type { MethodChoice } from "../methods/all.ts";
import type { MonitorOptions, ResolvedMonitors } from "../monitors/alarm.ts";
import type { ScheduleSource } from "../../schedule/open.ts";
import type { PlannedAdapter, Rates, WantedSize } from "../contract.ts";
import type { OPTION_TABLE, OptionPath } from "./table.ts";
import type { TableValue } from "./table/entry.ts";

/** Name of a preset. */
export type Preset = "paper";

/** What is kept of the vocabulary, if `units` has "vocab". */
export interface VocabularyOptions {
  /**
   * Tokens to keep: a number, or a share below 1. Default: as many as the texts need, so that they take
   * at most 1 % more tokens. With a target size and no other units, as few as reach it; with other units, the share of
   * it that is expected to cost least.
   */
  readonly size?: number | undefined;
  /** Rows that show which tokens are needed. Default: the training rows, without held-out rows. */
  readonly rows?: readonly Row[] | undefined;
}

/** How small the model is to become: a sparsity, or a size; neither where the vocabulary alone is cut. */
export type Target =
  | {
    /**
     * Share of the layers' linear weights to cut, below 1; of the experts with the unit "experts". With 0, and no units,
     * nothing is cut: all steps train LoRA.
     */
    readonly sparsity: number;
    /** Exclusive with a sparsity. */
    readonly size?: undefined;
  }
  | {
    /**
     * Size of the pruned model, at any sparsity. A schedule decides how the run gets there; if it ends
     * the stage before the size is reached, the schedule's last targets apply.
     */
    readonly size: WantedSize;
    /** Exclusive with a size. */
    readonly sparsity?: undefined;
  }
  | {
    /** The vocabulary alone, to `vocab.size`. */
    readonly units: readonly ["vocab"];
    /** Layers are not cut. */
    readonly sparsity?: undefined;
    /** Size of the model, instead of `vocab.size`. */
    readonly size?: WantedSize | undefined;
  };

/** Options of `prune`: a {@link Target}, and how to reach it. */
export type PruneOptions = RunOptions & Target;

/** Options of a run without its target. */
export interface RunOptions {
  /** Rows to train on; they are encoded when `prune` is called. */
  readonly rows: readonly Row[];
  /**
   * Further rows, or texts, to score units on before pruning. 32 sequences of them are used, in whole batches. Default
   * "none".
   *
   * - Learned masks: the squared gradients on them are added to those on `rows` and to the prior of the weights. They
   *   are scaled to the mean of those on `rows` times `rates.prior`.
   * - One-shot methods that measure rows: units are scored on them alone.
   *
   * Texts that the model itself writes work well, see `writeCalibration`.
   */
  readonly calibration?: readonly Row[] | "none" | undefined;
  /** Steps of the pruning stage. */
  readonly steps: number;
  /** Steps of LoRA alone before pruning; default a tenth of `steps`. */
  readonly prefinetune?: number | undefined;
  /** Steps of LoRA with fixed masks after pruning; default three tenths of `steps`. */
  readonly postfinetune?: number | undefined;
  /** Sequences per micro-batch; default 4. */
  readonly batch?: number | undefined;
  /**
   * Micro-batches per step; default 1. A step trains on `batch` × `accumulate` sequences in the memory of `batch`, by
   * the sum of the gradients. With dropout too it equals a step of one batch of all these sequences, but for rounding.
   */
  readonly accumulate?: number | undefined;
  /** Tokens per sequence, padding included; default 256. */
  readonly seq?: number | undefined;
  /** Seed of all random draws; default 1. */
  readonly seed?: number | undefined;
  /** Kinds of units, in any order; default KV groups and FFN columns, without a kind that the model or the layout cannot lose. */
  readonly units?: readonly UnitKind[] | undefined;
  /** What is kept of the vocabulary; only if `units` has "vocab". */
  readonly vocab?: VocabularyOptions | undefined;
  /**
   * What an earlier run with the unit "experts" has measured, as its scores.json holds it: the experts are not scored
   * again, and rows may be absent.
   */
  readonly scores?: SavedScores | undefined;
  /** Default rank 8, alpha 16 on all seven projections, no dropout. A schedule may override the dropout at each step. */
  readonly lora?: Partial<LoraConfig> | undefined;
  /**
   * Text before every instruction. Default: the collaborative prompt; "none", or null, for none. An empty text is refused, and a
   * prompt of your own if all rows are texts, since texts get no prompt.
   */
  readonly prompt?: string | null | undefined;
  /**
   * Layout of the exported files. "uniform" also determines the hard masks. Default "compact"; "uniform" for a model
   * from a GGUF whose family has no GGUF with layers that differ.
   */
  readonly layout?: Layout | undefined;
  /**
   * How much is compared to check that the sliced model computes what the masked one does: all layers, and the logits of
   * the whole vocabulary. Default "quick".
   *
   * - "quick": at most 64 tokens of one held-out sequence.
   * - "full": up to 8 held-out sequences.
   */
  readonly check?: Check | undefined;
  /**
   * Whether the backward pass recomputes most of each layer instead of keeping it (gradient checkpointing). It needs
   * less memory and more time, and gives the same bits. Default true.
   */
  readonly recompute?: boolean | undefined;
  /**
   * Protected layers, least widths, aligned widths. Default: no layers, no least widths, and FFN widths and hidden sizes
   * in multiples of 32 (256 for K-quants), such that quantised matrices keep their type; see `fittingWidths`. `align: 1`
   * turns this off.
   */
  readonly rules?: Pick<UnitRules, "protect" | "minimum" | "align"> | undefined;
  /** How units are chosen: the name of a method, or a score of your own. Default "compresso": learned masks. */
  readonly method?: MethodChoice | undefined;
  /**
   * Which units a one-shot method compares.
   *
   * - "all": all units with each other. The default of most methods, and of a score of your own.
   * - "layer": those of each layer and kind, so that every layer loses the same share. The default of magnitude and
   *   taylor.
   *
   * wanda-sp and the layout "uniform" compare within layers in any case and refuse other values.
   */
  readonly ranking?: Ranking | undefined;
  /**
   * Cuts in which a score at the current masks, such as `taylor` or `block-influence`, reaches the target, all of the same
   * share; default 1. Before each cut the units of the model cut so far are scored. It is not trained between the cuts.
   */
  readonly rounds?: number | undefined;
  /**
   * What each step of the pruning stage aims at: a built-in name, a script's path or URL, or `defineSchedule(…)`.
   * Default "cubic". A script or definition may also control the stages before and after; of a one-shot method only its
   * recovery, `postfinetune`.
   */
  readonly schedule?: ScheduleSource | undefined;
  /** Whether a schedule's script runs in this process with all its permissions instead of isolated. Default false. */
  readonly trustSchedule?: boolean | undefined;
  /** Receives the lines that an isolated schedule logs. Default: they are dropped. */
  readonly onScheduleLog?: ((line: string) => void) | undefined;
  /**
   * Whether rows are packed into full sequences; otherwise each row is padded or truncated to one sequence.
   * Attention is not masked at row boundaries, and positions continue across them, unless `documentMask` is set. Default
   * true.
   */
  readonly packing?: boolean | undefined;
  /**
   * Whether packed rows do not see each other: attention is masked at row boundaries, and positions start at 0 in each
   * row, as in TRL's packing with the strategy `bfd`. What of a row is in the next sequence counts as a row. Held-out rows
   * are then read one by one where quality is measured. Default false.
   */
  readonly documentMask?: boolean | undefined;
  /**
   * Whether all tokens of instructions and conversations count in the loss, also on held-out and calibration rows.
   * Default false: the tokens of the answers alone.
   */
  readonly allTokens?: boolean | undefined;
  /** How the rows were read, for the report. */
  readonly reading?: DataReport | undefined;
  /** How the `calibration` rows were read; only with `calibration`. */
  readonly calibrationReading?: DataReport | undefined;
  /**
   * Whether rows that cannot be encoded are left out and counted, such as conversations that the chat template refuses.
   * Default false.
   */
  readonly skipBroken?: boolean | undefined;
  /**
   * A text and tasks on which the model is measured before and after pruning, besides held-out rows. Default: held-out
   * rows alone.
   */
  readonly evaluate?: Evaluation | undefined;
  /** Functions that the run calls. */
  readonly hooks?: RunHooks | undefined;
  /** What is monitored during the run, and what an alarm does. Default: everything; see {@link MonitorOptions}. */
  readonly monitors?: MonitorOptions | undefined;
  /** Called while units are scored before the pruning stage or a one-shot cut, with the share of batches done, 0 to 1. */
  readonly onScoring?: ((share: number) => void) | undefined;
  /**
   * Called at the steps at which masks are read anyway, with the expected share that stays of each head and of ranges
   * of the other units.
   */
  readonly onMasks?: ((step: number, masks: MaskSummary) => void) | undefined;
  /** Numerical settings of the training loop; defaults depend on `steps`. */
  readonly rates?: Partial<Rates> | undefined;
  /** Where learned masks start. Default "saliency". */
  readonly start?: StartRule | undefined;
  /** z of kept units once learned masks are hard, except hidden dims. Slicing folds it into the weights. Default "one". */
  readonly keptMasks?: KeptRule | undefined;
  /** How λ is updated while masks are learned. Default "plain". */
  readonly lambdaRule?: LambdaRule | undefined;
  /**
   * Weights of the losses whose sum is minimised. Default: cross-entropy alone. Another loss is added to it, as in
   * `{ distillation: 0.5 }`, or replaces it, as in `{ crossEntropy: 0, distillation: 1 }`. `distillation` is not
   * available for `flap`, see `focus`.
   */
  readonly objective?: Objective | undefined;
  /** What trains LoRA. Default "adamw". */
  readonly optimizer?: OptimizerName | undefined;
  /**
   * Share of a batch's labels that the last stage learns from, in (0, 1]: the labels whose loss rose most by pruning. 1
   * uses all labels. Below 1, each step needs one more forward pass.
   *
   * Default: 0.3 for learned masks; 1 without a last stage, for other methods and for the preset "paper". Not available
   * for `flap`: its compensation is in the weights, and the extra pass needs the weights without it.
   */
  readonly focus?: number | undefined;
  /**
   * Rows held out from the end of `rows`, on which the loss is measured before and after, and by `evalEvery` during the
   * run: their number, or below 1 their share. Default: a tenth, at most 32.
   */
  readonly val?: number | undefined;
  /** Rows on which the loss is measured in place of the last of `rows`, which are then all trained on; not with `val`. */
  readonly valRows?: readonly Row[] | undefined;
  /**
   * Steps between two measures of the loss on held-out rows. It is also measured after the last step of each stage. The
   * result has the LoRA of the lowest loss of the last stage. Default 0: no measures, and the result has the last LoRA.
   */
  readonly evalEvery?: number | undefined;
  /**
   * Measures without a lower loss after which the last stage ends; only with `evalEvery`. Default 0: it ends at its last
   * step.
   */
  readonly patience?: number | undefined;
  /** A set of defaults: "paper" uses the published values. Options given with it take precedence. */
  readonly preset?: Preset | undefined;
  /** Stops the run between two submits of a step. The run then throws the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Processes that train the run together, see `openMpi`; default: this one alone. Each rank has all options, data and
   * weights, and computes its share of the `accumulate` micro-batches of each step. `accumulate` is at least the number
   * of ranks. The result has the same bits as one process with the same `accumulate`.
   */
  readonly ranks?: Ranks | undefined;
  /**
   * Called on each rank when micro-batches are dealt again because ranks differ in speed, with the number of each rank.
   * Never called if each rank has one micro-batch.
   */
  readonly onDealt?: ((counts: readonly number[]) => void) | undefined;
  /** Where the run saves checkpoints; default nowhere. */
  readonly checkpoint?: CheckpointOptions | undefined;
}

/**
 * Where and how often a run saves itself. It also saves:
 *
 * - after the last step;
 * - where an alarm stops it or rolls it back;
 * - where memory runs out;
 * - where `signal` stops it.
 *
 * To stop a run and resume it later, fire `signal` and let the loop throw. Leaving the loop, or disposing, saves
 * nothing.
 */
export interface CheckpointOptions {
  /** Path of the file. */
  readonly path: string;
  /** Steps between two checkpoints, an integer. 0 or Infinity disables periodic checkpoints. */
  readonly every: number;
  /** Seconds between two checkpoints; the first one comes after the first step. Default: never by seconds. */
  readonly seconds?: number | undefined;
  /**
   * Whether to resume from the file. If it does not exist the run starts from the beginning; with names in `mayDiffer`,
   * a missing file is an error. Default false.
   */
  readonly resume?: boolean | undefined;
  /**
   * Names of options that may have changed since the checkpoint, such as "schedule" or "rates".
   *
   * - `method`, `units`, `rules`, `optimizer` and `evalEvery` can never change.
   * - `recompute`, `check` and `monitors` can always change. Hooks, `skipBroken` and `trustSchedule` are not compared. Any other
   *   change must be named here.
   * - A change affects only steps that are still to come.
   * - An inline schedule is compared by the text of its functions and the arguments of its curves. Put other
   *   values that it reads from outside into `identity`.
   * - Rates that rollbacks halved stay halved, unless options give new values, or a schedule that sets them in
   *   all remaining stages does.
   */
  readonly mayDiffer?: readonly string[] | undefined;
  /**
   * Further facts that must be equal on resuming, such as hashes of files. Names of the run's own facts (`model`,
   * `seed` and so on) are refused.
   */
  readonly identity?: Readonly<Record<string, string | number | boolean | null>> | undefined;
}

/**
 * Names of options that memory depends on.
 *
 * @internal
 */
type MemoryName = {
  [P in OptionPath]: typeof OPTION_TABLE[P] extends { readonly scope: readonly (infer S)[] }
    ? "memory" extends S ? P extends `${infer Head}.${string}` ? Head : P : never
    : never;
}[OptionPath];

/**
 * Names of options whose values, with all defaults, decide a run's bits or its memory.
 *
 * @internal
 */
type ResolvedName = {
  [P in OptionPath & keyof RunOptions]: typeof OPTION_TABLE[P] extends { readonly mayChange: true } ? P & MemoryName
    : P;
}[OptionPath & keyof RunOptions];

/** Options with every default filled in. */
export type ResolvedOptions =
  & {
    readonly [N in Exclude<ResolvedName, "preset" | "calibration" | "val" | "valRows">]-?: Exclude<
      RunOptions[N],
      undefined
    >;
  }
  & {
    readonly objective: Objective;
    readonly lora: LoraConfig & { readonly dropout: number };
    readonly rates: Rates;
    readonly rules: Omit<UnitRules, "rest">;
    readonly monitors: ResolvedMonitors;
    /** What is kept of the vocabulary; null if it is not cut. */
    readonly vocab: { readonly size: number | null } | null;
    /** 0 if a size is given, until its sparsity is known. */
    readonly sparsity: number;
    readonly size: WantedSize<GgufWriteType> | null;
    readonly preset: Preset | null;
    /** Null for the default. */
    readonly val: number | null;
    /** Whether there are calibration rows. */
    readonly calibration: boolean;
  };

/** Options whose default is a value of the table. */
export type DefaultedOptions = Pick<
  ResolvedOptions,
  { [P in ResolvedName]: typeof OPTION_TABLE[P] extends { readonly default: TableValue } ? P : never }[ResolvedName]
>;

/** Options of a memory plan: the options of a run that memory depends on, with the same defaults. */
export interface MemoryOptions extends Pick<RunOptions, Exclude<MemoryName & keyof RunOptions, "vocab" | "rules">> {
  /** Tokens that a cut vocabulary keeps, or a share below 1; the whole embedding stays next to the cut one. Default: all. */
  readonly vocab?: Pick<VocabularyOptions, "size"> | undefined;
  /** Units that are never cut are not learned. */
  readonly rules?: Omit<UnitRules, "rest"> | undefined;
  /** Storage of the frozen weights; default "f16". */
  readonly baseDtype?: BaseDtype | undefined;
  /** The type in which the file stores a matrix, for "file" and for advice of it. Default: in no blocks. */
  readonly storedDtype?: WeightSource["storedDtype"] | undefined;
  /** The adapter to plan for; default: the limits that every adapter grants, and a GPU. */
  readonly adapter?: PlannedAdapter | undefined;
}

/** Options of a plan with every default filled in. */
export type ResolvedMemory = Pick<ResolvedOptions, Extract<MemoryName, keyof ResolvedOptions>>;
