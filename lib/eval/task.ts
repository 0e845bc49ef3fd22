// Definition of a task: how a row becomes a context and choices.
import { shownJson } from "../core/text.ts";
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";

/**
 * One row of a task's data. Fields in objects are named with a dot, such as `choices.text`; `text`, `texts` and `whole`
 * throw `CompressoError("input")` with file, line and field if the field does not fit.
 */
export interface TaskRow {
  /** Whether the row has the field. */
  has(field: string): boolean;
  /** The field as it was parsed; undefined if there is none. */
  value(field: string): unknown;
  /** A string. */
  text(field: string): string;
  /** A list of strings. */
  texts(field: string): readonly string[];
  /** A whole number, which may be in a string. */
  whole(field: string): number;
  /** The error of a row whose fields are there but do not fit. */
  error(rule: string, value: string): CompressoError;
}

/** One question that is answered in the model's own words; its task has `generate`. */
export interface AnswerQuestion {
  /** The text that the model continues or, where its task has `chat`, the user's turn. */
  readonly context: string;
  /** The right answer, or several accepted answers. */
  readonly answers: string | readonly string[];
}

/** One question whose answer is code, which is run in a program; its task has `generate` with the rule `code`. */
export interface CodeQuestion {
  /** The text that the model continues. */
  readonly context: string;
  /** What stands before and after the answer in the program, a test among it. */
  readonly program: { readonly before: string; readonly after: string };
  /**
   * Where the task has `chat` and the model a chat template: the user's turn, and the beginning of the answer. Default: the
   * context is the user's turn.
   */
  readonly chat?: { readonly asked: string; readonly begun: string };
}

/**
 * How an answer is judged. `exact`: it equals an accepted answer, see `isExactMatch`. `number`: its last number equals the
 * number of an accepted answer, see `isSameNumber`. `code`: the program that it is a part of runs to its end.
 */
export type AnswerRule = "exact" | "number" | "code";

/** How answers are generated, greedily, up to an end token of the model, and how they are judged. */
export interface GenerateAnswers {
  /** Tokens of an answer at most. Default 32. */
  readonly maxTokens?: number;
  /** Texts before which an answer ends. Default: a line break. */
  readonly until?: readonly string[];
  /** How an answer is judged. Default `exact`. */
  readonly rule?: AnswerRule;
  /**
   * Whether a question is asked in the model's chat template or prompt style, if it has one. Default false: the model
   * continues the context.
   */
  readonly chat?: boolean;
}

/** One question with choices. */
export interface TaskItem {
  /**
   * The text before a choice. A list has one text per choice, and `continuation` is scored after each of them ("partial
   * evaluation").
   */
  readonly context: string | readonly string[];
  /** The choices; acc_norm divides a score by the length of its choice in characters. */
  readonly choices: readonly string[];
  /** What is scored if each choice has a separate context. */
  readonly continuation?: string;
  /** Index of the right choice; null if none is right, so that the question counts as answered wrongly. */
  readonly answer: number | null;
}

/** A task, see {@link defineTask}: multiple choice or, with `generate`, answers in the model's own words. */
export interface TaskDefinition {
  /** Letters, digits, `_`, `-` and `.`; data are found as `<name>.<split>.jsonl`. */
  readonly name: string;
  /** Splits that may hold the questions; the first existing one is read. Default: test, validation, valid. */
  readonly splits?: readonly string[];
  /** Makes a question of a row. */
  readonly item: (row: TaskRow) => TaskItem | AnswerQuestion | CodeQuestion;
  /** How answers are generated. Default: answers are not generated; questions have choices, which are scored. */
  readonly generate?: GenerateAnswers;
  /** Solved examples before each question: the first rows of the subset without the row that is asked. Default 0. */
  readonly shots?: number;
  /** Splits that hold the examples. Default: dev, fewshot, train. */
  readonly shotSplits?: readonly string[];
  /** Text before everything else, perhaps by row. Default: none. */
  readonly description?: string | ((row: TaskRow) => string);
  /** Between a context and its choice. Default: a space. */
  readonly delimiter?: string;
  /** After each example. Default: two line breaks. */
  readonly shotDelimiter?: string;
  /** Subset of a row, where examples belong to subsets; each is also scored on its own, and `limit` holds for each. */
  readonly subset?: (row: TaskRow) => string;
}

/**
 * Checks a task that a program or a script defines, and returns it.
 *
 * @throws CompressoError("input") for parts that are missing or of the wrong kind.
 * @example
 * ```ts
 * import { defineTask } from "compresso/evaluate";
 * export default defineTask({
 *   name: "capitals",
 *   item: (row) => ({
 *     context: `The capital of ${row.text("country")} is`,
 *     choices: row.texts("cities"),
 *     answer: row.whole("label"),
 *   }),
 * });
 * ```
 * @example The model answers in its own words
 * ```ts
 * import { defineTask } from "compresso/evaluate";
 * export const capitals = defineTask({
 *   name: "capitals",
 *   generate: { maxTokens: 8, until: [".", "\n"] },
 *   item: (row) => ({ context: `The capital of ${row.text("country")} is`, answers: row.text("capital") }),
 * });
 * ```
 */
export function defineTask(definition: TaskDefinition): TaskDefinition {
  return asTask(definition, "defineTask");
}

