// Definitions, grids and overrides of experiments, without a GPU.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { axesOf, cellsOf, chooseCells } from "../../lib/experiment/grid.ts";
import { labelsOf } from "../../lib/experiment/unique_labels.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { pruneOptions } from "../../lib/experiment/options.ts";
import { type ExperimentPlan, planCells } from "../../lib/experiment/plan.ts";
import { makeReport } from "../../lib/experiment/report.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { Store } from "../../lib/experiment/store.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { digestOf } from "../../lib/core/digest.ts";
import { finishCell } from "./finish_cell.ts";
import { PLAIN as ONE } from "./plain.ts";
import type { ExperimentDefinition, Grid, PlannedCell } from "../../lib/experiment/types.ts";

// These lines fail to compile where a grid takes values that its options do not have.
// @ts-expect-error: ranks are numbers.
const _rank: Grid = { rank: ["4"] };
// @ts-expect-error: there is no such method.
const _method: Grid = { method: ["tailor"] };

const PLAIN: ExperimentDefinition = { ...ONE, grid: { rank: [2, 4], seed: [1, 2] } };

Deno.test("an experiment is refused with the part that is wrong", () => {
  const many = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);
  const rows = { file: "a.json", seq: 48, name: "one" };
  const cases: readonly (readonly [change: object, value: string | number, names?: string])[] = [
    [{ grid: { rnak: [2] } }, "rnak", "grid"],
    [{ grid: { rank: [2, "four"] } }, '"four"', "rank"],
    [{ base: { sparsity: 1.5 } }, 1.5, "sparsity"],
    [{ base: { units: "kv,fnn" } }, "fnn", "units"],
    [{ grid: { rank: [] } }, "[]", "grid"],
    [{ modle: "demo" }, "plain", "modle"],
    [{ name: "a/b" }, '"a/b"', "name"],
    [{ name: ".." }, '".."', "name"],
    [{ data: { a: "a.json" }, grid: { data: ["b"] } }, "b", "'data'"],
    [{ base: { calibration: "none" } }, "none", "'calibration'"],
    [{ base: { protect: 0 } }, 0, "protect"],
    [{ grid: { protect: [[0, 1.5]] } }, "[0,1.5]", "protect"],
    [{ grid: { rank: many(1999), seed: many(2000) } }, 3_998_000, "10000"],
    [{ grid: { model: ["big"] } }, "big", "'model'"],
    [{ data: { file: "a.json", limit: 3, last: 3 } }, "limit and last"],
    [{ evaluate: { rows: [rows, rows] } }, "one"],
    [{ evaluate: { perplexity: [{ name: "x", text: "x.txt" }] } }, "not given", "evaluate.perplexity.0.window"],
  ];
  for (const [change, value, names = []] of cases) {
    refuses(() => defineExperiment({ ...PLAIN, ...change } as ExperimentDefinition), "usage", { value, names });
  }
});

Deno.test("measures of any kind have different names, and none that the report uses itself", () => {
  const text = { name: "q", text: "x.txt", window: 8 }, rows = { name: "q", file: "a.json", seq: 48 };
  const choices = { name: "q", file: "a.json" }, tasks = { names: ["piqa"], data: "." };
  const wrong = (evaluate: ExperimentDefinition["evaluate"], value: string): unknown =>
    refuses(() => defineExperiment({ ...PLAIN, evaluate }), "usage", { value });
  wrong({ perplexity: [text], rows: [rows] }, "q");
  wrong({ rows: [rows], choices: [choices] }, "q");
  wrong({ choices: [{ ...choices, name: "piqa acc" }], tasks }, "piqa acc");
  for (const name of ["parameters", "hard sparsity", "seconds of training", "mean acc of 4 tasks"]) {
    wrong({ choices: [{ ...choices, name }] }, name);
  }
  defineExperiment({ ...PLAIN, evaluate: { perplexity: [text], rows: [{ ...rows, name: "r" }], tasks } });
});

