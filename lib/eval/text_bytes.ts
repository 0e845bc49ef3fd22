// Bytes of text that tokens stand for: what losses of different tokenizers can be compared by.
import { IGNORED_LABEL } from "../data/prompts/encode.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/**
 * Bytes in UTF-8 of the text of all tokens that have a label. Special tokens stand for none.
 *
 * @param tokens - Token ids of a sequence.
 * @param labels - A label for each, −100 where nothing is predicted. Its first counts for nothing, as no token is before it.
 */
export function labelBytes(
  tokenizer: Pick<Tokenizer, "decode">,
  tokens: readonly number[],
  labels: ArrayLike<number>,
): number {
  // A decoder may treat the first token of a text in its own way, so lengths of beginnings are subtracted.
  const bytesUpTo = (end: number): number =>
    new TextEncoder().encode(tokenizer.decode(tokens.slice(0, end), { skipSpecial: true })).length;
  const isLabel = (at: number): boolean =>
    at > 0 && at < tokens.length && (labels[at] ?? IGNORED_LABEL) !== IGNORED_LABEL;
  let bytes = 0;
  for (let at = 0; at < tokens.length; at++) {
    if (!isLabel(at)) continue;
    const first = at;
    while (isLabel(at + 1)) at++;
    bytes += bytesUpTo(at + 1) - bytesUpTo(first);
  }
  return bytes;
}