/** A value as a task definition; `where` names its source in messages. Throws `CompressoError("input")`. */
export function asTask(value: unknown, where: string): TaskDefinition {
  const fail = (rule: string, now: unknown): never => {
    refuse("input", `cannot use the task of ${where}`, {
      rule,
      value: typeof now === "string" ? JSON.stringify(now) : String(now),
      fix:
        "export default defineTask({ name, item: (row) => ({ context, choices, answer }) }), or with generate and item: (row) => ({ context, answers })",
    });
  };
  if (!isObject(value)) return fail("a task is an object", value);
  const check = (name: string, rule: string, holds: (part: unknown) => boolean): void => {
    const part = value[name];
    if (part !== undefined && !holds(part)) fail(`${name} is ${rule}`, part);
  };
  const isText = (part: unknown): boolean => typeof part === "string";
  const isTexts = (part: unknown): boolean => Array.isArray(part) && part.length > 0 && part.every(isText);
  const isFunction = (part: unknown): boolean => typeof part === "function";
  const { name, item } = value;
  if (typeof name !== "string" || !/^[\w.-]+$/.test(name)) fail("name is letters, digits, _, - and .", name);
  if (typeof item !== "function") fail("item is a function of a row", item);
  check("splits", "a list of names", isTexts);
  check("shotSplits", "a list of names", isTexts);
  check("shots", "a whole number from 0 on", (part) => Number.isInteger(part) && Number(part) >= 0);
  check("delimiter", "a text", isText);
  check("shotDelimiter", "a text", isText);
  check("description", "a text or a function of a row", (part) => isText(part) || isFunction(part));
  check("subset", "a function of a row", isFunction);
  check(
    "generate",
    `an object, perhaps with maxTokens from 1 on; until, a list of texts that are not empty; rule, one of ${
      RULES.join(", ")
    }; chat, true or false`,
    isGenerate,
  );
  const known = [
    "name",
    "splits",
    "item",
    "generate",
    "shots",
    "shotSplits",
    "description",
    "delimiter",
    "shotDelimiter",
    "subset",
  ];
  const unknown = Object.keys(value).find((key) => !known.includes(key));
  if (unknown !== undefined) fail(`its parts are ${known.join(", ")}`, unknown);
  return value as unknown as TaskDefinition;
}

/** All rules by which answers are judged. */
export const RULES = ["exact", "number", "code"] as const satisfies readonly AnswerRule[];

function isGenerate(value: unknown): boolean {
  if (!isObject(value)) return false;
  const { maxTokens = 1, until = [], rule = "exact", chat = false, ...others } = value;
  return Object.keys(others).length === 0 && Number.isInteger(maxTokens) && Number(maxTokens) >= 1 &&
    Array.isArray(until) && until.every((text) => typeof text === "string" && text !== "") &&
    RULES.some((one) => one === rule) && typeof chat === "boolean";
}

/** Makes the fields of a parsed row readable. `where` names task and file, `label` the row. */
export function createRow(
  value: unknown,
  { where, label }: { readonly where: string; readonly label: string },
): TaskRow {
  const error = (rule: string, problem: string): CompressoError =>
    refusal("input", `cannot read ${where}`, {
      rule,
      value: `${label} ${problem}`,
      fix: "fix or remove the row, or correct the task",
    });
  if (!isObject(value)) throw error("each row is an object", "is none");
  const find = (field: string): unknown => {
    if (Object.hasOwn(value, field)) return value[field];
    let part: unknown = value;
    for (const name of field.split(".")) part = isObject(part) && Object.hasOwn(part, name) ? part[name] : undefined;
    return part;
  };
  const need = (field: string, kind: string): unknown => {
    const found = find(field);
    if (found === undefined || found === null) {
      const fields = Object.keys(value).map((name) => JSON.stringify(name)).join(", ");
      throw error(`each row has "${field}", ${kind}`, `has ${fields === "" ? "no field" : `only ${fields}`}`);
    }
    return found;
  };
  return guarded({
    has: (field) => find(field) !== undefined && find(field) !== null,
    value: find,
    text(field): string {
      const found = need(field, "a text");
      if (typeof found === "string") return found;
      throw error(`"${field}" is a text`, `has ${shownJson(found)}`);
    },
    texts(field): readonly string[] {
      const found = need(field, "a list of texts");
      if (Array.isArray(found) && found.every((part) => typeof part === "string")) return found;
      throw error(`"${field}" is a list of texts`, `has ${shownJson(found)}`);
    },
    whole(field): number {
      const found = need(field, "a whole number");
      const number = typeof found === "string" && /^\s*[+-]?\d+\s*$/.test(found) ? Number(found) : found;
      if (typeof number === "number" && Number.isInteger(number)) return number;
      throw error(`"${field}" is a whole number`, `has ${shownJson(found)}`);
    },
    error,
  }, error);
}

/** What JavaScript itself asks of any object. */
const ASKED: readonly string[] = ["then", "toJSON"];

/** A row that refuses `row.country`, as of a plain object, which would put "undefined" into a question. */
function guarded(row: TaskRow, error: TaskRow["error"]): TaskRow {
  return new Proxy(row, {
    get(target, name): unknown {
      if (typeof name === "string" && !(name in target) && !ASKED.includes(name)) {
        throw error(`a task reads a field by row.text("${name}"), row.texts, row.whole or row.value`, `has no ${name}`);
      }
      return Reflect.get(target, name);
    },
  });
}
