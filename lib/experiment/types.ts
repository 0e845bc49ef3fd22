// The types of an experiment: its definition, its cells, what is measured, and the report.
import type { ErrorCode } from "../core/errors.ts";
import type { RunIdentity } from "../core/identity.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { RowPerplexityResult } from "../eval/row_perplexity.ts";
import type { Device } from "../gpu/device.ts";
import type { Model } from "../model/model.ts";
import type { BaseDtype } from "../nn/weights.ts";
import type { Alarm } from "../run/monitors/alarm.ts";
import type { RunOptions, Target } from "../run/options/options.ts";
import type { StepRecord } from "../run/contract.ts";
import type { RunSummary } from "../run/result.ts";
import type { CellOptions } from "./options.ts";
import type { Difference, Spread } from "./statistics.ts";

/** Rows of a file. A path that begins with @ names one of {@link ExperimentDefinition.files}. */
export interface FileData {
  /** The file, as `readRows` takes it. */
  readonly file: string;
  /** Most rows to take, from the first on. */
  readonly limit?: number | undefined;
  /** Rows to take from the end; not with `limit`. */
  readonly last?: number | undefined;
  /** Field that holds the text of a row. */
  readonly textField?: string | undefined;
  /** Whether broken rows are left out, also conversations that the chat template refuses. */
  readonly skipBroken?: boolean | undefined;
}

/** Texts that the model before pruning writes, once for the whole experiment; see `writeTexts` (LLM-QAT). */
export interface SelfWrittenData {
  /** How many texts, and how long they are. */
  readonly generate: {
    readonly count: number;
    readonly tokens: number;
    readonly temperature?: number | undefined;
    readonly seed?: number | undefined;
  };
}

/**
 * Answers of the model before pruning to the instructions of a file, in place of the given ones, once for the whole
 * experiment; see `writeAnswers`.
 */
export interface SelfAnsweredData {
  /** The file, which of its rows are answered, and how long answers are. */
  readonly answers: FileData & {
    /** Most tokens of an answer. */
    readonly tokens: number;
    /** Sampling temperature. Default 0: the likeliest tokens. */
    readonly temperature?: number | undefined;
    readonly seed?: number | undefined;
  };
}

/** Where a cell's rows come from; a string is a file. */
export type DataSource = string | FileData | SelfWrittenData | SelfAnsweredData;

/** Perplexity of a text; see `perplexity`. */
export interface TextMeasure {
  /** Name in tables. */
  readonly name: string;
  /** The file. */
  readonly text: string;
  /** Tokens of a window. */
  readonly window: number;
  /** Windows at most. */
  readonly maxWindows?: number | undefined;
  /** Characters at most. */
  readonly limitChars?: number | undefined;
}

/** Perplexity over the rows of a file, each read alone; see `rowPerplexity`. */
export interface RowsMeasure extends FileData {
  /** Name in tables. */
  readonly name: string;
  /** Tokens to which longer rows are cut. */
  readonly seq: number;
}

/** Accuracy on rows with choices; see `scoreChoices`. */
export interface ChoicesMeasure {
  /** Name in tables. */
  readonly name: string;
  /** The file. */
  readonly file: string;
  /** Whether the model also answers in its own words, which are compared with the outputs: `NAME exact match`; see `answerRows`. Default false. */
  readonly exactMatch?: boolean | undefined;
  /** Rows at most, from the first on. */
  readonly limit?: number | undefined;
}

/** Accuracy on known tasks and its mean; see `evaluateTasks`. */
export interface TasksMeasure {
  /**
   * Names of built-in tasks, and paths of files with tasks of your own, which are measured under the task's name. Modules are imported; an experiment in
   * JSON can name a module only through an entry of {@link ExperimentDefinition.files} that is null.
   */
  readonly names: readonly string[];
  /** Folder with their files. */
  readonly data: string;
  /** Questions of each task, or of each of its subsets, at most. */
  readonly limit?: number | undefined;
}

