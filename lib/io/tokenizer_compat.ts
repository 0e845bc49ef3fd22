// Rewrites a tokenizer.json for the JavaScript tokenizer library where it reads a node otherwise than the Rust one.
// Owns those rewrites; refuses to tokenize.
import { ByteFallbackDecoder } from "../packages.ts";
import { CompressoError } from "../errors.ts";
import { byteLevel, GPT2_SPLIT, type PreTokenizerNode, split } from "./pre_tokenizers.ts";

/** A JSON object. */
export type Json = Readonly<Record<string, unknown>>;

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Json {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/**
 * A tokenizer.json that the JavaScript library encodes as the Rust library encodes the original:
 * its `Digits`, `Whitespace` and `ByteLevel` use ASCII or JavaScript character classes, `Split` knows two behaviours
 * only,
 * and `Metaspace` does not split. Throws `CompressoError("input")` for a split it cannot express.
 */
export function forJavaScript(json: Json): Json {
  return { ...json, pre_tokenizer: rewrite(json["pre_tokenizer"] ?? null) };
}

/**
 * Makes the library's byte fallback decode as the Rust one: a byte order mark stays, and each byte of a run that is not
 * UTF-8 gives one U+FFFD.
 * `decoder` is the library's, changed in place.
 */
export function repairDecoder(decoder: object | null): void {
  if (decoder instanceof ByteFallbackDecoder) Object.assign(decoder, { decode_chain: byteFallback });
  const parts: unknown = decoder === null ? null : Reflect.get(decoder, "decoders");
  if (Array.isArray(parts)) { for (const part of parts) repairDecoder(part); }
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
    case "Split":
      return rewriteSplit(node);
    default:
      return node;
  }
}

function rewriteSplit(node: Json): PreTokenizerNode {
  const behavior = node["behavior"];
  const inverted = node["invert"] === true;
  if (behavior === "Removed") return node;
  if (behavior === "Isolated") return { ...node, invert: false };
  const pattern = isObject(node["pattern"]) ? node["pattern"] : {};
  const text = pattern["String"];
  const regex = pattern["Regex"];
  const match = typeof text === "string" ? escapeRegex(text) : typeof regex === "string" ? `(?:${regex})` : null;
  if (match !== null && !inverted) {
    const other = `(?:(?!${match})[\\s\\S])`;
    if (behavior === "MergedWithPrevious") return split(`${other}*${match}|${other}+`);
    if (behavior === "MergedWithNext") return split(`${match}${other}*|${other}+`);
    if (behavior === "Contiguous") return split(`(?:${match})+`);
  }
  throw new CompressoError("input", {
    what: "cannot use this tokenizer",
    rule:
      "a Split pre-tokenizer is Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext, and not inverted",
    value: JSON.stringify(node),
  });
}

function sequence(pretokenizers: readonly PreTokenizerNode[]): PreTokenizerNode {
  return { type: "Sequence", pretokenizers };
}

function escapeRegex(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\\-/]/g, "\\$&");
}
