// Cuts a text that arrives in parts into values: JSON lines, the elements of a JSON array, or one plain document.
import { isObject, type Json } from "../../core/guards.ts";

/** Place of a value. */
export interface Place {
  /** Line of JSON lines, else place in the array or table, from 1. */
  readonly number: number;
  /** Line on which an element of an array begins. */
  readonly line?: number;
  /** The same for messages. */
  readonly label: string;
}

/** Receives the values of a file. */
export interface ValueSink {
  /** A parsed value. */
  value(place: Place, value: unknown): void;
  /** A plain document. */
  document(place: Place, text: string): void;
  /** A blank line. */
  blank(place: Place): void;
  /** A value that does not parse; throws unless such values are to be left out. */
  broken(place: Place, problem: string): void;
  /** The rest cannot be read; always throws. */
  refuse(rule: string, value: string, fix: string): never;
  /** Whether no more values are wanted. */
  readonly isFull: boolean;
}

/** What a text turned out to be. */
export type TextFormat = "JSON array" | "JSON lines" | "JSON object" | "plain text";

/** Takes a text piece by piece. */
export interface Splitter {
  /** Takes the next piece; pieces may end anywhere. */
  push(text: string): void;
  /** Says that the text is at its end, or that the sink is full. Returns what it was. */
  finish(): TextFormat;
}

/** One value, a line or a whole document, in UTF-16 units: well below the longest string that V8 makes. */
const MAX_CHARS = 2 ** 28;
/** So much of a file is held to see whether it is one object over several lines. */
const MAX_OBJECT_CHARS = 2 ** 26;

/** Nobody writes more blanks than that before the first row. */
const MAX_BLANKS = 2 ** 22;
const FIX_BLANKS = "fix the file or fetch it again";

