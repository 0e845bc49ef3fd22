// Perplexity of a text in windows, each alone or sliding.
import { refuse } from "../core/errors.ts";
import { dealt, type Ranks } from "../ranks/ranks.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import { IGNORED_LABEL } from "../data/prompts/encode.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import type { Adapters, Model } from "../model/model.ts";
import { digestOf } from "../core/digest.ts";
import { labelBytes } from "./text_bytes.ts";

/** Options of {@link perplexity}. */
export interface PerplexityOptions {
  /** Tokens of a window. */
  readonly window: number;
  /**
   * Tokens from the start of one window to the start of the next, at most `window`. Of each window only the tokens
   * count that the previous window did not have, as on the perplexity page of transformers' documentation. Default:
   * windows do not overlap.
   */
  readonly stride?: number | undefined;
  /**
   * Ids that each window begins with. They count among its tokens and are not predicted. Default for a text: the ids that the tokenizer puts before
   * a text, such as BOS, as llama.cpp's perplexity does. Default for ids: no ids.
   */
  readonly leading?: readonly number[] | undefined;
  /** Characters (code points) of the text that are used; only for a text. Default: all. */
  readonly limitChars?: number | undefined;
  /** Windows that are measured at most. Default: all. */
  readonly maxWindows?: number | undefined;
  /** Windows that run at once. Default: as many as make up to 2048 tokens. */
  readonly batch?: number | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Processes that share the windows: all call it with the same text and options, and each gets all losses. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Windows measured before with the same model, text and options, by place. A batch is skipped if all its windows are
   * known. Other batches run whole, so that every loss is the same to the last bit.
   */
  readonly known?: ReadonlyMap<number, WindowLoss> | undefined;
  /** Called for each window as it is measured, with its place among the windows; not for known ones. */
  readonly onWindow?: ((place: number, loss: WindowLoss) => void) | undefined;
  /** Called after each batch with the windows measured so far. */
  readonly onProgress?: ((windows: number, total: number) => void) | undefined;
}

const NAMES: NamesOf<PerplexityOptions> = {
  window: "number",
  stride: "number",
  leading: true,
  limitChars: "number",
  maxWindows: "number",
  batch: "number",
  adapters: true,
  ranks: true,
  signal: true,
  known: true,
  onWindow: true,
  onProgress: true,
};

/** What was measured. */
export interface PerplexityResult {
  /** exp(nll). */
  readonly perplexity: number;
  /** Mean negative log-likelihood of a predicted token, in nats. */
  readonly nll: number;
  /**
   * The same loss in bits for each byte in UTF-8 of the predicted tokens' text; null for a model without tokenizer, and
   * for tokens without text.
   */
  readonly bitsPerByte: number | null;
  /**
   * Number of predicted tokens. Without `stride`, each window has `window` minus its leading ids, or `window` − 1
   * without any. With `stride`, all tokens that the windows cover count, without leading ids all but the first.
   */
  readonly tokens: number;
  /** Number of windows, including known ones. */
  readonly windows: number;
  /** What each window adds. */
  readonly perWindow: readonly WindowLoss[];
  /**
   * Hash of the tokens that the windows read. Losses can be compared only if the hashes are equal; other tokenizers
   * give other tokens.
   */
  readonly digest: string;
}

/** The loss of one window. */
export interface WindowLoss {
  /** Sum of the negative log-likelihoods of its counted tokens, in nats. */
  readonly nll: number;
  /** Tokens that were counted. */
  readonly tokens: number;
}

const BATCH_TOKENS = 2048;

/**
 * Measures the perplexity of a text or of token ids. The first `limitChars` characters are encoded without special
 * tokens. Each window begins with the leading ids and is read alone, from position 0.
 *
 * - Without `stride`, the tokens are cut into whole windows and the rest is dropped. All tokens of a window but the
 *   leading ids are predicted; without leading ids, all but the first.
 * - With `stride`, windows overlap and nothing is dropped. Each token is predicted once, with at least window − stride
 *   tokens before it except in the first window. Without leading ids the first token of the text is not predicted.
 *
 * @throws CompressoError("usage") for options out of range or that do not exist.
 * @throws CompressoError("input") for a text shorter than one window, with a stride of fewer than two tokens, or a text where the model has no
 * tokenizer.
 * @throws CompressoError("numeric") if the loss is not finite.
 */