Deno.test("cells are all combinations, the first seed of each first, named by the axes", () => {
  const { definition } = defineExperiment(PLAIN);
  assert.deepEqual(axesOf(definition), ["rank", "seed"]);
  assert.deepEqual(cellsOf(definition).map(({ name }) => name), [
    "rank=2,seed=1",
    "rank=4,seed=1",
    "rank=2,seed=2",
    "rank=4,seed=2",
  ]);
  assert.deepEqual(cellsOf(definition)[3]?.options, { ...PLAIN.base, rank: 4, seed: 2 });
});

Deno.test("several grids are joined, equal cells once, and list values are no axis values apart", () => {
  const { definition } = defineExperiment({
    ...PLAIN,
    grid: [
      { method: ["compresso", "taylor"], sparsity: [0.2], seed: [1, 2] },
      { method: ["taylor"], sparsity: [0.1, 0.2], seed: [1] },
    ],
  });
  const names = cellsOf(definition).map(({ name }) => name);
  assert.equal(names.length, 5);
  assert.equal(new Set(names).size, 5);
  assert.ok(names.includes("method=taylor,sparsity=0.1,seed=1"));
  // A grid without seeds has the first one, and is no run of its own beside it.
  const seeded = { ...PLAIN, grid: [{ rank: [2], seed: [1, 2] }, { rank: [2, 4] }] };
  assert.deepEqual(cellsOf(seeded).map(({ name }) => name), ["rank=2,seed=1", "rank=4,seed=1", "rank=2,seed=2"]);
  const same = defineExperiment({ ...PLAIN, grid: { loraTargets: [["q", "v"], "q,v"] } });
  assert.equal(cellsOf(same.definition).length, 1);
  const units = defineExperiment({ ...PLAIN, grid: { units: ["kv,ffn", ["ffn", "kv"], "ffn, kv"] } });
  assert.deepEqual(cellsOf(units.definition).map(({ options }) => options.units), ["kv,ffn"]);
  const two = cellsOf({ ...PLAIN, grid: { units: ["ffn,kv", "kv"] } });
  for (const value of ["ffn+kv", "kv+ffn"]) {
    assert.deepEqual(chooseCells(two, new Map([["units", [value]]])).map(({ options }) => options.units), ["kv,ffn"]);
  }
});

Deno.test("cells are chosen by values, and values that no cell has are refused", () => {
  const cells = cellsOf(PLAIN);
  assert.deepEqual(
    chooseCells(cells, new Map([["rank", ["4"]], ["seed", ["1", "2"]]])).map(({ name }) => name),
    ["rank=4,seed=1", "rank=4,seed=2"],
  );
  const ends = cellsOf({ ...PLAIN, grid: { protect: [[], [0, -1]] } });
  assert.deepEqual(chooseCells(ends, new Map([["protect", ["none"]]])).map(({ name }) => name), ["protect=none"]);
  refuses(() => chooseCells(cells, new Map([["rank", ["8"]]])), "usage", { value: 8 });
  refuses(() => chooseCells(cells, new Map([["rnak", ["8"]]])), "usage", { value: "rnak" });
});

Deno.test("labels are plain unless they clash; then they show as much of a path as tells them apart, or a number", () => {
  const labels = (...values: unknown[]): string[] => values.map(labelsOf(values));
  assert.deepEqual(labels("cubic", "a/b/mine.ts", true, undefined, [1, 2]), ["cubic", "mine", "on", "default", "1+2"]);
  assert.deepEqual(labels("linear", "/x/curves/linear.ts"), ["linear", "linear.ts"]);
  assert.deepEqual(labels("/a/prompt.txt", "/b/prompt.txt", "/b/prompt.txt"), ["a/prompt", "b/prompt", "b/prompt"]);
  assert.deepEqual(labels("/a/c/p.txt", "/b/c/p.txt", "/b/c/p.md"), ["a/c/p.txt", "b/c/p.txt", "b/c/p.md"]);
  assert.deepEqual(labels("/a/p.txt", "/b/p.md", "/c/p.md.gz"), ["a/p", "b/p", "p.md"]);
  assert.deepEqual(labels("a,b", ["a", "b"], "a+b 2"), ["a+b", "a+b 3", "a+b 2"]);
});

