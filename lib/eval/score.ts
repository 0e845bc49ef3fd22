// Log-likelihood of continuations, and multiple choice by them.
import { type Reasons, refuse } from "../core/errors.ts";
import { dealt, type Ranks } from "../ranks/ranks.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Sequence } from "../nn/token_tree.ts";
import type { Adapters, Model } from "../model/model.ts";
import { type Packing, packSequences } from "./score_packing.ts";

export type { Sequence } from "../nn/token_tree.ts";

/** One question as token ids. */
export interface ChoiceRow {
  /** The tokens before the answer; not empty. */
  readonly prefix: readonly number[];
  /** Continuations, none empty. An end token at the end of one counts in its likelihood. */
  readonly choices: readonly (readonly number[])[];
  /** Index of the right choice. */
  readonly answer: number;
  /** Number of the row in errors. Default: its place, from 1. */
  readonly number?: number;
}

/** Options of {@link scoreChoices} and {@link logLikelihoods}. */
export interface ScoreOptions {
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Processes that share the work: all call it with the same sequences, and each gets all scores. Default: this one. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch with the sequences scored so far. */
  readonly onProgress?: ((sequences: number, total: number) => void) | undefined;
}

const NAMES: NamesOf<ScoreOptions> = { adapters: true, ranks: true, signal: true, onProgress: true };

/** Options of {@link logLikelihoods}. */
export interface LikelihoodOptions extends ScoreOptions {
  /** Called after each batch with the places of the sequences that it has scored, and their log-likelihoods. */
  readonly onScores?: ((places: readonly number[], scores: readonly number[]) => void) | undefined;
}

/** What the model made of one question. */
export interface RowScore {
  /** The choice with the highest score, the first among equals. */
  readonly picked: number;
  /** Whether it is the right one. */
  readonly isCorrect: boolean;
  /** Log-likelihood of each choice after the prefix, in nats: the sum over its tokens, not their mean. */
  readonly scores: readonly number[];
}

/** Scores of all questions. */
export interface ScoreResult {
  /** correct / n. */
  readonly accuracy: number;
  /** Rows answered rightly. */
  readonly correct: number;
  /** Rows scored. */
  readonly n: number;
  /** Scores row by row. */
  readonly perRow: readonly RowScore[];
}

/**
 * Scores every choice of every row, and counts the rows where the right one has the highest log-likelihood.
 *
 * @throws CompressoError("usage") for options that do not exist.
 * @throws CompressoError("input") for no rows, an empty prefix or choice, an answer that is not a choice, and a sequence longer than the model's
 * context.
 * @throws CompressoError("numeric") if a likelihood is not finite.
 */
export async function scoreChoices(
  model: Model,
  rows: readonly ChoiceRow[],
  options: ScoreOptions = {},
): Promise<ScoreResult> {
  checkNames(options, NAMES, { whose: "scoreChoices" });
  checkRows(rows, model.spec.maxPosition);
  const sequences = rows.flatMap(({ prefix, choices }) => choices.map((choice) => ({ prefix, choice })));
  const scores = await logLikelihoods(model, sequences, options);
  let at = 0;
  const perRow = rows.map(({ choices, answer }): RowScore => {
    const own = scores.slice(at, at += choices.length);
    const picked = own.indexOf(Math.max(...own));
    return { picked, isCorrect: picked === answer, scores: own };
  });
  const correct = perRow.filter(({ isCorrect }) => isCorrect).length;
  return { accuracy: correct / rows.length, correct, n: rows.length, perRow };
}

/**
 * The log-likelihood of each sequence's choice after its prefix, in nats: the sum over its tokens. A pass holds as many
 * sequences as fit, and computes a beginning that several of them share once. The results equal those of one sequence
 * at a time, up to rounding in f32.
 *
 * @throws CompressoError("usage") for options that do not exist.
 * @throws CompressoError("input") for an empty prefix or choice, a sequence longer than the model's context (its last
 * token is not read and does not count), and ids outside the vocabulary.
 * @throws CompressoError("numeric") if a likelihood is not finite.
 */
export async function logLikelihoods(
  model: Model,
  sequences: readonly Sequence[],
  options: LikelihoodOptions = {},
): Promise<number[]> {
  checkNames(options, { ...NAMES, onScores: true }, { whose: "logLikelihoods" });
  const { adapters, ranks, signal, onProgress, onScores } = options;
  checkSequences(sequences, model.spec.maxPosition);
  const result = new Array<number>(sequences.length).fill(NaN);
  let done = 0;
  const run = async ({ tree, rows }: Packing): Promise<number[]> => {
    signal?.throwIfAborted();
    const losses = await model.treeLosses(tree, {
      rows,
      adapters,
      signal,
    });
    const scores = tree.paths.map((edges) => edges.reduce((sum, edge) => sum - (losses[edge] ?? NaN), 0));
    checkFinite(scores);
    return scores;
  };
  for await (const [{ places }, scores] of dealt(packSequences(sequences), ranks, run)) {
    places.forEach((place, index) => result[place] = scores[index] ?? NaN);
    done += places.length;
    onScores?.(places, scores);
    onProgress?.(done, sequences.length);
  }
  return result;
}

function checkSequences(sequences: readonly Sequence[], most: number): void {
  sequences.forEach(({ prefix, choice }, index) => {
    const read = prefix.length + choice.length - 1;
    if (prefix.length > 0 && choice.length > 0 && read <= most) return;
    refuse("input", `cannot score sequence ${index}`, {
      rule: `it has a prefix and a choice, and at most ${most} tokens without the last one`,
      value: `a prefix of ${prefix.length} tokens and a choice of ${choice.length}`,
      fix: "shorten them, or give each a token",
    });
  });
}

/** Throws `CompressoError("input")` for rows that {@link scoreChoices} refuses with a context of `most` tokens. */
export function checkRows(rows: readonly ChoiceRow[], most: number): void {
  const fail = (where: string, reasons: Reasons): never => refuse("input", `cannot score ${where}`, reasons);
  if (rows.length === 0) fail("choices", { rule: "there is at least one row", value: "no rows", fix: "give a row" });
  rows.forEach(({ prefix, choices, answer, number }, index) => {
    const where = `row ${number ?? index + 1}`, fix = "fix the row, or leave it out";
    if (prefix.length === 0) fail(where, { rule: "the prefix has at least one token", value: "an empty prefix", fix });
    if (choices.length === 0) fail(where, { rule: "it has choices", value: "none", fix });
    if (!Number.isInteger(answer) || choices[answer] === undefined) {
      fail(where, { rule: `the answer is an index below ${choices.length}`, value: String(answer), fix });
    }
    for (const choice of choices) {
      if (choice.length === 0) fail(where, { rule: "a choice has at least one token", value: "an empty choice", fix });
      const length = prefix.length + choice.length;
      if (length > most + 1) {
        fail(where, {
          rule: `prefix and choice have at most ${most + 1} tokens together, where the last one is not read`,
          value: `${length} tokens`,
          fix: "shorten the row, or leave it out",
        });
      }
    }
  });
}

function checkFinite(scores: readonly number[]): void {
  const bad = scores.find((score) => !Number.isFinite(score));
  if (bad === undefined) return;
  refuse("numeric", "cannot score choices", {
    rule: "the log-likelihood of every choice is finite",
    value: String(bad),
    fix: "check the model's weights, masks and LoRA",
  });
}
