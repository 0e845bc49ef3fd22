// Compares two models on the same questions or windows: paired differences with confidence intervals.
import { refuse } from "../core/errors.ts";
import type { PerplexityResult, WindowLoss } from "./perplexity.ts";
import { type ItemScore, meanAndError } from "./metrics.ts";

/** A difference of two models on the same data, with its 95 % confidence interval by Student's distribution. */
export interface PairedDifference {
  /** Second minus first. */
  readonly difference: number;
  /** Its standard error, from the differences item by item; NaN for one item. */
  readonly stderr: number;
  /** Lower end of the interval; NaN for one item, and if all differences are equal, as the spread is then unknown. */
  readonly low: number;
  /** Upper end. */
  readonly high: number;
}

/** Ratio of two perplexities with its 95 % confidence interval. */
export interface PerplexityRatio {
  /** Second over first. */
  readonly ratio: number;
  /** Lower end of the interval; NaN for one window. */
  readonly low: number;
  /** Upper end. */
  readonly high: number;
}

/** Quantile of the normal distribution that leaves 2.5 % above. */
const Z = 1.959963984540054;
/** Those of Student's distribution with 1 to 10 degrees of freedom. */
const STUDENT = [12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.306, 2.2622, 2.2281];

/** How many standard errors of a mean over `n` values its 95 % interval reaches to each side; from 12 values on by the first terms of its expansion, to 0.003. */
export function halfWidth(n: number): number {
  const free = n - 1, [first, second] = [(Z ** 3 + Z) / 4, (5 * Z ** 5 + 16 * Z ** 3 + 3 * Z) / 96];
  return STUDENT[free - 1] ?? Z + first / free + second / free ** 2;
}

/** Differences of two models in the numbers of a task, by their names. */
export type TaskDifference =
  | {
    readonly acc: PairedDifference;
    readonly acc_norm: PairedDifference;
    readonly exact_match?: undefined;
    readonly "pass@1"?: undefined;
  }
  | {
    readonly exact_match: PairedDifference;
    readonly acc?: undefined;
    readonly acc_norm?: undefined;
    readonly "pass@1"?: undefined;
  }
  | {
    readonly "pass@1": PairedDifference;
    readonly acc?: undefined;
    readonly acc_norm?: undefined;
    readonly exact_match?: undefined;
  };

/**
 * Differences in acc and acc_norm, in exact_match, or in pass@1, of a second model against a first on the same questions. The
 * interval is that of the mean of the differences per question, so the difficulty of a question cancels.
 *
 * Items do not hold the question itself. Two lists count as the same questions if they have the same length, and each
 * pair of items has the same subset, number of choices and right answer.
 *
 * @throws CompressoError("mismatch") if the questions are not the same.
 * @throws CompressoError("usage") if there are no items.
 */
export function compareItems(
  first: readonly ItemScore[],
  second: readonly ItemScore[],
): TaskDifference {
  const gap = firstGap(first, second);
  if (gap !== null) {
    refuse("mismatch", "cannot compare two models", {
      rule: "both have answered the same questions",
      value: gap,
      fix: "evaluate both with the same tasks, data and limit",
    });
  }
  if (first.length === 0) {
    refuse("usage", "cannot compare two models", {
      rule: "both have answered at least one question",
      value: "none",
      fix: "give the items of a task that has questions",
    });
  }
  const gains = (isRight: (item: ItemScore) => boolean): PairedDifference =>
    comparePairs(first.map(isRight), second.map(isRight));
  if (first.some(({ isPassed }) => isPassed !== undefined)) {
    return { "pass@1": gains(({ isPassed }) => isPassed === true) };
  }
  if (first.some(({ text }) => text !== undefined)) return { exact_match: gains(({ isExact }) => isExact === true) };
  return {
    acc: gains(({ picked, answer }) => picked === answer),
    acc_norm: gains(({ pickedNorm, answer }) => pickedNorm === answer),
  };
}

/** The differences in the order of `metricsOf`; the first one stands for the task where there is room for one. */
export function gapsOf(
  gaps: TaskDifference,
): readonly [{ readonly name: string; readonly gap: PairedDifference }, ...{ name: string; gap: PairedDifference }[]] {
  if (gaps.exact_match) return [{ name: "exact_match", gap: gaps.exact_match }];
  if (gaps["pass@1"]) return [{ name: "pass@1", gap: gaps["pass@1"] }];
  return [{ name: "acc", gap: gaps.acc }, { name: "acc_norm", gap: gaps.acc_norm }];
}

/** Where the questions of two lists of items differ first; null if nothing tells them apart. */
function firstGap(first: readonly ItemScore[], second: readonly ItemScore[]): string | null {
  if (first.length !== second.length) return `${first.length} and ${second.length} questions`;
  const facts = ({ subset, answer, scores }: ItemScore): Readonly<Record<string, string>> => ({
    subset: JSON.stringify(subset),
    choices: String(scores?.length ?? 0),
    "right answer": String(answer),
  });
  for (const [index, item] of first.entries()) {
    const other = second[index];
    if (!other) continue;
    const [own, its] = [facts(item), facts(other)];
    const name = Object.keys(own).find((key) => own[key] !== its[key]);
    if (name !== undefined) return `item ${index}: ${name} ${own[name]} and ${its[name]}`;
  }
  return null;
}

/**
 * Ratio of the perplexities of two models over the same windows; null if their tokens or windows differ, as with
 * different tokenizers. The interval is that of the difference of the mean losses, with windows as the samples.
 */
export function comparePerplexity(first: PerplexityResult, second: PerplexityResult): PerplexityRatio | null {
  const a = first.perWindow, b = second.perWindow;
  if (first.digest !== second.digest) return null;
  if (a.length !== b.length || a.some(({ tokens }, index) => tokens !== b[index]?.tokens)) return null;
  return lossRatio(a, b);
}

/** exp of {@link compareLosses}. */
export function lossRatio(first: readonly WindowLoss[], second: readonly WindowLoss[]): PerplexityRatio {
  const { difference, low, high } = compareLosses(first, second);
  return { ratio: Math.exp(difference), low: Math.exp(low), high: Math.exp(high) };
}

/** Difference of the mean losses of a token, in nats, of two models over the same windows, which are what varies. */
export function compareLosses(first: readonly WindowLoss[], second: readonly WindowLoss[]): PairedDifference {
  const n = first.length, tokens = first.reduce((sum, window) => sum + window.tokens, 0);
  const gaps = first.map(({ nll }, index) => (second[index]?.nll ?? NaN) - nll);
  const difference = gaps.reduce((sum, gap) => sum + gap, 0) / tokens;
  // Windows may have different numbers of tokens: the error of a ratio of sums.
  const squares = first.reduce((sum, own, index) => sum + ((gaps[index] ?? NaN) - difference * own.tokens) ** 2, 0);
  const stderr = n > 1 ? Math.sqrt(squares * n / (n - 1)) / tokens : NaN, reach = halfWidth(n) * stderr;
  return { difference, stderr, low: difference - reach, high: difference + reach };
}

/** Difference of the shares of what is true, item by item the same for both. */
export function comparePairs(first: readonly boolean[], second: readonly boolean[]): PairedDifference {
  const [difference, stderr] = meanAndError(first.map((right, index) => Number(second[index]) - Number(right)));
  const reach = stderr > 0 ? halfWidth(first.length) * stderr : NaN;
  return { difference, stderr, low: difference - reach, high: difference + reach };
}
