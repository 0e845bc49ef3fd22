// Exact match of generated answers: greedy decoding of several questions at once, and what counts as equal.
import { dealt, type Ranks } from "../ranks/ranks.ts";
import { createTextBatch, type TextBatch } from "../generate/text_batch.ts";
import { streamText } from "../generate/text.ts";
import type { Adapters, Model } from "../model/model.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** A question as token ids, and how its answer ends. */
export interface AnswerPrompt {
  /** Token ids; none means BOS. */
  readonly prompt: readonly number[];
  /** Tokens of the answer at most. */
  readonly maxTokens: number;
  /** Texts that end the answer, in addition to the model's end tokens. The answer does not include them. */
  readonly until: readonly string[];
  /** Further tokens that end the answer, such as the end of a turn. Default: none. */
  readonly endTokens?: readonly number[];
}

/** Options of {@link greedyAnswers}. */
export interface AnswersOptions {
  /** The model's tokenizer. */
  readonly tokenizer: Tokenizer;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Processes that share the questions: all call it with the same ones, and each gets all answers. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called for each answer, in groups, in order. */
  readonly onAnswer?: ((place: number, text: string) => void) | undefined;
}

/** Answers that are decoded at once, and questions of a group: those of a group leave room for the next as they end. */
const SEQUENCES = 8, GROUP = 32;

/**
 * The model's answers by greedy decoding, without special tokens. An answer does not depend on how many prompts are
 * decoded at once.
 *
 * @throws CompressoError("gpu") if a question and its answer do not fit the memory of the GPU.
 * @throws CompressoError("numeric") if the logits are not finite.
 */
export async function greedyAnswers(
  model: Model,
  prompts: readonly AnswerPrompt[],
  { tokenizer, adapters, ranks, signal, onAnswer }: AnswersOptions,
): Promise<string[]> {
  if (prompts.length === 0) return [];
  const capacity = Math.max(...prompts.map(({ prompt, maxTokens }) => Math.max(1, prompt.length) + maxTokens));
  await using batch = createTextBatch(model, {
    sequences: Math.min(SEQUENCES, prompts.length),
    capacity: Math.min(capacity, model.spec.maxPosition),
    adapters,
  });
  const answers: string[] = [];
  const run = (group: readonly AnswerPrompt[]): Promise<string[]> =>
    Promise.all(group.map((prompt) => answerOf(batch, prompt, { tokenizer, signal })));
  for await (const [, texts] of dealt(groupsOf(prompts), ranks, run)) {
    for (const text of texts) onAnswer?.(answers.push(text) - 1, text);
  }
  return answers;
}

/**
 * Whether an answer is one of the accepted ones. Both are normalised first: lower case, no ASCII punctuation, one space
 * for each run of white space, no space at the ends. A text of punctuation alone keeps its punctuation. SQuAD 1.1 also
 * removes articles; here they stay, so that the answer "A" counts.
 */
export function isExactMatch(text: string, accepted: readonly string[]): boolean {
  const answer = normalised(text);
  return accepted.some((one) => normalised(one) === answer);
}

/** Python's `string.punctuation`. */
const PUNCTUATION = /[!-/:-@[-`{-~]/g;

function normalised(text: string): string {
  const lower = text.toLowerCase(), plain = oneSpace(lower.replace(PUNCTUATION, ""));
  return plain === "" ? oneSpace(lower) : plain;
}

function oneSpace(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}

async function answerOf(
  batch: TextBatch,
  { prompt, maxTokens, until, endTokens = [] }: AnswerPrompt,
  { tokenizer, signal }: Pick<AnswersOptions, "tokenizer" | "signal">,
): Promise<string> {
  const tokens = batch.generate(prompt, { maxTokens, endTokens, signal });
  let text = "";
  for await (const piece of streamText(tokens, { tokenizer, stop: until, before: prompt })) text += piece;
  return text;
}

function* groupsOf(prompts: readonly AnswerPrompt[]): Generator<readonly AnswerPrompt[]> {
  for (let from = 0; from < prompts.length; from += GROUP) yield prompts.slice(from, from + GROUP);
}