export async function perplexity(
  model: Model,
  text: string | ArrayLike<number>,
  options: PerplexityOptions,
): Promise<PerplexityResult> {
  const { window, stride, maxWindows = Infinity, ranks, signal, known, onWindow, onProgress } = options;
  checkNames(options, NAMES, { whose: "perplexity" });
  const { leading = typeof text === "string" ? leadingIds(model) : [] } = options, shape = { window, stride, leading };
  checkPerplexity(model, text, { ...options, leading });
  const tokens = typeof text === "string" ? encodeText(model, text, options.limitChars) : text;
  checkLength(tokens.length, shape);
  const spans = windowSpans(tokens.length, shape).slice(0, maxWindows);
  const batch = Math.min(spans.length, options.batch ?? Math.max(1, Math.floor(BATCH_TOKENS / window)));
  const perWindow: WindowLoss[] = [];
  const firsts = Array.from({ length: Math.ceil(spans.length / batch) }, (_, index) => index * batch);
  const partOf = (first: number): WindowSpan[] => spans.slice(first, first + batch);
  const run = async (first: number): Promise<WindowLoss[]> => {
    signal?.throwIfAborted();
    const part = partOf(first), isKnown = part.every((_, index) => known?.has(first + index));
    return isKnown ? [] : await measureWindows(model, tokens, { ...options, leading, part, batch });
  };
  for await (const [first, measured] of dealt(firsts, ranks, run)) {
    partOf(first).forEach((_, index) => {
      const old = known?.get(first + index),
        loss = old ?? measured[index] ?? { nll: NaN, tokens: 0 },
        place = perWindow.length;
      checkFinite(loss.nll, place);
      perWindow.push(loss);
      if (!old) onWindow?.(place, loss);
    });
    onProgress?.(perWindow.length, spans.length);
  }
  const predicted = total(perWindow, "tokens"), nll = total(perWindow, "nll") / predicted;
  const digest = digestOf([Uint32Array.from(leading), Uint32Array.from(tokens).subarray(0, spans.at(-1)?.end)]);
  const bytes = spans.reduce((sum, span) => sum + bytesOf(model, tokens, { span, leading }), 0);
  return {
    perplexity: Math.exp(nll),
    nll,
    bitsPerByte: bytes > 0 ? nll * predicted / bytes / Math.LN2 : null,
    tokens: predicted,
    windows: spans.length,
    perWindow,
    digest,
  };
}

/** Bytes in UTF-8 of the text that a window's counted tokens stand for; 0 without a tokenizer. */
function bytesOf(
  { tokenizer }: Pick<Model, "tokenizer">,
  tokens: ArrayLike<number>,
  { span: { start, fresh, end }, leading }: { readonly span: WindowSpan; readonly leading: readonly number[] },
): number {
  if (!tokenizer) return 0;
  const ids = [...leading, ...Array.from({ length: end - start }, (_, index) => tokens[start + index] ?? 0)];
  return labelBytes(tokenizer, ids, Int32Array.from(ids).fill(IGNORED_LABEL, 0, leading.length + fresh - start));
}

/** Runs one batch. A last batch that is not full keeps the size: its missing windows hold token 0 and no label. */
async function measureWindows(
  model: Model,
  tokens: ArrayLike<number>,
  { part, batch, window, leading, adapters, signal }: PerplexityOptions & {
    readonly part: readonly WindowSpan[];
    readonly batch: number;
    readonly leading: readonly number[];
  },
): Promise<WindowLoss[]> {
  const ids = new Uint32Array(batch * window), labels = new Int32Array(batch * window).fill(IGNORED_LABEL);
  part.forEach(({ start, fresh, end }, index) => {
    ids.set(leading, index * window);
    for (let at = start; at < end; at++) {
      const token = tokens[at] ?? 0, place = index * window + leading.length + at - start;
      ids[place] = token;
      if (at >= fresh) labels[place] = token;
    }
  });
  const losses = await model.tokenLosses(ids, labels, {
    batch,
    adapters,
    signal,
  });
  return part.map(({ start, fresh, end }, index) => {
    let nll = 0;
    for (let t = 0; t < window; t++) nll += losses[index * window + t] ?? 0;
    return { nll, tokens: end - Math.max(fresh, leading.length > 0 ? start : start + 1) };
  });
}

