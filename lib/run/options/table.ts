// Every option of pruning, once. Flags and their help, options of experiments, name and bound checks, presets, the identity that a checkpoint
// compares and docs/reference/options.md follow from this table.
import { option } from "../../core/errors.ts";
import { MAX_SEED } from "../../core/random.ts";
import { KEPT_RULES } from "../../masks/harden.ts";
import { LAMBDA_RULES } from "../../masks/lambda_rule.ts";
import { ONE_SHOT_METHODS, RANKINGS } from "../../masks/baselines.ts";
import { START_RULES } from "../../masks/initial_log_alpha.ts";
import { rateBounds, SPARSITY_BOUNDS } from "../../schedule/definition.ts";
import { WARMUP } from "../../schedule/ramp.ts";
import { PROJECTIONS } from "../../spec/decoder.ts";
import { type LoraConfig, MOST_RANK } from "../../spec/lora.ts";
import { LAYOUTS } from "../../units/layout.ts";
import { type MinimumWidths, UNIT_KINDS, type UnitRules } from "../../units/rules.ts";
import { DTYPES, FORMATS, GGUF_DTYPES } from "../../slice/export_options.ts";
import { MATRIX_DTYPES } from "../../nn/products/matrix.ts";
import type { Rates } from "../contract.ts";
import { firstStageSteps, lastStageSteps, type Method, METHODS } from "../methods/names.ts";
import type { CheckpointOptions, RunOptions, VocabularyOptions } from "./options.ts";
import { type Evaluation, MOST_WINDOWS, QUESTIONS, WINDOW } from "../evaluation.ts";

/** What a value is. `count` is a whole number; `value` is checked where it is used; `parts` is an object with options of its own. */
export type OptionType =
  | "count"
  | "number"
  | "parameters"
  | "bytes"
  | "switch"
  | "word"
  | "words"
  | "layers"
  | "names"
  | "text"
  | "list"
  | "prompt"
  | "alarms"
  | "calibration"
  | "value"
  | "function"
  | "parts";

/** Headings under which help and reference list options, in this order. */
export const OPTION_GROUPS = ["target", "data", "method", "training", "files", "advanced"] as const;
/** Name of a group. */
export type OptionGroup = typeof OPTION_GROUPS[number];

/** Value of an option as this table has it. */
type TableValue = number | boolean | string | null | readonly string[];

/** One option. */
export interface OptionEntry {
  /** What its value is. */
  readonly type: OptionType;
  /** Words that it may have, for `word` and `words`; those that the command line takes, for `names`. */
  readonly words?: readonly string[];
  /** Bounds of a number. Without `above` and `least` it is at least 0. */
  readonly above?: number;
  /** Least value. */
  readonly least?: number;
  /** Below this. */
  readonly below?: number;
  /** Largest value. */
  readonly most?: number;
  /** Whether the GPU takes it as f32, whose rounding has to lie within the bounds too. */
  readonly single?: boolean;
  /** Whether Infinity is allowed too. */
  readonly endless?: true;
  /** Default: a value, or what follows from the steps of the pruning stage. */
  readonly default?: TableValue | ((steps: number) => number);
  /** The default in words, where it follows from other options. */
  readonly defaultText?: string;
  /** Value of the preset `paper`. */
  readonly paper?: TableValue | ((steps: number) => number);
  /** Methods that take it. Default: all. */
  readonly methods?: readonly Method[];
  /** Another option, and the values that it must have. */
  readonly needs?: { readonly path: string; readonly values?: readonly TableValue[] };
  /** Options that exclude it. */
  readonly excludes?: readonly string[];
  /** Group in help and reference. */
  readonly group: OptionGroup;
  /** Whether the short help shows it. */
  readonly everyday?: true;
  /** One line of help. */
  readonly help: string;
  /** The same for the flag that turns a switch off, which is on by default. */
  readonly off?: string;
  /** The same for a switch that may also be "auto". */
  readonly auto?: string;
  /** Name in camel case on the command line and in experiments, where it is not the path. null: for programs only. */
  readonly name?: string | null;
  /** What stands for the value in help, such as "count". Default: by type. */
  readonly placeholder?: string;
  /** Who has it. Default: `prune`, `pruneToFolder`, the command line and experiments. */
  readonly of?: "pruneToFolder" | "readRows" | "loadModel" | "openDevice" | "command";
  /** Whether experiments have it too. Default: true for options of `prune` that have a name. */
  readonly inExperiments?: boolean;
  /** Whether a resumed run may have another value. Default: false for options of `prune`. */
  readonly mayChange?: true;
}

