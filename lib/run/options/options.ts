// Options of a prune run: as they are given, and with every default filled in. Types only.
import type { GgufWriteType } from "../../formats/gguf/mixes.ts";
import type { Ranking } from "../../masks/baselines.ts";
import type { LoraConfig } from "../../spec/lora.ts";
import type { KeptRule } from "../../masks/harden.ts";
import type { LambdaRule } from "../../masks/lambda_rule.ts";
import type { Layout } from "../../units/layout.ts";
import type { StartRule } from "../../masks/initial_log_alpha.ts";
import type { UnitKind, UnitRules } from "../../units/units.ts";
import type { DataReport, Row } from "../../data/rows.ts";
import type { RunHooks } from "../hooks.ts";
import type { MaskSummary } from "../mask_summary.ts";
import type { Method } from "../methods/names.ts";
import type { MonitorOptions, ResolvedMonitors } from "../monitors/alarm.ts";
import type { ScheduleSource } from "../../schedule/open.ts";
import type { Rates, WantedSize } from "../contract.ts";

/** Name of a preset. */
export type Preset = "paper";

/** Options that a preset sets. */
export type PresetOptions = Pick<
  RunOptions,
  | "prefinetune"
  | "postfinetune"
  | "units"
  | "lora"
  | "packing"
  | "start"
  | "keptMasks"
  | "lambdaRule"
  | "focus"
  | "rates"
>;

/** How small the model is to become: a sparsity, or a size. */
export type Target =
  | {
    /** Share of the layers' linear weights to cut, in (0, 1). */
    readonly sparsity: number;
    /** Not beside a sparsity. */
    readonly size?: undefined;
  }
  | {
    /** Size that the pruned model is to have, whatever sparsity that is. A schedule says the way to it, unless it ends the stage before it was there. */
    readonly size: WantedSize;
    /** Not beside a size. */
    readonly sparsity?: undefined;
  };

/** Options of `prune`: a {@link Target}, and how to reach it. */
export type PruneOptions = RunOptions & Target;

/** Options of `prune` beside its target. */
export interface RunOptions {
  /** Rows to train on; they are encoded when `prune` is called. */
  readonly rows: readonly Row[];
  /**
   * Further rows, or texts, that tell units apart before pruning: 32 sequences of them, in whole batches. For learned masks the squared
   * gradients of the model on them stand beside those of `rows` and the weights' prior, as heavy as the former by their means (see `rates.prior`);
   * `taylor`, `wanda-sp` and `flap` score on them alone. What the model itself writes serves well, see `writeCalibration`. Default: none.
   */
  readonly calibration?: readonly Row[];
  /** Steps of the pruning stage. */
  readonly steps: number;
  /** Steps of LoRA alone before; default a tenth of `steps`. */
  readonly prefinetune?: number;
  /** Steps of LoRA with frozen masks after; default three tenths of `steps`. */
  readonly postfinetune?: number;
  /** Sequences a step; default 4. */
  readonly batch?: number;
  /** Tokens of a sequence, padding included; default 256. */
  readonly seq?: number;
  /** Default 1. */
  readonly seed?: number;
  /** Kinds of units, in whatever order; default KV groups and FFN columns. */
  readonly units?: readonly UnitKind[];
  /** Default rank 8, alpha 16 on all seven projections, no dropout. A schedule may set the dropout of each step, whatever it is here. */
  readonly lora?: Partial<LoraConfig>;
  /** Text before every instruction; default the collaborative prompt, null for none. An empty one is refused, and one of your own where all rows are texts, which get none. */
  readonly prompt?: string | null;
  /** Default "compact". It decides the hard masks where it is "uniform", and the files in any case. */
  readonly layout?: Layout;
  /**
   * Whether backward computes most of each layer anew (gradient checkpointing) instead of keeping it: less memory, more time, the same bits.
   * Default true.
   */
  readonly recompute?: boolean;
  /**
   * Protected layers, least widths, aligned widths. Default: none; for a size in bytes of a GGUF in blocks widths are aligned to the block, since
   * matrices of other widths would fall back to f16.
   */
  readonly rules?: Pick<UnitRules, "protect" | "minimum" | "align">;
  /** How units are chosen. Default "compresso": learned masks. */
  readonly method?: Method;
  /**
   * Which units a one-shot method compares. Default "all"; of magnitude and taylor "layer", and of wanda-sp and with the layout "uniform", where every
   * layer and kind loses the same share in any case, which know no other.
   */
  readonly ranking?: Ranking;
  /**
   * What the pruning stage aims at, step by step: a built-in name, a script's path or URL, or `defineSchedule(…)`. Default "cubic". A
   * script or definition may steer the stages before and after too; beside a one-shot method its recovery, `postfinetune`, alone.
   */
  readonly schedule?: ScheduleSource;
  /** Whether a schedule's script runs in this process with all its rights, instead of isolated. Default false. */
  readonly trustSchedule?: boolean;
  /** Takes lines that an isolated schedule logs. Default: they are dropped. */
  readonly onScheduleLog?: (line: string) => void;
  /**
   * Whether rows are joined to full sequences instead of being padded or shortened to one each. Attention is not cut between joined rows, so that one sees
   * those before it in its sequence, and positions run through. Default true.
   */
  readonly packing?: boolean;
  /** What became of the rows in reading, for the report. */
  readonly reading?: DataReport;
  /** The same of the `calibration` rows, beside which alone it is. */
  readonly calibrationReading?: DataReport;
  /** Whether rows that cannot be encoded, such as conversations that the chat template refuses, are left out and counted. Default false. */
  readonly skipBroken?: boolean;
  /** Functions that the run calls. */
  readonly hooks?: RunHooks;
  /** What is watched while the run goes on, and what an alarm does. Default: everything; see {@link MonitorOptions}. */
  readonly monitors?: MonitorOptions;
  /** Called while units are scored before the pruning stage or a one-shot cut, with the share of the batches that is done, from 0 to 1. */
  readonly onScoring?: (share: number) => void;
  /** Called at the steps at which the masks are looked at anyway, with how much of each head, and of stretches of the other units, is expected to stay. */
  readonly onMasks?: (step: number, masks: MaskSummary) => void;
  /** Numbers of the loop; defaults follow from `steps`. */
  readonly rates?: Partial<Rates>;
  /** Where learned masks start. Default "saliency". */
  readonly start?: StartRule;
  /** What z units that stay, but hidden dims, have once learned masks are hard, which slicing folds into the weights. Default "one". */
  readonly keptMasks?: KeptRule;
  /** How λ moves where masks are learned. Default "plain". */
  readonly lambdaRule?: LambdaRule;
  /**
   * Share of a batch's labels that the last stage learns from, above 0: those whose loss lies furthest above that of the model before pruning, at the
   * cost of one more forward pass in each step. 1 is all of them. Default: 0.3 for learned masks, 1 without a last stage, for other methods and as published; not for
   * `flap`, whose compensation is in the weights that the other pass would need without.
   */
  readonly focus?: number;
  /** Defaults that take the place of all others: "paper" are the published ones. Options given beside it win. */
  readonly preset?: Preset;
  /** Stops the run between two submits of a step; the run then throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** Where the run saves itself; default nowhere. */
  readonly checkpoint?: CheckpointOptions;
}