Deno.test("values are compared with the first that they have pairs with, where joined grids leave an axis unset", async () => {
  await inTemporaryFolder(async (folder) => {
    const grid = [{ lora: [false], seed: [1, 2] }, { rank: [2, 4, 8], seed: [1, 2] }];
    const resolved = resolveExperiment(defineExperiment({ ...PLAIN, grid }), { root: folder });
    const store = new Store(`${folder}/out`), plan = await planCells(resolved, store);
    for (const [index, cell] of plan.all.entries()) await finishCell(store, cell, { seconds: index });
    const { contrasts } = await makeReport(resolved, await planCells(resolved, store), store);
    assert.deepEqual(contrasts.map(({ axis, from, to }) => [axis, from, to]), [["rank", "2", "4"], ["rank", "2", "8"]]);
    assert.deepEqual(contrasts.map(({ numbers }) => numbers["seconds of training"]?.n), [2, 2]);
  });
});

Deno.test("options whose paths have the same last part are groups, pairs and choices of their own", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.mkdir(`${folder}/curves`);
    await Deno.writeTextFile(`${folder}/curves/linear.ts`, "export default {};");
    const definition = { ...PLAIN, grid: { schedule: ["linear", "curves/linear.ts"], seed: [1, 2] } };
    const resolved = resolveExperiment(defineExperiment(definition), { root: folder });
    const store = new Store(`${folder}/out`), plan = await planCells(resolved, store);
    for (const [index, cell] of plan.all.entries()) await finishCell(store, cell, { seconds: index });
    const { groups, contrasts } = await makeReport(resolved, await planCells(resolved, store), store);
    assert.deepEqual(groups.map(({ at }) => at), [{ schedule: "linear" }, { schedule: "linear.ts" }]);
    // In the order of the plan: both schedules with the first seed, then with the second one.
    assert.deepEqual(groups.map(({ numbers }) => numbers["seconds of training"]?.values), [[0, 2], [1, 3]]);
    assert.deepEqual(contrasts.map(({ from, to }) => [from, to]), [["linear", "linear.ts"]]);
    assert.equal(contrasts[0]?.numbers["seconds of training"]?.n, 2);
    const chosen = (value: string): unknown[] =>
      chooseCells(resolved.cells, new Map([["schedule", [value]]])).map(({ options }) => options.schedule);
    assert.deepEqual(chosen("linear"), ["linear", "linear"]);
    assert.deepEqual(chosen("linear.ts"), Array(2).fill(resolve(folder, "curves/linear.ts")));
  });
});

Deno.test("measures with prompts of the same last part do not share a name", async () => {
  await inTemporaryFolder(async (folder) => {
    const prompt: (boolean | string)[] = [false, true];
    for (const part of ["a", "b"]) {
      await Deno.mkdir(`${folder}/${part}`);
      await Deno.writeTextFile(`${folder}/${part}/prompt.txt`, `Be ${part}.`);
      prompt.push(`${folder}/${part}/prompt.txt`);
    }
    const idsOf = async (prompt: readonly (boolean | string)[]): Promise<string[]> => {
      const choices = [{ name: "q", file: demoData("heldout") }];
      return (await measuresOf({ choices, prompt }, new RowCache())).map(({ id }) => id.replace("choices q", ""));
    };
    assert.deepEqual(await idsOf(prompt), [", no prompt", ", with prompt", ", a/prompt prompt", ", b/prompt prompt"]);
    assert.deepEqual(await idsOf(prompt.slice(0, 3)), [", no prompt", ", with prompt", ", prompt prompt"]);
  });
});