/** What is measured on every pruned model, and once on every model before pruning. */
export interface EvaluateDefinition {
  /** Perplexity of texts. */
  readonly perplexity?: readonly TextMeasure[] | undefined;
  /** Perplexity over rows: of whole texts, or of the responses to instructions. */
  readonly rows?: readonly RowsMeasure[] | undefined;
  /** Accuracy on rows with choices. */
  readonly choices?: readonly ChoicesMeasure[] | undefined;
  /** Accuracy on known tasks. */
  readonly tasks?: TasksMeasure | undefined;
  /**
   * Prompts at inference, before instructions of `rows` and `choices` and questions of `tasks` that have a context; each is measured separately.
   * Default: none.
   */
  readonly prompt?: readonly (boolean | string)[] | undefined;
}

/** Values of options that differ: every combination is a cell. */
export type Grid = { readonly [name in keyof CellOptions]?: readonly Exclude<CellOptions[name], undefined>[] };

/** An experiment. Paths are relative to the file that it is opened from, or to the current folder; `@name` is an entry of `files`. */
export interface ExperimentDefinition {
  /** Its name. */
  readonly name: string;
  /** The question that it answers; the report begins with it. */
  readonly question?: string | undefined;
  /**
   * Files by name. null: an override must give the path. false: unless an override gives a path, measures and prompts
   * at inference that use the file are left out.
   */
  readonly files?: Readonly<Record<string, string | null | false>> | undefined;
  /** The model, or several by name. */
  readonly model: string | Readonly<Record<string, string>>;
  /** The data, or several sets by name. Default: those of the demo, for the demo. */
  readonly data?: DataSource | Readonly<Record<string, DataSource>> | undefined;
  /** Options that all cells share. */
  readonly base?: CellOptions | undefined;
  /** Options that differ; several grids are joined. */
  readonly grid: Grid | readonly Grid[];
  /** What is measured. */
  readonly evaluate?: EvaluateDefinition | undefined;
}

/** A checked experiment. */
export interface Experiment {
  /** Its definition. */
  readonly definition: ExperimentDefinition;
  /** Folder of the file that {@link openExperiment} took it from. */
  readonly root?: string;
}

/** Overrides of an experiment, such as the command line gives. Paths are relative to the current folder. */
export interface ExperimentOverrides {
  /** Folder to which the definition's paths are relative. Default: that of the experiment's file, or the current one. */
  readonly root?: string | undefined;
  /** Paths of named files; "none" for one whose measures are left out. */
  readonly files?: Readonly<Record<string, string>> | undefined;
  /** Paths of models by name; "model" is the only one of an experiment with one. */
  readonly models?: Readonly<Record<string, string>> | undefined;
  /** Paths of data sets by name; "data" is the only one of an experiment with one. */
  readonly data?: Readonly<Record<string, string>> | undefined;
  /** Options to set: the values of an axis in place of the grid's, or one value in the base. An option that is a list has one value, whose parts may be given singly. */
  readonly set?: Readonly<Record<string, readonly unknown[]>> | undefined;
}

/** An experiment with its overrides; all paths are absolute. */
export interface ResolvedExperiment {
  readonly definition: ExperimentDefinition;
  readonly models: Readonly<Record<string, string>>;
  readonly data: Readonly<Record<string, DataSource>>;
  readonly evaluate: EvaluateDefinition;
  /** All cells, their paths resolved too. */
  readonly cells: readonly Cell[];
}

/** One run of an experiment. */
export interface Cell {
  /** Its options along the axes; also the name of its folder, unless an earlier grid named that otherwise. */
  readonly name: string;
  /** Options of the grid, and options that all cells share. */
  readonly options: CellOptions;
}

/** Values of options by which cells are chosen: a cell must have one of the values of each option. */
export type Filter = ReadonlyMap<string, readonly string[]>;

/** What decides the result of a cell, as one JSON object. */
export type CellIdentity = RunIdentity;

