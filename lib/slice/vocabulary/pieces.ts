// The parts of each token of a vocabulary: the tokens that replace it once it is cut, and the tokens that it needs.
import { type CompressoError, refusal } from "../../core/errors.ts";
import { isObject, type Json } from "../../core/guards.ts";
import { tokenText } from "../../text/tokenizer_json.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

/** How the tokens of a vocabulary depend on each other; lists have one entry for each id below `size`. */
export interface TokenPieces {
  /** Highest id + 1. */
  readonly size: number;
  /** Ids that have a token. */
  readonly ids: Int32Array;
  /** Whether a token is never cut: bytes, special tokens, and tokens that no others can replace. */
  readonly isFixed: Uint8Array;
  /** Whether a token is a byte that characters without a token fall back to. */
  readonly isByte: Uint8Array;
  /** Tokens that replace a token once it is cut. Empty for fixed tokens and for ids without a token. */
  readonly parts: readonly (readonly number[])[];
  /** Tokens that a token is made of: the two tokens of its last merge. */
  readonly needs: readonly (readonly number[])[];
}

/**
 * Takes a vocabulary apart.
 *
 * - BPE: the parts of a token are the two tokens of the merge by which it is made from its own text. They are needed
 *   too. A character that no merge makes falls back to its bytes if the tokenizer has byte fallback; otherwise it is
 *   fixed. The 256 bytes of a byte-level tokenizer are fixed too.
 * - Unigram: the parts are the best pieces of its text without itself. It needs no other tokens.
 *
 * Special tokens are fixed, except for tokens called unused or reserved that neither the config nor the chat template
 * names. Other added tokens are cut like any token: their text is then read as text.
 *
 * @throws CompressoError("input") for a model other than BPE and Unigram, and for BPE with affixes.
 */
export function tokenPieces(tokenizer: Tokenizer): TokenPieces {
  const { json } = tokenizer, model = isObject(json["model"]) ? json["model"] : {}, size = tokenizer.vocabSize;
  const unigram = Array.isArray(model["vocab"]);
  if (!unigram) checkBpe(model);
  const vocab = unigram ? unigramIds(model) : bpeIds(model), added = addedTokens(json);
  const all = new Map([...vocab, ...added.map(({ content, id }) => [content, id] as const)]);
  const isFixed = new Uint8Array(size),
    isByte = new Uint8Array(size),
    parts: number[][] = Array.from({ length: size }, () => []);
  const needs: number[][] = Array.from({ length: size }, () => []);
  const fixed = fixedTexts(tokenizer, added), inProcessor = new Set(processorIds(json["post_processor"]));
  const split = unigram ? unigramSplit(model, vocab) : bpeSplit(model, vocab);
  for (const [text, id] of all) {
    if (model["byte_fallback"] === true && BYTE.test(text)) isByte[id] = 1;
    const own = fixed.has(text) ? null : split(text, vocab.get(text) === id);
    if (own === null || inProcessor.has(id)) isFixed[id] = 1;
    else {
      parts[id] = own.parts;
      needs[id] = own.needs;
    }
  }
  return { size, ids: Int32Array.from(new Set(all.values())).sort(), isFixed, isByte, parts, needs };
}

interface Split {
  readonly parts: number[];
  readonly needs: number[];
}

/** Splits the text of a token; `isOwn`: it is in the model's vocabulary. Null if no tokens can replace it. */
type Splitter = (text: string, isOwn: boolean) => Split | null;

/** Byte pair encoding of a single token's text. */
function bpeSplit(model: Json, vocab: ReadonlyMap<string, number>): Splitter {
  const hasBytes = model["byte_fallback"] === true;
  const size = vocab.values().reduce((most, id) => Math.max(most, id + 1), 0);
  const merges = new Map<number, { readonly rank: number; readonly id: number }>();
  const list: readonly unknown[] = Array.isArray(model["merges"]) ? model["merges"] : [];
  list.forEach((merge, rank) => {
    const [left, right] = mergeTexts(merge), a = vocab.get(left), b = vocab.get(right), id = vocab.get(left + right);
    if (a !== undefined && b !== undefined && id !== undefined && !merges.has(a * size + b)) {
      merges.set(a * size + b, { rank, id });
    }
  });
  return (text, isOwn) => {
    if (hasBytes && BYTE.test(text)) return null;
    const start = Array.from(text, (char) => vocab.get(char));
    const isChar = isOwn && start.length === 1;
    if (isChar || start.includes(undefined)) {
      const bytes = hasBytes ? byteIds(text, vocab) : null;
      return bytes && { parts: bytes, needs: [] };
    }
    const own = vocab.get(text), pieces = start.filter((id) => id !== undefined);
    for (;;) {
      let at = -1, best = Infinity, made = 0;
      for (let i = 0; i + 1 < pieces.length; i++) {
        const merge = merges.get((pieces[i] ?? 0) * size + (pieces[i + 1] ?? 0));
        if (merge && merge.rank < best) [at, best, made] = [i, merge.rank, merge.id];
      }
      if (at < 0) return { parts: pieces, needs: [] };
      const pair = pieces.splice(at, 2, made);
      // The last merge gives the token itself: the two merged tokens replace it.
      if (pieces.length === 1) return made === own ? { parts: pair, needs: pair } : { parts: pieces, needs: [] };
    }
  };
}

