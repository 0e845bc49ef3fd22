// Data files as they come: cut into pieces anywhere, compressed, or as parquet tables of another program.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { type DataSet, parseRows, type ReadOptions, readRowsFrom } from "../../lib/data/rows.ts";
import { memorySource } from "../../lib/files/memory.ts";
import { readRows } from "../../lib/local/rows.ts";
import { openData } from "../../lib/local/rows.ts";
import { zlibCodecs } from "../../lib/files/platform.ts";
import { parquetRows } from "../../lib/data/readers/parquet.ts";
import { createSplitter, type Place, type ValueSink } from "../../lib/data/readers/split.ts";
import { byBlock } from "../../lib/compat/zstd_frames.ts";
import { assertNames, rejects } from "../refuses.ts";
import { inFolder } from "../text/fixtures.ts";

/** Everything that a splitter says about a text that comes in pieces of `size` characters. */
function told(text: string, size: number, isJson = false): unknown[] {
  const said: unknown[] = [];
  const sink: ValueSink = {
    value: ({ label }, value) => void said.push([label, value]),
    document: ({ label }, document) => void said.push([label, document]),
    blank: ({ label }) => void said.push([label, "blank"]),
    broken: ({ label }: Place, problem) => void said.push([label, problem]),
    refuse: (rule, value): never => {
      throw new Error(`${rule}: ${value}`);
    },
    isFull: false,
  };
  const splitter = createSplitter(sink, { isJson });
  try {
    for (let at = 0; at < text.length; at += size) splitter.push(text.slice(at, at + size));
    said.push(splitter.finish());
  } catch (error) {
    said.push(String(error));
  }
  return said;
}

const TRICKY: Readonly<Record<string, string>> = {
  lines: '{"text": "a \\"}[,\\\\"}\r\n\n{"text": "b"}\n{oops}\n{"text": {"x": [1, 2]}}',
  object: '{\n  "text": "a",\n  "more": [1,\n 2]\n}\n',
  array: '\ufeff [\n{"text": "a ]}, \\" \\\\"},\n\n {"text": [1, {"x": "]"}]}\n, {"text": }, 3 , "s\\\\" ]\n ',
  "array in array": '[[1, 2], {"a": []}]',
  "broken array": '[{"text": "a"},\n\n{"text": "b',
  "array and more": '[{"text": "a"}]\n\n{"text": "b"}',
  "a lone bracket": " [ ",
  text: "[1] A footnote.\n{braces}",
};

for (const [name, text] of Object.entries(TRICKY)) {
  Deno.test(`${name} gives the same values wherever its pieces end`, () => {
    const whole = told(text, text.length);
    for (const size of [1, 2, 3, 5, 7]) assert.deepEqual(told(text, size), whole, `pieces of ${size}`);
  });

  Deno.test(`${name} as JSON gives the same values wherever its pieces end, and never a document`, () => {
    const whole = told(text, text.length, true);
    for (const size of [1, 2, 3, 5, 7]) assert.deepEqual(told(text, size, true), whole, `pieces of ${size}`);
    assert.notEqual(whole.at(-1), "plain text");
  });
}

Deno.test("the splitter places each value", () => {
  const said = (name: string): unknown[] => told(TRICKY[name] ?? "", 4);
  assert.deepEqual(said("lines").map((entry) => Array.isArray(entry) ? entry[0] : entry), [
    "line 1",
    "line 2",
    "line 3",
    "line 4",
    "line 5",
    "JSON lines",
  ]);
  assert.deepEqual(said("object"), [["row 1", { text: "a", more: [1, 2] }], "JSON object"]);
  const [first, second, third, ...rest] = said("array");
  assert.deepEqual([first, second], [["row 1, line 2", { text: 'a ]}, " \\' }], ["row 2, line 4", {
    text: [1, { x: "]" }],
  }]]);
  assert.match(String(third), /^row 3, line 5,.*\bJSON\b/);
  assert.deepEqual(rest, [["row 4, line 5", 3], ["row 5, line 5", "s\\"], "JSON array"]);
  assertNames(String(said("broken array").at(-1)), ["row 2", "line 3"]);
  assertNames(String(said("array and more").at(-1)), "line 3");
});

