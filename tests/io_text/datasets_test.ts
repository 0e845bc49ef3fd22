import assert from "node:assert/strict";
import { parseRows, readRows } from "../../lib/io/datasets.ts";
import { failure, inFolder } from "./fixtures.ts";

const ROW = { instruction: "Add.", input: "1 + 1", output: "2" };

function lines(...rows: unknown[]): string {
  return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

Deno.test("parseRows() reads an array, JSON lines and one object alike", () => {
  const array = parseRows(JSON.stringify([ROW, { instruction: "Hi", output: "Ho" }], null, 2), "x");
  assert.equal(array.kind, "instruct");
  assert.deepEqual(array.rows, [
    { kind: "instruct", ...ROW, choices: null, extra: {} },
    { kind: "instruct", instruction: "Hi", input: "", output: "Ho", choices: null, extra: {} },
  ]);
  assert.deepEqual(array.report, { rows: 2, skipped: [] });
  assert.deepEqual(parseRows(lines(ROW, { instruction: "Hi", output: "Ho", input: null }), "x"), array);
  assert.deepEqual(parseRows(JSON.stringify(ROW, null, 2), "x").rows, [array.rows[0]]);
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

Deno.test("parseRows() counts empty rows with their place", () => {
  const text = lines(ROW) + "\n" + lines({ ...ROW, output: " " }, { ...ROW, instruction: "" }, ROW);
  const { rows, report } = parseRows(text, "x");
  assert.equal(rows.length, 2);
  assert.deepEqual(report, {
    rows: 2,
    skipped: [
      { row: 2, reason: "blank line" },
      { row: 3, reason: 'empty "output"' },
      { row: 4, reason: 'empty "instruction"' },
    ],
  });
});

Deno.test("parseRows() names the line or row that is broken", () => {
  const refuse = (text: string, message: RegExp): void =>
    assert.throws(() => parseRows(text, "data.x"), failure("input", message));
  refuse(lines(ROW) + '{"instruction": "Hi", \n' + lines(ROW), /data\.x.*line 2/);
  refuse(lines(ROW, { ...ROW, output: 3 }), /"output" is a string; now: line 2: a number/);
  refuse(lines(ROW) + "[1]\n", /each row is an object; now: line 2 is a list/);
  refuse(lines({ question: "?", answer: "!" }), /line 1 has "question", "answer"/);
  refuse(lines({ instruction: "only" }), /line 1 has "instruction"/);
  refuse(JSON.stringify([ROW, {}]), /row 2 has no fields/);
  refuse('[\n{"text": "a, [\\""},\n{"text": }\n]', /JSON array; now: row 2, line 3: Unexpected token '}'/);
  refuse('[\n{"text": "a"},\n]', /row 2, line 3/);
  refuse('[{"text": "a"},\n\n{"text": "b', /row 2, line 3/);
  refuse('[{"text": "a"}]\n[1]', /after the array, line 1/);
  refuse(lines(ROW, { text: "t" }), /line 1 is an instruction, line 2 is a text/);
  refuse(" \n", /it is empty/);
  refuse("[]", /not empty; now: 0 empty rows/);
  refuse(lines({ text: "" }), /not empty; now: 1 empty rows/);
});

Deno.test("readRows() tells by content, not by name, and skips a byte order mark", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/rows.txt`;
    await Deno.writeTextFile(path, "\ufeff" + lines(ROW));
    assert.equal((await readRows(path)).kind, "instruct");
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
    await refuse("PAR1....", /parquet.*convert/);
    await refuse([0x1f, 0x8b, 8, 0], /gzip/);
    await refuse([0xff, 0xfe, 0x7b, 0x00], /UTF-16/);
    await refuse([0x61, 0xc3, 0xa9, 0x62, 0xe9, 0x63], /UTF-8; now: it is not, from byte 4/);
    await refuse([0x61, 0xe2, 0x82], /not/);
  });
});