Deno.test("overrides set an axis or the base, name files, and are refused for names that are not there", () => {
  const experiment = defineExperiment({
    ...PLAIN,
    files: { text: null, rows: "rows.jsonl" },
    data: "@rows",
    evaluate: { perplexity: [{ name: "t", text: "@text", window: 8 }] },
  });
  const resolved = resolveExperiment(experiment, {
    root: "/somewhere",
    files: { text: "here.txt" },
    set: { rank: [16], steps: [9], units: ["kv", "ffn"] },
  });
  assert.equal(resolved.cells.length, 2);
  assert.equal(resolved.cells[0]?.options.rank, 16);
  assert.equal(resolved.cells[0]?.options.steps, 9);
  assert.equal(resolved.cells[0]?.options.units, "kv,ffn");
  const axis = defineExperiment({ ...PLAIN, grid: { units: [["ffn"], ["kv"]] } });
  const [one, ...more] = resolveExperiment(axis, { set: { units: ["kv", "ffn"] } }).cells;
  assert.deepEqual([one?.options.units, more], ["kv,ffn", []]);
  const layers = defineExperiment({ ...PLAIN, grid: { protect: [[0], [1]] } });
  for (const protect of [[0, 1, -1], [[0, 1, -1]]]) {
    const { cells } = resolveExperiment(layers, { set: { protect } });
    assert.deepEqual(cells.map(({ options }) => options.protect), [[0, 1, -1]]);
  }
  refuses(() => resolveExperiment(layers, { set: { protect: [0, "x"] } }), "usage", { value: '[0,"x"]' });
  const methods = resolveExperiment(defineExperiment(PLAIN), { set: { method: ["magnitude", "random"], rank: [8] } });
  assert.deepEqual(methods.cells.map(({ name }) => name), [
    "method=magnitude,seed=1",
    "method=random,seed=1",
    "method=magnitude,seed=2",
    "method=random,seed=2",
  ]);
  assert.equal(resolved.data["data"], "/somewhere/rows.jsonl");
  assert.equal(resolved.evaluate.perplexity?.[0]?.text, resolve("here.txt"));
  refuses(() => resolveExperiment(experiment), "usage", { names: "'text'" });
  refuses(() => resolveExperiment(experiment, { files: { txt: "a" } }), "usage", { value: "txt", names: "txt=a" });
  refuses(() => resolveExperiment(experiment, { models: { big: "a" } }), "usage", { value: "big", names: "big=a" });
  refuses(() => resolveExperiment(experiment, { set: { stepz: [3] } }), "usage", { value: "stepz" });
  const other = defineExperiment({ ...PLAIN, model: "some/folder" });
  refuses(() => resolveExperiment(other), "usage", { names: "demo" });
});

Deno.test("an axis that goes with others in its grid is not set, one that all grids share and seeds are", () => {
  const tied = defineExperiment({
    ...PLAIN,
    grid: [
      { rank: [2], alpha: [4], seed: [1, 2], temperature: [1] },
      { rank: [4], alpha: [8], seed: [1], temperature: [1], steps: [3] },
    ],
  });
  const namesOf = (set: Readonly<Record<string, readonly unknown[]>>): string[] =>
    resolveExperiment(tied, { set }).cells.map(({ name }) => name);
  refuses(() => namesOf({ rank: [16] }), "usage", { names: "'rank'" });
  refuses(() => namesOf({ steps: [9] }), "usage", { value: "none in grid 1, [3] in grid 2" });
  assert.equal(namesOf({ seed: [5] }).length, 2);
  assert.equal(namesOf({ temperature: [1, 2] }).length, 6);
  assert.equal(namesOf({ noise: [0.1] }).length, 3);
});

Deno.test("without LoRA its rate is 0 and stages that train nothing else have no steps", () => {
  const given = { prompt: null, layers: 5 };
  const learned = pruneOptions({ sparsity: 0.2, steps: 8, prefinetune: 3, lora: false }, given);
  assert.deepEqual([learned.prefinetune, learned.steps, learned.postfinetune, learned.rates?.lora], [0, 8, 0, 0]);
  const oneShot = pruneOptions({ sparsity: 0.2, steps: 8, lora: false, method: "taylor" }, given);
  assert.deepEqual([oneShot.prefinetune, oneShot.steps, oneShot.postfinetune], [0, 0, 0]);
  const usual = pruneOptions({ sparsity: 0.2, steps: 8, protect: [0, -1], temperature: 2 }, given);
  assert.equal(usual.prefinetune, undefined);
  assert.deepEqual(usual.rules?.protect, [0, 4]);
  // What is no layer is refused later, and stays what was given.
  assert.deepEqual(pruneOptions({ sparsity: 0.2, steps: 8, protect: [-5, -6, 7] }, given).rules?.protect, [0, -6, 7]);
  assert.deepEqual(usual.rates, { temperature: 2 });
  refuses(() => pruneOptions({ sparsity: 0.2 }, given), "usage", { value: "no steps" });
});

