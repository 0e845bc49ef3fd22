// Rows of training and evaluation data. Owns the reading of instruction rows and texts from JSON, JSON lines and plain
// text, told apart by content;
// refuses parquet, archives and rows it would have to guess about.
import { CompressoError } from "../errors.ts";
import { isObject, type Json } from "./tokenizer_compat.ts";

/** An instruction with its answer. */
export interface InstructRow {
  /** Tells the kinds of rows apart. */
  readonly kind: "instruct";
  /** What is asked for. */
  readonly instruction: string;
  /** Context of the instruction; empty where there is none. */
  readonly input: string;
  /** The answer. */
  readonly output: string;
  /** Answers to choose from, where the row has a list of strings under `choices`. */
  readonly choices: readonly string[] | null;
  /** All other fields of the row. */
  readonly extra: Json;
}

/** A document. */
export interface TextRow {
  /** Tells the kinds of rows apart. */
  readonly kind: "text";
  /** The document. */
  readonly text: string;
  /** All other fields of the row. */
  readonly extra: Json;
}

/** A row of either kind. */
export type Row = InstructRow | TextRow;

/** What was read and what was left out. */
export interface DataReport {
  /** Rows kept. */
  readonly rows: number;
  /** Rows left out because they are empty; `row` is the line of JSON lines, else the place in the array, from 1. */
  readonly skipped: readonly { readonly row: number; readonly reason: string }[];
}

/** Rows of one kind. */
export type DataSet =
  | { readonly kind: "instruct"; readonly rows: readonly InstructRow[]; readonly report: DataReport }
  | { readonly kind: "text"; readonly rows: readonly TextRow[]; readonly report: DataReport };

const MAX_BYTES = 500 * 2 ** 20;

interface Place {
  readonly number: number;
  readonly label: string;
}

/**
 * Reads a JSON array or JSON lines of `{instruction, input?, output}` or `{text}`, or plain text as one document.
 * Throws `CompressoError("input")` for a file that is missing, empty, binary or not UTF-8, and for a broken row, which
 * it names.
 */
export async function readRows(path: string): Promise<DataSet> {
  return parseRows(await readUtf8(path), path);
}