/**
 * Where and how often a run saves itself: beside every so many steps also after the last one, where an alarm stops it or leads it back, where memory runs
 * out, and where `signal` stops it. To stop a run that is to go on later, fire `signal` and let the loop throw: leaving the loop, or disposing, saves nothing.
 */
export interface CheckpointOptions {
  /** The file. */
  readonly path: string;
  /** Steps between two checkpoints, a whole number; 0 or Infinity for none by the count of steps. */
  readonly every: number;
  /** Goes on from the file where it exists, and else begins anew; with names in `mayDiffer` that is refused. Default false. */
  readonly resume?: boolean;
  /**
   * Names of options that may have changed since the checkpoint, such as "schedule" or "rates"; `method`, `units` and `rules` may not. A resumed run
   * refuses any other change but of `recompute` and `monitors`; hooks, `skipBroken` and `trustSchedule` are not compared. What is over by then stays as it
   * was. An inline schedule is known by its functions' text and what its curves were made with: name in `identity` what else they read from outside. Rates
   * that were halved stay so where another schedule does not set them in all stages to come.
   */
  readonly mayDiffer?: readonly string[];
  /** Further facts that must be equal on resuming, such as hashes of files; names of the run's own facts (`model`, `seed` and so on) are refused. */
  readonly identity?: Readonly<Record<string, string | number | boolean | null>>;
}

/** Options with every default filled in. */
export type ResolvedOptions =
  & Required<
    Omit<
      RunOptions,
      | "signal"
      | "checkpoint"
      | "lora"
      | "rates"
      | "schedule"
      | "trustSchedule"
      | "onScheduleLog"
      | "onScoring"
      | "onMasks"
      | "reading"
      | "calibrationReading"
      | "skipBroken"
      | "hooks"
      | "monitors"
      | "preset"
      | "calibration"
    >
  >
  & {
    readonly lora: LoraConfig & { readonly dropout: number };
    readonly rates: Rates;
    readonly monitors: ResolvedMonitors;
    /** 0 where a size is given, until it is known. */
    readonly sparsity: number;
    readonly size: WantedSize<GgufWriteType> | null;
    readonly preset: Preset | null;
    /** Whether there are calibration rows. */
    readonly calibration: boolean;
  };
