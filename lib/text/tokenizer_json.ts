// Rewrites a tokenizer.json for the JavaScript tokenizer library where it reads a node differently from the Rust one.
import { ByteFallbackDecoder, type LibraryTokenizer } from "../core/packages.ts";
import { type CompressoError, refusal } from "../core/errors.ts";
import { isObject, type Json } from "../core/guards.ts";
import { byteLevel, GPT2_SPLIT, type PreTokenizerNode, split } from "./pre_tokenizers.ts";

/** Unicode's punctuation and ASCII's, which has symbols such as $ and + too. */
const PUNCTUATION = "[\\p{P}!-/:-@\\[-`{-~]";

/** Text of a token in tokenizer_config.json: a string, or an object with `content`. */
export function tokenText(value: unknown): string | null {
  if (typeof value === "string") return value;
  return isObject(value) && typeof value["content"] === "string" ? value["content"] : null;
}

/**
 * A tokenizer.json that the JavaScript library encodes as the Rust library encodes the original:
 * its `Digits`, `Whitespace` and `ByteLevel` use ASCII or JavaScript character classes, `Split` knows two behaviours
 * only, `Punctuation` none, and `Metaspace` does not split. Throws `CompressoError("input")` for a split it cannot
 * express, and for added tokens that are to match whole words only, which it finds within words.
 * A `Precompiled` normalizer stays as it is: the library does about what SentencePiece's usual table does (nmt_nfkc), and reads none. Whether a table
 * is that it cannot be known without reading it, so no table is refused.
 */
export function forJavaScript(json: Json): Json {
  const added: readonly unknown[] = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : [];
  const word = added.find((token) => isObject(token) && token["single_word"] === true);
  if (word !== undefined) throw unusable("no added token has single_word", JSON.stringify(word));
  return { ...json, pre_tokenizer: rewrite(json["pre_tokenizer"] ?? null) };
}

/**
 * Makes the library's decoders decode as the Rust ones. Byte fallback: a byte order mark stays, and each byte of a run that is not UTF-8 gives one
 * U+FFFD. Metaspace: all marks of the first token go, or none where none was put before a text. ByteLevel, within a sequence too: a token with a
 * character that stands for no byte, such as an added one, is its own text.
 * `decoder` is the library's, changed in place.
 */
export function repairDecoder(decoder: object | null): void {
  if (decoder === null) return;
  const node: unknown = Reflect.get(decoder, "config"), type = isObject(node) ? node["type"] : null;
  if (decoder instanceof ByteFallbackDecoder) Object.assign(decoder, { decode_chain: byteFallback });
  if (isObject(node) && type === "Metaspace") Object.assign(decoder, { decode_chain: metaspace(node) });
  if (type === "ByteLevel") {
    Object.assign(decoder, { decode_chain: byteLevelText(Reflect.get(decoder, "byte_decoder")) });
  }
  const parts: unknown = Reflect.get(decoder, "decoders");
  if (Array.isArray(parts)) { for (const part of parts) repairDecoder(part); }
}

/**
 * Repairs the library's Unigram in two ways. With `byte_fallback`, as in Rust, a piece that is not in the vocabulary
 * becomes the tokens of its UTF-8 bytes, or one unknown token if a byte has no token. And long words work: the library
 * would pass all tokens of a word as arguments of one call.
 *
 * `model` is the library's, changed in place; `node` is the model of tokenizer.json.
 */
export function repairModel(model: LibraryTokenizer["model"], node: unknown): void {
  // The library's types do not declare this method.
  const tokenize: unknown = model === null ? null : Reflect.get(model, "tokenize");
  if (model === null || !isObject(node) || !Array.isArray(node["vocab"]) || typeof tokenize !== "function") return;
  const piecesOf = (word: string): readonly unknown[] => {
    const pieces: unknown = Reflect.apply(tokenize, model, [word]);
    return Array.isArray(pieces) ? pieces : [];
  };
  if (node["byte_fallback"] !== true) {
    Object.assign(model, { encode: (words: readonly string[]): unknown[] => words.flatMap(piecesOf) });
    return;
  }
  const vocab = new Set<unknown>(node["vocab"].map((entry: unknown) => Array.isArray(entry) ? entry[0] : null));
  const encode = (words: readonly string[]): unknown[] =>
    words.flatMap((word) => {
      const tokens: unknown[] = [];
      let unknown = "";
      const flush = (): void => {
        if (unknown === "") return;
        const bytes = Array.from(new TextEncoder().encode(unknown), byteToken);
        for (const token of bytes.every((byte) => vocab.has(byte)) ? bytes : [unknown]) tokens.push(token);
        unknown = "";
      };
      for (const token of piecesOf(word)) {
        if (vocab.has(token)) {
          flush();
          tokens.push(token);
        } else unknown += token;
      }
      flush();
      return tokens;
    });
  // Unknown tokens are joined above, within a word; the library would join those of two words too.
  Object.assign(model, { encode, fuse_unk: false });
}

