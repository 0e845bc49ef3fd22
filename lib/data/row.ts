// A row of data from a parsed value: its kind, its fields, and whether it is empty.
import { option, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf, shown } from "../core/check_options.ts";
import type { ChatMessage } from "../text/chat_template.ts";
import { isObject, type Json } from "../core/guards.ts";

/** An instruction with its answer. */
export interface InstructRow {
  /** Tells the kinds of rows apart. */
  readonly kind: "instruct";
  /** What is asked for. */
  readonly instruction: string;
  /** Context of the instruction; empty if there is none. */
  readonly input: string;
  /** The answer. */
  readonly output: string;
  /** Answers to choose from, where the row has a list of strings under `choices`. */
  readonly choices: readonly string[] | null;
  /** Place of the row: the line in JSON lines, else its place in the array or table; from 1. */
  readonly number?: number;
  /** The line on which it begins, where it is an element of a JSON array. */
  readonly line?: number;
  /** All other fields of the row. */
  readonly extra: Json;
}

/** A document. */
export interface TextRow {
  /** Tells the kinds of rows apart. */
  readonly kind: "text";
  /** The document. */
  readonly text: string;
  /** Place of the row: the line in JSON lines, else its place in the array or table; from 1. */
  readonly number?: number;
  /** The line on which it begins, where it is an element of a JSON array. */
  readonly line?: number;
  /** All other fields of the row. */
  readonly extra: Json;
}

/** A conversation; the assistant's turns are what is learned. */
export interface ChatRow {
  /** Tells the kinds of rows apart. */
  readonly kind: "chat";
  /** Turns in order. */
  readonly messages: readonly ChatMessage[];
  /** Place of the row: the line in JSON lines, else its place in the array or table; from 1. */
  readonly number?: number;
  /** The line on which it begins, where it is an element of a JSON array. */
  readonly line?: number;
  /** All other fields of the row. */
  readonly extra: Json;
}

/** A row of training data: an instruction, a text or a conversation. */
export type Row = InstructRow | TextRow | ChatRow;

/** Place of a row. */
export interface RowPlace {
  /** Its number. */
  readonly row: number;
  /** The line on which it begins, where that is another number. */
  readonly line?: number;
}

/** Place of the row with this index, for rows of a program, which have no number. */
export function placeOf({ number, line }: Pick<Row, "number" | "line">, index: number): RowPlace {
  return { row: number ?? index + 1, ...(line === undefined ? {} : { line }) };
}

/** The same in words. */
export function placeName({ row, line }: RowPlace): string {
  return `row ${row}${line === undefined ? "" : `, line ${line}`}`;
}

/** Why a value is no row. */
export interface Fault {
  /** The rule that is broken. */
  readonly rule: string;
  /** What the row is or has, to be read after its place: `has a number as "output"`. */
  readonly problem: string;
  /** What the user can do. */
  readonly fix: string;
}

/** A row, or why there is none. */
export type ParsedRow = { readonly row: Row } | { readonly fault: Fault };

/** Options of {@link toRow}. */
export interface RowFields {
  /** Field that holds the document; without it, the fields tell the kind of a row. */
  readonly textField?: string | undefined;
}

const FIELD_NAMES: NamesOf<RowFields> = { textField: "text" };

/** Names of a speaker in `messages` and, as ShareGPT has them, in `conversations`. */
const ROLES: ReadonlyMap<string, ChatMessage["role"]> = new Map([
  ["system", "system"],
  ["user", "user"],
  ["human", "user"],
  ["assistant", "assistant"],
  ["gpt", "assistant"],
  ["chatgpt", "assistant"],
  ["model", "assistant"],
]);

/** Fields of a conversation. */
const CHATS = ["messages", "conversations"] as const;

/**
 * Makes a row of a value, by the same fields as a row of a file: `instruction`, `input` and `output`, `messages` or
 * `conversations`, or `text`.
 *
 * @throws CompressoError("input") for a value that is no row, or has nothing in it.
 * @throws CompressoError("usage") for options that do not exist.
 * @example
 * ```ts
 * import { toRow } from "compresso";
 *
 * const { kind } = toRow({ instruction: "Name a colour.", output: "Red." });
 * if (kind !== "instruct") throw new Error("it is an instruction");
 * ```
 */
export function toRow(value: unknown, options: RowFields = {}): Row {
  checkNames(options, FIELD_NAMES, { whose: "toRow" });
  const parsed = parseRow(value, options), what = "cannot make a row of the value";
  if ("fault" in parsed) {
    const { rule, problem, fix } = parsed.fault;
    refuse("input", what, { rule, value: `it ${problem}`, fix: fix === "" ? "correct it" : fix });
  }
  const empty = emptyField(parsed.row, options);
  if (empty === null) return parsed.row;
  const rule = `"${empty}" has something in it`;
  refuse("input", what, { rule, value: "it is empty", fix: "give it a text, or leave the row out" });
}

