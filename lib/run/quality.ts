// Quality of a model before and after pruning: loss on held-out rows, and on a text and tasks where they are given.
import { compareItems, compareLosses, type PairedDifference } from "../eval/compare.ts";
import type { EncodedTask } from "../eval/score_task.ts";
import type { EvaluateOptions } from "../eval/evaluate.ts";
import { type CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { type ItemScore, type TaskScore, taskScore } from "../eval/metrics.ts";
import { type Agreement, agreementOf } from "../eval/agreement.ts";
import { checkLength, encodeText, leadingIds, type WindowLoss } from "../eval/perplexity.ts";
import type { LoadedTask } from "../eval/task_data.ts";
import { labelBytes } from "../eval/text_bytes.ts";
import { countLabels, IGNORED_LABEL } from "../data/prompts/encode.ts";
import type { Adapters, LabelAgreement, Model } from "../model/model.ts";
import type { DenseSide } from "../nn/agreement.ts";
import type { RunData } from "./data.ts";
import { stagesOf, type StageSteps } from "./methods/stages.ts";
import type { ResolvedOptions, RunOptions } from "./options/options.ts";
import { type Evaluation, MOST_CHARS, MOST_WINDOWS, QUESTIONS, WINDOW } from "./evaluation.ts";

/** Loss of a model before and after pruning on the same tokens. */
export interface LossChange {
  /** Mean cross-entropy of a label in nats, of the model as it was given. */
  readonly before: number;
  /** The same with masks and LoRA: of the pruned model, in the dtype of the base. */
  readonly after: number;
  /** exp of both. */
  readonly perplexity: { readonly before: number; readonly after: number };
  /** Loss in bits per byte of UTF-8 text, comparable between tokenizers; null without text. */
  readonly bitsPerByte: { readonly before: number; readonly after: number } | null;
  /** after − before with its 95 % confidence interval, sequences taken as independent. NaN (null in files) for one sequence. */
  readonly difference: PairedDifference;
  /**
   * How the pruned model agrees with the dense one, which has its whole vocabulary. Rows are compared at every label. A
   * text is compared at the tokens of the second half of each window, as by `fidelity`. Null in files of older versions.
   */
  readonly agreement: Agreement | null;
  /** Labels: tokens of the responses, or all of a text. */
  readonly labels: number;
  /** Bytes of their text. */
  readonly bytes: number;
  /** Sequences, each read alone. */
  readonly sequences: number;
}

/** Scores of a task before and after pruning. */
export interface TaskChange {
  /** Of the model as it was given. */
  readonly before: TaskScore;
  /** Of the pruned model. */
  readonly after: TaskScore;
  /** Differences in acc and acc_norm. */
  readonly difference: ReturnType<typeof compareItems>;
}

/** Quality of a model before and after pruning. */
export interface QualityChange {
  /** On held-out rows; null if there are none. */
  readonly heldout: LossChange | null;
  /** On the text; null if none is given. */
  readonly text: LossChange | null;
  /** By name of the task. */
  readonly tasks: Readonly<Record<string, TaskChange>>;
}

/** How a text is cut into windows: tokens of each window, and the ids that each begins with. */
interface TextWindows {
  readonly window: number;
  readonly leading: readonly number[];
}

/** What quality is measured on. */
export interface QualityData {
  /** Held-out sequences, their labels, and the tokens to which they are padded. */
  readonly heldout: Pick<RunData, "heldout" | "heldoutLabels"> & { readonly seq: number; readonly bytes: number };
  readonly text: TextWindows & { readonly tokens: readonly number[]; readonly bytes: number } | null;
  readonly tasks: readonly { readonly task: LoadedTask; readonly encoded: EncodedTask }[];
}

/** Fewest held-out sequences that are measured: those of a run without steps. */
export const FEWEST = 8;
/** Most of them. */
const MOST = 32;
/** Share of the time of a run's steps that measuring them takes at most, as long as they are more than the fewest. */
const COST = 0.05;
/** Time of a training step over that of reading its sequences one by one; on the demo and llvmpipe 1.7. */
export const STEP_COST = 2;

/** Number of held-out sequences to measure before and after the steps of a run: all where their rows were asked for. */
export function heldOutSequences(
  options: ResolvedOptions,
  { valRows }: Partial<Pick<RunOptions, "valRows">>,
): number {
  return options.val !== null || valRows !== undefined ? Infinity : measuredSequences(options);
}

/** The same where nobody asked for their rows. */
export function measuredSequences(options: StageSteps & Pick<ResolvedOptions, "batch" | "accumulate">): number {
  const steps = stagesOf(options).reduce((sum, stage) => sum + stage.steps, 0);
  const trained = steps * options.batch * options.accumulate;
  return Math.min(MOST, Math.max(FEWEST, Math.floor(COST * STEP_COST * trained / 2)));
}

/** Reads the data of tasks. */
export type TaskLoader = (
  options: Pick<EvaluateOptions, "tasks" | "taskData" | "limit">,
) => Promise<readonly LoadedTask[]>;

/** What was measured of one model. */
export interface Measured {
  /** Of each held-out sequence. */
  readonly heldout: readonly WindowLoss[];
  /** Of each window of the text. */
  readonly text: readonly WindowLoss[];
  /** By name of the task. */
  readonly tasks: Readonly<Record<string, readonly ItemScore[]>>;
  /** Of the dense model, what its head reads at the labels of each sequence: held-out ones, then windows. Otherwise empty. */
  readonly states: readonly Float32Array<ArrayBuffer>[];
  /** Of another model, how it agrees with the dense one at these labels. Otherwise empty. */
  readonly agreement: readonly LabelAgreement[];
}

/** The dense model, for the measures of another one. */
export interface MeasuredDense {
  readonly states: Measured["states"];
  readonly side: DenseSide;
}

/** A sequence that is read alone. */
export interface MeasuredRow {
  readonly tokens: readonly number[];
  readonly labels: readonly number[];
  /** Tokens to which it is padded. */
  readonly seq: number;
}

/**
 * Reads and encodes what quality is measured on.
 *
 * @throws CompressoError("input") for a text shorter than a window, and for tasks whose data are missing or do not fit.
 * @throws CompressoError("usage") for unknown tasks.
 */
export async function qualityData(
  model: Pick<Model, "spec" | "tokenizer">,
  { heldout: sequences, heldoutLabels: labels }: Pick<RunData, "heldout" | "heldoutLabels">,
  {
    seq,
    most = FEWEST,
    evaluation: { text, tasks = [], taskData = ".", questions = QUESTIONS } = {},
    loadTasks,
    signal,
  }: {
    readonly seq: number;
    /** Held-out sequences at most. */
    readonly most?: number;
    readonly evaluation?: Evaluation | undefined;
    readonly loadTasks: TaskLoader | null;
    readonly signal: AbortSignal;
  },
): Promise<QualityData> {
  const { tokenizer } = model, heldoutLabels = labels.slice(0, most);
  const measured = sequences.slice(0, heldoutLabels.length);
  const bytes = tokenizer
    ? measured.reduce((sum, ids, row) => sum + labelBytes(tokenizer, ids, heldoutLabels[row] ?? []), 0)
    : 0;
  if (tasks.length > 0 && !loadTasks) throw noTasks();
  const loaded = tasks.length > 0 ? await loadTasks?.({ tasks, taskData, limit: questions }) ?? [] : [];
  const encoded: { task: LoadedTask; encoded: EncodedTask }[] = [];
  for (const task of loaded) {
    const { encodeTask } = await import("../eval/score_task.ts");
    encoded.push({ task, encoded: await encodeTask(model, task, { signal }) });
  }
  return {
    heldout: { heldout: measured, heldoutLabels, seq, bytes },
    text: text === undefined ? null : textData(model, text),
    tasks: encoded,
  };
}

/**
 * Measures a model with masks and LoRA, or without. Sequences run one by one, which takes little memory.
 *
 * @throws CompressoError("numeric") if a loss on the text is not finite.
 */
export async function measureQuality(
  model: Model,
  data: QualityData,
  { adapters, dense = null, signal, onProgress }: {
    readonly adapters: Adapters;
    /** The dense model that this one is compared with. Default: this is the dense one. */
    readonly dense?: MeasuredDense | null;
    readonly signal: AbortSignal;
    /** Called with the share that is done, from 0 to 1. */
    readonly onProgress?: (share: number) => void;
  },
): Promise<Measured> {
  const { tasks } = data, { rows, windows } = measuredRows(data), sequences = [...rows, ...windows];
  const whole = sequences.length + tasks.reduce((sum, { task }) => sum + task.questions.length, 0);
  const losses: WindowLoss[] = [], states: Float32Array<ArrayBuffer>[] = [], agreement: LabelAgreement[] = [];
  for (const [index, row] of sequences.entries()) {
    const { tokens, labels } = paddedRow(row);
    const how = { batch: 1, adapters, signal };
    let nll = 0;
    if (dense) {
      const kept = dense.states[index] ?? new Float32Array();
      const found = await model.agreement(tokens, labels, { ...how, dense: dense.side, states: kept });
      for (const loss of found.loss) nll += loss;
      agreement.push(found);
    } else {
      const found = await model.lossesAndStates(tokens, labels, how);
      for (const loss of found.losses) nll += loss;
      states.push(found.states);
    }
    if (index >= rows.length) checkWindow(index - rows.length, nll);
    losses.push({ nll, tokens: countLabels(row.labels) });
    onProgress?.(losses.length / whole);
  }
  const items: Record<string, readonly ItemScore[]> = {};
  let before = sequences.length;
  for (const { task, encoded } of tasks) {
    const onScored = (done: number): void => onProgress?.((before + done) / whole);
    const { scoreTask } = await import("../eval/score_task.ts");
    items[task.name] = await scoreTask(model, task, { encoded, adapters, signal, onProgress: onScored });
    before += task.questions.length;
  }
  await model.release();
  return { heldout: losses.slice(0, rows.length), text: losses.slice(rows.length), tasks: items, states, agreement };
}

/** The sequences that are measured, held-out rows and windows of the text. */
export function measuredRows(
  { heldout: { heldout, heldoutLabels, seq }, text }: Pick<QualityData, "heldout" | "text">,
): { readonly rows: readonly MeasuredRow[]; readonly windows: readonly MeasuredRow[] } {
  return {
    rows: heldout.map((tokens, row) => ({ tokens, labels: heldoutLabels[row] ?? [], seq })),
    windows: text ? windowRows(text) : [],
  };
}

/** Tokens and labels [seq] of a sequence. */
export function paddedRow(
  row: MeasuredRow,
): { readonly tokens: Uint32Array<ArrayBuffer>; readonly labels: Int32Array<ArrayBuffer> } {
  const tokens = new Uint32Array(row.seq), labels = new Int32Array(row.seq).fill(IGNORED_LABEL);
  tokens.set(row.tokens);
  labels.set(row.labels);
  return { tokens, labels };
}

/** Throws `CompressoError("numeric")` if the loss of a window of the text is not finite. */
export function checkWindow(window: number, nll: number): void {
  if (Number.isFinite(nll)) return;
  refuse("numeric", "cannot measure perplexity", {
    rule: "the loss of every token is finite",
    value: `the sum of window ${window + 1} is ${nll}`,
    fix: "check the model's weights, masks and LoRA",
  });
}

/** Compares what was measured before and after pruning. */
export function compareQuality(data: QualityData, before: Measured, after: Measured): QualityChange {
  const rows = before.heldout.length, { text } = data;
  const ofRows = agreementIn(after.agreement.slice(0, rows), 0);
  const ofText = text && agreementIn(after.agreement.slice(rows), firstHalf(text));
  return {
    heldout: lossChange(before.heldout, after.heldout, { bytes: data.heldout.bytes, agreement: ofRows }),
    text: text && lossChange(before.text, after.text, { bytes: text.bytes, agreement: ofText }),
    tasks: Object.fromEntries(
      Object.entries(before.tasks).map(([name, items]) => {
        const other = after.tasks[name] ?? [];
        return [name, { before: taskScore(items), after: taskScore(other), difference: compareItems(items, other) }];
      }),
    ),
  };
}

/** The statistics of some sequences, without the first labels of each; null if nothing was compared. */
export function agreementIn(sequences: readonly LabelAgreement[], skipped: number): Agreement | null {
  const column = (of: "divergence" | "isSame" | "dropped"): number[] =>
    sequences.flatMap((one) => [...one[of].subarray(skipped)]);
  return agreementOf({ divergence: column("divergence"), isSame: column("isSame"), dropped: column("dropped") });
}

/** Labels of a window up to the first token of its second half, which `fidelity` does not compare. */
function firstHalf({ window, leading }: TextWindows): number {
  return Math.floor(window / 2) + 1 - Math.max(1, leading.length);
}

/** Null if nothing was measured. */
function lossChange(
  before: readonly WindowLoss[],
  after: readonly WindowLoss[],
  { bytes, agreement }: Pick<LossChange, "bytes" | "agreement">,
): LossChange | null {
  const labels = before.reduce((sum, { tokens }) => sum + tokens, 0);
  if (labels === 0) return null;
  const [first, second] = [before, after].map((losses) => losses.reduce((sum, { nll }) => sum + nll, 0) / labels);
  const [own = NaN, other = NaN] = [first, second], bits = (loss: number): number => loss * labels / bytes / Math.LN2;
  return {
    before: own,
    after: other,
    perplexity: { before: Math.exp(own), after: Math.exp(other) },
    bitsPerByte: bytes > 0 ? { before: bits(own), after: bits(other) } : null,
    difference: compareLosses(before, after),
    agreement,
    labels,
    bytes,
    sequences: before.length,
  };
}

function noTasks(): CompressoError {
  return refusal("usage", `cannot use ${option("evaluate.tasks")}`, {
    rule: "their data are read from the disk of this machine",
    value: "a run on another system",
    fix: "leave them out, and measure the model afterwards",
  });
}

function textData(model: Pick<Model, "spec" | "tokenizer">, text: string): QualityData["text"] {
  const window = Math.min(WINDOW, model.spec.maxPosition), tokens = encodeText(model, text, MOST_CHARS);
  const leading = leadingIds(model);
  checkLength(tokens.length, { window, stride: undefined, leading });
  const used = tokens.slice(0, (window - leading.length) * windowCount(tokens.length, { window, leading }));
  const rows = windowRows({ tokens: used, window, leading }), { tokenizer } = model;
  const bytes = tokenizer ? rows.reduce((sum, row) => sum + labelBytes(tokenizer, row.tokens, row.labels), 0) : 0;
  return { tokens: used, window, leading, bytes };
}

/** Whole windows of so many tokens that are measured. */
function windowCount(tokens: number, { window, leading }: TextWindows): number {
  return Math.min(MOST_WINDOWS, Math.floor(tokens / (window - leading.length)));
}

/** Each window with its leading ids, which are not predicted; nor is a first token that nothing is before. */
function windowRows({ tokens, window, leading }: TextWindows & { readonly tokens: readonly number[] }): MeasuredRow[] {
  const own = window - leading.length, rows: MeasuredRow[] = [];
  for (let first = 0; first < tokens.length; first += own) {
    const ids = [...leading, ...tokens.slice(first, first + own)], unseen = Math.max(1, leading.length);
    rows.push({ tokens: ids, labels: ids.map((id, at) => at < unseen ? IGNORED_LABEL : id), seq: window });
  }
  return rows;
}