const ROWS = Array.from({ length: 40 }, (_, index) => ({ text: `Document ${index}: the stone — 石 👍.` }));
const LINES = ROWS.map((row) => JSON.stringify(row) + "\n").join("");

async function read(bytes: Uint8Array, options: Parameters<typeof readRows>[1] = {}): Promise<DataSet> {
  let data: DataSet | null = null;
  await inFolder(async (folder) => {
    await Deno.writeFile(`${folder}/data`, bytes);
    data = await readRows(`${folder}/data`, options);
  });
  assert(data);
  return data;
}

Deno.test("gzip and Zstandard give the rows of the plain file, of one member or many", async () => {
  const plain = parseRows(LINES, "x");
  const half = LINES.indexOf("\n", LINES.length / 2) - 3;
  const many = [gzipSync(LINES.slice(0, half)), gzipSync(LINES.slice(half))];
  for (
    const bytes of [gzipSync(LINES), new Uint8Array([...many.flatMap((part) => [...part])]), zstdCompressSync(LINES)]
  ) {
    const { rows, report } = await read(bytes);
    assert.deepEqual(rows, plain.rows);
    assert.equal(report.compression, bytes[0] === 0x1f ? "gzip" : "zstd");
    assert.equal(report.format, "JSON lines");
  }
  const text = await read(gzipSync("A plain text."));
  assert.deepEqual([text.kind, text.report.format], ["text", "plain text"]);
  const array = await read(gzipSync(JSON.stringify(ROWS, null, 1)));
  assert.deepEqual(array.rows.map(({ line: _, ...row }) => row), plain.rows);
});

Deno.test("gzip that is cut off is refused, unless the limit is reached before", async () => {
  // Random letters do not compress away, so that half of the bytes holds about half of the rows.
  const words = Array.from({ length: 30000 }, (_, index) => ((index * 7919) % 104729).toString(36));
  const lines = words.map((text) => `${JSON.stringify({ text })}\n`).join("");
  const bytes = gzipSync(lines), cut = bytes.subarray(0, bytes.length / 2);
  await rejects(read(cut), "input", { names: "gzip" });
  const { rows, report } = await read(cut, { limit: 7 });
  assert.deepEqual(rows, parseRows(lines, "x", { limit: 7 }).rows);
  assert.equal(report.limited, true);
});

/** Lines of `words` words each that do not compress away, in as many Zstandard frames. */
function frames(
  count: number,
  { rows, words }: { readonly rows: number; readonly words: number },
): { readonly lines: string; readonly frames: readonly Uint8Array[] } {
  let seed = 1;
  const word = (): string => (seed = seed * 48271 % 2147483647).toString(36);
  const lines = Array.from(
    { length: count },
    () =>
      Array.from({ length: rows }, () => `${JSON.stringify({ text: Array.from({ length: words }, word).join(" ") })}\n`)
        .join(""),
  );
  return { lines: lines.join(""), frames: lines.map((text) => zstdCompressSync(text)) };
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

const SKIPPABLE = Uint8Array.of(0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 0x28, 0xb5, 0x2f);
const EMPTY_SKIPPABLE = Uint8Array.of(0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0);
/** A frame with a window descriptor, an RLE block of 1000 letters a, an empty raw block and no checksum. */
const RLE_FRAME = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0, 0x58, 0x42, 0x1f, 0, 0x61, 1, 0, 0);

