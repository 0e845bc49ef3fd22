// Data that a model writes itself, as in LLM-QAT.
import { CompressoError, refuse } from "../core/errors.ts";
import { existing } from "../core/guards.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { gathered, type Ranks } from "../ranks/ranks.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import { checkSeed, randomU32, shuffle } from "../core/random.ts";
import { DecodeBatch, sequencesAtOnce } from "../nn/decode/batch.ts";
import { notFinite } from "../nn/decode/pass.ts";
import type { Model } from "../model/model.ts";
import { drawSettings } from "./sampling.ts";

/** What decides on the texts; the same settings give the same texts. */
export interface SelfDataSettings {
  /** Tokens of a text at most, its first one included. */
  readonly tokens: number;
  /** Tokens after the greedy beginning are drawn from softmax(logits / temperature). Default 1. */
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
  /**
   * Most bytes of GPU memory for the KV cache; they limit how many texts are decoded together. Default, and largest
   * value: 1 GiB, or half of what a memory limit leaves.
   */
  readonly cacheBytes?: number | undefined;
  /** Processes that share the work; each gets all texts. All give the same options. Default: this process alone. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called as tokens are written, with the share of the work after `skip` that is done, from 0 to 1. */
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** Names of what files of texts have too. */
export const SELF_DATA_NAMES: NamesOf<Omit<SelfDataOptions, "skip">> = {
  tokens: "number",
  temperature: "number",
  seed: "number",
  count: "number",
  cacheBytes: "number",
  ranks: true,
  signal: true,
  onProgress: true,
};

/** A text by the model. */
export interface SelfText {
  /** Place in the series, from 0. */
  readonly index: number;
  /** The text, not empty. */
  readonly text: string;
  /** Tokens, the first one included, the end token not. */
  readonly tokens: number;
  /**
   * Whether the model ended it. Otherwise it was cut off at the requested number of tokens, or at the end of the
   * context. As a row it is `toRow(hasEnded ? { text } : { text, ended: false })`: no end is learned after a text that
   * was cut off.
   */
  readonly hasEnded: boolean;
}

/** The row of a text in a file of texts. `ended: false` marks a text that was cut off: no end is learned after it. */
export function textFields({ text, hasEnded }: SelfText): { readonly text: string; readonly ended?: false } {
  return hasEnded ? { text } : { text, ended: false };
}

/** The greedy beginning has 3, 4 or 5 tokens, the first one included. */
const LEADS = [3, 4, 5] as const;
/** Tokens of each text between two reads; the tokens after the end of a text are dropped. */
const GROUP_TOKENS = 16;
/** How many other first tokens are tried if a text ends at once. */
const TRIES = 8;
/** Streams of the random numbers. */
const ORDER_STREAM = 0x71a7, DRAW_STREAM = 0x71a8;

/**
 * Lets a model write texts, as LLM-QAT makes data for training without data (Liu et al., "LLM-QAT: Data-Free
 * Quantization Aware Training for Large Language Models", arXiv 2305.17888, and its public code): each text begins with
 * another token of the vocabulary. The next tokens, up to the third, fourth or fifth, are the likeliest; all others are
 * drawn. A text ends at an end token or after `tokens` tokens.
 *
 * Deviations: the tokens that the tokenizer puts before a text (BOS) are before the first; the vocabulary is walked in
 * an order that the seed decides, without special tokens and without tokens that are not whole characters; a text that
 * would be empty begins again with another token; draws are from the whole vocabulary, where the code leaves transformers
 * its default of the 50 likeliest tokens.
 *
 * Text n depends on the settings and n alone, so that a series can be continued. Up to 32 texts are decoded together,
 * several times as fast as one by one, and are yielded together.
 *
 * @throws CompressoError("usage") for options out of range.
 * @throws CompressoError("input") for a model without tokenizer.
 * @throws CompressoError("numeric") if the logits are not finite, or a text ends at once or is blank after each first token that is tried.
 */
export function writeTexts(model: Model, options: SelfDataOptions): AsyncGenerator<SelfText, void, undefined> {
  checkNames(options, { ...SELF_DATA_NAMES, skip: "number" }, { whose: "writeTexts" });
  const { count, skip = 0, tokens, temperature = 1, seed = 1, cacheBytes, ranks, signal, onProgress } = options;
  const tokenizer = checkOptions(model, { count, skip, tokens, temperature, cacheBytes });
  checkSeed(seed);
  const first = firstTokens(tokenizer, Math.min(tokenizer.vocabSize, model.spec.vocab));
  const order = shuffle(first.length, seed, ORDER_STREAM);
  const { leading, eosId } = tokenizer, ends = new Set([...model.spec.eosIds, ...(eosId === null ? [] : [eosId])]);
  return texts();

  async function* texts(): AsyncGenerator<SelfText, void, undefined> {
    const own = sequencesAtOnce(model.device, model.weights, { capacity: leading.length + tokens, bytes: cacheBytes });
    const { rank, size } = ranks ?? { rank: 0, size: 1 }, most = Math.min(...await allOf([own]));
    for (let from = skip; from < count;) {
      const each = Math.min(most, Math.ceil((count - from) / size)), end = Math.min(count, from + size * each);
      const first = from + rank * each, wanted = indices(first, Math.min(end, first + each));
      const tell = (share: number): void => onProgress?.((from - skip + share * (end - from)) / (count - skip));
      const texts = await allOf([...(await together(wanted, tell)).values()]);
      const written = new Map(texts.map((text) => [text.index, text]));
      for (const index of indices(from, end)) {
        if (!ranks) signal?.throwIfAborted(); // ranks stop only after a round, whose texts are kept
        yield written.get(index) ?? fail(index);
      }
      from = end;
    }
  }

  /** What all ranks have. */
  async function allOf<T>(own: readonly T[]): Promise<readonly T[]> {
    return ranks ? (await gathered(ranks, own)).flat() : own;
  }

  /** Texts by their place, written in step; texts that would be empty start over, in step too. */
  async function together(indices: readonly number[], tell: (share: number) => void): Promise<Map<number, SelfText>> {
    using _entered = model.enter();
    const written = new Map<number, SelfText>();
    for (let attempt = 0; attempt < TRIES && written.size < indices.length; attempt++) {
      const drafts = indices.filter((index) => !written.has(index)).map((index) => draft(index, attempt));
      await grow(drafts, attempt === 0 ? tell : () => {}); // few start over
      for (const { index, ids, hasEnded } of drafts) {
        const text = tokenizer.decode(ids, { skipSpecial: true }).replace(/\uFFFD+$/, "");
        if (ids.length > 1 && text.trim() !== "") written.set(index, { index, text, tokens: ids.length, hasEnded });
      }
    }
    return written;
  }

  function draft(index: number, attempt: number): Draft {
    // The second and later attempts take tokens from the other end of the order.
    const place = attempt === 0 ? index : -1 - index * (TRIES - 1) - (attempt - 1);
    const start = first[order[modulo(place, order.length)] ?? 0] ?? 0;
    const lead = Math.min(tokens, LEADS[index % LEADS.length] ?? 3);
    return {
      index,
      ids: [start],
      lead,
      seed: randomU32(seed, DRAW_STREAM, index, attempt),
      hasEnded: false,
    };
  }

  /** Lets drafts grow until each has ended or is as long as asked for. */
  async function grow(drafts: readonly Draft[], tell: (share: number) => void): Promise<void> {
    const capacity = leading.length + tokens - 1;
    using batch = new DecodeBatch(model.device, model.weights, { sequences: drafts.length, capacity });
    // What stands before each text is read once.
    const start = existing(batch.open(capacity), "pages of a text");
    await start.prefill(leading, { signal });
    const rows = drafts.map((draft, index) => ({
      draft,
      sequence: index === 0 ? start : existing(start.fork(leading.length, { capacity }), "pages of a text"),
    }));
    for (let length = 1; length < tokens;) {
      const open = rows.filter(({ draft }) => !draft.hasEnded);
      if (open.length === 0) break;
      signal?.throwIfAborted();
      const next = open.map(({ draft, sequence }) => ({
        sequence,
        token: draft.ids.at(-1) ?? 0,
        draw: length < draft.lead ? null : drawSettings({ temperature, seed: draft.seed }, []),
      }));
      const count = length < Math.max(...LEADS) ? 1 : Math.min(GROUP_TOKENS, tokens - length);
      const picks = await batch.next(next, { count, signal });
      for (const [row, { draft }] of open.entries()) {
        const own = picks[row];
        if (!own) throw notFinite();
        const end = own.findIndex((id) => ends.has(id));
        draft.ids.push(...own.slice(0, end < 0 ? count : end));
        draft.hasEnded = end >= 0;
      }
      length += count;
      tell((length - 1) / (tokens - 1));
    }
    tell(1);
  }

  function fail(index: number): never {
    throw new SilenceError(index);
  }
}

/** The error of a model that writes nothing after any of the first tokens that were tried. */
export class SilenceError extends CompressoError {
  /** Names the text by its number. */
  constructor(index: number) {
    super("numeric", {
      what: `cannot let the model write text ${index + 1}`,
      rule: `the model continues after at least one of ${TRIES} first tokens`,
      value: "it ended each text at once, or wrote blanks alone",
      fix: "try another seed",
    });
  }
}

/** A text under way. */
interface Draft {
  readonly index: number;
  readonly ids: number[];
  /** Tokens before the first that is drawn. */
  readonly lead: number;
  /** Of the tokens that are drawn. */
  readonly seed: number;
  hasEnded: boolean;
}

function indices(first: number, end: number): number[] {
  return Array.from({ length: Math.max(0, end - first) }, (_, place) => first + place);
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

/** Tokens that a text by a model has at most: its context without what the tokenizer puts before a text. */
export function writtenRoom({ maxPosition }: Pick<Model["spec"], "maxPosition">, tokenizer: Tokenizer | null): number {
  return maxPosition - (tokenizer?.leading.length ?? 0);
}

function checkOptions(
  { tokenizer, spec }: Model,
  numbers:
    & { readonly skip: number; readonly temperature: number }
    & Pick<
      SelfDataOptions,
      "count" | "tokens" | "cacheBytes"
    >,
): Tokenizer {
  const fail = (rule: string, value: number): never => {
    const fix = "correct it";
    refuse("usage", "cannot let the model write texts", { rule, value, fix });
  };
  const { count, skip, tokens, temperature, cacheBytes = 0 } = numbers;
  if (!Number.isInteger(count) || count < 1) fail("count is a whole number, at least 1", count);
  if (!Number.isInteger(skip) || skip < 0) fail("skip is a whole number, at least 0", skip);
  if (!(Number.isFinite(temperature) && temperature > 0)) fail("temperature is a number above 0", temperature);
  if (!(cacheBytes >= 0)) fail("cacheBytes is a number of bytes, at least 0", cacheBytes);
  if (!tokenizer) throw noTokenizer("cannot let the model write texts");
  const room = writtenRoom(spec, tokenizer);
  if (!Number.isInteger(tokens) || tokens < 2 || tokens > room) {
    fail(`tokens is a whole number from 2 to ${room}, what the model's context holds`, tokens);
  }
  return tokenizer;
}