Deno.test("a plan has the steps, tokens and facts of each cell, and names the cell whose options cannot work", async () => {
  const store = new Store("nowhere"), plan = await planCells(resolveExperiment(defineExperiment(PLAIN)), store);
  const [first] = plan.cells;
  // 4 + a tenth before and three tenths after, both rounded; 4 sequences of 48 tokens.
  assert.equal(first?.steps, 4 + 0 + 1);
  assert.equal(first?.tokens, 5 * 4 * 48);
  assert.equal(first?.state.kind, "new");
  assert.partialDeepStrictEqual(first?.identity["rates"], { lora: 0.001 }, "defaults are part of what a cell is");
  assert.equal(first?.identity["prompt"], "none");
  // Another fact would make every finished cell another one.
  assert.equal(digestOf([Object.keys(first?.identity ?? {}).sort().join()]), "c3658f1bdda978a0");
  const taylor = await planCells(
    resolveExperiment(defineExperiment({ ...PLAIN, grid: { method: ["taylor"] } })),
    store,
  );
  assert.equal(taylor.cells[0]?.identity["ranking"], "layer");
  assert.deepEqual([first, taylor.cells[0]].map((cell) => cell?.identity["focus"]), [0.3, 1]);
  const long = defineExperiment({ ...PLAIN, grid: { seq: [48, 100_000] } });
  const tooLong: unknown = await planCells(resolveExperiment(long), store).catch((error) => error);
  assert.doesNotMatch(checkRefusal(tooLong, "usage", { names: [100_000, "seq"] }).message, /--seq/);
  const absent = defineExperiment({ ...PLAIN, data: "absent.jsonl" });
  await rejects(planCells(resolveExperiment(absent), store), "input", { names: "absent.jsonl" });
});

Deno.test("a cell finds its folder by its facts, whatever an earlier grid has called it", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(folder);
    const planOf = async (grid: ExperimentDefinition["grid"], base: object = {}): Promise<ExperimentPlan> =>
      await planCells(resolveExperiment(defineExperiment({ ...PLAIN, base: { ...PLAIN.base, ...base }, grid })), store);
    const places = ({ all }: ExperimentPlan): string[][] =>
      all.map(({ name, folder, state }) => [name, folder, state.kind]);
    for (const cell of (await planOf({ rank: [2, 4], seed: [1] })).all) await finishCell(store, cell);
    assert.deepEqual(places(await planOf({ rank: [2, 4], seed: [1, 2] })), [
      ["rank=2,seed=1", "rank=2", "done"],
      ["rank=4,seed=1", "rank=4", "done"],
      ["rank=2,seed=2", "rank=2,seed=2", "new"],
      ["rank=4,seed=2", "rank=4,seed=2", "new"],
    ]);
    // A folder that is begun and holds nothing yet is no reason to run a finished cell again.
    const [first] = (await planOf({ rank: [2, 4], seed: [1, 2] })).all;
    assert.ok(first);
    await store.begin("rank=2,seed=1", first.identity, { restarts: false });
    await Deno.mkdir(`${folder}/cells/broken`);
    await Deno.writeTextFile(`${folder}/cells/broken/cell.json`, "{");
    assert.deepEqual(places(await planOf({ rank: [2], seed: [1, 2] })), [
      ["seed=1", "rank=2", "done"],
      ["seed=2", "seed=2", "new"],
    ]);
    // Neither seed of an earlier grid is the present one: as before, the name's own folder has changed.
    assert.deepEqual(places(await planOf({ rank: [2, 4] }, { seed: 7 })).map(([, at, state]) => [at, state]), [
      ["rank=2", "changed"],
      ["rank=4", "changed"],
    ]);
  });
});

