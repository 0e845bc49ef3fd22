// Fields beside those of a row that say what stands before it, as LLaMA-Factory has them, and fields that are null.
import assert from "node:assert/strict";
import { type ChatRow, parseRows, type Row } from "../../lib/data/rows.ts";
import { NOT_UTF8, parseRow } from "../../lib/data/row.ts";
import { type Refusal, refuses } from "../refuses.ts";

const MESSAGES = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Ho" }] as const;
const CONVERSATIONS = [{ from: "human", value: "Hi" }, { from: "gpt", value: "Ho" }];
const SYSTEM = { role: "system", content: "Be brief." } as const;
const INSTRUCTION = { instruction: "Add.", input: "1 + 1", output: "2" };

function lines(...rows: readonly unknown[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

function chat(...rows: readonly unknown[]): readonly ChatRow[] {
  const data = parseRows(lines(...rows), "x");
  assert(data.kind === "chat");
  return data.rows;
}

Deno.test("a system text beside a conversation is its first turn, where the messages have none", () => {
  const others = { tools: "[]", id: 7 };
  const messages = [SYSTEM, ...MESSAGES];
  for (const own of [{ messages: MESSAGES }, { conversations: CONVERSATIONS }]) {
    const [row, bare] = chat({ ...own, system: "Be brief.", ...others }, { ...own, ...others });
    assert.deepEqual(row, { kind: "chat", messages, extra: others, number: 1 });
    assert.deepEqual(bare, { kind: "chat", messages: MESSAGES, extra: others, number: 2 });
  }
  const conversations = [{ from: "system", value: "Be brief." }, ...CONVERSATIONS];
  for (const system of ["Be brief.", "Be brief.\n"]) {
    for (const own of [{ messages }, { conversations }]) {
      assert.deepEqual(chat({ ...own, system }), [{ kind: "chat", messages, extra: {}, number: 1 }]);
    }
  }
  // What says nothing is no turn.
  for (const system of ["", " \n", null, 3]) {
    assert.deepEqual(chat({ messages: MESSAGES, system }), [
      { kind: "chat", messages: MESSAGES, extra: { system }, number: 1 },
    ]);
  }
});

Deno.test("a system text beside a conversation that has another is refused by line", () => {
  const text = lines({ messages: MESSAGES }, { messages: [SYSTEM, ...MESSAGES], system: "Be kind." });
  const message = { value: ["line 2", '"system"'] };
  refuses(() => parseRows(text, "x"), "input", message);
  assert.deepEqual(parseRows(text, "x", { skipBroken: true }).report.broken.map(({ row }) => row), [2]);
  const bytes = parseRow({ messages: MESSAGES, system: NOT_UTF8 }, {});
  assert("fault" in bytes && bytes.fault.problem === 'has bytes that are no UTF-8 as "system"');
});

Deno.test("an instruction with a system text or a history is refused by line, with what to write instead", () => {
  const refuse = (field: string, value: unknown): void => {
    const text = lines(INSTRUCTION, { ...INSTRUCTION, [field]: value });
    refuses(() => parseRows(text, "x"), "input", { value: ["line 2", `"${field}"`] });
  };
  refuse("system", "Be brief.");
  for (const history of [[["Hi", "Ho"]], '[["Hi", "Ho"]]', ' [ "Hi" ]']) refuse("history", history);
  const kept = (extra: Readonly<Record<string, unknown>>): Row | undefined =>
    parseRows(lines({ ...INSTRUCTION, ...extra }), "x").rows[0];
  for (const system of ["", " ", null]) assert.deepEqual(kept({ system })?.extra, { system });
  for (const history of [[], null, "", "[]", " [ ] ", "of Rome"]) {
    assert.deepEqual(kept({ history })?.extra, { history });
  }
  // A text is taken alone, whatever stands beside it.
  const [text] = parseRows(lines({ text: "a", system: "Be brief.", history: [["Hi", "Ho"]] }), "x").rows;
  assert.equal(text?.kind, "text");
});

Deno.test("a row whose messages are null is told so, unless it is of another kind", () => {
  const refuse = (row: unknown, message: Refusal): void => refuses(() => parseRows(lines(row), "x"), "input", message);
  refuse({ messages: null, x: 1 }, { value: ['"messages"', "line 1"] });
  refuse({ conversations: null, x: 1 }, { value: ['"conversations"', "line 1"] });
  refuse({ messages: null, text: null }, { value: '"text"' });
  refuse({ x: 1 }, { value: ["line 1", '"x"'] });
  assert.equal(parseRows(lines({ messages: null, conversations: CONVERSATIONS }), "x").kind, "chat");
  assert.equal(parseRows(lines({ messages: null, conversations: null, text: "a" }), "x").kind, "text");
  assert.equal(parseRows(lines({ messages: null, ...INSTRUCTION }), "x").kind, "instruct");
});
