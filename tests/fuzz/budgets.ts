// Files that take most time and memory for their bytes, and what reading one of them takes: deno run -A tests/fuzz/budgets.ts NUMBER
import { gzipSync, zstdCompressSync } from "node:zlib";
import { CompressoError } from "../../lib/core/errors.ts";
import { type Files, fixture, jsonFile, linesFile, utf8 } from "./format.ts";
import { FORMATS } from "./mutants.ts";
import { Draw, join } from "./mutate.ts";

/** A file that is heavy for its bytes. */
export interface HeavyFile {
  readonly name: string;
  /** Format by whose reader it is read. */
  readonly format: string;
  readonly files: () => Files;
}

/** What reading took. */
export interface Taken {
  readonly bytes: number;
  readonly seconds: number;
  /** Largest memory of the process beyond what it had before. */
  readonly mib: number;
  readonly isRefused: boolean;
}

function one(path: string, file: Uint8Array): Files {
  return new Map([[path, new Uint8Array(file)]]);
}

function repeated(count: number, part: (index: number) => string): string {
  return Array.from({ length: count }, (_, index) => part(index)).join(",");
}

/** A safetensors file of a header alone. */
function headerFile(text: string): Uint8Array {
  const header = utf8(text), length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true);
  return join(length, header);
}

/** A GGUF of one array of empty texts. */
function textsGguf(count: number): Uint8Array {
  const head = new Uint8Array(24 + 8 + 1 + 4 + 4 + 8), view = new DataView(head.buffer);
  head.set(utf8("GGUF"));
  view.setUint32(4, 3, true);
  view.setBigUint64(16, 1n, true);
  view.setBigUint64(24, 1n, true);
  head[32] = 0x61;
  view.setUint32(33, 9, true); // an array
  view.setUint32(37, 8, true); // of texts
  view.setBigUint64(41, BigInt(count), true);
  return join(head, new Uint8Array(8 * count));
}

function tokenizerFile(entries: number, change: Readonly<Record<string, unknown>> = {}): Files {
  const json: Record<string, unknown> = JSON.parse(
    new TextDecoder().decode(fixture("tokenizer/byte_level/tokenizer.json")),
  );
  const vocab = Object.fromEntries(Array.from({ length: entries }, (_, id) => [`w${id}`, id]));
  return one(
    "t/tokenizer.json",
    jsonFile({ ...json, added_tokens: [], model: { type: "BPE", vocab, merges: [], ...change } }),
  );
}

const ROW = { text: "a" };

/** Heavy files of each format. */
export const HEAVY_FILES: readonly HeavyFile[] = [
  {
    name: "safetensors, 200,000 empty tensors",
    format: "safetensors",
    files: () =>
      one(
        "a.safetensors",
        headerFile(`{${repeated(200_000, (at) => `"${at}":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}`)}}`),
      ),
  },
  {
    name: "safetensors, a shape of 300,000 sizes",
    format: "safetensors",
    files: () =>
      one(
        "a.safetensors",
        headerFile(
          `{"a":{"dtype":"F32","shape":[${repeated(300_000, () => "9007199254740991")}],"data_offsets":[0,0]}}`,
        ),
      ),
  },
  { name: "GGUF, a million empty texts", format: "GGUF", files: () => one("a.gguf", textsGguf(1_000_000)) },
  {
    name: "tokenizer.json, 200,000 tokens",
    format: "tokenizer.json",
    files: () => tokenizerFile(200_000),
  },
  {
    name: "tokenizer.json, nested 500,000 deep",
    format: "tokenizer.json",
    files: () => one("t/tokenizer.json", utf8(`{"model":${"[".repeat(500_000)}${"]".repeat(500_000)}}`)),
  },
  {
    name: "rows, 300,000 of one letter",
    format: "rows",
    files: () => one("a.jsonl", linesFile(Array(300_000).fill(ROW))),
  },
  { name: "rows, brackets", format: "rows", files: () => one("a.json", utf8("[".repeat(4_000_000))) },
  { name: "rows, empty lines", format: "rows", files: () => one("a.jsonl", utf8("\n".repeat(4_000_000))) },
  {
    name: "gzip, 100 MB of brackets",
    format: "gzip",
    files: () => one("a.json.gz", gzipSync(utf8("[".repeat(100_000_000)))),
  },
  {
    name: "Zstandard, 300,000 rows",
    format: "Zstandard",
    files: () => one("a.jsonl.zst", zstdCompressSync(linesFile(Array(300_000).fill(ROW)))),
  },
  {
    name: "records.jsonl, a million broken lines",
    format: "run folder and records",
    files: () => one("run/records.jsonl", utf8("{}\n".repeat(1_000_000))),
  },
  {
    name: "evaluation, 20,000 tasks",
    format: "evaluation",
    files: () =>
      one(
        "eval.json",
        jsonFile({ tasks: Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [at, { acc: 1 }])) }),
      ),
  },
  {
    name: "experiment, 1,999 × 2,000 cells",
    format: "experiment",
    files: () => {
      const many = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);
      return one(
        "experiment.json",
        jsonFile({ name: "a", model: "demo", base: {}, grid: { rank: many(1999), seed: many(2000) } }),
      );
    },
  },
];

/** Reads a heavy file in this process. */
async function take({ format, files }: HeavyFile): Promise<Taken> {
  const made = files(), read = FORMATS.find(({ name }) => name === format)?.read;
  if (!read) throw new Error(`there is no format ${format}`);
  const before = peakMib(), start = performance.now();
  let isRefused = false;
  try {
    await read(made, new Draw(1, 1));
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    isRefused = true;
  }
  const seconds = (performance.now() - start) / 1000;
  const bytes = [...made.values()].reduce((sum, file) => sum + file.length, 0);
  return { bytes, seconds, mib: Math.max(0, peakMib() - before), isRefused };
}

/** The largest memory of this process so far; on systems that do not show it, that of now. */
function peakMib(): number {
  try {
    const [, kib = 0] = /VmHWM:\s+(\d+) kB/.exec(Deno.readTextFileSync("/proc/self/status")) ?? [];
    return Number(kib) / 1024;
  } catch {
    return Deno.memoryUsage().rss / 2 ** 20;
  }
}

if (import.meta.main) {
  const file = HEAVY_FILES[Number(Deno.args[0])];
  if (!file) throw new Error("give the number of a file");
  console.log(JSON.stringify(await take(file)));
}
