// Tokenizes a text as the continuation of another one.
import type { Tokenizer } from "../../text/tokenizer.ts";

/** A text with its tokens. */
export interface Context {
  readonly text: string;
  readonly ids: readonly number[];
}

/** The empty text. */
export const NO_CONTEXT: Context = { text: "", ids: [] };

/**
 * Tokens of a text that follows a context. Both are tokenized together, so that SentencePiece adds no space, and the
 * context's tokens are removed. If the result does not begin with them, the text is tokenized alone.
 */
export function encodeBehind(context: Context, text: string, tokenizer: Tokenizer): number[] {
  const { text: before, ids } = tail(context, tokenizer);
  const together = tokenizer.encode(before + text);
  const begins = ids.every((id, index) => together[index] === id);
  return begins ? together.slice(ids.length) : tokenizer.encode(text);
}

/** The context followed by a text, cut to what the next text depends on. */
export function grow({ text, ids }: Context, added: Context, tokenizer: Tokenizer): Context {
  return tail({ text: text + added.text, ids: [...ids, ...added.ids] }, tokenizer);
}

/** The part of a context from its last special token on: no merge reaches across one, so the rest need not be tokenized again. */
function tail({ text, ids }: Context, tokenizer: Tokenizer): Context {
  const last = ids.findLastIndex((id) => tokenizer.isSpecial(id));
  const at = last < 0 ? -1 : text.lastIndexOf(tokenizer.idToToken(ids[last] ?? -1) ?? "\0");
  return at < 0 ? { text, ids } : { text: text.slice(at), ids: ids.slice(last) };
}