/** One number of a model. */
export interface Value {
  /** Name in tables, unique in an experiment. */
  readonly name: string;
  /** Its kind: less is better for perplexity, more for accuracy. */
  readonly kind: "perplexity" | "accuracy";
  /** The number. */
  readonly value: number;
  /** Standard error from the choice of texts or rows only; null where unknown. */
  readonly stderr: number | null;
  /** Tokens or rows that it is a mean over. */
  readonly n: number;
  /** Of a perplexity: digest of the tokens that it is over, which differ between tokenizers. */
  readonly tokens?: string;
  /** Questions of a task, among `n`, that did not fit the context and lost their beginning. */
  readonly truncated?: number;
  /** Of a perplexity over rows: counts of measured rows (cut ones included) and of rows left out. */
  readonly rows?: Pick<RowPerplexityResult, "rows" | "truncated" | "skipped" | "broken">;
  /** Of a mean over tasks: their number. Each task has the same weight. */
  readonly tasks?: number;
  /** The task that it is a score of. */
  readonly task?: string;
  /**
   * Label of the prompt in its name, if a task is scored with several prompts. Means are over values of the same
   * prompt.
   */
  readonly label?: string;
}

/** A measure: how it is named and taken. */
export interface Measure {
  /** Names it in files. */
  readonly id: string;
  /** What decides its values, apart from the model. */
  readonly identity: string;
  /** Gives values the names of this definition: they may have been taken under others. */
  readonly named: (values: readonly Value[]) => Value[];
  readonly take: (model: Model, control: Control) => Promise<Value[]>;
}

