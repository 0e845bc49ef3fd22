// Perplexity of a text in windows. Owns the protocol; refuses to read files.
import { CompressoError } from "../errors.ts";
import { IGNORED_LABEL } from "../io/prompts.ts";
import type { Adapters, Model } from "./model.ts";

/** Options of {@link perplexity}. */
export interface PerplexityOptions {
  /** Tokens of a window. */
  readonly window: number;
  /** Characters (code points) of the text that are used; only for a text. Default: all. */
  readonly limitChars?: number;
  /** Windows that are measured at most. Default: all. */
  readonly maxWindows?: number;
  /** Windows that run at once. Default: as many as make up to 2048 tokens. */
  readonly batch?: number;
  /** Masks and LoRA. */
  readonly adapters?: Adapters;
  /** Stops the work. */
  readonly signal?: AbortSignal;
  /** Called after each batch with the windows measured so far. */
  readonly onProgress?: (windows: number, total: number) => void;
}

/** What was measured. */
export interface PerplexityResult {
  /** exp(nll). */
  readonly perplexity: number;
  /** Mean negative log-likelihood of a predicted token, in nats. */
  readonly nll: number;
  /** Tokens that were predicted: window − 1 of each window. */
  readonly tokens: number;
  /** Windows that were run. */
  readonly windows: number;
}

const BATCH_TOKENS = 2048;

/**
 * Measures the perplexity of a text or of token ids. The first `limitChars` characters are encoded without special tokens and cut
 * to whole windows, the rest is dropped; each window is read alone from position 0, and all but its first token are predicted.
 *
 * @throws CompressoError("usage") for options out of range; "input" for a text shorter than one window, or a text where the model
 * has no tokenizer; "numeric" where the loss is not finite.
 */
export async function perplexity(
  model: Model,
  text: string | ArrayLike<number>,
  options: PerplexityOptions,
): Promise<PerplexityResult> {
  const { window, maxWindows = Infinity, adapters, signal, onProgress } = options;
  checkOptions(model, text, options);
  const tokens = typeof text === "string" ? encode(model, text, options.limitChars) : text;
  const windows = Math.min(maxWindows, Math.floor(tokens.length / window));
  if (windows === 0) {
    throw new CompressoError("input", {
      what: "cannot measure perplexity",
      rule: `the text has at least one window of ${window} tokens`,
      value: `${tokens.length} tokens`,
      mend: "use a longer text or a smaller window",
    });
  }
  const batch = Math.min(windows, options.batch ?? Math.max(1, Math.floor(BATCH_TOKENS / window)));
  let sum = 0;
  for (let first = 0; first < windows; first += batch) {
    signal?.throwIfAborted();
    const count = Math.min(batch, windows - first);
    // The last batch keeps the size: its missing windows hold token 0 and no label.
    const ids = new Uint32Array(batch * window), labels = new Int32Array(batch * window).fill(IGNORED_LABEL);
    for (let i = 0; i < count * window; i++) labels[i] = ids[i] = tokens[first * window + i] ?? 0;
    const losses = await model.tokenLosses(ids, labels, {
      batch,
      ...(adapters ? { adapters } : {}),
      ...(signal ? { signal } : {}),
    });
    for (const loss of losses) sum += loss;
    onProgress?.(first + count, windows);
  }
  const predicted = windows * (window - 1), nll = sum / predicted;
  if (!Number.isFinite(nll)) {
    throw new CompressoError("numeric", {
      what: "cannot measure perplexity",
      rule: "the loss of every token is finite",
      value: `the sum is ${sum}`,
      mend: "check the model's weights, masks and LoRA",
    });
  }
  return { perplexity: Math.exp(nll), nll, tokens: predicted, windows };
}

function encode({ tokenizer }: Model, text: string, limitChars: number | undefined): number[] {
  if (!tokenizer) {
    throw new CompressoError("input", {
      what: "cannot measure perplexity on a text",
      rule: "a model needs a tokenizer to read text",
      value: "this one has none",
      mend: "put tokenizer.json beside the weights, or give token ids",
    });
  }
  return tokenizer.encode(limitChars === undefined ? text : firstChars(text, limitChars));
}

/** The first `count` code points: a surrogate pair counts once, as in Python. */
function firstChars(text: string, count: number): string {
  let end = 0;
  for (let taken = 0; taken < count && end < text.length; taken++) end += (text.codePointAt(end) ?? 0) > 0xffff ? 2 : 1;
  return text.slice(0, end);
}

function checkOptions(
  { spec }: Model,
  text: string | ArrayLike<number>,
  { window, limitChars, maxWindows, batch }: PerplexityOptions,
): void {
  const fail = (rule: string, value: unknown): never => {
    throw new CompressoError("usage", { what: "cannot measure perplexity", rule, value: String(value) });
  };
  const { maxPosition } = spec;
  if (!Number.isInteger(window) || window < 2 || window > maxPosition) {
    fail(`window is a whole number from 2 to the model's context of ${maxPosition} tokens`, window);
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
