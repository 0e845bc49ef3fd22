// Perplexity over rows, each read alone: whole documents, or the responses to instructions.
import { CompressoError, type Reasons, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Row } from "../data/rows.ts";
import { placeOf } from "../data/row.ts";
import { countLabels, type Example, IGNORED_LABEL } from "../data/prompts/encode.ts";
import { checkPromptText } from "../data/prompts/format.ts";
import { noTokenizer } from "../text/no_tokenizer.ts";
import { allRefused, encodeRow } from "../data/encode_rows.ts";
import { digestOfAll } from "../data/batches.ts";
import type { Adapters, Model } from "../model/model.ts";

/** Options of {@link rowPerplexity}. */
export interface RowPerplexityOptions {
  /** Tokens to which longer rows are cut. */
  readonly seq: number;
  /** Text before every instruction or conversation, such as the collaborative prompt. Default null: none. */
  readonly prompt?: string | null | undefined;
  /** Whether rows that cannot be encoded, such as conversations that the chat template refuses, are left out. Default false. */
  readonly skipBroken?: boolean | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each batch with the rows measured so far. */
  readonly onProgress?: ((rows: number, total: number) => void) | undefined;
}

const NAMES: NamesOf<RowPerplexityOptions> = {
  seq: "number",
  prompt: true,
  skipBroken: "switch",
  adapters: true,
  signal: true,
  onProgress: true,
};

/** What was measured. */
export interface RowPerplexityResult {
  /** exp(nll). */
  readonly perplexity: number;
  /** Mean negative log-likelihood over all predicted tokens of all rows, in nats: long rows count more. */
  readonly nll: number;
  /** Tokens that were predicted. */
  readonly tokens: number;
  /** Rows that were measured. */
  readonly rows: number;
  /** Measured rows that were cut to fit. Only the tokens that remain count. */
  readonly truncated: number;
  /** Rows left out because they have no token to predict within `seq`. */
  readonly skipped: number;
  /** Rows left out because they cannot be encoded, where that was asked for. */
  readonly broken: number;
  /** Standard error of nll, rows taken as independent. NaN for one row. */
  readonly stderr: number;
  /** Digest of the measured tokens and labels; it does not depend on the model. */
  readonly digest: string;
}

const BATCH_TOKENS = 2048;
/** Widths of batches are multiples of it, so that few plans are recorded. */
const WIDTH_STEP = 64;

/**
 * Measures the perplexity of rows as training encodes them, with the tokenizer's special tokens. The predicted tokens
 * are:
 *
 * - of a text, all but the first;
 * - of an instruction, the response and the end token;
 * - of a conversation, the assistant's turns.
 *
 * Texts are cut to `seq` tokens, other rows as in training.
 *
 * @throws CompressoError("usage") for a `seq` out of range, an empty prompt and options that do not exist.
 * @throws CompressoError("input") for a model without tokenizer and rows without anything to predict.
 * @throws CompressoError("numeric") if the loss is not finite.
 */
export async function rowPerplexity(
  model: Model,
  rows: readonly Row[],
  options: RowPerplexityOptions,
): Promise<RowPerplexityResult> {
  checkNames(options, NAMES, { whose: "rowPerplexity" });
  const { adapters, signal, onProgress } = options;
  const { examples, ...left } = encode(model, rows, options);
  const sums: number[] = [], counts: number[] = [];
  for (const { width, part } of batchesOf(examples, options.seq)) {
    signal?.throwIfAborted();
    const ids = new Uint32Array(part.length * width), labels = new Int32Array(part.length * width).fill(IGNORED_LABEL);
    part.forEach(({ tokens, labels: own }, index) => {
      ids.set(tokens, index * width);
      labels.set(own, index * width);
      counts.push(countLabels(own));
    });
    const losses = await model.tokenLosses(ids, labels, {
      batch: part.length,
      adapters,
      signal,
    });
    for (const index of part.keys()) {
      sums.push(losses.subarray(index * width, (index + 1) * width).reduce((sum, loss) => sum + loss, 0));
    }
    onProgress?.(sums.length, examples.length);
  }
  const predicted = counts.reduce((sum, count) => sum + count, 0);
  const nll = sums.reduce((sum, value) => sum + value, 0) / predicted;
  if (!Number.isFinite(nll)) {
    refuse("numeric", "cannot measure perplexity", {
      rule: "the loss of every token is finite",
      value: `the mean is ${nll}`,
      fix: "check the model's weights, masks and LoRA",
    });
  }
  const stderr = errorOf(sums, counts);
  const digest = digestOfAll(examples);
  return { perplexity: Math.exp(nll), nll, tokens: predicted, rows: sums.length, ...left, stderr, digest };
}