/** How a text begins that is meant as JSON, if not always well formed: what else opens with a bracket, such as a template or a link, is plain. */
const JSON_START = /^(?:\[\s*)?\{\s*(?:["'}]|[A-Za-z_]\w*\s*:)|^\[\s*\]/;
/** A beginning that may still become one. */
const UNTOLD = /^\uFEFF?\s*(?:\[\s*)?(?:\{\s*(?:\w+\s*)?)?$/;

/** Whether the name of a file says JSON, so that it is never plain text. */
export function namesJson(path: string): boolean {
  return /\.(json|jsonl|ndjson)(\.(gz|zst))?$/i.test(path);
}

/** Cuts a text; with `isJson` it is no plain document, however it begins. */
export function createSplitter(sink: ValueSink, { isJson = false }: { readonly isJson?: boolean } = {}): Splitter {
  let head = "";
  let inner: Splitter | null = null;
  const settle = (): Splitter => {
    const splitter = choose(head, { sink, isJson });
    splitter.push(head.replace(/^\uFEFF/, ""));
    head = "";
    return splitter;
  };
  return {
    push(text): void {
      if (inner) return inner.push(text);
      head += text;
      if (UNTOLD.test(head)) {
        if (head.length <= MAX_BLANKS) return;
        if (!/\w/.test(head)) sink.refuse("the file has rows", "nothing but blanks so far", FIX_BLANKS);
      }
      inner = settle();
    },
    finish(): TextFormat {
      if (!inner && head.trim() === "") sink.refuse("the file has rows", "0 rows", "fetch or write it again");
      inner ??= settle();
      return inner.finish();
    },
  };
}

function choose(head: string, { sink, isJson }: { readonly sink: ValueSink; readonly isJson: boolean }): Splitter {
  const start = head.replace(/^\uFEFF/, "").trimStart();
  if (!isJson && !JSON_START.test(start)) return documentSplitter(sink);
  return start.startsWith("[") ? arraySplitter(sink) : lineSplitter(sink);
}

function documentSplitter(sink: ValueSink): Splitter {
  let text = "";
  return {
    push(piece): void {
      checkLength(text.length + piece.length, { what: "a plain text", sink });
      text += piece;
    },
    finish(): TextFormat {
      sink.document({ number: 1, label: "the text" }, text);
      return "plain text";
    },
  };
}

/** Lines of one value each; or, where the first does not parse, perhaps one object over all lines. */
function lineSplitter(sink: ValueSink): Splitter {
  let rest = "", number = 0;
  /** The lines so far while it is open whether they are one object; null once that is settled. */
  let held: string[] | null = [];
  let heldChars = 0;
  const emit = (line: string): void => {
    const place = { number: ++number, label: `line ${number}` };
    if (line.trim() === "") return sink.blank(place);
    const { value, message } = parseJson(line, (_, column) => ` at column ${column}`);
    if (message === null) sink.value(place, value);
    else sink.broken(place, `is not JSON: ${message}`);
  };
  const release = (): void => {
    const lines = held ?? [];
    held = null;
    for (const line of lines) if (!sink.isFull) emit(line);
  };
  const take = (line: string): void => {
    if (held === null || (held.length === 0 && line.trim() === "")) return emit(line);
    held.push(line);
    heldChars += line.length;
    const first = held.length === 1 && parseJson(line).message === null;
    if (first || heldChars > MAX_OBJECT_CHARS) release();
  };
  return {
    push(text): void {
      let start = 0;
      for (let end = text.indexOf("\n"); end >= 0 && !sink.isFull; end = text.indexOf("\n", start)) {
        take(rest + text.slice(start, end));
        rest = "";
        start = end + 1;
      }
      checkLength(rest.length + text.length - start, { what: `line ${number + 1}`, sink });
      rest += text.slice(start);
    },
    finish(): TextFormat {
      if (rest.trim() !== "" && !sink.isFull) take(rest);
      const whole = held === null ? null : wholeObject(held.join("\n"));
      if (whole !== null) {
        sink.value({ number: 1, label: "row 1" }, whole);
        return "JSON object";
      }
      release();
      return "JSON lines";
    },
  };
}

/** Elements of an array, cut at commas outside of strings and brackets. */
function arraySplitter(sink: ValueSink): Splitter {
  let buffer = "", at = 0, start = 0;
  /** Text of the element from earlier pieces: each piece is searched once. */
  let held = "";
  let row = 0, line = 1, depth = 0;
  let state: "before" | "element" | "string" | "after" = "before";
  /** Takes the text from `start` to `end` as an element; `last` if the array ends after it. */
  const element = (end: number, last: boolean): void => {
    const text = held + buffer.slice(start, end);
    held = "";
    const isBlank = text.trim() === "";
    if (isBlank && last && row === 0) return;
    const begin = line + countLines(/^\s*/.exec(text)?.[0] ?? ""), before = line - 1;
    const { value, message } = parseJson(text, (own) => ` on line ${before + own}`);
    const place = { number: ++row, line: begin, label: `row ${row}, line ${begin}` };
    if (message === null) sink.value(place, value);
    else sink.broken(place, isBlank ? "is missing after a comma" : `is not JSON: ${message}`);
    line += countLines(text);
  };
  const advance = (character: string, index: number): void => {
    at = index + 1;
    if (state === "before") {
      state = "element";
      line += countLines(held + buffer.slice(0, index));
      held = "";
      start = at;
    } else if (state === "string") {
      if (character === "\\") at++;
      else state = "element";
    } else if (character === '"') state = "string";
    else if (character === "{" || character === "[") {
      if (++depth > MAX_DEPTH) {
        sink.refuse(`values are nested at most ${MAX_DEPTH} deep`, `row ${row + 1} is nested deeper`, FIX_ARRAY);
      }
    } else if (depth > 0 && (character === "}" || character === "]")) depth--;
    else if (depth === 0 && (character === "," || character === "]")) {
      element(index, character === "]");
      start = at;
      if (character === "]") state = "after";
    }
  };
  return {
    push(text): void {
      held += buffer.slice(start);
      at -= buffer.length;
      buffer = text;
      start = 0;
      checkLength(held.length + buffer.length, { what: `row ${row + 1}`, sink });
      while (state !== "after" && !sink.isFull) {
        const marks = state === "string" ? STRING_MARKS : MARKS;
        marks.lastIndex = at;
        const found = marks.exec(buffer);
        if (!found) {
          at = Math.max(at, buffer.length);
          break;
        }
        advance(found[0], found.index);
      }
      if (state !== "after") return;
      const rest = held + buffer.slice(start), lead = /^\s*/.exec(rest)?.[0] ?? "";
      if (lead.length === rest.length) return;
      sink.refuse("the file is one JSON array", `more after its end, on line ${line + countLines(lead)}`, FIX_ARRAY);
    },
    finish(): TextFormat {
      if (state !== "after" && !sink.isFull) {
        const begin = line + countLines(/^\s*/.exec(held + buffer.slice(start))?.[0] ?? "");
        sink.refuse("the file is a JSON array", `row ${row + 1}, line ${begin} does not end`, FIX_ARRAY);
      }
      return "JSON array";
    },
  };
}

/** Levels of an element: JSON.parse says of fewer that they are too many. */
const MAX_DEPTH = 1_000_000;
const FIX_ARRAY = "fix the file or fetch it again; a file that starts with [ is read as a JSON array";
const MARKS = /["{}[\],]/g;
const STRING_MARKS = /["\\]/g;

function countLines(text: string): number {
  let count = 0;
  for (let index = text.indexOf("\n"); index >= 0; index = text.indexOf("\n", index + 1)) count++;
  return count;
}

function wholeObject(text: string): Json | null {
  const { value } = parseJson(text);
  return isObject(value) ? value : null;
}

/** The value of a JSON text, or what is wrong with it: V8 counts places from the beginning of the text, `placed` says where that is in the file. */
function parseJson(
  text: string,
  placed: (line: number, column: number) => string = () => "",
): { readonly value: unknown; readonly message: string | null } {
  try {
    return { value: JSON.parse(text), message: null };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { value: null, message: message.replace(PLACE, (_, line, column) => placed(Number(line), Number(column))) };
  }
}

const PLACE = /(?: in JSON)? at position \d+ \(line (\d+) column (\d+)\)/;

function checkLength(chars: number, { what, sink }: { readonly what: string; readonly sink: ValueSink }): void {
  if (chars <= MAX_CHARS) return;
  sink.refuse(`${what} has at most ${MAX_CHARS / 2 ** 20} Mi characters`, "it is longer", "split it");
}