/** Progress and end of a measure. */
export interface Control {
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** Values of a model by measure, each with the identity of the measure. */
export type Measured = Readonly<Record<string, { readonly identity: string; readonly values: readonly Value[] }>>;

/** What a run cut. */
export interface CutProfile {
  /** Share cut of each layer's linear weights, cut hidden dims included. */
  readonly layers: readonly number[];
  /** Mean distance of the layers from the hard sparsity, each with the weight of its parameters. */
  readonly unevenness: number;
}

/** How a run's loss went; null if there are no such steps. */
export interface LossProfile {
  /** Mean over the last 8 steps. */
  readonly last: number | null;
  /** Largest mean over 5 steps in a row, from the first step of the pruning stage on. */
  readonly worst: number | null;
  /** Standard deviation of the change from one step to the next over the pruning stage and after. */
  readonly roughness: number | null;
  /** Largest gap between expected sparsity and schedule in the last tenth of the pruning stage; null if it has no steps. */
  readonly gap: number | null;
}

/** The result of a finished cell, as its run.json and records.jsonl have it. */
export interface CellOutcome {
  /** Sparsity: target, expected and hard. */
  readonly sparsity: RunSummary["sparsity"];
  /** Parameters of the whole model, before and after. */
  readonly parameters: RunSummary["parameters"];
  /** What it cut. */
  readonly cut: CutProfile;
  /** Units that its masks left undecided. */
  readonly undecided: RunSummary["undecided"];
  /** How its loss went. */
  readonly loss: LossProfile;
  /** Steps, and tokens in them without padding. */
  readonly steps: number;
  readonly tokens: number;
  /** Labels of these steps. */
  readonly labels: number;
  /** Rows that were cut to fit. */
  readonly cutRows: number;
  /** Tokens that the prompt adds to a row. */
  readonly promptTokens: number;
  /** Seconds of training. */
  readonly seconds: number;
  /** Adapter that ran it. */
  readonly adapter: string;
  /** Alarms of its monitors, in order. */
  readonly alarms: readonly Alarm[];
}

/** Why a cell failed. */
export interface CellFailure {
  /** Code of the error; "defect" for errors that are no `CompressoError`. */
  readonly code: ErrorCode | "defect";
  /** Its message. */
  readonly message: string;
  /** How often the cell was tried since it last went well. */
  readonly tries: number;
  /**
   * Identities of the measures that were missing then, by name. The failure of a finished run counts as long as one of
   * them is missing.
   */
  readonly missing?: Readonly<Record<string, string>> | undefined;
}

/** cell.json: what the folder of a cell holds besides its run. */
export interface CellFile {
  /** What decides the run in the folder. */
  readonly identity: CellIdentity;
  /** Whether all measures of a definition have been taken. */
  readonly isMeasured?: boolean | undefined;
  /** Whether the pruned model stays once it is measured. */
  readonly keepsModel?: boolean | undefined;
  /** Why the last try failed. */
  readonly failure?: CellFailure | undefined;
  /** A try with another definition that failed before its run began, so that the folder still holds this one. */
  readonly next?: { readonly identity: CellIdentity; readonly failure: CellFailure } | undefined;
}

/** The state of a cell. */
export type CellState =
  | { readonly kind: "new" | "stopped" | "pruned" | "done" }
  /** Its definition differs from that of its folder. The last try to run it again may have failed before it began. */
  | { readonly kind: "changed"; readonly what: string; readonly failure: CellFailure | null }
  | { readonly kind: "failed"; readonly what: string; readonly tries: number }
  /** Measures are missing, and can be taken only while the model exists. The last try may have failed. */
  | {
    readonly kind: "unmeasured";
    readonly missing: readonly string[];
    readonly hasModel: boolean;
    readonly failure: CellFailure | null;
  };

/** A model as a cell uses it. */
export interface CellModel {
  /** Its name in the experiment. */
  readonly name: string;
  /** Its path. */
  readonly path: string;
  /** Storage of its weights on the GPU. */
  readonly baseDtype: BaseDtype;
  /** Its shape. */
  readonly spec: DecoderSpec;
  /** Digest of its weights. */
  readonly weights: string;
  /** Most tokens of a text that it writes: its context without what its tokenizer puts before a text. */
  readonly room: number;
}

/** A cell with its inputs, identity, folder and state. */
export interface PlannedCell extends Cell {
  /** The model that it prunes. */
  readonly model: CellModel;
  /** Where its rows come from. */
  readonly source: DataSource;
  /** Where its calibration rows come from; null for none. */
  readonly calibration: DataSource | null;
  /** Where its held-out rows come from; null for the end of its rows. */
  readonly heldOut: DataSource | null;
  /** Options of its run. */
  readonly prune: Omit<RunOptions, "rows"> & Target;
  /** Its identity. */
  readonly identity: CellIdentity;
  /** Name of its folder. */
  readonly folder: string;
  /** Its state. */
  readonly state: CellState;
  /** Steps of all stages. */
  readonly steps: number;
  /** Tokens in them, padding included. */
  readonly tokens: number;
}

/** A number that cells have. */
export interface NumberName {
  /** Name in tables. */
  readonly name: string;
  /** How it is shown; of measures, more is better for "accuracy" only. */
  readonly kind: Value["kind"] | "loss" | "share" | "count" | "seconds";
  /** Whether the model was measured, and not only the run. */
  readonly isMeasure: boolean;
  /** Whether it is part of a mean in the tables. */
  readonly isPart?: boolean;
}

/** A finished cell. */
export interface ReportCell {
  /** Its name in the present grid. */
  readonly cell: string;
  /** Name of its folder, which an earlier grid may have given. */
  readonly folder: string;
  /** Values along the axes, as shown. */
  readonly at: Readonly<Record<string, string>>;
  /** Its numbers by name. */
  readonly numbers: Readonly<Record<string, number>>;
  /** Digests of the tokens of perplexities, by the name of the number. */
  readonly measuredTokens: Readonly<Record<string, string>>;
  /** Share cut of each layer. */
  readonly layers: readonly number[];
  /** Its steps. */
  readonly steps: number;
  /** Tokens in them, without padding. */
  readonly tokens: number;
  /** Adapter that ran it. */
  readonly adapter: string;
  /** Alarms of the run, in order. */
  readonly alarms: readonly Alarm[];
}

/** Cells that differ by their seed only. */
export interface Group {
  /** Values along the axes except the seed. */
  readonly at: Readonly<Record<string, string>>;
  /** Names of its finished cells. */
  readonly cells: readonly string[];
  /** How many it will have. */
  readonly wanted: number;
  /** Numbers over the seeds. */
  readonly numbers: Readonly<Record<string, Spread>>;
  /** Share cut of each layer, mean over the seeds. */
  readonly layers: readonly number[];
  /** Mean distance of these shares between two seeds; null for one. */
  readonly layerSpread: number | null;
}

/** What another value of an axis changes, all else equal. */
export interface Contrast {
  /** The option, with the options that change together with it. */
  readonly axis: string;
  /** Its first value. */
  readonly from: string;
  /** Another one. */
  readonly to: string;
  /** What changes; the unevenness of layers over the pairs of `layerDistance`. */
  readonly numbers: Readonly<Record<string, Difference>>;
  /** Mean distance of the layers' cut shares between the two, without pairs of two uniform layouts. */
  readonly layerDistance: Difference | null;
}

/** Contents of report.json. */
export interface ExperimentReport {
  /** Name of the experiment. */
  readonly name: string;
  /** The question that it answers. */
  readonly question: string | null;
  /** What was run and how it was measured, line by line. */
  readonly protocol: readonly string[];
  /** Options that differ. */
  readonly axes: readonly string[];
  /** The numbers of the tables. */
  readonly names: readonly NumberName[];
  /** Measures of the models before pruning, by model. */
  readonly dense: Readonly<Record<string, readonly Value[]>>;
  /** Tasks with questions that did not fit a model's context and lost their beginning. */
  readonly truncations: readonly {
    readonly model: string;
    /** Its name, with the prompt where there are several. */
    readonly task: string;
    readonly truncated: number;
    readonly n: number;
  }[];
  /** Cells that differ by their seed only. */
  readonly groups: readonly Group[];
  /** What each value of an axis changes against an earlier one. */
  readonly contrasts: readonly Contrast[];
  /** Finished cells. */
  readonly cells: readonly ReportCell[];
  /** The others, and finished ones whose measures failed. */
  readonly unfinished: readonly { readonly cell: string; readonly state: string }[];
  /** Losses of the finished cells, step by step; not in report.json. */
  readonly losses: Readonly<Record<string, readonly number[]>>;
}

/** Options of {@link runExperiment}. */
export interface RunExperimentOptions extends ExperimentOverrides {
  /** The device. */
  readonly device: Device;
  /** Folder of all results; finished cells in it are not run again. */
  readonly out: string;
  /** Cells to run: those with one of the values of each option. Default: all. */
  readonly only?: Filter | undefined;
  /** Most cells to work on in this call. */
  readonly maxCells?: number | undefined;
  /** "models" keeps pruned models, "none" removes each once it was measured. Default "none". */
  readonly keep?: "none" | "models" | undefined;
  /** Only takes missing measures of models that were kept, and keeps them. Default false. */
  readonly evaluateOnly?: boolean | undefined;
  /** Runs cells again that failed, whose definition changed, or that lack measures and their model. Default false. */
  readonly redo?: boolean | undefined;
  /**
   * Whether other processes, also on other machines that share the folder, may work on the same experiment with the same
   * option. Each cell is worked on by one of them at a time; the cell of a process that died is taken over, after 60
   * seconds or `takeOverAfter` seconds. The call ends when all chosen cells are done. Default false.
   */
  readonly shared?: boolean | { readonly takeOverAfter: number } | undefined;
  /** One of `count` shares of the chosen cells: each `count`-th one from the `index`-th on, from 1. Implies `shared`. */
  readonly shard?: { readonly index: number; readonly count: number } | undefined;
  /** Stops the work; the present cell continues from there in the next call. */
  readonly signal?: AbortSignal | undefined;
  /** Called before each cell; awaited. */
  readonly onCell?:
    | ((cell: PlannedCell, place: { readonly index: number; readonly count: number }) => void)
    | undefined;
  /** Called when a cell failed; awaited. The other cells run. */
  readonly onFailure?: ((cell: PlannedCell, failure: CellFailure) => void) | undefined;
  /** Called with notes for the user; awaited. */
  readonly onNote?: ((line: string) => void) | undefined;
  /** Called when a model was loaded, before a cell uses it. A `CompressoError` that it throws is that cell's failure. */
  readonly onModel?: ((model: Model, cell: PlannedCell) => Promise<void>) | undefined;
  /** Called for every step; awaited. */
  readonly onRecord?: ((record: StepRecord) => void | Promise<void>) | undefined;
  /** Called for every alarm of a run, once. */
  readonly onAlarm?: ((cell: PlannedCell, alarm: Alarm) => void) | undefined;
  /** Called during other work, with its share done where known. */
  readonly onPhase?: ((text: string, share?: number) => void) | undefined;
}

/** The result of {@link runExperiment}. */
export interface ExperimentResult {
  /** The report of all finished cells. */
  readonly report: ExperimentReport;
  /** Files of the report. */
  readonly files: readonly string[];
  /** Cells that failed, in this call or before. */
  readonly failed: readonly { readonly cell: string; readonly message: string }[];
  /** Number of chosen cells that are not finished. */
  readonly left: number;
}