Deno.test("every frame of a Zstandard file is read, and skippable ones are passed over, also the first", async () => {
  // The second file is of more than one piece.
  for (const words of [1, 300]) {
    const { lines, frames: [first = SKIPPABLE, ...others] } = frames(5, { rows: 200, words });
    const expected = parseRows(lines, "x").rows;
    assert.equal(expected.length, 1000);
    const plain = joined([first, ...others]);
    assert.equal(plain.length > 2 ** 20, words > 1);
    assert.deepEqual((await read(plain)).rows, expected);
    const skipping = await read(joined([SKIPPABLE, first, EMPTY_SKIPPABLE, SKIPPABLE, ...others, SKIPPABLE]));
    assert.deepEqual([skipping.report.compression, skipping.rows], ["zstd", expected]);
  }
  const [row] = (await read(joined([RLE_FRAME, zstdCompressSync("b"), zstdCompressSync(""), RLE_FRAME]))).rows;
  assert(row?.kind === "text" && row.text === `${"a".repeat(1000)}b${"a".repeat(1000)}`);
});

Deno.test("Zstandard that is cut off or goes on with something else is refused, unless the limit is reached before", async () => {
  for (const words of [1, 1000]) {
    const { lines, frames: [first = SKIPPABLE, second = SKIPPABLE] } = frames(2, { rows: 500, words });
    const cut = joined([first, second.subarray(0, second.length / 2)]);
    const within = { names: "zstd" };
    await rejects(read(cut), "input", within);
    await rejects(read(first.subarray(0, first.length / 2)), "input", within);
    await rejects(read(first.subarray(0, -1)), "input", within);
    await rejects(read(joined([first, SKIPPABLE.subarray(0, -1)])), "input", within);
    await rejects(read(joined([first, second.subarray(0, 2)])), "input", within);
    const garbage = joined([first, new TextEncoder().encode("garbage")]);
    await rejects(read(garbage), "input", within);
    // A small file is read to its end before the first row is taken, as with gzip.
    if (words > 1) assert.deepEqual((await read(cut, { limit: 7 })).rows, parseRows(lines, "x", { limit: 7 }).rows);
  }
  await rejects(read(SKIPPABLE), "input", { names: "rows" });
});

Deno.test("pieces are cut where frames end, whatever size they come in", async () => {
  const parts = [
    SKIPPABLE,
    ...frames(3, { rows: 200, words: 1 }).frames,
    RLE_FRAME,
    EMPTY_SKIPPABLE,
    zstdCompressSync(""),
  ];
  const whole = joined(parts);
  const cutBy = async (bytes: Uint8Array, size: number): Promise<Uint8Array[]> => {
    const pieces = (async function* (): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
    })();
    return await Array.fromAsync(byBlock(pieces));
  };
  for (const size of [1, 2, 3, 5, 64, 777, 2 ** 20]) {
    const pieces = await cutBy(whole, size);
    assert.deepEqual(joined(pieces), whole);
    const ends = new Set<number>();
    let end = 0;
    for (const { length } of pieces) ends.add(end += length);
    end = 0;
    for (const { length } of parts) assert(ends.has(end += length), `pieces of ${size}, frame that ends at ${end}`);
    assert.equal(pieces.length >= parts.length && pieces.every(({ length }) => length > 0), true);
    await assert.rejects(cutBy(whole.subarray(0, -1), size), /the data end within a frame/);
    await assert.rejects(cutBy(joined([whole, Uint8Array.of(1, 2, 3, 4)]), size), /do not begin another/);
  }
});

Deno.test("characters and the first bad byte are found across the pieces that a file is read in", async () => {
  // Pieces are 2^20 bytes: a text of 4-byte characters behind one letter has one across each border.
  const text = "a" + "👍".repeat(2 ** 19);
  const data = await read(new TextEncoder().encode(text));
  assert(data.kind === "text" && data.rows[0]?.text === text);
  const bytes = new TextEncoder().encode(text);
  bytes[2 ** 20 + 1] = 0x41;
  // The character that begins at 2^20 − 3 lacks nothing; the one after it begins at 2^20 + 1 and is broken.
  await rejects(read(bytes), "input", { value: `byte ${2 ** 20 + 2}` });
});

function table(name: string): string {
  return fileURLToPath(new URL(`../../fixtures/parquet/${name}.parquet`, import.meta.url));
}

