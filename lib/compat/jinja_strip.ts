// `strip`, `lstrip`, `rstrip` and the filter `trim` of Jinja templates, as in Python. @huggingface/jinja ignores their
// argument and strips JavaScript's white space, so that a prompt would differ from the prompts of the model's training.
import { trim, trimEnd, trimStart } from "./python_text.ts";
import { isObject } from "../core/guards.ts";

interface Ends {
  readonly start: boolean;
  readonly end: boolean;
  /** Without an argument. */
  readonly plain: (text: string) => string;
}

const ENDS: ReadonlyMap<string, Ends> = new Map([
  ["strip", { start: true, end: true, plain: trim }],
  ["lstrip", { start: true, end: false, plain: trimStart }],
  ["rstrip", { start: false, end: true, plain: trimEnd }],
]);

/** Functions that a template needs which {@link rewriteStrips} has changed, by their names there. */
export const STRIPS: Readonly<Record<string, (...given: readonly unknown[]) => string>> = Object.fromEntries(
  [...ENDS].map(([name, ends]) => [ours(name), (text, ...args) => stripped(name, ends, { text, args })]),
);

/** Makes calls such as `text.lstrip('\n')`, and `text | trim`, of a parsed template calls of {@link STRIPS}; `node` is changed in place. */
export function rewriteStrips(node: unknown): void {
  if (Array.isArray(node) || node instanceof Map) {
    for (const part of node) rewriteStrips(part);
    return;
  }
  if (!isObject(node)) return;
  for (const part of Object.values(node)) rewriteStrips(part);
  const { type, callee, args, operand, filter } = node;
  const trimmed = type === "FilterExpression" ? argumentsOfTrim(filter) : null;
  if (trimmed) {
    Object.assign(node, { type: "CallExpression", callee: functionOf("strip"), args: [operand, ...trimmed] });
    return;
  }
  if (type !== "CallExpression" || !isObject(callee) || callee["type"] !== "MemberExpression") return;
  const { object, property } = callee, name = isObject(property) ? property["value"] : null;
  if (typeof name !== "string" || !ENDS.has(name) || !Array.isArray(args)) return;
  // `text[strip]` is what a variable names.
  if (callee["computed"] === true && isObject(property) && property["type"] !== "StringLiteral") return;
  Object.assign(node, { callee: functionOf(name), args: [object, ...args] });
}

/** Arguments of the filter `trim`, with or without brackets; null for other filters. */
function argumentsOfTrim(filter: unknown): readonly unknown[] | null {
  if (!isObject(filter)) return null;
  const { type, value, callee, args } = filter;
  if (type === "Identifier") return value === "trim" ? [] : null;
  const isTrim = type === "CallExpression" && isObject(callee) && callee["value"] === "trim" && Array.isArray(args);
  return isTrim ? args : null;
}

function functionOf(name: string): { readonly type: "Identifier"; readonly value: string } {
  return { type: "Identifier", value: ours(name) };
}

/** A name that no template has. */
function ours(name: string): string {
  return `${name}_of_chat`;
}

/** A text without the characters of the argument at its ends, or white space where there is none. */
function stripped(
  name: string,
  { start, end, plain }: Ends,
  { text, args }: { readonly text: unknown; readonly args: readonly unknown[] },
): string {
  const [chars] = args;
  if (typeof text !== "string") throw new Error(`${name}() is of texts`);
  if (args.length > 1) throw new Error(`${name}() takes one text`);
  if (chars === undefined || chars === null) return plain(text);
  if (typeof chars !== "string") throw new Error(`${name}() takes a text`);
  const taken = new Set(chars), points = [...text];
  const isKept = (point: string): boolean => !taken.has(point);
  const first = start ? points.findIndex(isKept) : 0, last = end ? points.findLastIndex(isKept) : points.length - 1;
  return first < 0 ? "" : points.slice(first, last + 1).join("");
}
