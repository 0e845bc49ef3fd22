// Rows of training and evaluation data from a file, with a report on what was left out.
import { option, refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { ByteSource } from "../files/system.ts";
import { type Codecs, type Compression, dataError, kindOf, textOf } from "./readers/bytes.ts";
import { heapBudget } from "./readers/memory.ts";
import {
  type ChatRow,
  emptyField,
  type Fault,
  type InstructRow,
  kindName,
  parseRow,
  placeOf,
  type Row,
  type TextRow,
} from "./row.ts";
import { createSplitter, namesJson, type Place, type TextFormat, type ValueSink } from "./readers/split.ts";

export type { ChatRow, InstructRow, Row, TextRow } from "./row.ts";

/** How rows are read. */
export interface ReadOptions {
  /** Field that holds the document of a row; without it, the fields tell the kind of a row. */
  readonly textField?: string | undefined;
  /** Rows to keep at most, from the first on; the rest is not read. Default: all. */
  readonly limit?: number | undefined;
  /** Whether broken rows are left out and reported instead of ending the reading. Default false. */
  readonly skipBroken?: boolean | undefined;
  /** What the error of a broken row advises. Default: what `prune` has. */
  readonly brokenFix?: string | undefined;
  /** How to take fewer rows, for the error of more than memory holds. Default: what `prune` and programs have. */
  readonly fewerFix?: string | undefined;
}

const NAMES: NamesOf<ReadOptions> = {
  textField: "text",
  limit: "number",
  skipBroken: "switch",
  brokenFix: "text",
  fewerFix: "text",
};

/** A row that was left out. */
export interface LeftOut {
  /** The line of JSON lines, else the place in the array or table, from 1. */
  readonly row: number;
  /** The line on which it begins, where it is an element of a JSON array. */
  readonly line?: number;
  /** Why. */
  readonly reason: string;
}

/** What was read and what was left out. */
export interface DataReport {
  /** What the file is. */
  readonly format: TextFormat | "parquet";
  /** How it is compressed as a whole; pages of a parquet file do not count. */
  readonly compression: Compression;
  /** Rows kept. */
  readonly rows: number;
  /** Rows left out because they are empty. */
  readonly skipped: readonly LeftOut[];
  /** Rows left out because they are broken, where that was asked for. */
  readonly broken: readonly LeftOut[];
  /** Whether reading ended at the limit; there may be more rows then. */
  readonly limited: boolean;
}

/** Rows of one kind. */
export type DataSet =
  | { readonly kind: "instruct"; readonly rows: readonly InstructRow[]; readonly report: DataReport }
  | { readonly kind: "chat"; readonly rows: readonly ChatRow[]; readonly report: DataReport }
  | { readonly kind: "text"; readonly rows: readonly TextRow[]; readonly report: DataReport };

/** What {@link readRowsFrom} takes of the platform. */
export interface Platform {
  /** Unpackers of compressed files; without them these are refused. */
  readonly codecs?: Codecs | null;
  /** Bytes of the heap; the rows may take a share of it. Default: no bound. */
  readonly heap?: number;
}

/**
 * Reads rows of a JSON array, JSON lines, a parquet table, or plain text as one document: which it is shows in the content. A name that ends in .json,
 * .jsonl or .ndjson is never plain text.
 *
 * @throws CompressoError("input") for a file that is empty, binary or not UTF-8, for a broken row, which it names, and for rows that do not fit into
 * memory.
 * @throws CompressoError("usage") for options that do not exist, and a limit below 1.
 */
export async function readRowsFrom(
  source: ByteSource,
  { codecs = null, heap = Infinity, ...options }: ReadOptions & Platform = {},
): Promise<DataSet> {
  checkNames(options, NAMES, { whose: "readRows" });
  const collector = createCollector(source.name, { ...options, heap });
  const kind = await kindOf(source);
  if (kind === "parquet") {
    // Few need it, and in a page it would be a twelfth of the script.
    const { parquetRows } = await import("./readers/parquet.ts"), { sink } = collector;
    for await (const { number, value } of parquetRows(source, { codecs, wanted: collector.wanted })) {
      sink.value({ number, label: `row ${number}` }, value);
      if (sink.isFull) break;
    }
    return collector.finish("parquet", "none");
  }
  const splitter = createSplitter(collector.sink, { isJson: namesJson(source.name) });
  for await (const text of textOf(source, { compression: kind, codecs })) {
    splitter.push(text);
    if (collector.sink.isFull) break;
  }
  return collector.finish(splitter.finish(), kind);
}

/** {@link readRowsFrom} on text that is already at hand; `path` is for messages, and says whether it may be plain text. */
export function parseRows(text: string, path: string, options: ReadOptions = {}): DataSet {
  const collector = createCollector(path, { ...options, heap: Infinity });
  const splitter = createSplitter(collector.sink, { isJson: namesJson(path) });
  splitter.push(text);
  return collector.finish(splitter.finish(), "none");
}

const BROKEN_FIX = `fix or remove it, or have broken rows left out (${option("skipBroken")})`;
const FEWER_FIX = `take fewer with ${option("limit")}`;
const HEAP_FIX = "give V8 a larger heap (DENO_V8_FLAGS=--max-old-space-size=MEGABYTES)";

/** Keeps rows as their values come. */
interface Collector {
  readonly sink: ValueSink;
  /** Rows that may still be kept. */
  readonly wanted: () => number;
  finish(format: DataReport["format"], compression: Compression): DataSet;
}

function leftOut(place: Place, reason: string): LeftOut {
  return { ...placeOf(place, 0), reason };
}

function createCollector(path: string, options: ReadOptions & { readonly heap: number }): Collector {
  const { textField, limit = Infinity, skipBroken = false } = options;
  const { brokenFix = BROKEN_FIX, fewerFix = FEWER_FIX } = options;
  if (limit !== Infinity && (!Number.isInteger(limit) || limit < 1)) {
    const rule = "limit is a whole number, at least 1", fix = "leave it out for all rows";
    refuse("usage", `cannot read the data of ${path}`, { rule, value: limit, fix });
  }
  const rows = { instruct: new Array<InstructRow>(), chat: new Array<ChatRow>(), text: new Array<TextRow>() };
  const skipped: LeftOut[] = [], broken: LeftOut[] = [], budget = heapBudget(options.heap);
  let count = 0;
  let first: { readonly kind: Row["kind"]; readonly place: Place } | null = null;

  /** Puts an entry into a list, if there is room for it. */
  const push = <T>(list: T[], entry: T, { label }: Place): void => {
    list.push(entry);
    const bytes = budget.add(entry);
    if (bytes === null) return;
    const [kept, heap] = [bytes, budget.heap].map((size) => `${Number((size / 1e9).toPrecision(2))} GB`);
    const value = `${kept} after ${label}, of a heap of ${heap}`;
    throw dataError(path, "the rows fit into memory", { value, fix: `${fewerFix}, or ${HEAP_FIX}` });
  };
  let firstFault: Fault | null = null;
  const reject = (place: Place, { rule, problem, fix }: Fault): void => {
    const value = `${place.label} ${problem}`;
    if (!skipBroken) throw dataError(path, rule, { value, fix: fix || brokenFix });
    firstFault ??= { rule, problem: value, fix };
    push(broken, leftOut(place, problem), place);
  };
  const keep = (row: Row, place: Place): void => {
    // An empty row is left out, and says nothing of the others.
    const empty = emptyField(row, { textField });
    if (empty !== null) return push(skipped, leftOut(place, `empty "${empty}"`), place);
    if (first !== null && first.kind !== row.kind) {
      throw dataError(path, "all rows are of one kind: instructions, conversations or texts", {
        value: `${first.place.label} is ${kindName(first.kind)}, ${place.label} is ${kindName(row.kind)}`,
        fix: `split the file, or name the field that holds the text (${option("textField")})`,
      });
    }
    first ??= { kind: row.kind, place };
    count++;
    const { number, line } = place, numbered = { number, ...(line === undefined ? {} : { line }) };
    if (row.kind === "instruct") push(rows.instruct, { ...row, ...numbered }, place);
    else if (row.kind === "chat") push(rows.chat, { ...row, ...numbered }, place);
    else push(rows.text, { ...row, ...numbered }, place);
  };
  const sink: ValueSink = {
    value(place, value): void {
      const parsed = parseRow(value, { textField });
      if ("row" in parsed) keep(parsed.row, place);
      else reject(place, parsed.fault);
    },
    document(place, text): void {
      const table = /\.(csv|tsv)(\.(gz|zst))?$/i.exec(path)?.[1];
      if (table !== undefined) {
        throw dataError(path, "it holds JSON lines, a JSON array, parquet or plain text", {
          value: `a table (${table.toLowerCase()})`,
          fix: "write its rows as JSON lines or parquet, or name it .txt if it is one text",
        });
      }
      if (textField !== undefined) {
        throw dataError(path, `a row has ${JSON.stringify(textField)}`, {
          value: "the file is plain text",
          fix: "leave the field out, or give a file of rows",
        });
      }
      keep({ kind: "text", text, extra: {} }, place);
    },
    blank: (place) => push(skipped, leftOut(place, "blank line"), place),
    broken(place, problem): void {
      reject(place, { rule: "each row is one JSON value", problem, fix: "" });
    },
    refuse(rule, value, fix): never {
      throw dataError(path, rule, { value, fix });
    },
    get isFull(): boolean {
      return count >= limit;
    },
  };
  return {
    sink,
    wanted: () => limit - count,
    finish(format, compression): DataSet {
      if (count === 0) {
        if (firstFault !== null) {
          const { rule, problem, fix } = firstFault, counts = `${broken.length} broken, ${skipped.length} empty`;
          const value = `${problem}; of the rows are ${counts}, and none is left`;
          throw dataError(path, rule, { value, fix: fix || "fix the broken rows, or give another file" });
        }
        const value = `${skipped.length} empty`, fix = "give a file with rows";
        throw dataError(path, "the file has rows that are not empty", { value, fix });
      }
      const report = { format, compression, rows: count, skipped, broken, limited: count >= limit };
      if (rows.instruct.length > 0) return { kind: "instruct", rows: rows.instruct, report };
      if (rows.chat.length > 0) return { kind: "chat", rows: rows.chat, report };
      return { kind: "text", rows: rows.text, report };
    },
  };
}
