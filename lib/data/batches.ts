// Batches of examples in a shuffled order that can be resumed exactly.
import { digestOf } from "../core/digest.ts";
import { refuse } from "../core/errors.ts";
import { checkSeed, shuffle } from "../core/random.ts";
import { checkSize } from "./encode_rows.ts";
import { countLabels, type Example, IGNORED_LABEL } from "./prompts/encode.ts";

/** One batch, right-padded. */
export interface Batch {
  /** [batch, seq], filled with the pad token. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** [batch, seq], not shifted, −100 where a token has no loss. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** Tokens that are not padding. */
  readonly realTokens: number;
  /** Labels that enter the loss. */
  readonly labelTokens: number;
  /** Tokens of each example before its padding. Default: seq. */
  readonly lengths?: readonly number[];
  /** Position of each token in its row [batch, seq], where rows do not see each other. Padding is a row. */
  readonly positions?: Uint32Array<ArrayBuffer>;
}

/** State of an iteration: `index` examples of epoch `epoch` are used. */
export interface BatchCursor {
  /** Completed passes through the data. */
  readonly epoch: number;
  /** Examples of this epoch that are used. */
  readonly index: number;
}

/** Endless batches in a fixed order. */
export interface Batches {
  /** The next batch. A batch may end one epoch and begin the next, so all have the same size. */
  next(): Batch;
  /** Where {@link next} continues. */
  readonly cursor: BatchCursor;
  /** Continues from a cursor, with the batches that followed it. */
  seek(cursor: BatchCursor): void;
  /** Examples in an epoch. */
  readonly length: number;
}

/** Options of {@link createBatches}. */
export interface BatchOptions {
  /** Examples in a batch. */
  readonly batch: number;
  /** Tokens per example, padding included. */
  readonly seq: number;
  /** Seed of the orders; an integer in [0, 2^32). */
  readonly seed: number;
  /** Token that fills short examples. */
  readonly padId: number;
}

/**
 * Batches of examples in an order that is shuffled for each epoch from (seed, epoch) alone.
 *
 * @throws CompressoError("usage") for sizes that are not positive and for an example longer than `seq`.
 */
export function createBatches(examples: readonly Example[], options: BatchOptions): Batches {
  const { batch, seq, padId } = options;
  const seed = checkSeed(options.seed);
  checkSize("batch", batch, 1);
  checkSize("seq", seq, 1);
  checkSize("the number of examples", examples.length, 1);
  const longest = examples.reduce((length, { tokens }) => Math.max(length, tokens.length), 0);
  if (longest > seq) {
    refuse("usage", "cannot make batches", {
      rule: "an example has at most seq tokens",
      value: `${longest} tokens, seq ${seq}`,
      fix: "encode the rows with the same seq",
    });
  }
  const isOfRows = examples.some(({ positions }) => positions !== undefined);
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
      const lengths: number[] = [];
      const positions = isOfRows ? new Uint32Array(batch * seq) : null;
      let realTokens = 0, labelTokens = 0;
      for (let row = 0; row < batch; row++) {
        const example = take();
        tokens.set(example.tokens, row * seq);
        labels.set(example.labels, row * seq);
        lengths.push(example.tokens.length);
        positions?.set(positionsOf(example, seq), row * seq);
        realTokens += example.tokens.length;
        labelTokens += countLabels(example.labels);
      }
      return { tokens, labels, realTokens, labelTokens, lengths, ...(positions ? { positions } : {}) };
    },
    seek(cursor: BatchCursor): void {
      const inside = Number.isInteger(cursor.index) && cursor.index >= 0 && cursor.index <= examples.length;
      if (!inside || !Number.isInteger(cursor.epoch) || cursor.epoch < 0) {
        refuse("mismatch", "cannot resume from this place in the data", {
          rule: `epoch ≥ 0 and index from 0 to ${examples.length}`,
          value: `epoch ${cursor.epoch}, index ${cursor.index}`,
          fix: "resume with the data set and seq of the first run",
        });
      }
      ({ epoch, index } = cursor);
      order = shuffle(examples.length, seed, epoch);
    },
  };
}

/** Positions of an example of packed rows, or of one row, and of its padding to `seq` tokens. */
export function positionsOf(
  { tokens: { length }, positions }: Pick<Example, "positions"> & { readonly tokens: ArrayLike<number> },
  seq: number,
): Uint32Array<ArrayBuffer> {
  return Uint32Array.from({ length: seq }, (_, at) => at < length ? positions?.[at] ?? at : at - length);
}

/** A short hash of encoded examples. */
export function digestOfAll(examples: readonly Example[]): string {
  return digestOf(
    examples.flatMap(({ tokens, labels, positions }) => [tokens, labels, ...(positions ? [positions] : [])]),
  );
}
