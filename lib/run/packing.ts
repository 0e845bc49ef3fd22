// Rows joined to sequences of one length. Owns packing and windows; refuses rows and batches.
import { countLabels, type Example, IGNORED_LABEL } from "../io/prompts.ts";
import type { Tokenizer } from "../io/tokenizer.ts";

/** Rows as sequences. */
export interface Packed {
  readonly examples: Example[];
  /** Tokens that are left out: at the end, where they fill no sequence, and of sequences without a label. */
  readonly leftOver: number;
}

/**
 * Joins examples in the order given and cuts the whole to sequences of exactly `seq` tokens: no padding, and an example
 * may begin in one sequence and end in the next. Attention is not cut at the borders, so that an example sees those before
 * it in its sequence; positions run through.
 *
 * What is left at the end is left out, or makes a short sequence where there is no other. So is a sequence in which
 * nothing is learned.
 */
export function pack(parts: Iterable<Example>, seq: number): Packed {
  const examples: Example[] = [];
  let ids: number[] = [], labels: number[] = [], leftOver = 0;
  const cut = (start: number, end: number): void => {
    const example = {
      tokens: Uint32Array.from(ids.slice(start, end)),
      labels: Int32Array.from(labels.slice(start, end)),
    };
    if (countLabels(example.labels) > 0) examples.push(example);
    else leftOver += end - start;
  };
  for (const part of parts) {
    ids = ids.concat([...part.tokens]);
    labels = labels.concat([...part.labels]);
    let start = 0;
    for (; ids.length - start >= seq; start += seq) cut(start, start + seq);
    [ids, labels] = [ids.slice(start), labels.slice(start)];
  }
  if (examples.length === 0) cut(0, ids.length);
  else leftOver += ids.length;
  return { examples, leftOver };
}

/**
 * A text to be joined: with the tokens that the tokenizer puts before a text and with EOS behind. All tokens are labels
 * but those that begin a text, which no model is asked for. Of one that was cut off EOS is no label: it only parts it from the next. Null for a text without tokens.
 */
export function packedText(
  text: string,
  tokenizer: Tokenizer,
  { hasEnded = true }: { readonly hasEnded?: boolean } = {},
): Example | null {
  const { leading, trailing, eosId } = tokenizer;
  const body = tokenizer.encode(text);
  if (body.length === 0) return null;
  const tail = eosId === null ? trailing : [eosId],
    ignored = (ids: readonly number[]): number[] => ids.map(() => IGNORED_LABEL);
  const labels = [...ignored(leading), ...body, ...(hasEnded ? tail : ignored(tail))];
  return { tokens: Uint32Array.from([...leading, ...body, ...tail]), labels: Int32Array.from(labels) };
}

/** Cuts a text to windows of `seq` tokens; a tail of one token, which has nothing to predict, is left out. */
export function windows(text: Example, seq: number): Example[] {
  const found: Example[] = [];
  for (let start = 0; start + 2 <= text.tokens.length; start += seq) {
    found.push({ tokens: text.tokens.slice(start, start + seq), labels: text.labels.slice(start, start + seq) });
  }
  return found;
}
