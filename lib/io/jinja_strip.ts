// `strip`, `lstrip` and `rstrip` of Jinja texts with an argument, as Python has them. Owns the rewriting of a parsed template to functions for them; refuses
// to parse and to render.
//
// @huggingface/jinja leaves their argument aside and takes all white space, which is other text than the model was trained on.
import { isObject } from "./tokenizer_compat.ts";

const ENDS: ReadonlyMap<string, { readonly start: boolean; readonly end: boolean }> = new Map([
  ["strip", { start: true, end: true }],
  ["lstrip", { start: true, end: false }],
  ["rstrip", { start: false, end: true }],
]);

/** Functions that a template needs which {@link rewriteStrips} has changed, by their names there. */
export const STRIPS: Readonly<Record<string, (...given: readonly unknown[]) => string>> = Object.fromEntries(
  [...ENDS].map(([name, ends]) => [ours(name), (text, ...args) => stripped(name, ends, { text, args })]),
);

/** Makes calls such as `text.lstrip('\n')` of a parsed template calls of {@link STRIPS}; `node` is changed in place. */
export function rewriteStrips(node: unknown): void {
  if (Array.isArray(node) || node instanceof Map) {
    for (const part of node) rewriteStrips(part);
    return;
  }
  if (!isObject(node)) return;
  for (const part of Object.values(node)) rewriteStrips(part);
  const { type, callee, args } = node;
  if (type !== "CallExpression" || !isObject(callee) || callee["type"] !== "MemberExpression") return;
  const { object, property } = callee, name = isObject(property) ? property["value"] : null;
  if (typeof name !== "string" || !ENDS.has(name) || !Array.isArray(args)) return;
  // All white space the library takes by itself.
  if (args.length === 0 || (args.length === 1 && isNone(args[0]))) return;
  // `text[strip]` is what a variable names.
  if (callee["computed"] === true && isObject(property) && property["type"] !== "StringLiteral") return;
  Object.assign(node, { callee: { type: "Identifier", value: ours(name) }, args: [object, ...args] });
}

function isNone(argument: unknown): boolean {
  return isObject(argument) && argument["type"] === "Identifier" && /^none$/i.test(String(argument["value"]));
}

/** A name that no template has. */
function ours(name: string): string {
  return `${name}_of_chat`;
}

/** A text without the characters of the argument at its ends. */
function stripped(
  name: string,
  { start, end }: { readonly start: boolean; readonly end: boolean },
  { text, args }: { readonly text: unknown; readonly args: readonly unknown[] },
): string {
  const [chars] = args;
  if (typeof text !== "string") throw new Error(`${name}() is of texts`);
  if (args.length > 1) throw new Error(`${name}() takes one text`);
  if (typeof chars !== "string") throw new Error(`${name}() takes a text`);
  const taken = new Set(chars), points = [...text];
  const isKept = (point: string): boolean => !taken.has(point);
  const first = start ? points.findIndex(isKept) : 0, last = end ? points.findLastIndex(isKept) : points.length - 1;
  return first < 0 ? "" : points.slice(first, last + 1).join("");
}