function checkFinite(nll: number, place: number): void {
  if (Number.isFinite(nll)) return;
  refuse("numeric", "cannot measure perplexity", {
    rule: "the loss of every token is finite",
    value: `the sum of window ${place + 1} is ${nll}`,
    fix: "check the model's weights, masks and LoRA",
  });
}

/** Tokens start … end − 1 are read, those from `fresh` on are counted. */
interface WindowSpan {
  readonly start: number;
  readonly fresh: number;
  readonly end: number;
}

/** How a text is cut into windows. */
interface WindowShape {
  readonly window: number;
  readonly stride: number | undefined;
  readonly leading: readonly number[];
}

function windowSpans(length: number, { window, stride, leading }: WindowShape): WindowSpan[] {
  const spans: WindowSpan[] = [], own = window - leading.length, unseen = leading.length > 0 ? 0 : 1;
  if (stride === undefined) {
    for (let start = 0; start + own <= length; start += own) spans.push({ start, fresh: start, end: start + own });
    return spans;
  }
  for (let start = 0, fresh = 0; fresh < length && length > unseen; start += stride) {
    const end = Math.min(start + own, length);
    // The last window may hold nothing but the first token of one, which has no token before it.
    if (end - Math.max(fresh, start + unseen) > 0) spans.push({ start, fresh, end });
    fresh = end;
  }
  return spans;
}

function total(windows: readonly WindowLoss[], key: keyof WindowLoss): number {
  return windows.reduce((sum, window) => sum + window[key], 0);
}

/** Ids that each window of a text begins with by default. */
export function leadingIds({ tokenizer }: Pick<Model, "tokenizer">): readonly number[] {
  return tokenizer?.leading ?? [];
}

/** The tokens of a text, or of its first characters. See {@link perplexity} for what it throws. */
export function encodeText(
  { tokenizer }: Pick<Model, "tokenizer">,
  text: string,
  limitChars: number | undefined,
): number[] {
  if (!tokenizer) throw noTokenizer("cannot measure perplexity on a text", { without: "give token ids" });
  return tokenizer.encode(limitChars === undefined ? text : firstChars(text, limitChars));
}

/** The first `count` code points: a surrogate pair counts once, as in Python. */
function firstChars(text: string, count: number): string {
  let end = 0;
  for (let taken = 0; taken < count && end < text.length; taken++) end += (text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1;
  return text.slice(0, end);
}

/** Throws `CompressoError("input")` for a text of so many tokens that is too short for a window. */
export function checkLength(tokens: number, { window, stride, leading }: WindowShape): void {
  if (tokens >= (stride === undefined ? window - leading.length : 2)) return;
  refuse("input", "cannot measure perplexity", {
    rule: stride === undefined
      ? `the text has at least one window of ${window} tokens`
      : "the text has at least two tokens",
    value: `${tokens} tokens`,
    fix: stride === undefined ? "use a longer text or a smaller window" : "use a longer text",
  });
}

/** The rules of {@link perplexity}'s options, before any work. Throws `CompressoError("usage")`. */
export function checkPerplexity(
  { spec }: Pick<Model, "spec">,
  text: string | ArrayLike<number>,
  { window, stride, leading = [], limitChars, maxWindows, batch }: PerplexityOptions,
): void {
  const fail = (rule: string, value: unknown, fix = "change it, or leave it out"): never => {
    refuse("usage", "cannot measure perplexity", { rule, value: String(value), fix });
  };
  const { maxPosition } = spec, least = Math.max(2, leading.length + 1), most = window - leading.length;
  if (!Number.isInteger(window) || window < least || window > maxPosition) {
    fail(
      `window is a whole number from ${least} to the model's context of ${maxPosition} tokens`,
      window,
      "try 512, or the context",
    );
  }
  if (stride !== undefined && (!Number.isInteger(stride) || stride < 1 || stride > most)) {
    const without = leading.length > 0 ? ", without its leading ids" : "";
    fail(`stride is a whole number from 1 to the ${most} tokens of a window${without}`, stride);
  }
  if (limitChars !== undefined && typeof text !== "string") {
    fail("limitChars is for a text, not for token ids", limitChars);
  }
  for (const [name, value] of Object.entries({ limitChars, maxWindows, batch })) {
    if (value !== undefined && (!Number.isInteger(value) || value < 1)) {
      fail(`${name} is a whole number, at least 1`, value);
    }
  }
}
