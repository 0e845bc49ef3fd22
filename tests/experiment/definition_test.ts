// Definitions, grids and overrides of experiments, without a GPU.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { CompressoError } from "../../lib/errors.ts";
import { defineExperiment, type ExperimentDefinition } from "../../lib/experiment/definition.ts";
import { axesOf, cellsOf, chooseCells } from "../../lib/experiment/grid.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { pruneOptions } from "../../lib/experiment/options.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";

const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, prompt: false, seq: 48 },
  grid: { rank: [2, 4], seed: [1, 2] },
};

/** Asserts that an error of the toolkit says all of these. */
function refuses(work: () => unknown, code: string, ...said: readonly RegExp[]): void {
  assert.throws(work, (error) => {
    assert.ok(error instanceof CompressoError, String(error));
    assert.equal(error.code, code);
    for (const pattern of said) assert.match(error.message, pattern);
    return true;
  });
}

Deno.test("an experiment is refused with the part that is wrong", () => {
  const wrong = (change: object, ...said: RegExp[]): void =>
    refuses(() => defineExperiment({ ...PLAIN, ...change } as ExperimentDefinition), "usage", ...said);
  wrong({ grid: { rnak: [2] } }, /the option 'rnak' in the grid/, /options are model, data, limitRows/);
  wrong({ grid: { rank: [2, "four"] } }, /cannot use this rank in the grid/, /now: "four"/);
  wrong({ base: { sparsity: 1.5 } }, /cannot use this sparsity in the base/, /now: 1.5/);
  wrong({ base: { units: "kv,fnn" } }, /units/, /heads, kv, ffn/);
  wrong({ grid: { rank: [] } }, /grid/);
  wrong({ modle: "demo" }, /modle/);
  wrong({ name: "a/b" }, /name: expected letters/, /"a\/b"/);
  wrong({ data: { a: "a.json" }, grid: { data: ["b"] } }, /'data' is one of a/, /now: b/);
  wrong({ grid: { model: ["big"] } }, /'model' is one of model/, /now: big/);
  wrong({ data: { file: "a.json", limit: 3, last: 3 } }, /from the first on, or from the end/);
  const rows = { file: "a.json", seq: 48, name: "one" };
  wrong({ evaluate: { rows: [rows, rows] } }, /different names/, /now: one/);
  wrong({ evaluate: { perplexity: [{ name: "x", text: "x.txt" }] } }, /evaluate\.perplexity\.0\.window/);
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
  const same = defineExperiment({ ...PLAIN, grid: { targets: [["q", "v"], "q,v"] } });
  assert.equal(cellsOf(same.definition).length, 1);
});

Deno.test("cells are chosen by values, and values that no cell has are refused", () => {
  const cells = cellsOf(PLAIN);
  assert.deepEqual(
    chooseCells(cells, new Map([["rank", ["4"]], ["seed", ["1", "2"]]])).map(({ name }) => name),
    ["rank=4,seed=1", "rank=4,seed=2"],
  );
  refuses(() => chooseCells(cells, new Map([["rank", ["8"]]])), "usage", /one of 2, 4/, /now: 8/);
  refuses(() => chooseCells(cells, new Map([["rnak", ["8"]]])), "usage", /options are/, /rnak/);
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
  assert.equal(resolved.data["data"], "/somewhere/rows.jsonl");
  assert.equal(resolved.evaluate.perplexity?.[0]?.text, resolve("here.txt"));
  refuses(() => resolveExperiment(experiment), "usage", /a file that it calls 'text'/, /give --file text=PATH/);
  refuses(() => resolveExperiment(experiment, { files: { txt: "a" } }), "usage", /--file txt=a/, /text, rows/);
  refuses(() => resolveExperiment(experiment, { models: { big: "a" } }), "usage", /--model big=a/);
  refuses(() => resolveExperiment(experiment, { set: { stepz: [3] } }), "usage", /stepz/);
  const other = defineExperiment({ ...PLAIN, model: "some/folder" });
  refuses(() => resolveExperiment(other), "usage", /without data/);
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
  assert.deepEqual(usual.rates, { temperature: 2 });
  refuses(() => pruneOptions({ sparsity: 0.2 }, given), "usage", /no steps/);
});

Deno.test("a plan has the steps, tokens and facts of each cell, and names the cell whose options cannot work", async () => {
  const store = new Store("nowhere"), plan = await planCells(resolveExperiment(defineExperiment(PLAIN)), store);
  const [first] = plan.cells;
  // 4 + a tenth before and three tenths after, both rounded; 4 sequences of 48 tokens.
  assert.equal(first?.steps, 4 + 0 + 1);
  assert.equal(first?.tokens, 5 * 4 * 48);
  assert.equal(first?.state.kind, "new");
  assert.equal(first?.identity["rates.lora"], "0.001", "defaults are part of what a cell is");
  assert.equal(first?.identity["prompt"], "none");
  const long = defineExperiment({ ...PLAIN, grid: { seq: [48, 100_000] } });
  await assert.rejects(planCells(resolveExperiment(long), store), /longest context.*100000|cell seq=100000/s);
  const absent = defineExperiment({ ...PLAIN, data: "absent.jsonl" });
  await assert.rejects(planCells(resolveExperiment(absent), store), /cannot read .*absent\.jsonl.*no such file/s);
});

Deno.test("an experiment is opened from JSON or a script, and nothing else", async () => {
  const folder = await Deno.makeTempDir();
  const path = (name: string): string => `${folder}/${name}`;
  await Deno.writeTextFile(path("good.json"), JSON.stringify(PLAIN));
  await Deno.writeTextFile(path("bad.json"), '{"name": "x",}');
  await Deno.writeTextFile(path("none.ts"), "export const other = 1;");
  await Deno.writeTextFile(path("broken.ts"), "export default {;");
  assert.equal((await openExperiment(path("good.json"))).definition.name, "plain");
  await assert.rejects(openExperiment(path("bad.json")), /cannot read the experiment .*bad\.json/);
  await assert.rejects(openExperiment(path("none.ts")), /default export is defineExperiment.*no default export/s);
  await assert.rejects(openExperiment(path("broken.ts")), /cannot read the experiment/);
  await assert.rejects(openExperiment(path("absent.ts")), /no such file/);
  await assert.rejects(openExperiment("https://example.com/x.ts"), /a local \.ts.*an address/s);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("every experiment in scripts/experiments is well formed and has cells", async () => {
  const folder = fileURLToPath(new URL("../../scripts/experiments/", import.meta.url));
  const files: string[] = [];
  for await (const { name } of Deno.readDir(folder)) {
    if (name.endsWith(".ts") && name !== "on_demo.ts") files.push(name); // what they share is none
  }
  assert.ok(files.length >= 7, files.join(", "));
  for (const file of files) {
    const { definition } = await openExperiment(folder + file);
    assert.equal(`${definition.name}.ts`, file);
    assert.ok(cellsOf(definition).length >= 2, file);
    assert.ok((definition.question ?? "").length > 20, file);
  }
});