for (const name of ["texts_zstd", "texts_brotli"]) {
  Deno.test(`the table ${name} gives its documents with their places and other fields`, async () => {
    const { kind, rows, report } = await readRows(table(name));
    assert(kind === "text");
    const numbers = [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12];
    assert.deepEqual(rows.map(({ number }) => number), numbers);
    assert.deepEqual(
      rows.map(({ text }) => text),
      numbers.map((number) => `Document ${number} tells of stone ${number * number % 7} in the river — 石 👍.`),
    );
    assert.deepEqual(rows[3]?.extra, {
      url: "https://example.org/4",
      timestamp: "2023-11-14T22:13:20.004Z",
      length: 47,
    });
    assert.deepEqual(report, {
      format: "parquet",
      compression: "none",
      rows: 11,
      skipped: [{ row: 4, reason: 'empty "text"' }],
      broken: [],
      limited: false,
    });
  });
}

Deno.test("limit ends the reading of a table at any row, within and between its groups", async () => {
  const all = await readRows(table("texts_zstd"));
  for (const limit of [1, 3, 4, 5, 9, 11]) {
    const { rows, report } = await readRows(table("texts_zstd"), { limit });
    assert.deepEqual(rows, all.rows.slice(0, limit));
    assert.equal(report.limited, true);
  }
});

Deno.test("a group of a table is read as a whole where few of its rows are wanted: those read may be left out", async () => {
  using source = await openData(table("texts_zstd"));
  let asked = 0, rows = 0;
  const wanted = (): number => ++asked && 1;
  for await (const _ of parquetRows(source, { wanted, codecs: zlibCodecs })) rows++;
  assert.ok(rows >= 11 && asked < rows, `asked ${asked} times for ${rows} rows`);
});

Deno.test("tables hold instructions with nulls and lists, and conversations", async () => {
  const instructions = await readRows(table("instructions_gzip"));
  assert(instructions.kind === "instruct");
  const fields = instructions.rows.map((
    { instruction, input, output, choices },
  ) => [instruction, input, output, choices]);
  assert.deepEqual(fields, [
    ["Add.", "1 + 1", "2", ["1", "2"]],
    ["Say hello.", "", "Hello.", null],
    ["Name a river.", "", "The Rhine.", ["The Rhine.", "The Alps."]],
  ]);
  const chats = await readRows(table("chats_snappy"));
  assert(chats.kind === "chat");
  assert.deepEqual(chats.rows.map(({ messages }) => messages.length), [2, 5]);
  assert.deepEqual(chats.rows[1]?.messages[4], { role: "assistant", content: "2" });
  const named = await readRows(table("texts_zstd"), { textField: "url", limit: 1 });
  assert(named.kind === "text" && named.rows[0]?.text === "https://example.org/0");
});

Deno.test("what stands beside the texts of a table keeps none of them back: spans, times that are none, what is nested deep", async () => {
  const { rows } = await readRows(table("odd_columns"));
  const others = { until: "2024-05-06T07:08:09.000Z", day: "2024-05-06T00:00:00.000Z" };
  assert.deepEqual(
    rows,
    [{ until: null, day: null }, others, others].map((extra, index) => (
      { kind: "text", text: `Stone ${index + 1}`, extra, number: index + 1 }
    )),
  );
  const deep = `{"text": "a", "x": ${"[".repeat(100_000)}${"]".repeat(100_000)}}\n{"text": "b"}\n`;
  await rejects(read(new TextEncoder().encode(deep)), "input", { value: "line 1" });
  const left = await read(new TextEncoder().encode(deep), { skipBroken: true });
  assert.deepEqual([left.rows.length, left.report.broken.map(({ row }) => row)], [1, [1]]);
});

Deno.test("columns of nulls alone are read whatever compresses their empty pages", async () => {
  const { rows } = await readRows(table("nulls"));
  const nothing = { gzip: null, zstd: null, brotli: null };
  assert.deepEqual(rows.map((row) => "text" in row && [row.text, row.extra]), [["One.", nothing], ["Two.", nothing]]);
});