/** {@link readRows} on text that is already at hand; `path` is for messages only. */
export function parseRows(text: string, path: string): DataSet {
  const start = text.trimStart();
  if (start === "") throw fail(path, "the file has rows", "it is empty");
  const values = /^\[\s*[{\]]/.test(start)
    ? arrayValues(text, path)
    : /^\{/.test(start)
    ? lineValues(text, path)
    : [{ place: { number: 1, label: "the text" }, value: { text } }];
  const instruct: InstructRow[] = [];
  const texts: TextRow[] = [];
  const skipped: { row: number; reason: string }[] = [];
  let first: { kind: Row["kind"]; place: Place } | null = null;
  for (const { place, value } of values) {
    if (value === undefined) {
      skipped.push({ row: place.number, reason: "blank line" });
      continue;
    }
    const row = parseRow(value, place, path);
    if (first !== null && first.kind !== row.kind) {
      throw fail(
        path,
        "all rows are of one kind, instructions or texts",
        `${first.place.label} is ${kindName(first.kind)}, ${place.label} is ${kindName(row.kind)}`,
        "split the file in two",
      );
    }
    first ??= { kind: row.kind, place };
    const empty = emptyField(row);
    if (empty !== null) skipped.push({ row: place.number, reason: `empty "${empty}"` });
    else if (row.kind === "instruct") instruct.push(row);
    else texts.push(row);
  }
  const rows = instruct.length + texts.length;
  if (rows === 0) throw fail(path, "the file has rows that are not empty", `${skipped.length} empty rows`);
  const report = { rows, skipped };
  return instruct.length > 0 ? { kind: "instruct", rows: instruct, report } : { kind: "text", rows: texts, report };
}

interface Value {
  readonly place: Place;
  /** Undefined for a blank line. */
  readonly value: unknown;
}

function arrayValues(text: string, path: string): Value[] {
  const { value: list, message } = parseJson(text);
  if (message !== null) throw fail(path, "the file is a JSON array", arrayError(text, message));
  const values = Array.isArray(list) ? list : [];
  return values.map((value, index) => ({ place: { number: index + 1, label: `row ${index + 1}` }, value }));
}

function lineValues(text: string, path: string): Value[] {
  const whole = wholeObject(text);
  if (whole !== null) return [{ place: { number: 1, label: "row 1" }, value: whole }];
  const lines = text.split("\n");
  if (lines.at(-1)?.trim() === "") lines.pop();
  return lines.map((line, index) => {
    const place = { number: index + 1, label: `line ${index + 1}` };
    if (line.trim() === "") return { place, value: undefined };
    const { value, message } = parseJson(line);
    if (message === null) return { place, value };
    const mend = "mend or remove that line; a file that starts with { is read as JSON lines";
    throw fail(path, "each line is one JSON object", `${place.label}: ${message}`, mend);
  });
}

/** A single object that spans lines. */
function wholeObject(text: string): Json | null {
  const firstLine = text.trimStart().split("\n", 1)[0] ?? "";
  if (parseJson(firstLine).message === null) return null;
  const { value } = parseJson(text);
  return isObject(value) ? value : null;
}

function parseRow(value: unknown, place: Place, path: string): Row {
  if (!isObject(value)) throw fail(path, "each row is an object", `${place.label} is ${typeName(value)}`);
  const has = (key: string): boolean => value[key] !== undefined;
  if (has("instruction") && has("output")) {
    const { instruction, input, output, choices, ...extra } = value;
    const list = Array.isArray(choices) && choices.every((choice) => typeof choice === "string") ? choices : null;
    return {
      kind: "instruct",
      instruction: textField(instruction, "instruction", place, path),
      input: input === undefined || input === null ? "" : textField(input, "input", place, path),
      output: textField(output, "output", place, path),
      choices: list,
      extra: list === null && choices !== undefined ? { ...extra, choices } : extra,
    };
  }
  if (has("text")) {
    const { text, ...extra } = value;
    return { kind: "text", text: textField(text, "text", place, path), extra };
  }
  const keys = Object.keys(value).map((key) => JSON.stringify(key)).join(", ");
  throw fail(
    path,
    'a row has "instruction" and "output" (and perhaps "input"), or "text"',
    `${place.label} has ${keys === "" ? "no fields" : keys}`,
    "rename the fields",
  );
}

function textField(value: unknown, name: string, place: Place, path: string): string {
  if (typeof value === "string") return value;
  throw fail(path, `"${name}" is a string`, `${place.label}: ${typeName(value)}`);
}

function emptyField(row: Row): string | null {
  if (row.kind === "text") return row.text.trim() === "" ? "text" : null;
  if (row.instruction.trim() === "") return "instruction";
  return row.output.trim() === "" ? "output" : null;
}

async function readUtf8(path: string): Promise<string> {
  let bytes: Uint8Array;
  try {
    const { isDirectory, size } = await Deno.stat(path);
    if (isDirectory) throw fail(path, "the data are one file", "a folder", "name a file in it");
    if (size > MAX_BYTES) {
      throw fail(
        path,
        `the file is at most ${MAX_BYTES / 2 ** 20} MiB`,
        `${Math.ceil(size / 2 ** 20)} MiB`,
        "split it",
      );
    }
    bytes = await Deno.readFile(path);
  } catch (error) {
    if (error instanceof CompressoError) throw error;
    const missing = error instanceof Deno.errors.NotFound;
    throw fail(path, "the file can be read", missing ? "no such file" : String(error), missing ? "check the path" : "");
  }
  const magic = String.fromCharCode(...bytes.subarray(0, 4));
  if (magic === "PAR1") throw fail(path, "the file is text", "it is parquet", "convert it to JSON lines");
  if (magic.startsWith("\x1f\x8b")) throw fail(path, "the file is text", "it is gzip", "unpack it");
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    const zero = text.indexOf("\0");
    if (zero < 0) return text;
  } catch {
    if (!bytes.includes(0)) {
      throw fail(path, "the file is UTF-8", `it is not, from byte ${invalidByte(bytes)}`, "convert it to UTF-8");
    }
  }
  throw fail(path, "the file is text", "it is binary or UTF-16: it has zero bytes", "convert it to UTF-8 JSON lines");
}

/** Position of the first byte that is not UTF-8. */
function invalidByte(bytes: Uint8Array): number {
  // The longest beginning that decodes as a stream ends within the bad sequence.
  let [low, high] = [0, bytes.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (decodes(bytes.subarray(0, middle), true)) low = middle;
    else high = middle - 1;
  }
  while (low > 0 && !decodes(bytes.subarray(0, low), false)) low--;
  return low;
}

function decodes(bytes: Uint8Array, stream: boolean): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream });
    return true;
  } catch {
    return false;
  }
}

/**
 * What is wrong with a broken JSON array, with the row and line where it starts to be: the parser's own message may
 * name neither.
 */
function arrayError(text: string, message: string): string {
  let row = 1, depth = 0, inString = false;
  let start = text.indexOf("[") + 1;
  for (let index = start; index < text.length; index++) {
    const character = text[index];
    if (inString) {
      if (character === "\\") index++;
      else if (character === '"') inString = false;
    } else if (character === '"') inString = true;
    else if (character === "{" || character === "[") depth++;
    else if (depth > 0 && (character === "}" || character === "]")) depth--;
    else if (depth === 0 && (character === "," || character === "]")) {
      if (parseJson(text.slice(start, index)).message !== null) break;
      start = index + 1;
      if (character === ",") row++;
      else return `after the array, line ${lineOf(text, start)}: ${message}`;
    }
  }
  const lead = /^\s*/.exec(text.slice(start))?.[0].length ?? 0;
  return `row ${row}, line ${lineOf(text, start + lead)}: ${message}`;
}

function lineOf(text: string, position: number): number {
  return text.slice(0, position).split("\n").length;
}

/** The value of a JSON text, or what is wrong with it. */
function parseJson(text: string): { readonly value: unknown; readonly message: string | null } {
  try {
    return { value: JSON.parse(text), message: null };
  } catch (error) {
    return { value: null, message: error instanceof Error ? error.message : String(error) };
  }
}

function kindName(kind: Row["kind"]): string {
  return kind === "instruct" ? "an instruction" : "a text";
}

function typeName(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "a list" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}

function fail(path: string, rule: string, value: string, mend = ""): CompressoError {
  return new CompressoError("input", {
    what: `cannot read the data of ${path}`,
    rule,
    value,
    ...(mend === "" ? {} : { mend }),
  });
}
