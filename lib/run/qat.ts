// Data that a model writes itself, as in LLM-QAT. Owns the first tokens and the draws of each text; refuses files.
import { CompressoError } from "../errors.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { checkSeed, randomU32, shuffle } from "../random.ts";
import { type FinishReason, generate } from "./generate.ts";
import type { Model } from "./model.ts";

/** What decides on the texts; the same settings give the same texts. */
export interface SelfDataSettings {
  /** Tokens of a text at most, its first one included. */
  readonly tokens: number;
  /** Tokens behind the greedy beginning are drawn from softmax(logits / temperature). Default 1. */
  readonly temperature?: number | undefined;
  /** Decides the first tokens and the draws. Default 1. */
  readonly seed?: number | undefined;
}

/** Options of {@link writeTexts}. */
export interface SelfDataOptions extends SelfDataSettings {
  /** Texts in all. */
  readonly count: number;
  /** Texts to leave out at the beginning, because they are there already. Default 0. */
  readonly skip?: number | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
}

/** A text by the model. */
export interface SelfText {
  /** Place in the series, from 0. */
  readonly index: number;
  /** The text, not empty. */
  readonly text: string;
  /** Tokens, the first one included, the end token not. */
  readonly tokens: number;
  /** Whether the model has ended it; else it was cut off, at the number of tokens asked for or where the context was full. */
  readonly hasEnded: boolean;
}

/** What a text is in a file of texts; one that was cut off says so, since no end is to be learned behind it. */
export function textFields({ text, hasEnded }: SelfText): { readonly text: string; readonly ended?: false } {
  return hasEnded ? { text } : { text, ended: false };
}

/** The greedy beginning has 3, 4 or 5 tokens, the first one included. */
const LEADS = [3, 4, 5] as const;
/** Other first tokens that are tried where a model has nothing to say after one. */
const TRIES = 8;
/** Streams of the random numbers. */
const ORDER_STREAM = 0x71a7, DRAW_STREAM = 0x71a8;

/**
 * Lets a model write texts, as LLM-QAT makes data for training without data (Liu et al., "LLM-QAT: Data-Free Quantization
 * Aware Training for Large Language Models", arXiv 2305.17888, and its public code): the first token of each text is
 * another one of the vocabulary, the next ones up to the third, fourth or fifth are the likeliest, all others are drawn.
 * A text ends at an end token or after `tokens` tokens.
 *
 * Deviations: the tokens that the tokenizer puts before a text (BOS) stand before the first; the vocabulary is walked in
 * an order that the seed decides, without special tokens and without those that are no whole characters; a text that
 * would be empty begins anew with another token.
 *
 * Text n depends on the settings and n alone, so that a series can be continued.
 *
 * @throws CompressoError("usage") for options out of range; "input" for a model without tokenizer; "numeric" where the
 * logits are not finite, or a model ends every text at once.
 */
export function writeTexts(model: Model, options: SelfDataOptions): AsyncGenerator<SelfText, void, undefined> {
  const { count, skip = 0, tokens, temperature = 1, seed = 1, signal } = options;
  const tokenizer = checkOptions(model, { count, skip, tokens, temperature });
  checkSeed(seed);
  const first = firstTokens(tokenizer, Math.min(tokenizer.vocabSize, model.spec.vocab));
  const order = shuffle(first.length, seed, ORDER_STREAM);
  return texts();

  async function* texts(): AsyncGenerator<SelfText, void, undefined> {
    for (let index = skip; index < count; index++) yield await text(index);
  }

  async function text(index: number): Promise<SelfText> {
    for (let attempt = 0; attempt < TRIES; attempt++) {
      // The second and later attempts take tokens from the other end of the order.
      const place = attempt === 0 ? index : -1 - index * (TRIES - 1) - (attempt - 1);
      const start = first[order[modulo(place, order.length)] ?? 0] ?? 0;
      const { ids, hasEnded } = await continued([start], index, attempt);
      const text = tokenizer.decode(ids, { skipSpecial: true }).replace(/\uFFFD+$/, "");
      if (ids.length > 1 && text.trim() !== "") return { index, text, tokens: ids.length, hasEnded };
    }
    throw new CompressoError("numeric", {
      what: `cannot let the model write text ${index + 1}`,
      rule: `after one of ${TRIES} first tokens the model goes on`,
      value: "it ended each text at once",
      mend: "try another seed",
    });
  }

  async function continued(
    start: readonly number[],
    index: number,
    attempt: number,
  ): Promise<Pick<SelfText, "hasEnded"> & { readonly ids: readonly number[] }> {
    const lead = Math.min(tokens, LEADS[index % LEADS.length] ?? 3);
    const ids = [...start];
    const grow = async (limit: number, how: { temperature: number; seed: number }): Promise<FinishReason> => {
      const maxTokens = limit - ids.length;
      if (maxTokens < 1) return "length";
      const prompt = [...tokenizer.leading, ...ids];
      const pieces = generate(model, prompt, { maxTokens, ...how, ...(signal ? { signal } : {}) });
      for (let next = await pieces.next();; next = await pieces.next()) {
        if (next.done) return next.value;
        ids.push(next.value);
      }
    };
    let reason = await grow(lead, { temperature: 0, seed: 0 });
    if (reason === "length") {
      reason = await grow(tokens, { temperature, seed: randomU32(seed, DRAW_STREAM, index, attempt) });
    }
    return { ids, hasEnded: reason === "end" };
  }
}

/** Tokens that a text can begin with: not special, and whole characters that are not white space alone. */
function firstTokens(tokenizer: Tokenizer, vocab: number): number[] {
  const found: number[] = [];
  for (let id = 0; id < vocab; id++) {
    if (tokenizer.idToToken(id) === null || tokenizer.isSpecial(id)) continue;
    const text = tokenizer.decode([id], { skipSpecial: true });
    if (text.trim() !== "" && !text.includes("\uFFFD")) found.push(id);
  }
  return found;
}

function modulo(value: number, size: number): number {
  return ((value % size) + size) % size;
}

function checkOptions(
  { tokenizer, spec }: Model,
  numbers: { readonly count: number; readonly skip: number; readonly tokens: number; readonly temperature: number },
): Tokenizer {
  const fail = (rule: string, value: number): never => {
    throw new CompressoError("usage", { what: "cannot let the model write texts", rule, value: String(value) });
  };
  const { count, skip, tokens, temperature } = numbers;
  if (!Number.isInteger(count) || count < 1) fail("count is a whole number, at least 1", count);
  if (!Number.isInteger(skip) || skip < 0) fail("skip is a whole number, at least 0", skip);
  if (!(Number.isFinite(temperature) && temperature > 0)) fail("temperature is a number above 0", temperature);
  if (!tokenizer) {
    throw new CompressoError("input", {
      what: "cannot let the model write texts",
      rule: "a model needs a tokenizer to write text",
      value: "this one has none",
      mend: "put tokenizer.json beside the weights",
    });
  }
  const room = spec.maxPosition - tokenizer.leading.length;
  if (!Number.isInteger(tokens) || tokens < 2 || tokens > room) {
    fail(`tokens is a whole number from 2 to ${room}, what the model's context holds`, tokens);
  }
  return tokenizer;
}
