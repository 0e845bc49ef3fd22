// Data of tasks: where they lie, what forms rows have, and what is said of rows that do not fit.
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { join } from "node:path";
import { type ErrorCode } from "../../lib/core/errors.ts";
import { loadTasks } from "../../lib/eval/evaluate.ts";
import { TASK_NAMES } from "../../lib/eval/registry.ts";
import { nearest } from "../../lib/core/nearest.ts";
import { asTask, defineTask, type TaskDefinition, type TaskRow } from "../../lib/eval/task.ts";
import type { LoadedTask } from "../../lib/eval/task_data.ts";
import { parsePythonLiteral } from "../../lib/compat/python_text.ts";
import { type Refusal, refuses, rejects } from "../refuses.ts";

const FIXTURES = join(import.meta.dirname ?? ".", "../../fixtures/tasks");
const PIQA_ROW = { goal: "Dry it.", sol1: "Wait.", sol2: "Run.", label: 1 };

/** A folder with the given files, removed when disposed. */
function folderOf(files: Readonly<Record<string, string | Uint8Array>>): Disposable & { readonly path: string } {
  const path = Deno.makeTempDirSync({ prefix: "compresso_tasks_" });
  for (const [name, content] of Object.entries(files)) {
    Deno.writeFileSync(join(path, name), typeof content === "string" ? new TextEncoder().encode(content) : content);
  }
  return { path, [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }) };
}