/** The best pieces of a text by their scores, without the text as a whole. */
function unigramSplit(model: Json, vocab: ReadonlyMap<string, number>): Splitter {
  const hasBytes = model["byte_fallback"] === true, scores = new Map<string, number>();
  const list: readonly unknown[] = Array.isArray(model["vocab"]) ? model["vocab"] : [];
  for (const entry of list) {
    if (Array.isArray(entry) && typeof entry[0] === "string") scores.set(entry[0], Number(entry[1]));
  }
  const longest = scores.keys().reduce((most, text) => Math.max(most, text.length), 1);
  return (text) => {
    if (hasBytes && BYTE.test(text)) return null;
    const best = new Float64Array(text.length + 1).fill(-Infinity), from = new Int32Array(text.length + 1);
    best[0] = 0;
    for (let end = 1; end <= text.length; end++) {
      for (let start = Math.max(0, end - longest); start < end; start++) {
        const score = end - start === text.length ? undefined : scores.get(text.slice(start, end));
        if (score === undefined || !((best[start] ?? 0) + score > (best[end] ?? 0))) continue;
        best[end] = (best[start] ?? 0) + score;
        from[end] = start;
      }
    }
    const parts: number[] = [];
    if (best[text.length] === -Infinity) {
      const bytes = hasBytes ? byteIds(text, vocab) : null;
      return bytes && { parts: bytes, needs: [] };
    }
    for (let end = text.length; end > 0; end = from[end] ?? 0) {
      const id = vocab.get(text.slice(from[end], end));
      if (id !== undefined) parts.unshift(id);
    }
    return { parts, needs: [] };
  };
}

/** A token of byte fallback. */
const BYTE = /^<0x[0-9A-F]{2}>$/;

/** The tokens of a text's UTF-8 bytes; null if one is missing. */
function byteIds(text: string, vocab: ReadonlyMap<string, number>): number[] | null {
  const ids = Array.from(
    new TextEncoder().encode(text),
    (byte) => vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );
  const found = ids.filter((id) => id !== undefined);
  return found.length === ids.length ? found : null;
}

/** An entry of `added_tokens`. */
interface Added {
  readonly id: number;
  readonly content: string;
  readonly isSpecial: boolean;
}

function addedTokens(json: Json): Added[] {
  const list: readonly unknown[] = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : [];
  return list.flatMap((entry) =>
    isObject(entry) && typeof entry["id"] === "number" && typeof entry["content"] === "string"
      ? [{ id: entry["id"], content: entry["content"], isSpecial: entry["special"] === true }]
      : []
  );
}

/** Special tokens that were put into a vocabulary for later use. */
const RESERVED = /unused|reserved/i;

/** Texts of tokens that are never cut, independent of their parts. */
function fixedTexts({ json, config, chatTemplate }: Tokenizer, added: readonly Added[]): ReadonlySet<string> {
  const model = isObject(json["model"]) ? json["model"] : {};
  const { added_tokens_decoder: _listed, chat_template: templates, ...named } = config;
  const words = `${JSON.stringify([json["post_processor"], named, templates])}${JSON.stringify(chatTemplate)}`;
  const isNamed = (content: string): boolean => words.includes(JSON.stringify(content).slice(1, -1));
  const special = added.filter(({ content, isSpecial }) =>
    isSpecial ? !RESERVED.test(content) || isNamed(content) : false
  );
  const inTemplate = added.filter(({ content }) => content.trim() !== "" && isNamed(content));
  const unknown = tokenText(model["unk_token"]) ?? unigramUnknown(model);
  return new Set([...special, ...inTemplate].map(({ content }) => content).concat(unknown ?? []));
}

/** Ids that a post-processor puts around texts. */
function processorIds(node: unknown): number[] {
  if (Array.isArray(node)) return node.flatMap(processorIds);
  if (!isObject(node)) return [];
  const { ids, sep, cls, ...others } = node;
  const own = [ids, sep, cls].flatMap((list) => Array.isArray(list) ? list : []);
  return [...own.filter((id) => typeof id === "number"), ...Object.values(others).flatMap(processorIds)];
}

/** The unknown token of a Unigram model. */
function unigramUnknown(model: Json): string | null {
  const entry: unknown = Array.isArray(model["vocab"]) ? model["vocab"][Number(model["unk_id"])] : null;
  return Array.isArray(entry) && typeof entry[0] === "string" ? entry[0] : null;
}

function bpeIds(model: Json): Map<string, number> {
  const vocab = isObject(model["vocab"]) ? model["vocab"] : {};
  return new Map(Object.entries(vocab).map(([text, id]) => [text, Number(id)]));
}

function unigramIds(model: Json): Map<string, number> {
  const vocab: readonly unknown[] = Array.isArray(model["vocab"]) ? model["vocab"] : [];
  return new Map(vocab.map((entry, id) => [Array.isArray(entry) ? String(entry[0]) : "", id]));
}

/** The two texts of a merge, which files write as a pair or with a space between. */
export function mergeTexts(merge: unknown): readonly [left: string, right: string] {
  const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
  const [left, right]: readonly unknown[] = Array.isArray(pair) ? pair : [];
  if (typeof left === "string" && typeof right === "string") return [left, right];
  throw refused("each merge names two tokens", JSON.stringify(merge));
}

function checkBpe(model: Json): void {
  const type = model["type"] ?? "BPE";
  if (type !== "BPE" || !isObject(model["vocab"])) throw refused("its model is BPE or Unigram", String(type));
  for (const key of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    if (tokenText(model[key]) || model[key]) throw refused(`it has no ${key}`, JSON.stringify(model[key]));
  }
}

function refused(rule: string, value: string): CompressoError {
  return refusal("input", "cannot cut the vocabulary of this tokenizer", {
    rule,
    value,
    fix: "leave the vocabulary as it is",
  });
}
