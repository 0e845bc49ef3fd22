// Cuts the vocabulary of a model: weights and tokenizer together.
import type { ModelFiles } from "../../formats/open.ts";
import { cutSource } from "./cut_source.ts";
import { cutTokenizer } from "./cut_tokenizer.ts";

/** Weights and tokenizer for the kept tokens; ids are new, in the order of the old ones. */
export function cutVocabulary({ source, tokenizer }: ModelFiles, kept: Int32Array): ModelFiles {
  return { source: cutSource(source, kept), tokenizer: tokenizer && cutTokenizer(tokenizer, kept) };
}
