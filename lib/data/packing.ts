// Packs rows into sequences of one length.
import { countLabels, type Example, IGNORED_LABEL } from "./prompts/encode.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** Rows as sequences. */
export interface Packed {
  readonly examples: Example[];
  /** Tokens that are left out: at the end, where they fill no sequence, and of sequences without a label. */
  readonly leftOver: number;
  /** Places of the examples whose labels are partly in a later sequence than their beginning. */
  readonly divided: readonly number[];
}

/**
 * Joins examples in the order given and cuts the whole to sequences of exactly `seq` tokens: no padding, and an example
 * may begin in one sequence and end in the next. By default attention is not cut at the borders, so that an example sees
 * those before it in its sequence, and positions run through.
 *
 * With `documentMask` each example begins at position 0, and so does what of it is in the next sequence. Its first token
 * is no label, since what is before it does not predict it.
 *
 * The remainder at the end is left out, but becomes a short sequence if there is no other. Sequences without labels are
 * left out too.
 */
export function pack(
  parts: Iterable<Example>,
  seq: number,
  { documentMask = false }: { readonly documentMask?: boolean | undefined } = {},
): Packed {
  const examples: Example[] = [], divided: number[] = [], given = [...parts];
  const width = Math.min(seq, given.reduce((sum, part) => sum + part.tokens.length, 0));
  const tokens = new Uint32Array(width), labels = new Int32Array(width), positions = new Uint32Array(width);
  let used = 0, leftOver = 0, late: number[] = [];
  const cut = (): void => {
    if (countLabels(labels.subarray(0, used)) > 0) {
      const sequence = { tokens: tokens.slice(0, used), labels: labels.slice(0, used) };
      examples.push(documentMask ? { ...sequence, positions: positions.slice(0, used) } : sequence);
      divided.push(...late);
    } else leftOver += used;
    [used, late] = [0, []];
  };
  for (const [index, part] of given.entries()) {
    for (let at = 0; at < part.tokens.length;) {
      const end = Math.min(part.tokens.length, at + seq - used), own = part.labels.subarray(at, end);
      if (at > 0 && divided.at(-1) !== index && countLabels(own) > 0) late.push(index);
      tokens.set(part.tokens.subarray(at, end), used);
      labels.set(own, used);
      if (documentMask) {
        labels[used] = IGNORED_LABEL;
        for (let place = used; place < used + end - at; place++) positions[place] = place - used;
      }
      used += end - at;
      at = end;
      if (used === seq) cut();
    }
  }
  if (examples.length === 0) cut();
  else leftOver += used;
  return { examples, leftOver, divided };
}

/**
 * A text to be joined: the tokenizer's leading tokens, the text, then EOS. All tokens are labels except the leading
 * tokens. If the text was cut off, EOS only separates it from the next text and is no label. Null for a text without
 * tokens.
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