function byteToken(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

function metaspace(node: Json): (tokens: readonly string[]) => string[] {
  const mark = typeof node["replacement"] === "string" ? node["replacement"] : "▁";
  // The older name of "never" is false.
  const isPut = node["prepend_scheme"] !== "never" && node["add_prefix_space"] !== false;
  return (tokens) => tokens.map((token, at) => token.replaceAll(mark, at === 0 && isPut ? "" : " "));
}

/** `alphabet` says the byte of each character. */
function byteLevelText(alphabet: unknown): (tokens: readonly string[]) => string[] {
  const byteOf = new Map(
    Object.entries(isObject(alphabet) ? alphabet : {}).map(([char, byte]) => [char, Number(byte)]),
  );
  return (tokens) => {
    const all: number[] = [];
    for (const token of tokens) {
      const bytes = Array.from(token, (char) => byteOf.get(char));
      const isText = bytes.includes(undefined);
      for (const byte of isText ? new TextEncoder().encode(token) : bytes) if (byte !== undefined) all.push(byte);
    }
    return [new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(all))];
  };
}

function byteFallback(tokens: readonly string[]): string[] {
  const texts: string[] = [];
  let bytes: number[] = [];
  const flush = (): void => {
    if (bytes.length > 0) texts.push(utf8(bytes));
    bytes = [];
  };
  for (const token of tokens) {
    const digits = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    if (digits === undefined) {
      flush();
      texts.push(token);
    } else bytes.push(parseInt(digits, 16));
  }
  flush();
  return texts;
}

function utf8(bytes: readonly number[]): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return "\uFFFD".repeat(bytes.length);
  }
}

function rewrite(node: unknown): PreTokenizerNode | null {
  if (!isObject(node)) return null;
  switch (node["type"]) {
    case "Sequence": {
      const parts = Array.isArray(node["pretokenizers"]) ? node["pretokenizers"] : [];
      return sequence(parts.map(rewrite).filter((part) => part !== null));
    }
    case "ByteLevel":
      if (node["use_regex"] === false || node["add_prefix_space"] !== false) return node;
      return sequence([split(GPT2_SPLIT), byteLevel(false)]);
    case "Digits":
      return split(node["individual_digits"] === true ? "\\p{N}" : "\\p{N}+");
    case "Whitespace":
      return { type: "Split", pattern: { Regex: "\\w+|[^\\w\\s]+" }, behavior: "Removed", invert: true };
    case "Metaspace": {
      if (node["split"] === false) return node;
      const mark = typeof node["replacement"] === "string" ? escapeRegex(node["replacement"]) : "▁";
      return sequence([node, split(`${mark}[^${mark}]*|[^${mark}]+`)]);
    }
    case "Punctuation":
      return rewriteSplit({ ...split(PUNCTUATION), behavior: node["behavior"] ?? "Isolated" });
    case "Split":
      return rewriteSplit(node);
    default:
      return node;
  }
}

function rewriteSplit(node: Json): PreTokenizerNode {
  const behavior = node["behavior"];
  const inverted = node["invert"] === true;
  if (behavior === "Isolated") return { ...node, invert: false };
  const pattern = isObject(node["pattern"]) ? node["pattern"] : {};
  const text = pattern["String"];
  const regex = pattern["Regex"];
  if (behavior === "Removed") {
    // The library splits by the pattern, and a split keeps what groups capture; a text is a group to it.
    const plain = typeof text === "string" ? escapeRegex(text) : typeof regex === "string" ? uncaptured(regex) : null;
    return plain === null || inverted ? node : { ...node, pattern: { Regex: plain } };
  }
  const match = typeof text === "string" ? escapeRegex(text) : typeof regex === "string" ? `(?:${regex})` : null;
  if (match !== null && !inverted) {
    const other = `(?:(?!${match})[\\s\\S])`;
    if (behavior === "MergedWithPrevious") return split(`${other}*${match}|${other}+`);
    if (behavior === "MergedWithNext") return split(`${match}${other}*|${other}+`);
    if (behavior === "Contiguous") return split(`(?:${match})+`);
  }
  throw unusable(
    "a Split pre-tokenizer is Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext, and not inverted",
    JSON.stringify(node),
  );
}

/** The pattern with all groups made non-capturing, named groups too. A pattern with back-references stays unchanged. */
function uncaptured(regex: string): string {
  if (/\\(?:[1-9]|k<)/.test(regex)) return regex;
  // Classes may hold classes, also named ones, and begin with a literal bracket.
  let depth = 0;
  return regex.replaceAll(/\\[\s\S]|\[:\^?\w+:\]|\[\^?\]?|\]|\((?!\?)|\(\?P?<(?![=!])[^>]*>/g, (part) => {
    if (part === "]") depth = Math.max(0, depth - 1);
    else if (part.startsWith("[") && !part.startsWith("[:")) depth++;
    return part.startsWith("(") && depth === 0 ? "(?:" : part;
  });
}

function unusable(rule: string, value: string): CompressoError {
  const fix = "give the model as a GGUF, whose tokenizer is read otherwise, or change tokenizer.json";
  return refusal("input", "cannot use this tokenizer", { rule, value, fix });
}

function sequence(pretokenizers: readonly PreTokenizerNode[]): PreTokenizerNode {
  return { type: "Sequence", pretokenizers };
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\\-/]/g, "\\$&");
}
