// Rows to batches of token ids. Owns encoding of a whole data set, windows of long texts, and an order that can be
// resumed exactly; refuses to read files.
import { CompressoError } from "../errors.ts";
import type { Row } from "../io/datasets.ts";
import { countLabels, encodeExample, type EncodeOptions, type Example, IGNORED_LABEL } from "../io/prompts.ts";
import { checkSeed, shuffle } from "../random.ts";

/** What became of the rows of a data set. */
export interface EncodeReport {
  /** Rows given. */
  readonly rows: number;
  /** Examples made; a long text gives several. */
  readonly examples: number;
  /** Rows that were cut to fit. */
  readonly truncated: number;
  /** Rows left out because no label of theirs enters the loss. */
  readonly skipped: number;
  /** Tokens of all examples. */
  readonly tokens: number;
  /** Labels that enter the loss. */
  readonly labelTokens: number;
}

/** One batch, right-padded. */
export interface Batch {
  /** [batch, seq], filled with the pad token. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** [batch, seq], not shifted, −100 where a token does not count. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** Tokens that are not padding. */
  readonly realTokens: number;
  /** Labels that enter the loss. */
  readonly labelTokens: number;
}

/** Where an iteration stands: `index` examples of epoch `epoch` are used. */
export interface BatchCursor {
  /** Passes through the data that are done. */
  readonly epoch: number;
  /** Examples of this epoch that are used. */
  readonly index: number;
}

/** Endless batches in a fixed order. */
export interface Batches {
  /** The next batch. A batch may end one epoch and begin the next, so all have the same size. */
  next(): Batch;
  /** Where {@link next} goes on. */
  readonly cursor: BatchCursor;
  /** Goes on from a cursor: the batches are those that followed it. */
  seek(cursor: BatchCursor): void;
  /** Examples in an epoch. */
  readonly length: number;
}

/** Options of {@link createBatches}. */
export interface BatchOptions {
  /** Examples in a batch. */
  readonly batch: number;
  /** Tokens of each example with its padding. */
  readonly seq: number;
  /** Decides the orders; an integer in [0, 2^32). */
  readonly seed: number;
  /** Token that fills short examples. */
  readonly padId: number;
}

/**
 * Encodes all rows, cutting texts to windows and counting what was cut or left out. Throws `CompressoError("input")`
 * where no example is left.
 */
export function encodeRows(
  rows: readonly Row[],
  options: EncodeOptions,
): { examples: Example[]; report: EncodeReport } {
  checkSize("seq", options.seq, 2);
  const examples: Example[] = [];
  let truncated = 0, skipped = 0, tokens = 0, labelTokens = 0;
  for (const row of rows) {
    const encoded = encodeExample(row, options);
    const pieces = row.kind === "text" ? windows(encoded, options.seq) : encoded.labelTokens > 0 ? [encoded] : [];
    if (encoded.truncated) truncated++;
    if (pieces.length === 0) skipped++;
    for (const piece of pieces) {
      examples.push({ tokens: piece.tokens, labels: piece.labels });
      tokens += piece.tokens.length;
      labelTokens += countLabels(piece.labels);
    }
  }
  if (examples.length === 0) {
    throw new CompressoError("input", {
      what: "cannot train on these data",
      rule: "at least one row has a response within seq tokens",
      value: `${rows.length} rows, seq ${options.seq}`,
      mend: "raise seq",
    });
  }
  return {
    examples,
    report: { rows: rows.length, examples: examples.length, truncated, skipped, tokens, labelTokens },
  };
}

/** Cuts a text to windows of `seq` tokens; a tail of one token, which has nothing to predict, is left out. */
export function windows(text: Example, seq: number): Example[] {
  const found: Example[] = [];
  for (let start = 0; start + 2 <= text.tokens.length; start += seq) {
    found.push({ tokens: text.tokens.slice(start, start + seq), labels: text.labels.slice(start, start + seq) });
  }
  return found;
}

/**
 * Batches of examples in an order that is shuffled for each epoch from (seed, epoch) alone.
 * Throws `CompressoError("usage")` for sizes that are not positive and for an example longer than `seq`.
 */
export function createBatches(examples: readonly Example[], options: BatchOptions): Batches {
  const { batch, seq, padId } = options;
  const seed = checkSeed(options.seed);
  checkSize("batch", batch, 1);
  checkSize("seq", seq, 1);
  checkSize("the number of examples", examples.length, 1);
  const longest = examples.reduce((length, { tokens }) => Math.max(length, tokens.length), 0);
  if (longest > seq) {
    throw new CompressoError("usage", {
      what: "cannot make batches",
      rule: "an example has at most seq tokens",
      value: `${longest} tokens, seq ${seq}`,
      mend: "encode the rows with the same seq",
    });
  }
  let epoch = 0;
  let index = 0;
  let order = shuffle(examples.length, seed, epoch);
  const take = (): Example => {
    if (index === examples.length) {
      epoch++;
      index = 0;
      order = shuffle(examples.length, seed, epoch);
    }
    const example = examples[order[index++] ?? -1];
    if (!example) throw new RangeError("the order of examples is broken");
    return example;
  };
  return {
    length: examples.length,
    get cursor(): BatchCursor {
      return { epoch, index };
    },
    next(): Batch {
      const tokens = new Uint32Array(batch * seq).fill(padId);
      const labels = new Int32Array(batch * seq).fill(IGNORED_LABEL);
      let realTokens = 0, labelTokens = 0;
      for (let row = 0; row < batch; row++) {
        const example = take();
        tokens.set(example.tokens, row * seq);
        labels.set(example.labels, row * seq);
        realTokens += example.tokens.length;
        labelTokens += countLabels(example.labels);
      }
      return { tokens, labels, realTokens, labelTokens };
    },
    seek(cursor: BatchCursor): void {
      const inside = Number.isInteger(cursor.index) && cursor.index >= 0 && cursor.index <= examples.length;
      if (!inside || !Number.isInteger(cursor.epoch) || cursor.epoch < 0) {
        throw new CompressoError("mismatch", {
          what: "cannot go on from this place in the data",
          rule: `epoch ≥ 0 and index from 0 to ${examples.length}`,
          value: `epoch ${cursor.epoch}, index ${cursor.index}`,
          mend: "resume with the data set and seq of the first run",
        });
      }
      ({ epoch, index } = cursor);
      order = shuffle(examples.length, seed, epoch);
    },
  };
}

function checkSize(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least) return;
  throw new CompressoError("usage", {
    what: "cannot make batches",
    rule: `${name} is an integer, at least ${least}`,
    value: String(value),
  });
}