Deno.test("what a run before has left is gone before a cell has its new facts, and a folder without facts holds nothing", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(`${folder}/out`);
    const plan = async (sparsity: number): Promise<PlannedCell> => {
      const definition = defineExperiment({ ...PLAIN, base: { ...PLAIN.base, sparsity }, grid: { rank: [2] } });
      const [cell] = (await planCells(resolveExperiment(definition), store)).all;
      assert.ok(cell);
      return cell;
    };
    const cell = await plan(0.2), dir = store.cell(cell.folder);
    await finishCell(store, cell);
    assert.equal((await plan(0.2)).state.kind, "done");
    // A removal that was cut short after the facts were gone, as earlier versions began it.
    await Deno.remove(`${dir}/cell.json`);
    const { identity } = await plan(0.3);
    await store.begin(cell.folder, identity, { restarts: false });
    assert.equal(await store.outcome(cell.folder), null);
    assert.equal((await plan(0.3)).state.kind, "new");
  });
});

Deno.test("no two cells have one folder, also where facts do not tell them apart or names have moved", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(`${folder}/out`), path = (name: string): string => `${folder}/${name}.jsonl`;
    for (const name of ["one", "other", "third"]) {
      await Deno.writeTextFile(path(name), JSON.stringify({ instruction: name, output: "Yes." }) + "\n");
    }
    const planOf = async (change: Partial<ExperimentDefinition>): Promise<readonly PlannedCell[]> =>
      (await planCells(resolveExperiment(defineExperiment({ ...PLAIN, ...change })), store)).all;
    const places = (cells: readonly PlannedCell[]): string[][] =>
      cells.map(({ name, folder, state }) => [name, folder, state.kind]);
    // Whether layers are computed anew is no fact, and its seconds are its own all the same.
    for (const cell of await planOf({ grid: { recompute: [true, false], seed: [0] } })) await finishCell(store, cell);
    assert.deepEqual(places(await planOf({ grid: { recompute: [true, false], seed: [0, 1] } })).slice(0, 2), [
      ["recompute=on,seed=0", "recompute=on", "done"],
      ["recompute=off,seed=0", "recompute=off", "done"],
    ]);
    // 'b' is now what 'a' was: a run of 'a' must leave that folder alone.
    const grid = { data: ["a", "b"] };
    for (const cell of await planOf({ data: { a: path("one"), b: path("other") }, grid })) {
      await finishCell(store, cell);
    }
    const [a, b] = places(await planOf({ data: { a: path("third"), b: path("one") }, grid }));
    assert.deepEqual(b, ["data=b", "data=a", "done"]);
    assert.match(a?.join(" ") ?? "", /^data=a data=a,[\da-f]+ new$/);
  });
});

Deno.test("an experiment is opened from JSON or a script, and nothing else", async () => {
  const folder = await Deno.makeTempDir();
  const path = (name: string): string => `${folder}/${name}`;
  await Deno.writeTextFile(path("good.json"), JSON.stringify(PLAIN));
  await Deno.writeTextFile(path("bad.json"), '{"name": "x",}');
  await Deno.writeTextFile(path("none.ts"), "export const other = 1;");
  await Deno.writeTextFile(path("broken.ts"), "export default {;");
  const good = await openExperiment(path("good.json"));
  assert.equal(good.definition.name, "plain");
  // Its paths are relative to its file, from wherever it is opened.
  assert.equal(
    resolveExperiment({ ...good, definition: { ...good.definition, model: "m", data: "d" } }).models.model,
    path("m"),
  );
  await rejects(openExperiment(path("bad.json")), "input", { names: path("bad.json") });
  await rejects(openExperiment(path("none.ts")), "input", { names: [path("none.ts"), "defineExperiment"] });
  await rejects(openExperiment(path("broken.ts")), "input", { names: path("broken.ts") });
  await rejects(openExperiment(path("absent.ts")), "input", { names: path("absent.ts") });
  await rejects(openExperiment("https://example.com/x.ts"), "input", { names: "https://example.com/x.ts" });
  await Deno.remove(folder, { recursive: true });
});