Deno.test("a table that is broken, or compressed in a way that is not known, is refused", async () => {
  await rejects(readRows(table("instructions_lz4")), "input", { value: "LZ4_RAW", names: ["ZSTD", "BROTLI"] });
  const bytes = await Deno.readFile(table("texts_zstd"));
  await rejects(read(bytes.subarray(0, 2000)), "input", { value: "PAR1" });
  const page = bytes.slice();
  page.fill(0xff, 40, 200);
  await rejects(read(page), "input", { value: 15 });
  // The footer's number of rows in the one group, 12, as the number that its byte makes of it.
  const claiming = await Deno.readFile(table("texts_brotli"));
  claiming[1203] = 0x7e;
  await rejects(read(claiming), "input", { value: [63, 12] });
});

Deno.test("blanks that go on and on are no rows", () => {
  // No line and no format: it was refused before its end.
  assert.match(String(told("\n".repeat(2 ** 23), 2 ** 20)), /^Error: [^"\d]+$/);
});

Deno.test("a text of a table that is no UTF-8 is a broken row, as in other files", async () => {
  const bytes = await Deno.readFile(table("nulls")), at = new TextDecoder("latin1").decode(bytes).indexOf("Two.");
  const texts = async (value: number, options: ReadOptions = {}): Promise<unknown[]> => {
    await Deno.writeFile(path, bytes.with(at, value));
    return (await readRows(path, options)).rows.map((row) => row.kind === "text" && row.text);
  };
  let path = "";
  await inFolder(async (folder) => {
    path = `${folder}/a.parquet`;
    await rejects(texts(0xe9), "input", { value: ["row 2", "UTF-8", '"text"'] });
    assert.deepEqual(await texts(0xe9, { skipBroken: true }), ["One."]);
    assert.deepEqual(await texts(0x74), ["One.", "two."]);
  });
});

Deno.test("zstd data whose window is wider than zlib takes by itself are read", async () => {
  await inFolder(async (folder) => {
    const text = '{"text": "a long window"}\n',
      bytes = new TextEncoder().encode(text),
      path = `${folder}/long.jsonl.zst`;
    for (const windowLog of [27, 28, 31]) {
      // RFC 8878: magic, a header without content size, the window, and one raw block, the last.
      const header = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (windowLog - 10) << 3, bytes.length << 3 | 1, 0, 0];
      await Deno.writeFile(path, Uint8Array.from([...header, ...bytes]));
      assert.deepEqual((await readRows(path)).rows.map(({ kind }) => kind), ["text"], `2^${windowLog}`);
    }
  });
});

Deno.test("rows of bytes in memory are read as those of a file, and packed ones are refused without an unpacker", async () => {
  const text = '{"text":"one"}\n{"text":"two"}\n', bytes = new TextEncoder().encode(text);
  const { rows } = await readRowsFrom(memorySource("rows.jsonl", bytes));
  assert.deepEqual(rows, parseRows(text, "rows.jsonl").rows);
  const packed = memorySource("rows.jsonl.gz", new Uint8Array(gzipSync(bytes)));
  await rejects(readRowsFrom(packed), "input", { names: "rows.jsonl.gz" });
  assert.deepEqual((await readRowsFrom(packed, { codecs: zlibCodecs })).rows, rows);
  const plain = memorySource("table", await Deno.readFile(table("texts_zstd")));
  await rejects(readRowsFrom(plain), "input", { value: "ZSTD" });
});

Deno.test("an array that opens brackets for ever is refused at once, and a long element is searched once", async () => {
  const start = performance.now(), pieces = "[".repeat(2 ** 20);
  assertNames(String(told(pieces.repeat(4), 2 ** 20, true).at(-1)), [1_000_000, "row 1"]);
  const long = `[{"text": "${"a".repeat(64 * 2 ** 20)}"}, {"text": "b"}]`;
  const { rows } = parseRows(long, "a.json");
  assert.equal(rows.length, 2);
  const bytes = new TextEncoder().encode(long);
  assert.equal((await read(bytes)).rows.length, 2);
  assert(performance.now() - start < 20_000);
});
