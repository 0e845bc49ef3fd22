// Rules for the values of options: type, words and bounds. One rule serves the check of a program's options, the parser
// of a flag and the reference.
import { nearest } from "./nearest.ts";

/** What the value of an option has to be. */
export interface ValueRule {
  /**
   * `count` is a whole number; `switch` is true or false; `words` and `names` are lists of known words; `layers` are
   * whole numbers, also negative. The values of `value`, `function` and `parts` are checked where they are used.
   */
  readonly type:
    | "count"
    | "number"
    | "parameters"
    | "bytes"
    | "switch"
    | "word"
    | "words"
    | "names"
    | "list"
    | "layers"
    | "text"
    | "value"
    | "function"
    | "parts";
  /** Allowed words, for `word` and `words`; for `names`, the words that the command line accepts. */
  readonly words?: readonly string[];
  /** Bounds of a number. Without `above` and `least` it is at least 0. */
  readonly above?: number;
  /** Least value. */
  readonly least?: number;
  /** Below this. */
  readonly below?: number;
  /** Largest value. */
  readonly most?: number;
  /** Whether the GPU takes it as f32, whose rounding has to lie within the bounds too. */
  readonly single?: boolean;
  /** Whether Infinity is allowed too. */
  readonly endless?: boolean;
  /** What else a program may give. */
  readonly also?: (value: unknown) => boolean;
  /** Help of the value "auto", for a switch that may have it. */
  readonly auto?: string;
}

/** What a value is as it is written on the command line, parsed, and in experiments. */
export type ValueOf<R extends { readonly type: string }> = R extends
  { readonly type: "word"; readonly words: readonly (infer W)[] } ? W
  : R extends { readonly type: "words"; readonly words: readonly (infer W)[] } ? readonly W[]
  : R extends { readonly type: "names" | "list" } ? readonly string[]
  : R extends { readonly type: "count" | "number" | "parameters" | "bytes" } ? number
  : R extends { readonly type: "switch"; readonly auto: string } ? boolean | "auto"
  : R extends { readonly type: "switch" } ? boolean
  : R extends { readonly type: "layers" } ? readonly number[]
  : R extends { readonly type: "prompt" } ? string | boolean
  : string;

/** A rule, or the same of a type that is not checked here. */
type AnyRule = Omit<ValueRule, "type"> & { readonly type: string };

/** Whether an option may have a value. */
export function accepts(rule: AnyRule, value: unknown): boolean {
  const { type, words = [] } = rule;
  const isWord = (word: unknown): boolean => words.some((known) => known === word);
  switch (type) {
    case "count":
      return (rule.endless === true && value === Infinity) || (Number.isInteger(value) && isInBounds(value, rule));
    case "parameters":
    case "bytes":
      return Number.isSafeInteger(value) && Number(value) > 0;
    case "number":
      return isInBounds(value, rule) && (!rule.single || isInBounds(Math.fround(Number(value)), rule));
    case "switch":
      return typeof value === "boolean" || (value === "auto" && rule.auto !== undefined);
    case "word":
      return isWord(value) || (rule.also?.(value) ?? false);
    case "words":
      return (rule.also?.(value) ?? false) ||
        (Array.isArray(value) && value.length > 0 && value.every(isWord) && new Set(value).size === value.length);
    case "layers":
      return Array.isArray(value) && value.every(Number.isInteger);
    case "list":
      return !Array.isArray(value) || !value.includes("");
    case "text":
      return typeof value === "string" && value !== "";
    default:
      return true;
  }
}

/** Whether a number is within the bounds of a rule, as it is given. */
export function isInBounds(
  value: unknown,
  { above, below, most, least = above === undefined ? 0 : -Infinity }: AnyRule,
): boolean {
  return typeof value === "number" && Number.isFinite(value) && value >= least && value > (above ?? -Infinity) &&
    value < (below ?? Infinity) && value <= (most ?? Infinity);
}

/** A rule in words: "a whole number, at least 1". */
export function ruleText(rule: AnyRule): string {
  const { type, words = [], above, below, most, least = above === undefined ? 0 : undefined } = rule;
  switch (type) {
    case "count":
      if (most !== undefined) return `a whole number from ${least} to ${most}`;
      return `a whole number, at least ${least}${rule.endless ? ", or Infinity" : ""}`;
    case "number": {
      if (least === 0 && most === 1) return "a number from 0 to 1";
      const bounds = [
        above === undefined ? `at least ${least}` : `above ${above}`,
        below !== undefined && `below ${below}`,
        most !== undefined && `at most ${most}`,
      ];
      return `a number ${above === undefined ? "of " : ""}${bounds.filter((bound) => bound !== false).join(" and ")}`;
    }
    case "parameters":
      return "a number of parameters above 0, such as 5.4B or 113280192";
    case "bytes":
      return "a number of bytes above 0, such as 800M or 6G";
    case "switch":
      return rule.auto === undefined ? "true or false" : 'true, false or "auto"';
    case "word":
      return `one of ${words.join(", ")}`;
    case "words":
    case "names":
      return `some of ${words.join(", ")}, each once`;
    case "list":
      return "comma-separated names";
    case "layers":
      return "numbers of layers, such as 0, 1, -1";
    case "text":
      return "a text that is not empty";
    case "prompt":
      return "true, false or the path of a text";
    default:
      return "a value of this option";
  }
}

/** What may have been meant by a value that is refused: 0.3 for a share of 30 or "30%"; null if nothing is near. */
export function meantBy(rule: AnyRule, value: unknown): string | null {
  const { type, words, below, most } = rule;
  if (type === "word" && words !== undefined) return typeof value === "string" ? nearest(value, words) : null;
  if (type !== "number" || (below ?? most) !== 1 || !["string", "number"].includes(typeof value)) return null;
  const [, digits] = typeof value === "string"
    ? /^\s*\+?(\d+(?:\.\d+)?)\s*%?\s*$/.exec(value) ?? []
    : [, String(value)];
  const share = Number(digits) / 100;
  return Number(digits) > 1 && accepts(rule, share) ? String(share) : null;
}
