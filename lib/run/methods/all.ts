// The list of methods. A method is a record in a separate file and a line here.
import { isObject } from "../../core/guards.ts";
import { UNIT_MEASURES } from "../../masks/unit_saliency.ts";
import { blockInfluence } from "./block_influence.ts";
import { compresso } from "./compresso.ts";
import { frequency, reap, reapSum } from "./experts.ts";
import { fisher } from "./fisher.ts";
import { flap } from "./flap.ts";
import { gradual } from "./gradual.ts";
import { magnitude } from "./magnitude.ts";
import type { Method, OwnMethod } from "./method.ts";
import { random } from "./random.ts";
import { taylor } from "./taylor.ts";
import { wandaSp } from "./wanda_sp.ts";

/** All methods by name, in the order of help and reference. */
export const METHODS = {
  compresso,
  gradual,
  magnitude,
  random,
  taylor,
  fisher,
  "wanda-sp": wandaSp,
  flap,
  "block-influence": blockInfluence,
  reap,
  "reap-sum": reapSum,
  frequency,
} as const;

/** Name of a method. */
export type MethodName = keyof typeof METHODS;
/** The option `method`: a name, or a method with a score of the program. */
export type MethodChoice = MethodName | OwnMethod;

const BY_NAME: ReadonlyMap<string, Method> = new Map(Object.entries(METHODS));

/** Whether a value names a method of the list. */
export function isMethodName(value: unknown): value is MethodName {
  return typeof value === "string" && BY_NAME.has(value);
}

/** Names of all methods. */
export const METHOD_NAMES: readonly MethodName[] = Object.keys(METHODS).filter(isMethodName);

/** The names of the methods that fulfil a condition. */
export function methodsThat(is: (method: Method) => boolean): readonly MethodName[] {
  return METHOD_NAMES.filter((name) => is(METHODS[name]));
}

/** The record of a method. */
export function methodOf(choice: MethodChoice): Method {
  if (typeof choice === "string") return METHODS[choice];
  const { name, score, from = UNIT_MEASURES } = choice;
  return { name, kind: "one-shot", from, score, ranking: "all" };
}

/** The name of a choice, or of a method as a file has it. */
export function nameOfMethod(choice: MethodChoice | string): string {
  return typeof choice === "string" ? choice : choice.name;
}

/** Whether the choice keeps the mean of what it cuts in biases of o_proj and down_proj. */
export function compensates(choice: MethodChoice | string): boolean {
  const method = BY_NAME.get(nameOfMethod(choice));
  return method?.kind === "one-shot" && method.compensates === true;
}

/** The kind of a choice. */
export function kindOfMethod(choice: MethodChoice): Method["kind"] {
  return methodOf(choice).kind;
}

/** Whether a value is a complete method of a program, with a name that no method of the list has. */
export function isOwnMethod(value: unknown): value is OwnMethod {
  if (!isObject(value)) return false;
  const { name, score, from = [], ...rest } = value;
  return typeof name === "string" && name !== "" && !BY_NAME.has(name) && typeof score === "function" &&
    Array.isArray(from) && from.every((measure) => UNIT_MEASURES.some((known) => known === measure)) &&
    Object.keys(rest).length === 0;
}

/** Whether a value read from a file names a one-shot method. Names that are not in the list are of methods of programs. */
export function namesOneShot(name: unknown): boolean {
  return typeof name === "string" && (BY_NAME.get(name)?.kind ?? "one-shot") === "one-shot";
}
