// What options are called in tables, folders and `--only`, where their values are paths of Windows, on and off, numbers or signs of Markdown.
// Without a GPU.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { cellsOf, chooseCells } from "../../lib/experiment/grid.ts";
import { markdown } from "../../lib/experiment/markdown.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import type { CellOptions } from "../../lib/experiment/options.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { protocolOf } from "../../lib/experiment/setup_lines.ts";
import { makeReport } from "../../lib/experiment/report.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { Store } from "../../lib/experiment/store.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { finishCell } from "./finish_cell.ts";
import { PLAIN } from "./plain.ts";
import type { Cell, ExperimentDefinition } from "../../lib/experiment/types.ts";
import { refuses } from "../refuses.ts";

/** Options of the cells that `--only` chooses. */
function chosen(cells: readonly Cell[], name: keyof CellOptions, value: string): unknown[] {
  return chooseCells(cells, new Map([[name, [value]]])).map(({ options }) => options[name]);
}

Deno.test("schedules and prompts of Windows have the last part of their path for a label, and more of it where they clash", () => {
  const schedule = ["cubic", "C:\\work\\curves\\plateaus.ts", "C:\\work\\more\\linear.ts", "\\\\host\\more\\linear.js"];
  const cells = cellsOf({ ...PLAIN, grid: { schedule } });
  assert.deepEqual(cells.slice(0, 3).map(({ name }) => name), [
    "schedule=cubic",
    "schedule=plateaus",
    "schedule=linear",
  ]);
  assert.deepEqual(chosen(cells, "schedule", "plateaus"), [schedule[1]]);
  assert.deepEqual(chosen(cells, "schedule", "linear.ts"), [schedule[2]]);
  assert.deepEqual(chosen(cells, "schedule", "linear.js"), [schedule[3]]);
  const prompt = [true, "C:\\texts\\a\\short.txt", "C:\\texts\\b\\short.txt"];
  const prompts = cellsOf({ ...PLAIN, grid: { prompt } });
  assert.deepEqual(["on", "a/short", "b/short"].map((label) => chosen(prompts, "prompt", label)), [
    ...prompt.map((value) => [value]),
  ]);
  // Names are no paths: a backslash in them is theirs.
  assert.deepEqual(chosen(cellsOf({ ...PLAIN, grid: { data: ["a\\b", "b"] } }), "data", "a\\b"), ["a\\b"]);
});

Deno.test("values are chosen as names of runs show them too, before their paths are found, where they are no others", () => {
  const root = resolve("somewhere");
  const cellsWith = (grid: ExperimentDefinition["grid"]): readonly Cell[] =>
    resolveExperiment(defineExperiment({ ...PLAIN, grid }), { root }).cells;
  const schedules = cellsWith({ schedule: ["lin.ts", "curves/lin.ts", "cubic"], seed: [1] });
  assert.deepEqual(schedules.map(({ name }) => name), ["schedule=lin.ts", "schedule=lin", "schedule=cubic"]);
  assert.deepEqual(chosen(schedules, "schedule", "lin.ts"), [resolve(root, "lin.ts")]);
  assert.deepEqual(chosen(schedules, "schedule", "lin"), [resolve(root, "curves/lin.ts")]);
  assert.deepEqual(chosen(schedules, "schedule", "curves/lin"), [resolve(root, "curves/lin.ts")]);
  const prompts = cellsWith({ prompt: ["p.txt", "my words.txt", false] });
  assert.deepEqual(prompts.map(({ name }) => name), ["prompt=p.txt", "prompt=my_words.txt", "prompt=off"]);
  for (const [index, value] of ["p.txt", "my_words.txt"].entries()) {
    assert.deepEqual(chosen(prompts, "prompt", value), [prompts[index]?.options.prompt]);
  }
  // What two runs show alike is neither of them.
  const alike = cellsWith({ schedule: ["a/lin.ts", "b/lin.ts"] });
  refuses(() => chosen(alike, "schedule", "lin"), "usage", { names: ["a/lin", "b/lin"] });
  refuses(() => chosen(schedules, "schedule", "li"), "usage", { value: "li" });
});

Deno.test("protocol and places of a report call paths of Windows by their last part", async () => {
  await inTemporaryFolder(async (folder) => {
    const resolved = resolveExperiment(defineExperiment({ ...PLAIN, grid: { rank: [2, 4] } }));
    const store = new Store(`${folder}/out`), plan = await planCells(resolved, store);
    const path = "C:\\work\\curves\\plateaus.ts", prompt = ["C:\\texts\\short.txt"];
    const all = plan.all.map((cell) => ({ ...cell, options: { ...cell.options, schedule: path } }));
    const evaluate = { choices: [{ name: "q", file: demoData("heldout") }], prompt };
    const lines = protocolOf({ ...resolved, evaluate }, all);
    assert.ok(lines.some((line) => /, prompt off,.* schedule plateaus,/.test(line)), lines.join("\n"));
    assert.equal(lines.at(-1), "before instructions and questions: the text of short.txt");
    const models = plan.all.map((cell, index) => ({
      ...cell,
      model: { ...cell.model, name: `m${index}`, path: ["C:\\x\\model", "C:\\y\\model"][index] ?? "" },
    }));
    assert.match(protocolOf(resolved, models)[0] ?? "", /^pruned: m0 = x\/model, m1 = y\/model;/);
    const definition = { ...resolved.definition, grid: { schedule: ["cubic", path] } };
    const places = plan.all.map((cell, index) => ({
      ...cell,
      options: { ...cell.options, schedule: index === 0 ? "cubic" : path },
    }));
    const { groups } = await makeReport({ ...resolved, definition }, { ...plan, all: places }, store);
    assert.deepEqual(groups.map(({ at }) => at), [{ schedule: "cubic" }, { schedule: "plateaus" }]);
  });
});

