// Chooses the tokens that texts need, for any size of the vocabulary.
import { refuse } from "../../core/errors.ts";
import type { ModelFiles } from "../../formats/open.ts";
import { noTokenizer } from "../../text/no_tokenizer.ts";
import { sampleChat } from "../../text/sample_chat.ts";
import { expectedUses } from "./expected_uses.ts";
import { tokenPieces } from "./pieces.ts";
import { type Removal, removalOrder } from "./removal.ts";
import { tokenKind } from "./token_kind.ts";

/** Largest growth of texts, in tokens, by a vocabulary without a given size. */
const AUTOMATIC_GROWTH = 0.01;

/** Vocabularies of every size, each a part of the next larger one. */
export interface VocabularyChoice {
  /** Number of tokens of the whole vocabulary. Further rows of the embedding have no token. */
  readonly tokens: number;
  /** The smallest number of tokens: bytes, special tokens and the tokens that these need. */
  readonly least: number;
  /** Number of tokens in the counted texts. */
  readonly counted: number;
  /** The number of tokens for a size: a number of tokens, a share below 1, or undefined for as many as the texts need. */
  readonly sizeOf: (size: number | undefined) => number;
  /** Ids of the tokens that are kept, ascending. */
  readonly kept: (size: number) => Int32Array;
  /** Share of the tokens of these texts that a vocabulary of a size contains. */
  readonly coverage: (size: number) => number;
  /** Share of tokens by which such texts are expected to grow. */
  readonly growth: (size: number) => number;
}

/** Counts the tokens of texts, for {@link chooseVocabulary}. */
export function countTokens(
  { tokenizer }: Pick<ModelFiles, "tokenizer">,
  texts: Iterable<string>,
): Float64Array {
  if (!tokenizer) throw noTokenizer("cannot count tokens");
  const counts = new Float64Array(tokenizer.vocabSize);
  for (const text of texts) for (const id of tokenizer.encode(text)) counts[id] = (counts[id] ?? 0) + 1;
  return counts;
}

/**
 * Orders the vocabulary by how much cutting a token lengthens the texts. A token that does not occur in them is judged
 * by its script and its place in the vocabulary, see `expectedUses`. Tokens that the chat template writes stay.
 *
 * @param counts - Count of each id in the texts, see {@link countTokens}.
 * @throws CompressoError("input") for a tokenizer that is neither BPE nor Unigram, and for a model without one.
 * @example
 * ```ts
 * import { demoData, exportModel, readRows } from "compresso";
 * import { openModelFiles } from "compresso/model";
 * import { chooseVocabulary, countTokens, cutVocabulary } from "compresso/masks";
 *
 * const files = await openModelFiles("demo"), { rows } = await readRows(demoData("train"), { limit: 200 });
 * const texts = rows.map((row) => row.kind === "instruct" ? row.instruction : "");
 * const choice = chooseVocabulary(files, countTokens(files, texts));
 * const { source, tokenizer } = cutVocabulary(files, choice.kept(choice.sizeOf(0.7)));
 * const out = await Deno.makeTempDir();
 * await exportModel(source, out, { tokenizer, name: "fewer tokens" });
 * if (tokenizer?.vocabSize !== source.spec.vocab) throw new Error(`${source.spec.vocab} rows`);
 * await Deno.remove(out, { recursive: true });
 * ```
 */
export function chooseVocabulary(
  { source: { spec }, tokenizer }: ModelFiles,
  counts: ArrayLike<number>,
): VocabularyChoice {
  if (!tokenizer) throw noTokenizer("cannot cut the vocabulary");
  const found = tokenPieces(tokenizer), isFixed = found.isFixed.slice();
  for (const id of [...tokenizer.encode(sampleChat(tokenizer)), spec.bosId, spec.padId, ...spec.eosIds]) {
    if (id !== null && id < found.size) isFixed[id] = 1;
  }
  // A tokenizer may have tokens for which the model has no row.
  const pieces = { ...found, isFixed, ids: found.ids.filter((id) => id < spec.vocab) }, { ids } = pieces;
  const kindOf = (id: number): string => tokenKind(tokenizer.idToToken(id) ?? "", () => tokenizer.decode([id]));
  const removal = removalOrder(pieces, expectedUses(counts, ids.filter((id) => !isFixed[id]), kindOf));
  const counted = Array.from(counts).reduce((sum, count) => sum + count, 0);
  const least = ids.length - removal.order.length;
  const growth = (size: number): number => (removal.extra[ids.length - size - 1] ?? 0) / Math.max(1, counted);
  return {
    tokens: ids.length,
    least,
    counted,
    coverage(size): number {
      const gone = removal.order.subarray(0, ids.length - size).reduce((sum, id) => sum + (counts[id] ?? 0), 0);
      return 1 - gone / Math.max(1, counted);
    },
    growth,
    sizeOf: (size) => sizeOf(size, { tokens: ids.length, least, removal, counted }),
    kept(size): Int32Array {
      const gone = new Set(removal.order.subarray(0, ids.length - size));
      return ids.filter((id) => !gone.has(id));
    },
  };
}

function sizeOf(
  size: number | undefined,
  { tokens, least, removal: { extra }, counted }: {
    readonly tokens: number;
    readonly least: number;
    readonly removal: Removal;
    readonly counted: number;
  },
): number {
  if (size === undefined) {
    const free = extra.findIndex((more) => more > AUTOMATIC_GROWTH * counted);
    return free < 0 ? least : tokens - free;
  }
  const wanted = size < 1 ? Math.round(size * tokens) : size;
  if (Number.isInteger(wanted) && wanted >= least && wanted <= tokens) return wanted;
  refuse("usage", "cannot cut the vocabulary to this size", {
    rule:
      `it is from ${least}, which are bytes, special tokens and those of the chat template, to the model's ${tokens}, or a share of these`,
    value: size,
    option: "vocab.size",
  });
}
