// Accuracy of a task and its standard error, as lm-evaluation-harness defines them.
import { pythonLength } from "../compat/python_text.ts";

/** What the model made of one question. */
export interface ItemScore {
  /** Log-likelihood of each choice, in nats. */
  readonly scores: readonly number[];
  /** The choice with the highest score, the first among equals. */
  readonly picked: number;
  /** The choice with the highest score for each character of it, the first among equals. */
  readonly pickedNorm: number;
  /** Index of the right choice; null where none is right. */
  readonly answer: number | null;
  /** "" where the task has no subsets. */
  readonly subset: string;
}

/** Scores of a task. A standard error is NaN where a task or a subset has one question only. */
export interface TaskScore {
  /** Share of the questions whose likeliest choice is the right one. */
  readonly acc: number;
  /** The same by likelihood for each character of a choice. */
  readonly acc_norm: number;
  /** Standard error of acc: sample deviation / √n; over subsets, from their pooled variance. */
  readonly stderr: number;
  /** Standard error of acc_norm. */
  readonly acc_norm_stderr: number;
  /** Questions. */
  readonly n: number;
  /** Questions whose context was cut from the left to fit the model. */
  readonly truncated: number;
  /** Scores of the subsets, where the task has them. */
  readonly subsets?: Readonly<Record<string, TaskScore>>;
}

/** Picks by the scores of choices. */
export function pick(
  scores: readonly number[],
  choices: readonly string[],
): Pick<ItemScore, "picked" | "pickedNorm"> {
  return {
    picked: argmax(scores),
    pickedNorm: argmax(scores.map((score, index) => score / pythonLength(choices[index] ?? ""))),
  };
}

/** The scores of a task's questions. */
export function taskScore(items: readonly (ItemScore & { readonly isTruncated?: boolean })[]): TaskScore {
  const names = [...new Set(items.map(({ subset }) => subset))];
  if (names.length === 1 && names[0] === "") return plainScore(items);
  const parts = names.map((name) => plainScore(items.filter(({ subset }) => subset === name)));
  const whole = plainScore(items);
  return {
    ...whole,
    stderr: pooled(parts.map(({ stderr, n }) => ({ stderr, n }))),
    acc_norm_stderr: pooled(parts.map(({ acc_norm_stderr: stderr, n }) => ({ stderr, n }))),
    subsets: Object.fromEntries(names.map((name, index) => [name, parts[index] ?? whole])),
  };
}

/** Index of the largest value, the first among equals. */
function argmax(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

function plainScore(items: readonly (ItemScore & { readonly isTruncated?: boolean })[]): TaskScore {
  const right = items.map(({ picked, answer }) => picked === answer);
  const rightNorm = items.map(({ pickedNorm, answer }) => pickedNorm === answer);
  const [acc, stderr] = meanAndError(right.map(Number));
  const [acc_norm, acc_norm_stderr] = meanAndError(rightNorm.map(Number));
  const truncated = items.filter(({ isTruncated }) => isTruncated).length;
  return { acc, acc_norm, stderr, acc_norm_stderr, n: items.length, truncated };
}

/** Mean and its standard error: s / √n with s² = Σ (x − mean)² / (n − 1). */
export function meanAndError(values: readonly number[]): [mean: number, stderr: number] {
  const n = values.length, mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return [mean, n > 1 ? Math.sqrt(squares / (n - 1) / n) : NaN];
}

/** Standard error of the mean over all from those of the parts, by their pooled variance. */
function pooled(parts: readonly { readonly stderr: number; readonly n: number }[]): number {
  const n = parts.reduce((sum, part) => sum + part.n, 0);
  const squares = parts.reduce((sum, part) => sum + (part.n - 1) * part.stderr ** 2 * part.n, 0);
  return Math.sqrt(squares / (n - parts.length) / n);
}
