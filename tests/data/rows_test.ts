import assert from "node:assert/strict";
import { parseRows } from "../../lib/data/rows.ts";
import { readRows } from "../../lib/local/rows.ts";
import { createSplitter, type ValueSink } from "../../lib/data/readers/split.ts";
import { toRow } from "../../lib/data/row.ts";
import { encodeExample } from "../../lib/data/prompts/encode.ts";
import { failure, inFolder, tokenizerOf } from "../text/fixtures.ts";

const ROW = { instruction: "Add.", input: "1 + 1", output: "2" };

function lines(...rows: unknown[]): string {
  return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

Deno.test("parseRows() reads an array, JSON lines and one object alike", () => {
  const array = parseRows(JSON.stringify([ROW, { instruction: "Hi", output: "Ho" }], null, 2), "x");
  assert.equal(array.kind, "instruct");
  assert.deepEqual(array.rows, [
    { kind: "instruct", ...ROW, choices: null, extra: {}, number: 1, line: 2 },
    { kind: "instruct", instruction: "Hi", input: "", output: "Ho", choices: null, extra: {}, number: 2, line: 7 },
  ]);
  const rows = array.rows.map(({ line: _, ...row }) => row);
  const report = { compression: "none", rows: 2, skipped: [], broken: [], limited: false };
  assert.deepEqual(array.report, { format: "JSON array", ...report });
  const jsonLines = parseRows(lines(ROW, { instruction: "Hi", output: "Ho", input: null }), "x");
  assert.deepEqual(jsonLines, { ...array, rows, report: { format: "JSON lines", ...report } });
  assert.deepEqual(parseRows(JSON.stringify(ROW, null, 2), "x").rows, [rows[0]]);
});

Deno.test("parseRows() keeps lists of choices and other fields", () => {
  const [plain, objects] = parseRows(
    lines({ ...ROW, choices: ["2", "3"], kind: "sum" }, { ...ROW, choices: [{ text: "2" }] }),
    "x",
  ).rows;
  assert(plain?.kind === "instruct" && objects?.kind === "instruct");
  assert.deepEqual([plain.choices, plain.extra], [["2", "3"], { kind: "sum" }]);
  assert.deepEqual([objects.choices, objects.extra], [null, { choices: [{ text: "2" }] }]);
});

Deno.test("parseRows() reads texts, and anything that is not JSON as one document", () => {
  const data = parseRows(lines({ text: "one", url: "u" }, { text: "two" }), "x");
  assert.equal(data.kind, "text");
  assert.deepEqual(data.rows.map(({ text }) => text), ["one", "two"]);
  assert.deepEqual(data.rows[0]?.extra, { url: "u" });
  for (const text of [" = Title =\n\nwords\n", "[1] A footnote.", "[aside] Text"]) {
    const document = parseRows(text, "x");
    assert(document.kind === "text");
    assert.deepEqual(document.rows.map((row) => row.text), [text]);
  }
});

Deno.test("a text that opens with a bracket and is meant as no JSON is a document, wherever it is cut", () => {
  const texts = [
    "{{Infobox person}}\nwords",
    "{% if a %}\n{}",
    "{",
    "{ word",
    "[{see below}] words",
    "{\\rtf1 words}",
    "{ 1: 2 }",
  ];
  for (const text of texts) {
    for (let cut = 0; cut <= text.length; cut++) {
      const sink = collected(), splitter = createSplitter(sink);
      splitter.push(text.slice(0, cut));
      splitter.push(text.slice(cut));
      assert.equal(splitter.finish(), "plain text");
      assert.deepEqual(sink.documents, [text]);
    }
    // Where the name says that it is JSON, it is broken.
    assert.throws(() => parseRows(text, "x.jsonl"), failure("input", /is not JSON|does not end/));
  }
  for (const text of ["{'instruction': 'Hi'}", "{instruction: 1}\n", "[{text : 1}]", "[ ]x", '{"text": "a"']) {
    assert.throws(() => parseRows(text, "x.txt"), failure("input", /is not JSON|more after its end/), text);
  }
});

Deno.test("parseRows() counts empty rows with their place", () => {
  const text = lines(ROW) + "\n" + lines({ ...ROW, output: " " }, { ...ROW, instruction: "" }, ROW);
  const { rows, report } = parseRows(text, "x");
  assert.deepEqual(rows.map(({ number }) => number), [1, 5]);
  assert.deepEqual(report.skipped, [
    { row: 2, reason: "blank line" },
    { row: 3, reason: 'empty "output"' },
    { row: 4, reason: 'empty "instruction"' },
  ]);
});

Deno.test("an empty row says nothing of the kind of the others", () => {
  const { kind, report } = parseRows(lines({ text: "" }, ROW, { messages: [] }, ROW), "x");
  assert.equal(kind, "instruct");
  assert.deepEqual(report.skipped.map(({ row }) => row), [1, 3]);
  assert.throws(() => parseRows(lines(ROW, { text: "one" }), "x"), failure("input", /line 2 is a text/));
});

Deno.test("parseRows() names the line or row that is broken", () => {
  const refuse = (text: string, message: RegExp): void =>
    assert.throws(() => parseRows(text, "data.x"), failure("input", message));
  refuse(lines(ROW) + '{"instruction": "Hi", \n' + lines(ROW), /data\.x.*line 2/);
  refuse(
    lines(ROW, { ...ROW, output: 3 }),
    /"output" is a string; got: line 2 has a number as "output"; fix: .*skipBroken/,
  );
  refuse(lines(ROW) + "[1]\n", /each row is an object; got: line 2 is a list/);
  refuse(lines({ question: "?", answer: "!" }), /line 1 has "question", "answer"/);
  refuse(lines({ instruction: "only" }), /line 1 has "instruction"/);
  refuse(JSON.stringify([ROW, {}]), /row 2, line 1 has no fields/);
  refuse(JSON.stringify([ROW, { ...ROW, output: 3 }], null, 2), /row 2, line 7 has a number as "output"/);
  refuse(JSON.stringify([ROW, { text: "t" }], null, 1), /row 1, line 2 is an instruction, row 2, line 7 is a text/);
  refuse(
    '[\n{"text": "a, [\\""},\n{"text": }\n]',
    /one JSON value; got: row 2, line 3 is not JSON: Unexpected token '}'/,
  );
  // V8 counts from the beginning of the value; what is said is the place in the file.
  refuse(
    '[\n{"text": "a"},\n\n{\n "text": "b"\n "x": 1}]',
    /row 2, line 4 is not JSON: Expected[^(]* value on line 6; fix/,
  );
  refuse(lines(ROW) + '{"text": "b', /line 2 is not JSON: Unterminated string at column 12; fix/);
  refuse('[\n{"text": "a"},\n]', /row 2, line 3 is missing behind a comma/);
  refuse('[{"text": "a"},\n\n{"text": "b', /row 2, line 3 does not end/);
  refuse('[{"text": "a"}]\n[1]', /more after its end, on line 2/);
  refuse(lines(ROW, { text: "t" }), /line 1 is an instruction, line 2 is a text/);
  for (const path of ["x.csv", "X.TSV", "x.csv.gz"]) {
    assert.throws(
      () => parseRows("instruction,output\na,b\n", path),
      failure("input", /a table \([ct]sv\); fix: .*JSON lines/),
    );
  }
  refuse(" \n", /it is empty/);
  refuse("[]", /not empty; got: 0 empty/);
  refuse(lines({ text: "" }), /not empty; got: 1 empty/);
});

Deno.test("of a row with the columns of several kinds those that are null do not count, unless all of a kind are broken", () => {
  const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Ho" }];
  assert.equal(parseRows(lines({ instruction: null, output: null, messages, text: null }), "x").kind, "chat");
  assert.equal(parseRows(lines({ instruction: null, output: null, text: "t" }), "x").kind, "text");
  const message = /"output" is a string; got: line 1 has null as "output"/;
  const broken = lines({ instruction: "Hi", output: null, text: "t" });
  assert.throws(() => parseRows(broken, "x"), failure("input", message));
});

Deno.test("readRows() tells by content, not by name, and skips a byte order mark", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/rows.txt`;
    await Deno.writeTextFile(path, "\ufeff" + lines(ROW));
    assert.equal((await readRows(path)).kind, "instruct");
  });
});

Deno.test("a file named as JSON is no plain text: the line or row that is broken is named, or left out", async () => {
  const cut = `ruction": "Hi", "output": "Ho"}\n${lines(ROW)}`, strings = '["first", "second"]';
  const row1 = /row 1, line 1 is a string/, line1 = /line 1 is not JSON/;
  for (const name of ["x.json", "x.jsonl", "x.ndjson", "x.JSONL.gz", "x.json.zst"]) {
    const refuse = (text: string, message: RegExp): void =>
      assert.throws(() => parseRows(text, name), failure("input", message));
    refuse(cut, line1);
    refuse("Some words.", line1);
    refuse('"one"\n"two"\n', /line 1 is a string/);
    refuse("null\n" + lines(ROW), /line 1 is/);
    refuse(strings, row1);
    refuse(`\ufeff\n[ ${strings}]`, /row 1, line 2 is a list/);
    refuse(" [ \n", /row 1, line 2 does not end/);
    refuse("\n", /it is empty/);
    const left = parseRows(cut, name, { skipBroken: true });
    assert.deepEqual([left.kind, left.report.format, left.report.rows], ["instruct", "JSON lines", 1]);
    assert.deepEqual(left.report.broken.map(({ row }) => row), [1]);
    const array = parseRows(`["first", ${JSON.stringify(ROW)}]`, name, { skipBroken: true });
    assert.deepEqual([array.report.format, array.rows.map(({ number }) => number)], ["JSON array", [2]]);
    assert.deepEqual(parseRows(JSON.stringify(ROW, null, 2), name).report.format, "JSON object");
  }
  for (const name of ["x.txt", "x.txt.gz", "json", "x.json.txt", "x"]) {
    for (const text of [cut, strings]) assert.equal(parseRows(text, name).report.format, "plain text");
  }
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/rows.jsonl`, cut);
    await assert.rejects(readRows(`${folder}/rows.jsonl`), failure("input", line1));
    assert.equal((await readRows(`${folder}/rows.jsonl`, { skipBroken: true })).rows.length, 1);
  });
});

Deno.test("readRows() says why a file cannot be data", async () => {
  await inFolder(async (folder) => {
    const refuse = async (bytes: readonly number[] | string, message: RegExp): Promise<void> => {
      const data = typeof bytes === "string" ? new TextEncoder().encode(bytes) : Uint8Array.from(bytes);
      await Deno.writeFile(`${folder}/file`, data);
      await assert.rejects(readRows(`${folder}/file`), failure("input", message));
    };
    await assert.rejects(readRows(`${folder}/none`), failure("input", /no such file/));
    await assert.rejects(readRows(folder), failure("input", /a folder/));
    await refuse("", /it is empty/);
    await refuse("PAR1....", /whole parquet file/);
    await refuse([0x1f, 0x8b, 8, 0], /gzip data are whole/);
    await refuse([0xff, 0xfe, 0x7b, 0x00], /UTF-16/);
    await refuse([0x61, 0xc3, 0xa9, 0x62, 0xe9, 0x63], /UTF-8; got: it is not, from byte 4/);
    await refuse([0x61, 0xe2, 0x82], /not/);
  });
});

Deno.test("skipBroken leaves broken rows out and reports them by line", () => {
  const text = lines(ROW) + "{not json\n" + lines([1], { ...ROW, output: 3 }, { question: "?" }, ROW);
  const { rows, report } = parseRows(text, "x", { skipBroken: true });
  assert.deepEqual(rows.map(({ number }) => number), [1, 6]);
  assert.deepEqual(report.broken.map(({ row }) => row), [2, 3, 4, 5]);
  assert.match(report.broken[0]?.reason ?? "", /^is not JSON: /);
  assert.deepEqual(report.broken.slice(1).map(({ reason }) => reason), [
    "is a list",
    'has a number as "output"',
    'has "question"',
  ]);
  const array = parseRows(`[${JSON.stringify(ROW)}, {"text": }, ${JSON.stringify(ROW)}]`, "x", { skipBroken: true });
  assert.deepEqual([array.rows.map(({ number }) => number), array.report.broken.map(({ row }) => row)], [[1, 3], [2]]);
  assert.throws(
    () => parseRows("{oops\n{}\n", "x.jsonl", { skipBroken: true }),
    failure(
      "input",
      /expected: each row is one JSON value; got: line 1 is not JSON.*; of the rows are 2 broken, 0 empty, and none is left; fix: fix the broken rows/,
    ),
  );
});

Deno.test("limit keeps the first rows and reads no further", () => {
  const broken = lines(ROW, { ...ROW, output: "" }, { ...ROW, output: "3" }) + "{not json\n";
  const { rows, report } = parseRows(broken, "x", { limit: 2 });
  assert.deepEqual(rows.map(({ number }) => number), [1, 3]);
  assert.equal(report.limited, true);
  const array = parseRows(`[${JSON.stringify(ROW)}, {"text": }]`, "x", { limit: 1 });
  assert.deepEqual([array.rows.length, array.report.limited], [1, true]);
  assert.equal(parseRows(lines(ROW), "x", { limit: 2 }).report.limited, false);
  for (const limit of [0, -1, 1.5, NaN]) {
    assert.throws(() => parseRows(lines(ROW), "x", { limit }), failure("usage", /limit is a whole number/));
  }
});

Deno.test("textField names the text, whatever else a row has", () => {
  const data = parseRows(lines({ body: "one", text: "other", instruction: "x", output: "y" }), "x", {
    textField: "body",
  });
  assert(data.kind === "text");
  assert.deepEqual(data.rows.map(({ text }) => text), ["one"]);
  assert.deepEqual(data.rows[0]?.extra, { text: "other", instruction: "x", output: "y" });
  const other = { textField: "body" };
  assert.throws(
    () => parseRows(lines({ text: "t" }), "x", other),
    failure("input", /a row has "body"; got: line 1 has "text"/),
  );
  assert.throws(() => parseRows(lines({ body: 1 }), "x", other), failure("input", /"body" is a string/));
  assert.throws(
    () => parseRows("A plain text.", "x", other),
    failure("input", /a row has "body"; got: the file is plain text; fix: leave the field out/),
  );
});

Deno.test("conversations are read from messages, and from ShareGPT's names", () => {
  const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Ho" }];
  const open = parseRows(lines({ messages, id: 1 }), "x");
  assert(open.kind === "chat");
  assert.deepEqual(open.rows, [{ kind: "chat", messages, extra: { id: 1 }, number: 1 }]);
  const conversations = [{ from: "human", value: "Hi" }, { from: "gpt", value: "Ho" }];
  const shared = parseRows(lines({ conversations, id: 1 }), "x");
  assert.deepEqual(shared.rows, open.rows);
  // A table of both forms has all four fields in each message.
  const both = conversations.map((message) => ({ role: null, content: null, ...message }));
  assert.deepEqual(parseRows(lines({ conversations: both, id: 1 }), "x").rows, shared.rows);
  const system = [{ from: "system", value: "Be brief." }, ...conversations];
  assert.deepEqual(parseRows(lines({ conversations: system }), "x").rows.map((row) => row.kind), ["chat"]);
});

Deno.test("a conversation without answer is empty, and a wrong message is named", () => {
  const user = { role: "user", content: "Hi" }, full = { role: "assistant", content: "Ho" };
  const blank = { ...full, content: " " };
  const chats = [[user, full], [user], [], [user, blank], [user, blank, user, full]].map((messages) => ({ messages }));
  const { rows, report } = parseRows(lines(...chats), "x");
  assert.equal(rows.length, 1);
  assert.deepEqual(report.skipped, [2, 3, 4, 5].map((row) => ({ row, reason: 'empty "assistant"' })));
  const refuse = (messages: unknown, message: RegExp): void =>
    assert.throws(() => parseRows(lines({ messages }), "x"), failure("input", message));
  refuse("Hi", /line 1 has a string as "messages"/);
  refuse([user, "Ho"], /line 1 has a string as message 2 of "messages"/);
  refuse([user, { role: "tool", content: "1" }], /line 1 has the role "tool" in message 2/);
  refuse([{ content: "Hi" }], /has the role undefined in message 1/);
  refuse([{ role: "user", content: ["Hi"] }], /has a list in message 1/);
  // What is not learned as it stands must not be learned otherwise.
  refuse([user, { ...full, weight: 0 }], /all answers of a row are learned.*line 1 has the weight 0 in message 2/s);
  refuse([user, { ...full, tool_calls: [{}] }], /what a message says is text.*has tool_calls in message 2/s);
  for (const thought of ["reasoning_content", "thinking"]) {
    refuse(
      [user, { ...full, [thought]: "Hm." }],
      new RegExp(`thinks is in its text.*has ${thought} in message 2`, "s"),
    );
  }
  const withTools = (tools: unknown): string => lines({ messages: [user, full] }, { messages: [user, full], tools });
  for (const tools of [[{}], '[{"name": "f"}]']) {
    assert.throws(() => parseRows(withTools(tools), "x"), failure("input", /has no tools.*line 2 has tools/s));
  }
  const plain = [
    { ...user, weight: 0, thinking: "Hm." },
    { ...full, weight: 1, tool_calls: [], reasoning_content: null, thinking: " " },
  ];
  assert.equal(parseRows(lines({ messages: plain }), "x").rows.length, 1);
  for (const tools of [[], null, "", " [ ] ", "null"]) assert.equal(parseRows(withTools(tools), "x").rows.length, 2);
  assert.throws(
    () => parseRows(lines({ messages: [user, full] }, ROW), "x"),
    failure("input", /a conversation, line 2 is an instr/),
  );
});

Deno.test("toRow() makes rows of a program as files have them, and says why a value is none", async () => {
  const values = [{ instruction: "a", output: "b" }, { text: "c" }, {
    messages: [{ role: "user", content: "d" }, { role: "assistant", content: "e" }],
  }];
  for (const value of values) {
    const [row] = parseRows(JSON.stringify([value]), "rows.json").rows;
    assert.deepEqual({ ...toRow(value), number: 1, line: 1 }, row);
  }
  assert.deepEqual(toRow({ body: "f" }, { textField: "body" }).kind, "text");
  assert.throws(() => toRow({ text: " " }), failure("input", /"text" has something in it/));
  assert.throws(() => toRow({ body: " " }, { textField: "body" }), failure("input", /"body" has something in it/));
  assert.throws(() => toRow("g"), failure("input", /each row is an object; got: it is a string/));
  assert.throws(() => toRow({ output: "h" }), failure("input", /got: it /));
  // Without a type check a value may be of no kind at all.
  const stranger = Object.assign({}, toRow({ text: "i" }), JSON.parse('{"kind":"poem"}'));
  const options = { tokenizer: await tokenizerOf("byte_level"), prompt: null, seq: 16 };
  assert.throws(
    () => encodeExample(stranger, options),
    failure("input", /instruct, chat or text; got: it has the kind poem.*toRow/),
  );
});

/** Takes plain documents, and nothing else. */
function collected(): ValueSink & { readonly documents: string[] } {
  const documents: string[] = [], fail = (): never => assert.fail("no document");
  return {
    documents,
    document: (_, text) => void documents.push(text),
    ...{ value: fail, blank: fail, broken: fail, refuse: fail, isFull: false },
  };
}
