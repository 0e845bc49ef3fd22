// Accuracy or exact match of a task and its standard error, as lm-evaluation-harness defines them.
import { pythonLength } from "../compat/python_text.ts";

/** What the model made of one question with choices. */
export interface ChoiceItem {
  /** Log-likelihood of each choice, in nats. */
  readonly scores: readonly number[];
  /** The choice with the highest score, the first among equals. */
  readonly picked: number;
  /** The choice with the highest score per character, the first among equals. */
  readonly pickedNorm: number;
  /** Index of the right choice; null if none is right. */
  readonly answer: number | null;
  /** "" where the task has no subsets. */
  readonly subset: string;
  /** Of answers alone. */
  readonly text?: undefined;
  /** Of answers alone. */
  readonly isExact?: undefined;
  /** Of answers alone. */
  readonly isStrict?: undefined;
  /** Of code alone. */
  readonly isPassed?: undefined;
  /** Of code alone. */
  readonly reason?: undefined;
}

/** What the model answered in its own words, compared with accepted answers. */
export interface AnswerItem {
  /** The answer. */
  readonly text: string;
  /** Whether it equals an accepted one, by the rule of its task. */
  readonly isExact: boolean;
  /** Where numbers are compared: whether the number after `#### ` does, too. */
  readonly isStrict?: boolean;
  /** Of code alone. */
  readonly isPassed?: undefined;
  /** Of code alone. */
  readonly reason?: undefined;
  /** "" where the task has no subsets. */
  readonly subset: string;
  /** Of choices alone. */
  readonly scores?: undefined;
  /** Of choices alone. */
  readonly picked?: undefined;
  /** Of choices alone. */
  readonly pickedNorm?: undefined;
  /** Of choices alone. */
  readonly answer?: undefined;
}

/** Code that the model wrote. */
export interface CodeItem {
  /** The code. */
  readonly text: string;
  /** Whether its program ran to the end. */
  readonly isPassed: boolean;
  /** `passed`, `timed out`, or `failed: ` with the exception. */
  readonly reason: string;
  /** "" where the task has no subsets. */
  readonly subset: string;
  /** Of answers that are compared. */
  readonly isExact?: undefined;
  /** Of answers that are compared. */
  readonly isStrict?: undefined;
  /** Of choices alone. */
  readonly scores?: undefined;
  /** Of choices alone. */
  readonly picked?: undefined;
  /** Of choices alone. */
  readonly pickedNorm?: undefined;
  /** Of choices alone. */
  readonly answer?: undefined;
}

/** What the model made of one question. */
export type ItemScore = ChoiceItem | AnswerItem | CodeItem;

/** Scores of a task with choices. A standard error is NaN if a task or a subset has one question only. */
export interface ChoiceScore {
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
  readonly subsets?: Readonly<Record<string, ChoiceScore>>;
  /** Of generated answers alone. */
  readonly exact_match?: undefined;
  /** Of code alone. */
  readonly "pass@1"?: undefined;
}

/** Scores of a task whose answers are generated; errors as in {@link ChoiceScore}. */
export interface AnswerScore {
  /** Share of the questions whose answer equals an accepted one. */
  readonly exact_match: number;
  /** Standard error of it. */
  readonly stderr: number;
  /** Lower end of its 95 % confidence interval, see {@link wilson}. */
  readonly low: number;
  /** Upper end. */
  readonly high: number;
  /** Where numbers are compared: share of the questions whose number after `#### ` is right, as the harness's strict-match. */
  readonly strict_match?: number;
  /** Questions. */
  readonly n: number;
  /** Questions whose context was cut from the left to fit the model. */
  readonly truncated: number;
  /** Scores of the subsets, where the task has them. */
  readonly subsets?: Readonly<Record<string, AnswerScore>>;
  /** Of code alone. */
  readonly "pass@1"?: undefined;
  /** Of choices alone. */
  readonly acc?: undefined;
  /** Of choices alone. */
  readonly acc_norm?: undefined;
  /** Of choices alone. */
  readonly acc_norm_stderr?: undefined;
}

/** Scores of a task whose answers are code; errors as in {@link ChoiceScore}. */
export interface CodeScore {
  /** Share of the questions whose first answer passes: its program runs to the end. */
  readonly "pass@1": number;
  /** Standard error of it. */
  readonly stderr: number;
  /** Lower end of its 95 % confidence interval, see {@link wilson}. */
  readonly low: number;
  /** Upper end. */
  readonly high: number;
  /** Questions. */
  readonly n: number;
  /** Questions whose context was cut from the left to fit the model. */
  readonly truncated: number;
  /** Scores of the subsets, where the task has them. */
  readonly subsets?: Readonly<Record<string, CodeScore>>;
  /** Of other tasks. */
  readonly exact_match?: undefined;
  /** Of other tasks. */
  readonly acc?: undefined;
  /** Of other tasks. */
  readonly acc_norm?: undefined;
  /** Of other tasks. */
  readonly acc_norm_stderr?: undefined;
}

/** Scores of a task. */
export type TaskScore = ChoiceScore | AnswerScore | CodeScore;

/** One number of a task. */
export interface TaskMetric {
  /** Its name in lm-evaluation-harness. */
  readonly name: "acc" | "acc_norm" | "exact_match" | "pass@1";
  /** A share from 0 to 1. */
  readonly value: number;
  /** Its standard error. */
  readonly stderr: number;
}

/** The names of a task's numbers, in the order of {@link metricsOf}. */
export function metricNames(
  { generate }: { readonly generate?: { readonly rule?: string } | undefined },
): readonly TaskMetric["name"][] {
  return generate ? [generate.rule === "code" ? "pass@1" : "exact_match"] : ["acc", "acc_norm"];
}