/**
 * A row from a parsed value: `textField` where it is given, else `instruction` and `output`, `messages` or
 * `conversations`, or `text`, whichever comes first in this list and is not null.
 */
export function parseRow(value: unknown, fields: RowFields): ParsedRow {
  const parsed = parseFields(value, fields);
  if (!("row" in parsed)) return parsed;
  try {
    return { row: { ...parsed.row, extra: withoutMarks(parsed.row.extra) } };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return fault("fields are nested no deeper than programs can follow", "has a field that is nested too deep");
  }
}

/**
 * A row of a program as its kind is read from a file, without its place: Deno runs programs whose types do not hold. What a file may leave out
 * is filled in.
 *
 * @throws CompressoError("input") for an unknown kind, and for fields that do not fit the kind.
 */
export function checkedRow(row: Row): Row {
  const parsed = parseKind(row), made = "make rows of a program with toRow";
  if ("row" in parsed) return { ...parsed.row, extra: row.extra ?? {} };
  const { rule, problem, fix } = parsed.fault, value = `it ${problem}`;
  refuse("input", "cannot encode the row", { rule, value, fix: fix === "" ? made : fix });
}

function parseKind(row: Row): ParsedRow {
  switch (row.kind) {
    case "text":
      return parseText({ text: row.text }, "text");
    case "instruct":
      return parseInstruct({
        instruction: row.instruction,
        input: row.input,
        output: row.output,
        choices: row.choices,
      });
    case "chat":
      return parseChat({ messages: row.messages }, "messages");
    default: {
      const { kind }: { readonly kind?: unknown } = row;
      return fault("its kind is instruct, chat or text", `has the kind ${shown(kind)}`);
    }
  }
}

/** Other fields of a row, with null for what is not UTF-8. */
function withoutMarks(extra: Json): Json {
  const plain = (value: unknown): unknown => {
    if (value === NOT_UTF8) return null;
    if (Array.isArray(value)) return value.map(plain);
    return isObject(value) ? withoutMarks(value) : value;
  };
  return Object.fromEntries(Object.entries(extra).map(([key, value]) => [key, plain(value)]));
}

function parseFields(value: unknown, { textField }: RowFields): ParsedRow {
  if (!isObject(value)) return fault("each row is an object", `is ${typeName(value)}`);
  const has = (key: string): boolean => value[key] !== undefined && value[key] !== null;
  if (textField !== undefined) {
    if (value[textField] !== undefined) return parseText(value, textField);
    return fault(`a row has ${JSON.stringify(textField)}`, fieldsOf(value), "name another field as the text");
  }
  if (value["instruction"] !== undefined && value["output"] !== undefined) {
    // A table of rows from several sources has all their columns, null if they do not belong.
    const isOther = !has("instruction") && !has("output") && [...CHATS, "text"].some(has);
    if (!isOther) return parseInstruct(value);
  }
  for (const field of CHATS) if (has(field)) return parseChat(value, field);
  if (value["text"] !== undefined) return parseText(value, "text");
  for (const field of CHATS) if (value[field] === null) return parseChat(value, field);
  return fault(
    'a row has "instruction" and "output" (and perhaps "input"), "messages", "conversations" or "text"',
    fieldsOf(value),
    `rename the fields, or name the field with the text (${option("textField")})`,
  );
}

/** The field that is empty, so that there is nothing to learn; null if none is. */
export function emptyField(row: Row, { textField = "text" }: RowFields = {}): string | null {
  switch (row.kind) {
    case "text":
      return row.text.trim() === "" ? textField : null;
    case "instruct":
      if (row.instruction.trim() === "") return "instruction";
      return row.output.trim() === "" ? "output" : null;
    case "chat":
      // An answer without text would teach to end at once.
      return row.messages.some(isAnswer) && row.messages.filter(isAnswer).every(({ content }) => content.trim() !== "")
        ? null
        : "assistant";
  }
}

function isAnswer({ role }: ChatMessage): boolean {
  return role === "assistant";
}

/** The kind of a row in words. */
export function kindName(kind: Row["kind"]): string {
  return kind === "instruct" ? "an instruction" : kind === "chat" ? "a conversation" : "a text";
}

function parseInstruct({ instruction, input, output, choices, ...extra }: Json): ParsedRow {
  if (typeof instruction !== "string") return notText(instruction, "instruction");
  if (input !== undefined && input !== null && typeof input !== "string") return notText(input, "input");
  if (typeof output !== "string") return notText(output, "output");
  const before = isFilled(extra["system"]) ? "system" : hasTurns(extra["history"]) ? "history" : null;
  if (before !== null) {
    const fix = 'write the row as "messages" with a turn for each text, or take the field out';
    return fault("an instruction has no turns before it", `has "${before}"`, fix);
  }
  const list = Array.isArray(choices) && choices.every((choice) => typeof choice === "string") ? choices : null;
  return {
    row: {
      kind: "instruct",
      instruction,
      input: input ?? "",
      output,
      choices: list,
      extra: list === null && choices !== undefined ? { ...extra, choices } : extra,
    },
  };
}