/** Longest rows first, so that a batch holds rows of about the same length. */
function* batchesOf(
  examples: readonly Example[],
  seq: number,
): Generator<{ readonly width: number; readonly part: readonly Example[] }> {
  const sorted = [...examples].sort((a, b) => b.tokens.length - a.tokens.length);
  for (let first = 0; first < sorted.length;) {
    const longest = sorted[first]?.tokens.length ?? seq;
    const width = Math.min(seq, Math.ceil(longest / WIDTH_STEP) * WIDTH_STEP);
    const count = Math.max(1, Math.floor(BATCH_TOKENS / width));
    yield { width, part: sorted.slice(first, first + count) };
    first += count;
  }
}

/** Standard error of the ratio of both sums, to first order. */
function errorOf(sums: readonly number[], counts: readonly number[]): number {
  const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);
  const rows = sums.length, nll = total(sums) / total(counts);
  if (rows < 2) return NaN;
  const squares = total(sums.map((sum, row) => (sum - nll * (counts[row] ?? 0)) ** 2));
  return Math.sqrt(squares * rows / (rows - 1)) / total(counts);
}

/** Rows as they are measured, and how many of them were cut, and left out. */
interface Encoded extends Pick<RowPerplexityResult, "truncated" | "skipped" | "broken"> {
  readonly examples: readonly Example[];
}

function encode(
  { tokenizer, spec }: Model,
  rows: readonly Row[],
  { seq, prompt = null, skipBroken = false }: RowPerplexityOptions,
): Encoded {
  checkPromptText(prompt);
  const fail = (code: "usage" | "input", reasons: Reasons): never =>
    refuse(code, "cannot measure perplexity over rows", reasons);
  if (!Number.isInteger(seq) || seq < 2 || seq > spec.maxPosition) {
    const rule = `seq is a whole number from 2 to the model's context of ${spec.maxPosition} tokens`;
    fail("usage", { rule, value: seq, fix: "try 512, or the context" });
  }
  if (!tokenizer) throw noTokenizer("cannot measure perplexity over rows");
  const refused: CompressoError[] = [], examples: Example[] = [];
  let truncated = 0, skipped = 0;
  for (const [index, row] of rows.entries()) {
    try {
      const whole = encodeRow(row, placeOf(row, index), { tokenizer, prompt, seq, vocab: spec.vocab });
      const tokens = whole.tokens.slice(0, seq), labels = whole.labels.slice(0, seq);
      if (countLabels(labels) === 0) {
        skipped++;
        continue;
      }
      examples.push({ tokens, labels });
      if (whole.truncated || whole.tokens.length > seq) truncated++;
    } catch (error) {
      if (!skipBroken || !(error instanceof CompressoError)) throw error;
      refused.push(error);
    }
  }
  if (refused[0] && refused.length === rows.length) throw allRefused(refused[0], rows.length);
  if (examples.length === 0) {
    const rule = "at least one row has a token to predict", fix = "give longer rows, or raise seq";
    fail("input", { rule, value: `${rows.length} rows`, fix });
  }
  return { examples, truncated, skipped, broken: refused.length };
}