const lines = (...rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

async function load(
  task: string | TaskDefinition,
  files: Readonly<Record<string, string | Uint8Array>>,
  limit?: number,
): Promise<LoadedTask> {
  using folder = folderOf(files);
  const [loaded] = await loadTasks({ tasks: [task], taskData: folder.path, ...(limit === undefined ? {} : { limit }) });
  assert.ok(loaded);
  return loaded;
}

async function refused(
  task: string | TaskDefinition,
  files: Readonly<Record<string, string>>,
  [code, message]: readonly [ErrorCode, Refusal],
): Promise<void> {
  await rejects(load(task, files), code, message);
}

Deno.test("data are found by task and split, packed or not, and the split that the harness asks comes first", async () => {
  const row = lines(PIQA_ROW);
  for (const name of ["piqa.validation.jsonl", "piqa.valid.jsonl", "piqa.valid.json"]) {
    assert.equal((await load("piqa", { [name]: row })).questions.length, 1, name);
  }
  assert.equal((await load("piqa", { "piqa.valid.jsonl.gz": gzipSync(row) })).questions.length, 1);
  const both = await load("arc_easy", {
    "arc_easy.validation.jsonl": "not read",
    "arc_easy.test.jsonl": lines({ question: "Q", choices: { text: ["a", "b"], label: ["1", "2"] }, answerKey: "2" }),
  });
  await rejects(loadTasks({ tasks: ["piqa"], taskData: "hf:x/y" }), "input", { value: "hf:x/y" });
  assert.match(both.path, /arc_easy\.test\.jsonl$/);
  assert.equal(both.questions[0]?.answer, 1);
});

Deno.test("a parquet table is read like JSON lines", async () => {
  const table = await Deno.readFile(join(FIXTURES, "../parquet/instructions_gzip.parquet"));
  const item: TaskDefinition["item"] = (row) => ({
    context: row.text("instruction"),
    choices: [row.text("output"), "no"],
    answer: 0,
  });
  const { questions } = await load(defineTask({ name: "table", item }), { "table.test.parquet": table }, 2);
  assert.equal(questions.length, 2);
  assert.deepEqual(questions.map(({ label }) => label), ["row 1", "row 2"]);
  const wrong: TaskDefinition["item"] = (row) => ({ context: row.text("question"), choices: ["a", "b"], answer: 0 });
  await rejects(load(defineTask({ name: "table", item: wrong }), { "table.test.parquet": table }), "input", {
    value: "row 1",
    names: '"question"',
  });
});

Deno.test("a limit takes the first questions, of each subset where there are subsets", async () => {
  const plain = await load("piqa", { "piqa.valid.jsonl": lines(PIQA_ROW, PIQA_ROW, { goal: "not read" }) }, 2);
  assert.equal(plain.questions.length, 2);
  const [mmlu] = await loadTasks({ tasks: ["mmlu"], taskData: FIXTURES, limit: 1 });
  assert.deepEqual(mmlu?.questions.map(({ subset }) => subset), ["anatomy", "high_school_us_history"]);
});

Deno.test("subsets in files of their own make the same questions as one file with a field", async () => {
  const [whole] = await loadTasks({ tasks: ["mmlu"], taskData: FIXTURES });
  const files: Record<string, string> = {};
  for (const split of ["test", "dev"]) {
    const rows = (await Deno.readTextFile(join(FIXTURES, `mmlu.${split}.jsonl`))).trim().split("\n").map((line) =>
      JSON.parse(line)
    );
    for (const subject of ["anatomy", "high_school_us_history"]) {
      files[`mmlu_${subject}.${split}.jsonl`] = lines(...rows.filter((row) => row.subject === subject));
    }
  }
  const parts = await load("mmlu", files);
  const asked = (task: LoadedTask | undefined) => task?.questions.map(({ label: _, ...question }) => question);
  assert.deepEqual(asked(parts), asked(whole));
  assert.deepEqual([parts.parts, whole?.parts], [{ there: 2, all: 57 }, undefined]);
  const one = await load("mmlu_anatomy", files);
  assert.deepEqual(asked(one), asked(whole)?.slice(0, 2));
});

Deno.test("rows of other releases of a data set make the same questions", async () => {
  const boolq = { question: "do lamps give light", passage: "A lamp gives light." };
  const [first, second] = await Promise.all(
    [{ answer: true }, { label: 1 }].map((more) =>
      load("boolq", { "boolq.validation.jsonl": lines({ ...boolq, ...more }) })
    ),
  );
  assert.deepEqual(first?.questions, second?.questions);
  assert.equal(first?.questions[0]?.answer, 1);
  const race = { article: "A dog.", question: "Who?", options: ["a", "b", "c", "d"], answer: "C" };
  const { question, options, answer } = race;
  const single = await load("race", { "race.test.jsonl": lines(race) });
  const problems = JSON.stringify([{ question, options, answer }]);
  const listed = await load("race", { "race.test.jsonl": lines({ article: "A dog.", problems }) });
  assert.deepEqual(single.questions, listed.questions);
  assert.deepEqual(single.questions[0]?.contexts[2], "Article: A dog.\n\nWho?");
  const hellaswag = { ctx: "Baking: A baker. he", endings: ["bakes.", "sleeps."], label: 0 };
  const plain = await load("hellaswag", { "hellaswag.valid.jsonl": lines(hellaswag) });
  assert.equal(plain.questions[0]?.contexts[0], "Baking: A baker. he");
});

Deno.test("rows that do not fit are refused with line and field", async () => {
  const piqa = (row: object): Record<string, string> => ({ "piqa.valid.jsonl": lines(PIQA_ROW, row) });
  await refused("piqa", piqa({ goal: "x", sol1: "a", label: 0 }), [
    "input",
    { value: ["line 2", '"goal"', '"sol1"', '"label"'], names: '"sol2"' },
  ]);
  await refused("piqa", piqa({ ...PIQA_ROW, sol1: 4 }), ["input", { value: ["line 2", 4], names: '"sol1"' }]);
  await refused("piqa", piqa({ ...PIQA_ROW, sol2: "" }), ["input", { value: "line 2" }]);
  await refused("piqa", piqa({ ...PIQA_ROW, label: -1 }), ["input", { value: ["line 2", -1] }]);
  await refused("piqa", piqa({ ...PIQA_ROW, label: "x" }), ["input", { names: '"label"' }]);
  await refused("piqa", piqa([]), ["input", { value: "line 2" }]);
  await refused("piqa", { "piqa.valid.jsonl": `${lines(PIQA_ROW)}{"goal\n` }, ["input", { value: ["line 2", "JSON"] }]);
  await refused("piqa", { "piqa.valid.jsonl": "" }, ["input", { names: "piqa.valid.jsonl" }]);
  await refused("piqa", { "piqa.valid.jsonl": "Dry it.\n" }, ["input", { value: ["line 1", "JSON"] }]);
  await refused("piqa", { "piqa.test.jsonl": lines(PIQA_ROW) }, [
    "input",
    { names: ["piqa", "<split>"] },
  ]);
  const arc = { question: "Q", choices: { text: ["a", "b"], label: ["A", "B"] }, answerKey: "C" };
  await refused("arc_easy", { "arc_easy.test.jsonl": lines(arc) }, ["input", {
    value: ["line 1", '"C"'],
    names: '"answerKey"',
  }]);
  await refused("winogrande", {
    "winogrande.valid.jsonl": lines({ sentence: "no blank", option1: "a", option2: "b", answer: "1" }),
  }, ["input", { value: ["line 1", '"no blank"'] }]);
  await refused("winogrande", {
    "winogrande.valid.jsonl": lines({ sentence: "The _ ran.", option1: "dog", option2: "", answer: "1" }),
  }, ["input", { value: "line 1" }]);
  await refused("race", { "race.test.jsonl": lines({ article: "A", problems: "[{" }) }, [
    "input",
    { value: "line 1" },
  ]);
  const mmlu = { question: "Q", subject: "anatomy", choices: ["1", "2", "3", "4"], answer: 0 };
  await refused("mmlu", { "mmlu.test.jsonl": lines(mmlu) }, ["input", { names: ["mmlu", "<split>"] }]);
  await refused("mmlu", { "mmlu.test.jsonl": lines(mmlu), "mmlu.dev.jsonl": lines(mmlu) }, [
    "input",
    { value: [5, "line 1"], names: '"anatomy"' },
  ]);
  await refused("bbh", {
    "bbh.test.jsonl": lines({ input: "i", target: "t", subset: "snark" }),
    "bbh.fewshot.jsonl": lines({ input: "i", target: "t", subset: "snark" }),
  }, ["input", { value: ["line 1", '"snark"'] }]);
});

Deno.test("a file goes with its task by =, and rows with prompt and answer are asked and judged by text or number", async () => {
  using folder = folderOf({
    "rows.jsonl": lines({ prompt: "2 + 2 =", answer: 4 }, { prompt: "Red?", answer: ["yes 1", "no 0"] }),
    "mine.json": JSON.stringify({ name: "mine", context: "{{prompt}}", answer: "answer" }),
    "words.jsonl": lines({ prompt: "Red?", answer: "yes" }),
    "gsm8k.train.jsonl": lines(
      ...[1, 2, 3, 4, 5, 6].map((place) => ({ question: `Q${place}`, answer: `#### ${place}` })),
    ),
    "HumanRows.jsonl.gz": gzipSync(lines({ question: "Q", answer: "#### 7" })),
  });
  const at = (name: string): string => join(folder.path, name), rows = at("rows.jsonl");
  const tasks = [`number=${rows}`, `exact=${rows}`, `${at("mine.json")}=${rows}`, `gsm8k=${at("HumanRows.jsonl.gz")}`];
  const [number, exact, mine, gsm8k] = await loadTasks({ tasks });
  assert.deepEqual(number?.questions.map(({ accepted }) => accepted), [["4"], ["yes 1", "no 0"]]);
  assert.deepEqual([number?.generate?.rule, exact?.generate?.rule, exact?.generate?.chat], ["number", undefined, true]);
  assert.deepEqual(exact?.questions, mine?.questions);
  // Examples are those of the split train, where the folder has it.
  const examples = [1, 2, 3, 4, 5].map((place) => `Question: Q${place}\nAnswer: #### ${place}\n\n`).join("");
  assert.equal(gsm8k?.questions[0]?.contexts[0], `${examples}Question: Q\nAnswer:`);
  const [plain] = await loadTasks({ tasks: tasks.slice(0, 1), plain: true, maxTokens: 7 });
  assert.deepEqual([plain?.generate?.chat, plain?.generate?.maxTokens], [false, 7]);
  await rejects(loadTasks({ tasks: [`number=${at("words.jsonl")}`] }), "input", { value: ["line 1", "yes"] });
  await rejects(loadTasks({ tasks: ["exact"] }), "usage", { option: "taskData" });
  await rejects(loadTasks({ tasks: ["piqa"], taskData: FIXTURES, plain: true }), "usage", { value: "piqa" });
  const twice = { name: "x", generate: { rule: "other" }, item: () => ({ context: "", answers: "" }) };
  refuses(() => asTask(twice, "a test"), "input", { names: "rule" });
});

Deno.test("unknown tasks are refused with the likeliest that was meant", async () => {
  for (const [word, meant] of [["arc-easy", "arc_easy"], ["hellaswg", "hellaswag"], ["wino", "winogrande"]]) {
    await refused(word ?? "", {}, ["usage", { names: meant ?? "" }]);
  }
  await refused("mmlu_anatmy", {}, ["usage", { value: "mmlu_anatmy" }]);
  assert.equal(nearest("xyzzy", TASK_NAMES), null);
  await rejects(loadTasks({ tasks: ["piqa", "piqa"], taskData: FIXTURES }), "usage", { value: "piqa" });
  await rejects(loadTasks({ tasks: [], taskData: FIXTURES }), "usage");
  await rejects(loadTasks({ tasks: ["piqa"], taskData: FIXTURES, limit: 0 }), "usage", { value: 0 });
});

Deno.test("a task of one's own in a module and in JSON asks the same", async () => {
  using folder = folderOf({
    "mine.ts": `import { defineTask } from ${JSON.stringify(new URL("../../lib/eval/mod.ts", import.meta.url).href)};
export default defineTask({
  name: "capitals",
  shots: 1,
  description: (row) => \`On \${row.text("land")}.\\n\`,
  item: (row) => ({ context: \`The capital of \${row.text("land")} is\`, choices: row.texts("towns"), answer: row.whole("right") }),
});`,
    // Some editors begin a file with a byte order mark.
    "mine.json": "\uFEFF" + JSON.stringify({
      name: "capitals",
      shots: 1,
      description: "On {{land}}.\n",
      context: "The capital of {{ land }} is",
      choices: "towns",
      answer: "right",
    }),
    "labels.json": JSON.stringify({
      name: "capitals",
      context: "{{land}}:",
      choices: "towns",
      answer: "key",
      labels: "keys",
    }),
    "latin.json": Uint8Array.from('{"name": "hei\xdft"}', (sign) => sign.charCodeAt(0)),
    "text.json": JSON.stringify({
      name: "capitals",
      context: "{{land}}, {{right}}:",
      choices: ["{{land}} 1", "no"],
      answer: "town",
    }),
    "capitals.test.jsonl": lines(
      { land: "Norland", towns: ["Ost", "West"], right: 1, key: "b", keys: ["a", "b"], town: "Norland 1" },
    ),
    "capitals.dev.jsonl": lines({ land: "Sudland", towns: ["Up", "Down"], right: 0 }),
    "broken.json": JSON.stringify({ name: "capitals", context: "x", choices: "towns", answr: "right" }),
    "words.json": JSON.stringify({ name: "capitals", shots: 1, context: "{{land}}:", answer: "towns", maxTokens: 9 }),
    "words.ts": `import { defineTask } from ${JSON.stringify(new URL("../../lib/eval/mod.ts", import.meta.url).href)};
export default defineTask({
  name: "capitals",
  shots: 1,
  generate: { maxTokens: 9 },
  item: (row) => ({ context: row.text("land") + ":", answers: row.texts("towns") }),
});`,
    "number.json": JSON.stringify({ name: "capitals", context: "{{land}}:", answer: "right", until: [";"] }),
    "rule.json": JSON.stringify({ name: "capitals", context: "x", answer: "right", rule: "number", chat: true }),
    "other.json": JSON.stringify({ name: "capitals", context: "x", answer: "right", rule: "longest" }),
    "idle.json": JSON.stringify({ name: "capitals", context: "x", choices: "towns", answer: "right", maxTokens: 9 }),
    "broken.ts": "export default { name: 'x' };",
  });
  const read = async (file: string): Promise<LoadedTask | undefined> =>
    (await loadTasks({ tasks: [join(folder.path, file)], taskData: folder.path }))[0];
  const [code, json] = [await read("mine.ts"), await read("mine.json")];
  assert.deepEqual(code, json);
  assert.deepEqual(json?.questions, [{
    label: "line 1",
    subset: "",
    contexts: Array(2).fill("On Norland.\nThe capital of Sudland is Up\n\nThe capital of Norland is"),
    continuations: [" Ost", " West"],
    choices: ["Ost", "West"],
    answer: 1,
  }]);
  assert.equal((await read("labels.json"))?.questions[0]?.answer, 1);
  const text = (await read("text.json"))?.questions[0];
  assert.deepEqual([text?.answer, text?.contexts[0], text?.choices], [0, "Norland, 1:", ["Norland 1", "no"]]);
  const words = await read("words.json");
  assert.deepEqual(words, await read("words.ts"));
  assert.deepEqual(words?.generate, { maxTokens: 9, until: ["\n"] });
  const answered = { choices: [], continuations: [], answer: null, accepted: ["Ost", "West"] };
  const contexts = ["Sudland: Up\n\nNorland:"];
  assert.deepEqual(words?.questions, [{ label: "line 1", subset: "", contexts, ...answered }]);
  const number = await read("number.json");
  assert.deepEqual([number?.questions[0]?.accepted, number?.generate?.until], [["1"], [";"]]);
  const rule = await read("rule.json");
  assert.deepEqual(rule?.generate, { maxTokens: 32, until: ["\n"], rule: "number", chat: true });
  await rejects(read("other.json"), "input", { value: "rule" });
  await rejects(read("idle.json"), "input", { value: "maxTokens" });
  await rejects(read("broken.json"), "input", { value: '"answr"' });
  await rejects(read("broken.ts"), "input", { value: "undefined" });
  await rejects(read("none.ts"), "input", { names: "none.ts" });
  await rejects(read("latin.json"), "input", { names: ["JSON", "UTF-8"] });
});

Deno.test("examples from the file of the questions are others than the one asked, in each subset", async () => {
  const row = (key: string, group = ""): object => ({ key, group });
  const task = (options: Partial<TaskDefinition>): TaskDefinition =>
    defineTask({
      name: "own",
      splits: ["validation"],
      shotSplits: ["validation"],
      shots: 2,
      item: (one) => ({ context: one.text("key"), choices: ["x", "y"], answer: 0 }),
      ...options,
    });
  const contexts = async (
    options: Partial<TaskDefinition>,
    rows: readonly object[],
    limit?: number,
  ): Promise<unknown> =>
    (await load(task(options), { "own.validation.jsonl": lines(...rows) }, limit)).questions.map(({ contexts }) =>
      contexts[0]?.replaceAll(" x\n\n", ">")
    );
  const four = ["a", "b", "c", "d"].map((key) => row(key));
  assert.deepEqual(await contexts({}, four), ["b>c>a", "a>c>b", "a>b>c", "a>b>d"]);
  assert.deepEqual(await contexts({}, four, 1), ["b>c>a"]);
  const grouped = [row("a", "1"), row("k", "2"), row("b", "1"), row("l", "2")];
  const subset = (one: { text(name: string): string }): string => one.text("group");
  assert.deepEqual(await contexts({ shots: 1, subset }, grouped), ["b>a", "l>k", "a>b", "k>l"]);
  await rejects(contexts({}, four.slice(0, 2)), "input", { value: [2, 1] });
});

Deno.test("a task that a program defines is checked, and so is what it makes of a row", async () => {
  const item: TaskDefinition["item"] = (row) => ({ context: "c", choices: row.texts("t"), answer: 0 });
  refuses(() => defineTask({ name: "a b", item }), "input", { value: '"a b"' });
  refuses(() => defineTask({ name: "a", item, shots: 1.5 }), "input", { value: 1.5 });
  // What a script without types may hand over.
  const wrong = <T>(value: unknown): T => value as T;
  refuses(() => defineTask(wrong({ name: "a", item, shot: 1 })), "input", { value: '"shot"' });
  const data = { "a.test.jsonl": lines({ t: ["x", "y"] }) };
  assert.equal((await load(defineTask({ name: "a", item }), data)).questions.length, 1);
  await refused({ name: "a", item: () => wrong({ context: 3, choices: [] }) }, data, ["input", { value: "line 1" }]);
  await refused({ name: "a", generate: {}, item }, data, ["input", { value: ["line 1", '"context"'] }]);
  const empty = { name: "a", generate: {}, item: () => ({ context: "c", answers: ["x", " "] }) };
  await refused(empty, data, ["input", { value: "line 1" }]);
  for (const generate of [true, { maxTokens: 0 }, { until: [""] }, { tokens: 3 }]) {
    refuses(() => defineTask({ name: "a", item, generate: wrong(generate) }), "input", {
      names: ["defineTask", "maxTokens"],
    });
  }
  // A row is no plain object: what is not there would stand as "undefined" in the question.
  const plain: TaskDefinition["item"] = (row) =>
    ({ ...item(row), context: `In ${wrong<{ t: string }>(row).t}` }) as never;
  await refused({ name: "a", item: plain }, data, ["input", { value: ["line 1", "t"], names: 'row.text("t")' }]);
  await refused({ name: "a", item: () => wrong<{ b: never }>(null).b }, data, ["input", {
    value: ["line 1", "TypeError"],
  }]);
  await refused(
    { name: "a", item: () => ({ context: ["c"], choices: ["x", "y"], continuation: "z", answer: 0 }) },
    data,
    [
      "input",
      { value: ["line 1", 2] },
    ],
  );
  await refused({ name: "a", item: () => ({ context: ["c", "d"], choices: ["x", "y"], answer: 0 }) }, data, [
    "input",
    { value: "line 1" },
  ]);
});

Deno.test("what a task's description and subset make of a row is checked as its question is, that of examples too", async () => {
  // As a script without types hands it over.
  const task = (parts: object): TaskDefinition =>
    asTask({
      name: "a",
      item: (row: TaskRow) => ({ context: row.text("t"), choices: ["x", "y"], answer: 0 }),
      ...parts,
    }, "the test");
  const data = { "a.test.jsonl": lines({ t: "one" }), "a.dev.jsonl": lines({ t: "two" }) };
  const late = (): Promise<string> => Promise.reject(new Error("late"));
  const broken = (): string => {
    throw new TypeError("x is undefined");
  };
  for (const part of ["description", "subset"]) {
    for (
      const [made, value] of [
        [(row: TaskRow): void => void row.text("t"), "nothing"],
        [(row: TaskRow): unknown => ({ t: row.value("t") }), '{"t":"one"}'],
        [(): bigint => 1n, 1],
        [broken, "TypeError: x is undefined"],
        [late, "promise"],
      ] as const
    ) {
      await refused(task({ [part]: made }), data, ["input", { value: ["line 1", value], names: part }]);
    }
    await refused(task({ [part]: (row: TaskRow) => row.text("topic") }), data, ["input", { value: ["line 1", '"t"'] }]);
    assert.equal((await load(task({ [part]: (row: TaskRow) => row.text("t") }), data)).questions.length, 1);
  }
  await refused(task({ item: late }), data, ["input", { value: "line 1" }]);
  const subset = (row: TaskRow): unknown => row.text("t") === "two" ? 2 : "";
  await refused(task({ subset, shots: 1 }), data, ["input", { value: ["line 1", 2], names: "a.dev.jsonl" }]);
});

Deno.test("parsePythonLiteral() reads lists, dicts, both quotes and escapes, and refuses code", () => {
  const text = String
    .raw`[{'a': "it's", "b": 'say \'no\' \\ \x41 \u00e9 \101 \q'}, (1, -2.5e1), True, None, 'one' "two",]`;
  const want = [{ a: "it's", b: "say 'no' \\ A é A \\q" }, [1, -25], true, null, "onetwo"];
  assert.deepEqual(parsePythonLiteral(text), want);
  assert.deepEqual(parsePythonLiteral(" {} "), {});
  for (const bad of ["", "[", "[1", "{'a'}", "f()", "'a", "[1 2]", "1 2", "'\\x4'"]) {
    assert.throws(() => parsePythonLiteral(bad), SyntaxError, bad);
  }
});