Deno.test("measures have the last part of a prompt's path in their names, on Windows too", async () => {
  await inTemporaryFolder(async (folder) => {
    // A name with a backslash where it separates nothing, and a path where it does.
    const path = `${folder}/a\\short.txt`;
    await Deno.mkdir(`${folder}/a`);
    await Deno.writeTextFile(path, "Be short.");
    const choices = [{ name: "q", file: demoData("heldout") }];
    const measures = await measuresOf({ choices, prompt: [false, path] }, new RowCache());
    assert.deepEqual(measures.map(({ id }) => id), ["choices q, no prompt", "choices q, short prompt"]);
  });
});

Deno.test("what is on or off is chosen by true and false too, as --set and grids have them", () => {
  const cells = cellsOf({ ...PLAIN, grid: { prompt: [true, false, "/texts/short.txt"], rslora: [false, true] } });
  for (const [option, label, value] of [["prompt", "on", "true"], ["rslora", "off", "false"]] as const) {
    const wanted = chosen(cells, option, label);
    assert.ok(wanted.length > 0);
    assert.deepEqual(chosen(cells, option, value), wanted);
  }
  assert.deepEqual(chosen(cells, "prompt", "false"), [false, false]);
  // A text of that name is meant rather, and a name is none of both.
  assert.deepEqual(chosen(cellsOf({ ...PLAIN, grid: { prompt: ["/texts/true", false] } }), "prompt", "true"), [
    "/texts/true",
  ]);
  assert.deepEqual(chosen(cellsOf({ ...PLAIN, grid: { data: ["true", "on"] } }), "data", "true"), ["true"]);
  const only = cellsOf({ ...PLAIN, grid: { prompt: [true, "/texts/short.txt"] } });
  refuses(() => chosen(only, "prompt", "false"), "usage", { value: "off" });
});

Deno.test("numbers are chosen in whatever way they are written, and names that look like numbers as they are", () => {
  const cells = cellsOf({ ...PLAIN, grid: { loraRate: [1e-3, 2e-3], temperature: [1, 0.5], seq: [48, 1000] } });
  const cases = [["loraRate", "1e-3", 0.001], ["temperature", "1.0", 1], ["temperature", ".50", 0.5], [
    "seq",
    "1e3",
    1000,
  ]] as const;
  for (const [name, text, value] of cases) {
    assert.deepEqual(chosen(cells, name, text), Array(4).fill(value), text);
  }
  refuses(() => chosen(cells, "loraRate", "3e-3"), "usage", { value: 0.003, names: [0.001, 0.002] });
  refuses(() => chosen(cells, "seq", "48.5"), "usage", { value: 48.5 });
  const named = cellsOf({ ...PLAIN, grid: { data: ["1.0", "1"] } });
  assert.deepEqual(chosen(named, "data", "1.0"), ["1.0"]);
  refuses(() => chosen(named, "data", "1.00"), "usage", { value: "1.00", names: "1.0" });
});

Deno.test("names of files and of what the definition names are no Markdown in a report", async () => {
  await inTemporaryFolder(async (folder) => {
    const prompt = ["*short*", "<b>long"].map((name) => `${folder}/${name}.txt`), file = `${folder}/_rows_of_us_.jsonl`;
    for (const path of prompt) await Deno.writeTextFile(path, path);
    await Deno.copyFile(demoData("train"), file);
    const resolved = resolveExperiment(defineExperiment({ ...PLAIN, data: file, grid: { prompt, seed: [1] } }));
    const store = new Store(`${folder}/out`), plan = await planCells(resolved, store), [first] = plan.all;
    for (const cell of plan.all) await finishCell(store, cell);
    const report = await makeReport(resolved, await planCells(resolved, store), store);
    const charts = [{ file: "loss.svg", title: "loss, prompt *short*", svg: "" }];
    const unfinished = [{ cell: first?.name ?? "", state: "new" }];
    const text = markdown({ ...report, unfinished }, charts);
    for (
      const part of [
        "trained on \\_rows_of_us\\_.jsonl",
        "\n| \\*short\\* | 1 |",
        "\n| prompt \\<b\\>long | 1 |",
        "\n| prompt: \\<b\\>long in place of \\*short\\* | 1 |",
        "\n![loss, prompt \\*short\\*](loss.svg)\n",
      ]
    ) {
      assert.ok(text.includes(part), `${part}\n${text}`);
    }
    assert.doesNotMatch(text, /[^\\][*<]/);
  });
});
