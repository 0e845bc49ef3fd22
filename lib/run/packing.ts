// Texts joined to sequences of one length. Owns packing and windows; refuses rows and batches.
import { type Example, IGNORED_LABEL } from "../io/prompts.ts";
import type { Tokenizer } from "../io/tokenizer.ts";

/** Texts as sequences. */
export interface Packed {
  readonly examples: Example[];
  /** Tokens at the end that fill no sequence and are left out. */
  readonly leftOver: number;
  /** Places in the order given, from 0, of texts that have no tokens. */
  readonly empty: readonly number[];
}

/**
 * Joins texts, each with the tokens that the tokenizer puts before a text and with EOS behind, and cuts the whole to
 * sequences of exactly `seq` tokens: no padding, and a text may begin in one sequence and end in the next. Attention is
 * not cut at the borders, so that a text sees those before it in its sequence; positions run through. All tokens are
 * labels but those that begin a text, which no model is asked for.
 *
 * What is left at the end is left out, or makes a short sequence where there is no other. Texts are
 * joined in the order given.
 */
export function packTexts(
  texts: Iterable<string>,
  { tokenizer, seq }: { readonly tokenizer: Tokenizer; readonly seq: number },
): Packed {
  const { leading, eosId } = tokenizer;
  const examples: Example[] = [], empty: number[] = [];
  let at = 0;
  let ids: number[] = [], labels: number[] = [];
  const cut = (start: number, end: number): void => {
    const tokens = Uint32Array.from(ids.slice(start, end));
    examples.push({ tokens, labels: Int32Array.from(labels.slice(start, end)) });
  };
  for (const text of texts) {
    const body = tokenizer.encode(text);
    if (body.length === 0) empty.push(at);
    at++;
    if (body.length === 0) continue;
    const tail = eosId === null ? tokenizer.trailing : [eosId];
    ids = ids.concat(leading, body, tail);
    labels = labels.concat(leading.map(() => IGNORED_LABEL), body, tail);
    let start = 0;
    for (; ids.length - start >= seq; start += seq) cut(start, start + seq);
    [ids, labels] = [ids.slice(start), labels.slice(start)];
  }
  if (examples.length > 0 || ids.length < 2) return { examples, leftOver: ids.length, empty };
  cut(0, ids.length);
  return { examples, leftOver: 0, empty };
}

/** Cuts a text to windows of `seq` tokens; a tail of one token, which has nothing to predict, is left out. */
export function windows(text: Example, seq: number): Example[] {
  const found: Example[] = [];
  for (let start = 0; start + 2 <= text.tokens.length; start += seq) {
    found.push({ tokens: text.tokens.slice(start, start + seq), labels: text.labels.slice(start, start + seq) });
  }
  return found;
}
