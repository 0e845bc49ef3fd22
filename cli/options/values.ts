// Parsers of option values, which refuse a wrong number, word or list.
import { CompressoError } from "../../lib/core/errors.ts";

/** A parser of one option's value. Throws `CompressoError("usage")`. */
export type Parse<T> = (text: string) => T;

/** A parser that says which words it takes, for completion. */
type WordParse<T> = Parse<T> & {
  readonly words: readonly string[];
  /** Whether it takes a comma-separated list of them. */
  readonly isList: boolean;
};

/** A whole number from `least` on. */
export function wholeNumber(option: string, { least = 0, most = 2 ** 31 - 1 }: Bounds = {}): Parse<number> {
  return (text) => {
    const value = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : NaN;
    if (value >= least && value <= most) return value;
    // The upper bound is left out where nobody would reach it.
    const rule = most < 2 ** 31 - 1 || value > most
      ? `a whole number from ${least} to ${most}`
      : `a whole number${least > 0 ? `, at least ${least}` : ""}`;
    throw wrong(option, text, rule);
  };
}

/** A number above `above` or from `least` on, and below `below` or up to `most`. */
export function realNumber(
  option: string,
  { above, least, below, most }: RealBounds,
): Parse<number> {
  const rules = [
    ...(above === undefined ? [] : [`above ${above}`]),
    ...(least === undefined ? [] : [`at least ${least}`]),
    ...(below === undefined ? [] : [`below ${below}`]),
    ...(most === undefined ? [] : [`at most ${most}`]),
  ];
  return (text) => {
    const value = text.trim() === "" ? NaN : Number(text);
    const fits = Number.isFinite(value) && value > (above ?? -Infinity) && value >= (least ?? -Infinity) &&
      value < (below ?? Infinity) && value <= (most ?? Infinity);
    if (fits) return value;
    throw wrong(option, text, `a number ${rules.join(" and ")}`);
  };
}

/** One of a few words. */
export function oneOf<const T extends string>(option: string, words: readonly T[]): WordParse<T> {
  const parse = (text: string): T => {
    const found = words.find((word) => word === text.toLowerCase());
    if (found !== undefined) return found;
    throw wrong(option, text, `one of ${words.join(", ")}`);
  };
  return Object.assign(parse, { words, isList: false });
}

/** Comma-separated whole numbers from `least` on. */
export function wholeNumbers(option: string, { least }: { readonly least: number }): Parse<readonly number[]> {
  return (text) => {
    const parts = text.split(",").map((part) => /^\s*\+?\d+\s*$/.test(part) ? Number(part) : NaN);
    if (parts.every((part) => part >= least) && new Set(parts).size === parts.length) return parts;
    throw wrong(option, text, `comma-separated whole numbers from ${least} on, each once`);
  };
}

/** Comma-separated words. */
export function wordList(option: string): Parse<readonly string[]> {
  return (text) => {
    const words = text.split(",").map((word) => word.trim());
    if (words.every((word) => word !== "")) return words;
    throw wrong(option, text, "comma-separated names");
  };
}

/** Layers by number; negative ones count from the end. */
export function layerList(option: string): Parse<readonly number[]> {
  return (text) => {
    const parts = text.split(",").map((part) => part.trim());
    if (parts.every((part) => /^-?\d+$/.test(part))) return parts.map(Number);
    throw wrong(option, text, "comma-separated layer numbers, such as 0,1,-1");
  };
}

/** Some of a few words, comma-separated. */
export function someOf<const T extends string>(option: string, words: readonly T[]): WordParse<readonly T[]> {
  const parseWord = oneOf(option, words);
  const parse = (text: string): readonly T[] => {
    const parts = text.split(",").map((part) => part.trim()).filter((part) => part !== "");
    if (parts.length > 0 && new Set(parts).size === parts.length) return parts.map(parseWord);
    throw wrong(option, text, `some of ${words.join(",")}, each once`);
  };
  return Object.assign(parse, { words, isList: true });
}

/** A number of bytes, perhaps with K, M, G or T (powers of 1024). */
export function byteCount(option: string): Parse<number> {
  return (text) => {
    const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?$/i.exec(text.trim()) ?? [];
    const value = digits === undefined
      ? NaN
      : Math.floor(Number(digits) * 1024 ** "_kmgt".indexOf(unit.toLowerCase() || "_"));
    if (value > 0 && Number.isSafeInteger(value)) return value;
    throw wrong(option, text, "a number of bytes above 0, such as 800M or 6G");
  };
}

/** A number of parameters, perhaps with K, M, B or T (powers of 1000). */
export function parameterCount(option: string): Parse<number> {
  return (text) => {
    const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)\s*([kmbt]?)$/i.exec(text.trim()) ?? [];
    // Rounded, as 5.4 · 1000³ need not be whole.
    const value = digits === undefined
      ? NaN
      : Math.round(Number(digits) * 1000 ** "_kmbt".indexOf(unit.toLowerCase() || "_"));
    if (value > 0 && Number.isSafeInteger(value)) return value;
    throw wrong(option, text, "a number of parameters above 0, such as 110M or 5.4B");
  };
}

/** A path to write to. An empty one, as of a variable that is not set, would mean the root of the file system. */
export function outputPath(option: string): Parse<string> {
  return (text) => {
    if (text.trim() !== "") return text;
    throw wrong(option, text, "a path to write to, not an empty text");
  };
}

/**
 * The value of an option that the verb requires, unless `or` is given in its place. Commander's own check would come before its suggestion for a
 * mistyped option.
 */
export function required<T>(
  value: T | undefined,
  option: string,
  { or }: { readonly or?: string } = {},
): T {
  if (value !== undefined && value !== "") return value;
  throw new CompressoError("usage", {
    what: `cannot start without ${option}`,
    rule: `${or === undefined ? option : `${option} or ${or}`} is required`,
    value: value === undefined ? "not given" : "an empty text",
    option: pathOf(option),
  });
}

/** Bounds of {@link realNumber}. */
interface RealBounds {
  readonly above?: number;
  readonly least?: number;
  readonly below?: number;
  readonly most?: number;
}

interface Bounds {
  readonly least?: number;
  readonly most?: number;
}

/** The error of a value that an option cannot have. */
export function wrong(option: string, text: string, rule: string): CompressoError {
  return new CompressoError("usage", {
    what: `cannot use ${option} ${text.trim() === "" ? `'${text}'` : text}`,
    rule: `${option} is ${rule}`,
    value: text,
    option: pathOf(option),
  });
}

/** Name of a flag's value: "--limit-rows" is `limitRows`. */
function pathOf(flag: string): string {
  return flag.replace(/^--/, "").replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