/** Paths within an object of options. */
type Within<P extends string, T> = `${P}.${Extract<keyof T, string>}`;

/** Paths of all options of `prune`. */
export type PrunePath =
  | Exclude<keyof RunOptions, "lora" | "rates" | "rules" | "checkpoint" | "evaluate" | "vocab">
  | Within<"vocab", VocabularyOptions>
  | "sparsity"
  | Within<"lora", LoraConfig>
  | Within<"rates", Rates>
  | Exclude<Within<"rules", Omit<UnitRules, "rest" | "fit">>, "rules.minimum">
  | Within<"rules.minimum", MinimumWidths>
  | Within<"checkpoint", CheckpointOptions>
  | Within<"evaluate", Evaluation>
  | "size.parameters"
  | "size.bytes"
  | "size.file.format"
  | "size.file.dtype"
  | "size.name";

const LEARNED: readonly Method[] = ["compresso"];
const STEPWISE: readonly Method[] = ["compresso", "gradual"];
const FROM_SALIENCY = { path: "start", values: ["saliency"] } as const;
const TARGETS = ["sparsity", "size.parameters", "size.bytes"] as const;
const PROGRAM = { name: null, group: "advanced" } as const;

/** The table, in the order in which help and reference list options. */
export const OPTION_TABLE = {
  sparsity: {
    type: "number",
    above: 0,
    ...SPARSITY_BOUNDS,
    group: "target",
    everyday: true,
    excludes: TARGETS,
    help: "share of the layers' linear weights to cut, such as 0.3",
  },
  "size.parameters": {
    type: "parameters",
    name: "targetParams",
    group: "target",
    everyday: true,
    inExperiments: false,
    excludes: TARGETS,
    help: "parameters of the smaller model at most, embedding and head included, such as 5.4B, 120M or 113280192",
  },
  "size.bytes": {
    type: "bytes",
    name: "targetBytes",
    group: "target",
    inExperiments: false,
    excludes: TARGETS,
    help: "bytes of the smaller model's file at most, such as 200M or 1.5G (powers of 1024)",
  },
  "size.file.format": {
    type: "word",
    words: FORMATS,
    name: "targetFile",
    group: "target",
    inExperiments: false,
    defaultText: "hf",
    needs: { path: "size.bytes" },
    help: `the file whose bytes are counted: hf, the folder's safetensors; gguf, model.gguf`,
  },
  "size.file.dtype": {
    ...PROGRAM,
    type: "value",
    help: "type of the weights in that file",
  },
  "size.name": {
    ...PROGRAM,
    type: "text",
    help: "name of the model within that GGUF",
  },
  preset: {
    type: "word",
    words: ["paper"],
    group: "target",
    help: `paper: defaults of the publication in place of the others, except ${option("batch")} and ${
      option("seq")
    } (published: 1 and 1024)`,
  },

  data: {
    type: "text",
    of: "command",
    inExperiments: true,
    group: "data",
    everyday: true,
    placeholder: "file",
    defaultText: "none; the demo has its own",
    help:
      "instructions, conversations or texts, as JSON, JSON lines, plain text (also .gz or .zst) or parquet; or hf:owner/name[:file], of a data set",
  },
  rows: {
    ...PROGRAM,
    type: "list",
    group: "data",
    help: "rows to train on",
  },
  textField: {
    type: "text",
    of: "readRows",
    group: "data",
    placeholder: "name",
    defaultText: "the fields say what a row is",
    help: "field that is the text of every row",
  },
  limit: {
    type: "count",
    least: 1,
    of: "readRows",
    name: "limitRows",
    group: "data",
    inExperiments: true,
    help: "rows to read at most",
  },
  skipBroken: {
    type: "switch",
    group: "data",
    default: false,
    inExperiments: false,
    mayChange: true,
    help: "leave broken rows out and count them, instead of stopping",
  },
  packing: {
    type: "switch",
    group: "data",
    default: true,
    paper: false,
    help: "pack rows into full sequences; a row may continue in the next one",
    off: "one sequence for each row, padded or cut",
  },
  prompt: {
    type: "prompt",
    group: "data",
    placeholder: "file",
    defaultText: "the collaborative prompt; none where the vocabulary alone is cut without steps",
    help: "text before every instruction in training",
  },
  calibration: {
    type: "calibration",
    group: "data",
    placeholder: "file",
    methods: ["compresso", "taylor", "wanda-sp", "flap"],
    defaultText: "own for masks learned from saliency with a prior, else none",
    help: "texts that help to tell units apart before pruning: a file; own, which the model writes first; or none",
  },
  "evaluate.text": {
    type: "text",
    name: "evalText",
    group: "data",
    placeholder: "file",
    inExperiments: false,
    mayChange: true,
    help:
      `text on which loss, perplexity and bits per byte are measured before and after pruning: its first ${MOST_WINDOWS} windows of ${WINDOW} tokens`,
  },
  "evaluate.tasks": {
    type: "list",
    name: "evalTasks",
    group: "data",
    placeholder: "list",
    inExperiments: false,
    mayChange: true,
    help: "tasks that are scored before and after pruning, as of eval: names, or files with your own",
  },
  "evaluate.taskData": {
    type: "text",
    name: "taskData",
    group: "data",
    placeholder: "dir",
    inExperiments: false,
    mayChange: true,
    needs: { path: "evaluate.tasks" },
    defaultText: "this folder",
    help: "folder with the data of these tasks",
  },
  "evaluate.questions": {
    type: "count",
    least: 1,
    name: "evalLimit",
    group: "data",
    inExperiments: false,
    mayChange: true,
    default: QUESTIONS,
    needs: { path: "evaluate.tasks" },
    help: "questions of each of these tasks, or of each of its subsets, at most",
  },
  reading: {
    ...PROGRAM,
    type: "value",
    group: "data",
    mayChange: true,
    help: "what became of the rows in reading",
  },
  calibrationReading: {
    ...PROGRAM,
    type: "value",
    group: "data",
    mayChange: true,
    help: "what became of the calibration rows in reading",
  },

  method: {
    type: "word",
    words: METHODS,
    default: "compresso",
    group: "method",
    help: "how units are chosen; one-shot methods cut first and spend all steps on recovery",
  },
  units: {
    type: "words",
    words: UNIT_KINDS,
    group: "method",
    everyday: true,
    default: ["kv", "ffn"],
    paper: ["heads", "ffn", "hidden"],
    help: "what is cut: heads or kv (whole KV groups), ffn, hidden, layers (whole ones), vocab (tokens)",
  },
  "vocab.size": {
    type: "number",
    above: 0,
    name: "vocabSize",
    group: "method",
    defaultText: "as many as the texts need",
    help: "tokens that the vocabulary keeps, or a share of them below 1; for the unit vocab",
  },
  "vocab.rows": {
    ...PROGRAM,
    type: "list",
    group: "data",
    help: "rows that tell which tokens are needed",
  },
  vocabData: {
    type: "text",
    of: "command",
    group: "data",
    placeholder: "file",
    defaultText: "the training data",
    help: "texts that tell which tokens are needed, for the unit vocab",
  },
  schedule: {
    type: "value",
    group: "method",
    placeholder: "name|file|url",
    defaultText: "cubic",
    mayChange: true,
    help: "sparsity step by step: cubic, linear, cosine, exponential, step, constant, or a script, which runs isolated",
  },
  trustSchedule: {
    type: "switch",
    name: "trust",
    group: "method",
    default: false,
    mayChange: true,
    help: "run the schedule's script with all rights of this process, not isolated",
  },
  ranking: {
    type: "word",
    words: RANKINGS,
    group: "method",
    methods: ONE_SHOT_METHODS,
    defaultText: "layer for magnitude, taylor, wanda-sp and the layout uniform, else all",
    help: "units that a one-shot method compares: all, or those of one layer and kind",
  },
  rounds: {
    type: "count",
    least: 1,
    group: "method",
    methods: ["taylor"],
    default: 1,
    help: "equal cuts in which taylor reaches the target; units are scored anew before each, on the model cut so far",
  },
  "rules.protect": {
    type: "layers",
    name: "protect",
    group: "method",
    help: "layers whose heads, FFN columns and gates are never cut, such as 0,1,-1 (negative: from the end)",
  },
  "rules.align": {
    type: "count",
    least: 1,
    name: "align",
    group: "method",
    defaultText: "32, or 256 for K-quants of a model whose own widths are; 1 for small models",
    help:
      "kept FFN widths and hidden size are multiples of it, so that quantised matrices keep their type; 1: any width",
  },
  "rules.minimum.heads": {
    type: "count",
    name: "minHeads",
    group: "method",
    default: 0,
    help: "query heads that a layer keeps at least",
  },
  "rules.minimum.ffn": {
    type: "count",
    name: "minFfn",
    group: "method",
    default: 0,
    help: "FFN columns that a layer keeps at least",
  },
  "rules.minimum.hidden": {
    type: "count",
    name: "minHidden",
    group: "method",
    default: 0,
    help: "hidden dims that stay at least",
  },
  "rules.minimum.layers": {
    type: "count",
    name: "minLayers",
    group: "method",
    default: 0,
    help: `layers that stay at least where ${option("units")} has layers`,
  },

  steps: {
    type: "count",
    group: "training",
    everyday: true,
    defaultText: "200; programs and experiments have to give it",
    help: "steps of the pruning stage",
  },
  prefinetune: {
    type: "count",
    group: "training",
    default: firstStageSteps,
    paper: (steps: number) => Math.round(steps / 7),
    defaultText: "a tenth of the steps",
    help: "steps of LoRA alone before pruning",
  },
  postfinetune: {
    type: "count",
    group: "training",
    default: lastStageSteps,
    paper: (steps: number) => Math.round(3 * steps / 7),
    defaultText: "three tenths of the steps",
    help: "steps of LoRA with frozen masks after pruning",
  },
  batch: {
    type: "count",
    least: 1,
    default: 4,
    group: "training",
    everyday: true,
    help: "sequences a step, or of each micro-batch",
  },
  accumulate: {
    type: "count",
    least: 1,
    default: 1,
    group: "training",
    placeholder: "count",
    help: "micro-batches a step, whose gradients are added up: larger steps in the memory of one",
  },
  seq: {
    type: "count",
    least: 2,
    default: 256,
    group: "training",
    everyday: true,
    placeholder: "tokens",
    help: "tokens of a sequence, prompt and padding included",
  },
  seed: {
    type: "count",
    most: MAX_SEED,
    default: 1,
    group: "training",
    placeholder: "number",
    help: "seed of data order, masks and LoRA",
  },
  focus: {
    type: "number",
    ...rateBounds("focus"),
    group: "training",
    default: 0.3,
    paper: 1,
    placeholder: "share",
    defaultText: "0.3 for learned masks; 1 for other methods and without a last stage",
    help: "share of the labels that the last stage learns from: those that pruning hurt most; not for flap",
  },
  "lora.rank": {
    type: "count",
    least: 1,
    most: MOST_RANK,
    default: 8,
    paper: 8,
    name: "rank",
    group: "training",
    help: "rank of LoRA",
  },
  "lora.alpha": {
    type: "number",
    above: 0,
    default: 16,
    paper: 8,
    name: "alpha",
    group: "training",
    help: `LoRA adds alpha / rank · B·A, with ${option("lora.rsLora")} alpha / √rank · B·A`,
  },
  "lora.rsLora": {
    type: "switch",
    default: false,
    name: "rslora",
    group: "training",
    help: "rank-stabilised LoRA",
  },
  "lora.targets": {
    type: "words",
    words: PROJECTIONS,
    default: PROJECTIONS,
    paper: ["q", "v"],
    name: "loraTargets",
    group: "training",
    help: "projections with LoRA",
  },
  "lora.dropout": {
    type: "number",
    ...rateBounds("dropout"),
    default: 0,
    name: "dropout",
    group: "training",
    placeholder: "share",
    help: "dropout before LoRA in training",
  },
  "rates.lora": {
    type: "number",
    ...rateBounds("lora"),
    default: 1e-3,
    paper: 5e-5,
    name: "loraRate",
    group: "training",
    help: "peak learning rate of LoRA: it rises over the first half of the first stage; 0 leaves LoRA untrained",
  },
  "rates.postfinetune": {
    type: "number",
    ...rateBounds("lora"),
    paper: 4e-4,
    name: "postfinetuneRate",
    group: "training",
    defaultText: "that of LoRA",
    help: "peak learning rate of LoRA in the last stage, which falls to a tenth as a cosine",
  },
  "rates.clipNorm": {
    type: "number",
    ...rateBounds("clipNorm"),
    default: 1,
    name: "clipNorm",
    group: "training",
    help: "largest global norm of LoRA's gradients",
  },
  "rates.weightDecay": {
    type: "number",
    ...rateBounds("weightDecay"),
    default: 0,
    name: "weightDecay",
    group: "training",
    help: "decoupled weight decay of LoRA",
  },

  out: {
    type: "text",
    of: "pruneToFolder",
    group: "files",
    everyday: true,
    placeholder: "dir",
    help: "folder for model/, model.gguf, run.json, records.jsonl and the checkpoint",
  },
  layout: {
    type: "word",
    words: LAYOUTS,
    default: "compact",
    group: "files",
    help: "compact: layers differ; padded: zeros to the widest layer; uniform: all layers alike",
  },
  "export.dtype": {
    type: "word",
    words: DTYPES,
    default: "f16",
    of: "pruneToFolder",
    name: "dtype",
    group: "files",
    help: "type of the folder's weights",
  },
  "export.ggufDtype": {
    type: "word",
    words: GGUF_DTYPES,
    of: "pruneToFolder",
    name: "ggufDtype",
    group: "files",
    default: "auto",
    help: "type of the GGUF's matrices, mixed as llama.cpp does; auto: like a quantised GGUF that is read, else f16",
  },
  "export.ggufImatrix": {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    name: "ggufImatrix",
    group: "files",
    help:
      "fit quantised matrices of the GGUF by an importance matrix, as llama.cpp's, of the calibration texts and rows",
  },
  "export.saveAdapter": {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    name: "saveAdapter",
    group: "files",
    help: "save LoRA apart too, in PEFT's format: adapter/, and the sliced model without it: unmerged/",
  },
  checkpointEvery: {
    type: "count",
    // Three rounds of a long run (look_steps.ts): the state is kept at that step anyway, and is stored once.
    default: 57,
    of: "pruneToFolder",
    group: "files",
    placeholder: "steps",
    help: "steps between checkpoints; 0 writes one only where the run stops",
  },
  resume: {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    group: "files",
    everyday: true,
    excludes: ["export.replace"],
    help: `continue from the checkpoint in ${option("out")}, with the same options`,
    auto: "continue where there is a checkpoint, else start",
  },
  mayDiffer: {
    type: "names",
    words: ["schedule", "rates"],
    of: "pruneToFolder",
    group: "files",
    needs: { path: "resume" },
    help: `what may differ from the run that ${option("resume")} continues: schedule, rates or both`,
  },
  "export.replace": {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    name: "overwrite",
    group: "files",
    excludes: ["resume"],
    help: `replace an earlier run in ${option("out")}; its eval….json files are renamed earlier-…`,
  },
  json: {
    type: "switch",
    default: false,
    of: "command",
    group: "files",
    help: "print run.json at the end",
  },

  baseDtype: {
    type: "word",
    words: MATRIX_DTYPES,
    default: "f16",
    of: "loadModel",
    group: "advanced",
    everyday: true,
    inExperiments: true,
    help: "frozen weights on the GPU: f16, f32, or blocks of 8 or 4 bits (q8, q4)",
  },
  memoryLimit: {
    type: "bytes",
    of: "openDevice",
    group: "advanced",
    help: "GPU memory to use at most, such as 6G",
  },
  recompute: {
    type: "switch",
    default: true,
    group: "advanced",
    mayChange: true,
    help: "compute activations anew in backward: less memory, more time, the same result",
    off: "keep all activations for backward: less time, more memory, the same result",
  },
  start: {
    type: "word",
    words: START_RULES,
    default: "saliency",
    paper: "constant",
    methods: LEARNED,
    group: "advanced",
    help: "where log α of learned masks starts: from each unit's saliency, or from a constant",
  },
  keptMasks: {
    type: "word",
    words: KEPT_RULES,
    default: "one",
    paper: "sigmoid",
    methods: LEARNED,
    group: "advanced",
    help:
      "z of kept units once masks are hard: one; median of hard concrete; or sigmoid of 0.8 log α / β, as published",
  },
  lambdaRule: {
    type: "word",
    words: LAMBDA_RULES,
    default: "plain",
    paper: "adam",
    methods: LEARNED,
    group: "advanced",
    help: "how λ moves: plain, by its gradient, or adam, as published",
  },
  "rates.mask": {
    type: "number",
    ...rateBounds("mask"),
    paper: 0.1,
    methods: LEARNED,
    name: "maskRate",
    group: "advanced",
    default: (steps: number) => Math.min(0.3, Math.max(0.03, 20 / steps)),
    defaultText: "20 / steps, from 0.03 to 0.3",
    help: "learning rate of log α",
  },
  "rates.lambda": {
    type: "number",
    ...rateBounds("lambda"),
    default: 0.1,
    paper: 0.1,
    methods: LEARNED,
    name: "lambdaRate",
    group: "advanced",
    help: "rate of λ's ascent",
  },
  "rates.temperature": {
    type: "number",
    ...rateBounds("temperature"),
    default: 0.1,
    paper: 2 / 3,
    methods: LEARNED,
    name: "temperature",
    group: "advanced",
    help: "β of hard concrete",
  },
  "rates.noise": {
    type: "number",
    ...rateBounds("noise"),
    default: 0.1,
    paper: 1,
    methods: LEARNED,
    name: "noise",
    group: "advanced",
    help: "scale of hard concrete's noise; 1 is that of Louizos et al. (2018)",
  },
  "rates.spread": {
    type: "number",
    single: true,
    default: 8,
    methods: LEARNED,
    needs: FROM_SALIENCY,
    name: "spread",
    group: "advanced",
    help: "spread of the initial log α",
  },
  "rates.saliencyDecay": {
    type: "number",
    ...rateBounds("saliencyDecay"),
    methods: LEARNED,
    needs: FROM_SALIENCY,
    name: "saliencyDecay",
    group: "advanced",
    default: (steps: number) => 1 - 1 / Math.min(100, Math.max(20, steps / 8)),
    defaultText: "0.95 to 0.99, by the steps",
    help: "share of itself that the running saliency keeps at each step; 1: log α does not follow it",
  },
  "rates.prior": {
    type: "number",
    single: true,
    default: 1,
    methods: LEARNED,
    needs: FROM_SALIENCY,
    name: "prior",
    group: "advanced",
    help:
      "weight, beside the gradients on the data, of what weights alone and calibration texts say of a unit; 0: none",
  },
  "rates.warmup": {
    type: "number",
    ...rateBounds("warmup"),
    default: WARMUP,
    paper: 4 / 7,
    methods: STEPWISE,
    name: "warmup",
    group: "advanced",
    placeholder: "share",
    help: "share of the pruning stage after which the target is reached",
  },
  "rates.tracking": {
    type: "number",
    ...rateBounds("tracking"),
    default: 1,
    paper: 0,
    methods: LEARNED,
    name: "tracking",
    group: "advanced",
    placeholder: "share",
    help: "share of the gap to the schedule that each step closes; 0 leaves it to λ",
  },
  "rates.logAlphaLimit": {
    type: "number",
    ...rateBounds("logAlphaLimit"),
    default: 100,
    paper: Math.log(100),
    methods: LEARNED,
    name: "logAlphaLimit",
    group: "advanced",
    help: "log α is kept within ± this after each update",
  },
  monitors: {
    type: "alarms",
    name: "onAlarm",
    group: "advanced",
    placeholder: "name=action",
    mayChange: true,
    help: "what an alarm does: divergence=stop, or with a threshold constraint=warn:0.02; several with commas",
  },
  tuning: {
    type: "value",
    of: "command",
    group: "advanced",
    placeholder: "file",
    defaultText: "the user's cache",
    help: "where measured kernel speeds are kept; without it kernels run with their defaults, with the same bits",
  },
  dashboard: {
    type: "switch",
    default: false,
    of: "command",
    group: "advanced",
    help: "serve the run's report while it runs, on this machine alone",
  },
  dashboardPort: {
    type: "count",
    most: 65535,
    of: "command",
    group: "advanced",
    placeholder: "port",
    defaultText: "a free one",
    help: "port of the dashboard, which it starts too",
  },

  "checkpoint.path": {
    ...PROGRAM,
    type: "text",
    mayChange: true,
    help: "file of the checkpoint",
  },
  "checkpoint.every": {
    ...PROGRAM,
    type: "count",
    endless: true,
    mayChange: true,
    help: "steps between checkpoints; 0 or Infinity: none by the count of steps",
  },
  "checkpoint.resume": {
    ...PROGRAM,
    type: "switch",
    mayChange: true,
    help: "continue from the file where it exists",
  },
  "checkpoint.mayDiffer": {
    ...PROGRAM,
    type: "list",
    mayChange: true,
    help: "names of options that may have changed",
  },
  "checkpoint.identity": {
    ...PROGRAM,
    type: "value",
    mayChange: true,
    help: "further facts that must be equal",
  },
  hooks: {
    ...PROGRAM,
    type: "parts",
    mayChange: true,
    help: "functions that the run calls",
  },
  onScoring: {
    ...PROGRAM,
    type: "function",
    mayChange: true,
    help: "called while units are scored",
  },
  onMasks: {
    ...PROGRAM,
    type: "function",
    mayChange: true,
    help: "called with the masks as they are learned, at the steps at which they are looked at",
  },
  onScheduleLog: {
    ...PROGRAM,
    type: "function",
    mayChange: true,
    help: "takes lines that a schedule logs",
  },
  signal: {
    ...PROGRAM,
    type: "value",
    mayChange: true,
    help: "stops the run",
  },
  ranks: {
    ...PROGRAM,
    type: "value",
    mayChange: true,
    help: "processes that train the run together",
  },
  onDealt: {
    ...PROGRAM,
    type: "function",
    mayChange: true,
    help: "called when micro-batches are dealt to ranks anew",
  },
  identity: {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "further facts that a resumed run must share",
  },
  onCalibration: {
    ...PROGRAM,
    type: "function",
    of: "pruneToFolder",
    help: "called as the model writes texts",
  },
  onReady: {
    ...PROGRAM,
    type: "function",
    of: "pruneToFolder",
    help: "called before anything is written",
  },
  onStart: {
    ...PROGRAM,
    type: "function",
    of: "pruneToFolder",
    help: "called before the first step",
  },
  onRecord: {
    ...PROGRAM,
    type: "function",
    of: "pruneToFolder",
    help: "called for every step",
  },
  onPhase: {
    ...PROGRAM,
    type: "function",
    of: "pruneToFolder",
    help: "called before and during measuring, slicing and writing, with the share that is done",
  },
  "export.layout": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "layout of the files",
  },
  "export.name": {
    ...PROGRAM,
    type: "text",
    of: "pruneToFolder",
    help: "name of the model within a GGUF",
  },
  "export.generation": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "generation_config.json of the folder",
  },
  "export.formats": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "files to write: hf, gguf",
  },
  "export.signal": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "stops the export",
  },
  "export.onProgress": {
    ...PROGRAM,
    type: "function",
    of: "pruneToFolder",
    help: "called as weights are written, with the share that is done",
  },
  "export.origin": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "files that the run was made from, for run.json",
  },
  "export.startedAt": { ...PROGRAM, type: "value", of: "pruneToFolder", help: "when the command began, for run.json" },
  "export.command": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "the command line that began the run, for the model card",
  },
  "export.inputs": {
    ...PROGRAM,
    type: "value",
    of: "pruneToFolder",
    help: "what the run was made from, for run.json",
  },
} as const satisfies { readonly [path in PrunePath]: OptionEntry } & Readonly<Record<string, OptionEntry>>;