function parseText(value: Json, field: string): ParsedRow {
  const { [field]: text, ...extra } = value;
  return typeof text === "string" ? { row: { kind: "text", text, extra } } : notText(text, field);
}

function parseChat(value: Json, field: typeof CHATS[number]): ParsedRow {
  const { [field]: list, ...extra } = value;
  if (!Array.isArray(list)) return fault(`"${field}" is a list`, `has ${typeName(list)} as "${field}"`);
  if (hasTools(extra["tools"])) {
    return fault("a conversation has no tools, which the chat template would not get", "has tools");
  }
  const messages: ChatMessage[] = [];
  for (const [index, message] of list.entries()) {
    const where = `message ${index + 1} of "${field}"`;
    if (!isObject(message)) return fault("each message is an object", `has ${typeName(message)} as ${where}`);
    const { role: said, content } = speakerOf(message);
    const role = typeof said === "string" ? ROLES.get(said.toLowerCase()) : undefined;
    if (role === undefined) {
      const rule = "a message is of a system, user (human) or assistant (gpt)";
      const shown = said === NOT_UTF8 ? typeName(said) : JSON.stringify(said) ?? "undefined";
      return fault(rule, `has the role ${shown} in ${where}`);
    }
    const { tool_calls: calls, weight } = message;
    if (Array.isArray(calls) && calls.length > 0) {
      return fault("what a message says is text", `has tool_calls in ${where}`);
    }
    if (role === "assistant" && typeof weight === "number" && weight !== 1) {
      return fault("all answers of a row are learned", `has the weight ${weight} in ${where}`);
    }
    const thought = ["reasoning_content", "thinking"].find((key) => isFilled(message[key]));
    if (role === "assistant" && thought !== undefined) {
      return fault("what an assistant thinks is in its text or left out", `has ${thought} in ${where}`);
    }
    if (typeof content !== "string") return fault("a message is a string", `has ${typeName(content)} in ${where}`);
    messages.push({ role, content });
  }
  return withSystem(messages, extra);
}

/** The system text may be a separate field, as in LLaMA-Factory. */
function withSystem(messages: readonly ChatMessage[], { system, ...others }: Json): ParsedRow {
  if (system === NOT_UTF8) return notText(system, "system");
  if (typeof system !== "string" || system.trim() === "") {
    return { row: { kind: "chat", messages, extra: system === undefined ? others : { ...others, system } } };
  }
  const own = messages.filter(({ role }) => role === "system");
  if (own.some(({ content }) => content.trim() !== system.trim())) {
    const fix = 'remove the wrong system text, or the field "system"';
    return fault("a conversation has one system text", 'has another one in its messages than as "system"', fix);
  }
  const first: ChatMessage = { role: "system", content: system };
  return { row: { kind: "chat", messages: own.length > 0 ? messages : [first, ...messages], extra: others } };
}

/** Tables keep tools as a list, or as its JSON. */
function hasTools(tools: unknown): boolean {
  return Array.isArray(tools) ? tools.length > 0 : isFilled(tools) && !/^\s*(\[\s*\]|null)\s*$/.test(String(tools));
}

/** Alpaca's earlier questions and answers, or their JSON. A field of this name that is no list means something else. */
function hasTurns(history: unknown): boolean {
  return Array.isArray(history) ? history.length > 0 : isFilled(history) && /^\s*\[\s*[^\s\]]/.test(String(history));
}

function isFilled(value: unknown): boolean {
  return typeof value === "string" && value.trim() !== "";
}

function speakerOf(message: Json): { readonly role: unknown; readonly content: unknown } {
  const { role, content, from, value } = message;
  // In a table of both forms, a message has null for the fields of the other form.
  const isOther = (role ?? null) === null && (content ?? null) === null;
  return isOther ? { role: from, content: value } : { role, content };
}

function notText(value: unknown, field: string): ParsedRow {
  return fault(`"${field}" is a string`, `has ${typeName(value)} as "${field}"`);
}

function fieldsOf(value: Json): string {
  const keys = Object.keys(value).map((key) => JSON.stringify(key)).join(", ");
  return keys === "" ? "has no fields" : `has ${keys}`;
}

function fault(rule: string, problem: string, fix = ""): ParsedRow {
  return { fault: { rule, problem, fix } };
}

/** Stands for a text of a table that is no UTF-8. */
export const NOT_UTF8: unique symbol = Symbol("not UTF-8");

function typeName(value: unknown): string {
  if (value === NOT_UTF8) return "bytes that are no UTF-8";
  if (value === null) return "null";
  if (value === undefined) return "nothing";
  return Array.isArray(value) ? "a list" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}
