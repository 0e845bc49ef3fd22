import assert from "node:assert/strict";
import { parseRows } from "../../lib/data/rows.ts";
import { readRows } from "../../lib/local/rows.ts";
import { createSplitter, type ValueSink } from "../../lib/data/readers/split.ts";
import { toRow } from "../../lib/data/row.ts";
import { encodeExample } from "../../lib/data/prompts/encode.ts";
import { assertNames, type Refusal, refuses, rejects } from "../refuses.ts";
import { inFolder, tokenizerOf } from "../text/fixtures.ts";

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
    refuses(() => parseRows(text, "x.jsonl"), "input", { value: "JSON" });
  }
  for (const text of ["{'instruction': 'Hi'}", "{instruction: 1}\n", "[{text : 1}]", "[ ]x", '{"text": "a"']) {
    refuses(() => parseRows(text, "x.txt"), "input", { names: "JSON" });
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
  refuses(() => parseRows(lines(ROW, { text: "one" }), "x"), "input", { value: "line 2" });
});

Deno.test("parseRows() names the line or row that is broken", () => {
  const refuse = (text: string, message: Refusal): void => refuses(() => parseRows(text, "data.x"), "input", message);
  refuse(lines(ROW) + '{"instruction": "Hi", \n' + lines(ROW), { value: "line 2", names: "data.x" });
  refuse(
    lines(ROW, { ...ROW, output: 3 }),
    { value: ['"output"', "line 2"] },
  );
  refuse(lines(ROW) + "[1]\n", { value: "line 2" });
  refuse(lines({ question: "?", answer: "!" }), { value: ["line 1", '"question"', '"answer"'] });
  refuse(lines({ instruction: "only" }), { value: ["line 1", '"instruction"'] });
  refuse(JSON.stringify([ROW, {}]), { value: ["row 2", "line 1"] });
  refuse(JSON.stringify([ROW, { ...ROW, output: 3 }], null, 2), { value: ["row 2", "line 7", '"output"'] });
  refuse(JSON.stringify([ROW, { text: "t" }], null, 1), { value: ["row 1", "line 2", "row 2", "line 7"] });
  refuse(
    '[\n{"text": "a, [\\""},\n{"text": }\n]',
    { value: ["JSON", "row 2", "line 3"] },
  );
  // V8 counts from the beginning of the value; what is said is the place in the file.
  refuse(
    '[\n{"text": "a"},\n\n{\n "text": "b"\n "x": 1}]',
    { value: ["row 2", "line 4", "JSON", "line 6"] },
  );
  refuse(lines(ROW) + '{"text": "b', { value: ["line 2", "JSON", "column 12"] });
  refuse('[\n{"text": "a"},\n]', { value: ["row 2", "line 3"] });
  refuse('[{"text": "a"},\n\n{"text": "b', { value: ["row 2", "line 3"] });
  refuse('[{"text": "a"}]\n[1]', { value: "line 2" });
  refuse(lines(ROW, { text: "t" }), { value: ["line 1", "line 2"] });
  for (const path of ["x.csv", "X.TSV", "x.csv.gz"]) {
    refuses(() => parseRows("instruction,output\na,b\n", path), "input", { names: "JSON" });
  }
  refuse(" \n", { value: 0 });
  refuse("[]", { value: 0 });
  refuse(lines({ text: "" }), { value: 1 });
});

Deno.test("of a row with the columns of several kinds those that are null do not count, unless all of a kind are broken", () => {
  const messages = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Ho" }];
  assert.equal(parseRows(lines({ instruction: null, output: null, messages, text: null }), "x").kind, "chat");
  assert.equal(parseRows(lines({ instruction: null, output: null, text: "t" }), "x").kind, "text");
  const message = { value: ['"output"', "line 1"] };
  const broken = lines({ instruction: "Hi", output: null, text: "t" });
  refuses(() => parseRows(broken, "x"), "input", message);
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
  const row1 = { value: ["row 1", "line 1"] }, line1 = { value: ["line 1", "JSON"] };
  for (const name of ["x.json", "x.jsonl", "x.ndjson", "x.JSONL.gz", "x.json.zst"]) {
    const refuse = (text: string, message: Refusal): void => refuses(() => parseRows(text, name), "input", message);
    refuse(cut, line1);
    refuse("Some words.", line1);
    refuse('"one"\n"two"\n', { value: "line 1" });
    refuse("null\n" + lines(ROW), { value: "line 1" });
    refuse(strings, row1);
    refuse(`\ufeff\n[ ${strings}]`, { value: ["row 1", "line 2"] });
    refuse(" [ \n", { value: ["row 1", "line 2"] });
    refuse("\n", { value: 0 });
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
    await rejects(readRows(`${folder}/rows.jsonl`), "input", line1);
    assert.equal((await readRows(`${folder}/rows.jsonl`, { skipBroken: true })).rows.length, 1);
  });
});