/** Path of an option in its object. */
export type OptionPath = keyof typeof OPTION_TABLE;

/** All paths, in the order of the table. */
export const OPTION_PATHS: readonly OptionPath[] = Object.keys(OPTION_TABLE).filter(isOptionPath);

/** Whether a text is the path of an option. */
export function isOptionPath(text: string): text is OptionPath {
  return Object.hasOwn(OPTION_TABLE, text);
}

/** The entry of an option. */
export function entryOf(path: OptionPath): OptionEntry {
  return OPTION_TABLE[path];
}

/** Paths of the options of `prune` that decide its bits, in their resolved form: what a resumed run compares, beside rows, schedule and model. */
export const DECIDING_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) => {
  const { of, mayChange } = entryOf(path);
  return of === undefined && !mayChange && path !== "rows" && path !== "vocab.rows";
});

/**
 * Name of an option on the command line and in experiments; null where only programs have it.
 *
 * @internal
 */
export type NameOf<P extends OptionPath> = typeof OPTION_TABLE[P] extends { readonly name: infer N } ? N : P;

/** Value of an option as it is written on the command line, parsed, and in experiments. */
export type WrittenValue<P extends OptionPath> = typeof OPTION_TABLE[P] extends
  { readonly type: "word"; readonly words: readonly (infer W)[] } ? W
  : typeof OPTION_TABLE[P] extends { readonly type: "words"; readonly words: readonly (infer W)[] } ? readonly W[]
  : typeof OPTION_TABLE[P] extends { readonly type: "names" | "list" } ? readonly string[]
  : typeof OPTION_TABLE[P] extends { readonly type: "count" | "number" | "parameters" | "bytes" } ? number
  : typeof OPTION_TABLE[P] extends { readonly type: "switch"; readonly auto: string } ? boolean | "auto"
  : typeof OPTION_TABLE[P] extends { readonly type: "switch" } ? boolean
  : typeof OPTION_TABLE[P] extends { readonly type: "layers" } ? readonly number[]
  : typeof OPTION_TABLE[P] extends { readonly type: "prompt" } ? string | boolean
  : string;

/** Name of an option on the command line and in experiments, in camel case; null where only programs have it. */
export function nameOf(path: OptionPath): string | null {
  const { name } = entryOf(path);
  return name === undefined ? path : name;
}