/** The numbers of a task; the first one stands for it where there is room for one. */
export function metricsOf(score: TaskScore): readonly [TaskMetric, ...TaskMetric[]] {
  if (score.exact_match !== undefined) {
    return [{ name: "exact_match", value: score.exact_match, stderr: score.stderr }];
  }
  if (score["pass@1"] !== undefined) return [{ name: "pass@1", value: score["pass@1"], stderr: score.stderr }];
  return [
    { name: "acc", value: score.acc, stderr: score.stderr },
    { name: "acc_norm", value: score.acc_norm, stderr: score.acc_norm_stderr },
  ];
}

/** Picks by the scores of choices. */
export function pick(
  scores: readonly number[],
  choices: readonly string[],
): Pick<ChoiceItem, "picked" | "pickedNorm"> {
  return {
    picked: argmax(scores),
    pickedNorm: argmax(scores.map((score, index) => score / pythonLength(choices[index] ?? ""))),
  };
}

type Scored<Item> = Item & { readonly isTruncated?: boolean };

/** The scores of a task's questions, which all have choices, or none. */
export function taskScore(items: readonly Scored<ItemScore>[]): TaskScore {
  const code = items.filter((item) => item.isPassed !== undefined);
  if (code.length > 0) {
    const subsets = bySubset(code, codeScore), score = codeScore(code);
    return subsets ? { ...score, stderr: pooled(Object.values(subsets)), subsets } : score;
  }
  const answers = items.filter((item) => item.isExact !== undefined);
  if (answers.length > 0) {
    const subsets = bySubset(answers, answerScore), score = answerScore(answers);
    return subsets ? { ...score, stderr: pooled(Object.values(subsets)), subsets } : score;
  }
  const chosen = items.filter((item) => item.scores !== undefined);
  const subsets = bySubset(chosen, choiceScore), score = choiceScore(chosen);
  if (!subsets) return score;
  const parts = Object.values(subsets);
  const norms = parts.map(({ acc_norm_stderr: stderr, n }) => ({ stderr, n }));
  return { ...score, stderr: pooled(parts), acc_norm_stderr: pooled(norms), subsets };
}

/** The score of each subset; null if there are none. */
function bySubset<Item extends ItemScore, Score>(
  items: readonly Item[],
  scoreOf: (items: readonly Item[]) => Score,
): Readonly<Record<string, Score>> | null {
  const names = [...new Set(items.map(({ subset }) => subset))];
  if (names.length === 1 && names[0] === "") return null;
  return Object.fromEntries(
    names.map((name) => [name, scoreOf(items.filter(({ subset }) => subset === name))] as const),
  );
}

/** Index of the largest value, the first among equals. */
function argmax(values: readonly number[]): number {
  return values.indexOf(Math.max(...values));
}

function choiceScore(items: readonly Scored<ChoiceItem>[]): ChoiceScore {
  const right = items.map(({ picked, answer }) => picked === answer);
  const rightNorm = items.map(({ pickedNorm, answer }) => pickedNorm === answer);
  const [acc, stderr] = meanAndError(right.map(Number));
  const [acc_norm, acc_norm_stderr] = meanAndError(rightNorm.map(Number));
  return { acc, acc_norm, stderr, acc_norm_stderr, n: items.length, truncated: truncatedOf(items) };
}

function answerScore(items: readonly Scored<AnswerItem>[]): AnswerScore {
  const [exact_match, stderr] = meanAndError(items.map(({ isExact }) => Number(isExact))), n = items.length;
  const strict = items.filter(({ isStrict }) => isStrict !== undefined);
  const [strict_match] = meanAndError(strict.map(({ isStrict }) => Number(isStrict)));
  return {
    exact_match,
    stderr,
    ...wilson(exact_match, n),
    ...(strict.length > 0 ? { strict_match } : {}),
    n,
    truncated: truncatedOf(items),
  };
}

function codeScore(items: readonly Scored<CodeItem>[]): CodeScore {
  const [share, stderr] = meanAndError(items.map(({ isPassed }) => Number(isPassed))), n = items.length;
  return { "pass@1": share, stderr, ...wilson(share, n), n, truncated: truncatedOf(items) };
}

function truncatedOf(items: readonly Scored<ItemScore>[]): number {
  return items.filter(({ isTruncated }) => isTruncated).length;
}

/** Mean and its standard error: s / √n with s² = Σ (x − mean)² / (n − 1). */
export function meanAndError(values: readonly number[]): [mean: number, stderr: number] {
  const n = values.length, mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return [mean, n > 1 ? Math.sqrt(squares / (n - 1) / n) : NaN];
}

/** Quantile of the normal distribution that leaves 2.5 % above. */
const Z = 1.959963984540054;

/**
 * The 95 % confidence interval of a share of `n` independent questions (Wilson, Probable Inference, 1927). It stays within
 * 0 and 1 and has a width if all or none are right.
 */
export function wilson(share: number, n: number): { readonly low: number; readonly high: number } {
  const square = Z ** 2 / n, middle = (share + square / 2) / (1 + square);
  const reach = Math.sqrt(square * share * (1 - share) + square ** 2 / 4) / (1 + square);
  // Exact at the ends, where the two differences round.
  return { low: share === 0 ? 0 : middle - reach, high: share === 1 ? 1 : middle + reach };
}

/** Standard error of the mean over all from those of the parts, by their pooled variance. */
function pooled(parts: readonly { readonly stderr: number; readonly n: number }[]): number {
  const n = parts.reduce((sum, part) => sum + part.n, 0);
  const squares = parts.reduce((sum, part) => sum + (part.n - 1) * part.stderr ** 2 * part.n, 0);
  return Math.sqrt(squares / (n - parts.length) / n);
}
