// Which tokens of two vocabularies are the same.
import { refuse } from "../core/errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** A vocabulary: rows of the embedding, and the tokens that they stand for. */
export interface Vocabulary {
  readonly vocab: number;
  readonly tokenizer: Pick<Tokenizer, "idToToken" | "tokenToId">;
}

/** The dense model's id of each token of `own`, −1 for a token that it lacks; null if each id stands for the same token in both. */
export function denseIds(own: Vocabulary, dense: Vocabulary): Int32Array<ArrayBuffer> | null {
  const ids = new Int32Array(own.vocab);
  let isSame = own.vocab === dense.vocab;
  for (let id = 0; id < own.vocab; id++) {
    const token = own.tokenizer.idToToken(id);
    isSame &&= token === dense.tokenizer.idToToken(id);
    const found = token === null ? null : dense.tokenizer.tokenToId(token);
    ids[id] = found !== null && found < dense.vocab ? found : -1;
  }
  return isSame ? null : ids;
}

/** Ids of a text as the dense model reads it. Throws `CompressoError("mismatch")` for a token that it lacks. */
export function asDense(tokens: readonly number[], ids: Int32Array | null): number[] {
  if (!ids) return [...tokens];
  return tokens.map((token) => {
    const found = ids[token] ?? -1;
    if (found >= 0) return found;
    refuse("mismatch", "cannot compare a model with the dense one", {
      rule: "the dense model has all tokens of the text",
      value: `it lacks token ${token} of the model`,
      fix: "compare with the model that this one was made of",
    });
  });
}