Deno.test("readRows() says why a file cannot be data", async () => {
  await inFolder(async (folder) => {
    const refuse = async (bytes: readonly number[] | string, message: Refusal): Promise<void> => {
      const data = typeof bytes === "string" ? new TextEncoder().encode(bytes) : Uint8Array.from(bytes);
      await Deno.writeFile(`${folder}/file`, data);
      await rejects(readRows(`${folder}/file`), "input", message);
    };
    await rejects(readRows(`${folder}/none`), "input", { names: "none" });
    await rejects(readRows(folder), "input");
    await refuse("", { value: 0 });
    await refuse("PAR1....", { value: "PAR1" });
    await refuse([0x1f, 0x8b, 8, 0], { names: "file" });
    await refuse([0xff, 0xfe, 0x7b, 0x00], { value: "UTF-16" });
    await refuse([0x61, 0xc3, 0xa9, 0x62, 0xe9, 0x63], { value: "byte 4", names: "UTF-8" });
    await refuse([0x61, 0xe2, 0x82], { value: "byte 1" });
  });
});

Deno.test("skipBroken leaves broken rows out and reports them by line", () => {
  const text = lines(ROW) + "{not json\n" + lines([1], { ...ROW, output: 3 }, { question: "?" }, ROW);
  const { rows, report } = parseRows(text, "x", { skipBroken: true });
  assert.deepEqual(rows.map(({ number }) => number), [1, 6]);
  assert.deepEqual(report.broken.map(({ row }) => row), [2, 3, 4, 5]);
  assertNames(report.broken[0]?.reason ?? "", "JSON");
  assert.deepEqual(report.broken.slice(1).map(({ reason }) => reason), [
    "is a list",
    'has a number as "output"',
    'has "question"',
  ]);
  const array = parseRows(`[${JSON.stringify(ROW)}, {"text": }, ${JSON.stringify(ROW)}]`, "x", { skipBroken: true });
  assert.deepEqual([array.rows.map(({ number }) => number), array.report.broken.map(({ row }) => row)], [[1, 3], [2]]);
  refuses(() => parseRows("{oops\n{}\n", "x.jsonl", { skipBroken: true }), "input", {
    value: ["JSON", "line 1", 2, 0],
  });
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
    refuses(() => parseRows(lines(ROW), "x", { limit }), "usage", { names: 1 });
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
  refuses(() => parseRows(lines({ text: "t" }), "x", other), "input", { value: ["line 1", '"text"'], names: '"body"' });
  refuses(() => parseRows(lines({ body: 1 }), "x", other), "input", { value: '"body"' });
  refuses(() => parseRows("A plain text.", "x", other), "input", { names: '"body"' });
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
  const refuse = (messages: unknown, message: Refusal): void =>
    refuses(() => parseRows(lines({ messages }), "x"), "input", message);
  refuse("Hi", { value: ["line 1", '"messages"'] });
  refuse([user, "Ho"], { value: ["line 1", "message 2", '"messages"'] });
  refuse([user, { role: "tool", content: "1" }], { value: ["line 1", '"tool"', "message 2"] });
  refuse([{ content: "Hi" }], { value: "message 1" });
  refuse([{ role: "user", content: ["Hi"] }], { value: "message 1" });
  // What is not learned as it stands must not be learned otherwise.
  refuse([user, { ...full, weight: 0 }], { value: ["line 1", 0, "message 2"] });
  refuse([user, { ...full, tool_calls: [{}] }], { value: ["tool_calls", "message 2"] });
  for (const thought of ["reasoning_content", "thinking"]) {
    refuse([user, { ...full, [thought]: "Hm." }], { value: [thought, "message 2"] });
  }
  const withTools = (tools: unknown): string => lines({ messages: [user, full] }, { messages: [user, full], tools });
  for (const tools of [[{}], '[{"name": "f"}]']) {
    refuses(() => parseRows(withTools(tools), "x"), "input", { value: "line 2" });
  }
  const plain = [
    { ...user, weight: 0, thinking: "Hm." },
    { ...full, weight: 1, tool_calls: [], reasoning_content: null, thinking: " " },
  ];
  assert.equal(parseRows(lines({ messages: plain }), "x").rows.length, 1);
  for (const tools of [[], null, "", " [ ] ", "null"]) assert.equal(parseRows(withTools(tools), "x").rows.length, 2);
  refuses(() => parseRows(lines({ messages: [user, full] }, ROW), "x"), "input", { value: "line 2" });
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
  refuses(() => toRow({ text: " " }), "input", { names: '"text"' });
  refuses(() => toRow({ body: " " }, { textField: "body" }), "input", { names: '"body"' });
  refuses(() => toRow("g"), "input", { value: "string" });
  refuses(() => toRow({ output: "h" }), "input", { value: '"output"' });
  // Without a type check a value may be of no kind at all.
  const stranger = Object.assign({}, toRow({ text: "i" }), JSON.parse('{"kind":"poem"}'));
  const options = { tokenizer: await tokenizerOf("byte_level"), prompt: null, seq: 16 };
  refuses(() => encodeExample(stranger, options), "input", { names: "toRow" });
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
