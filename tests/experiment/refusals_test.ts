// What is refused before a sitting begins: code that JSON names, options of programs and slips of a definition. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment, type ExperimentDefinition } from "../../lib/experiment/definition.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { planExperiment, runExperiment } from "../../lib/experiment/run.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { demoData } from "../../lib/formats/open_model.ts";
import { inTemporaryFolder, refuses, rejectsWith } from "../formats/files.ts";

const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, prompt: false, seq: 48 },
  grid: { seed: [1] },
};

Deno.test("a file of JSON names no task that is a module; who runs it can, and tasks in JSON are data", async () => {
  await inTemporaryFolder(async (folder) => {
    const mark = `${folder}/imported`, data = folder;
    const body = `Deno.writeTextFileSync(${JSON.stringify(mark)}, "");
export default { name: "own", item: (row) => ({ context: row.text("q"), choices: ["a", "b"], answer: 0 }) };`;
    await Deno.writeTextFile(`${folder}/evil.ts`, body);
    const own = { name: "own", context: "{{q}}", choices: ["a", "b"], answer: "right" };
    await Deno.writeTextFile(`${folder}/own.json`, JSON.stringify(own));
    await Deno.writeTextFile(`${folder}/own.test.jsonl`, JSON.stringify({ q: "Which?", right: "a" }));
    const measure = async (
      { names, files }: { readonly names: readonly string[]; readonly files?: ExperimentDefinition["files"] },
      given: Readonly<Record<string, string>> = {},
    ): Promise<string[]> => {
      const definition: ExperimentDefinition = { ...PLAIN, files, evaluate: { tasks: { names, data } } };
      await Deno.writeTextFile(`${folder}/data.json`, JSON.stringify(definition));
      const { evaluate } = resolveExperiment(await openExperiment(`${folder}/data.json`), { files: given });
      return (await measuresOf(evaluate, new RowCache())).map(({ id }) => id);
    };
    const said = (path: string): RegExp =>
      RegExp(
        `cannot use .*data\\.json; rule: .*JSON is data, .*; now: the module ${path} among its tasks; ` +
          `mend: leave it out there, and name the task @NAME with null in files, and give --file NAME=PATH`,
      );
    const cases = [
      [{ names: ["piqa", "./evil.ts"] }, "\\./evil\\.ts"],
      [{ names: ["@own"], files: { own: "evil.ts" } }, "evil\\.ts"],
      // Without an end, or with one that is taken away again, it is a module too.
      [{ names: ["./evil"] }, "\\./evil"],
      [{ names: ["@own"], files: { own: "evil.ts/x.json/.." } }, "evil\\.ts/x\\.json/\\.\\."],
    ] as const;
    for (const [change, path] of cases) await rejectsWith(measure(change), "usage", said(path));
    await assert.rejects(Deno.stat(mark), "nothing was imported");

    for (const task of [{ names: ["./own.json"] }, { names: ["@own"], files: { own: "own.json" } }]) {
      assert.deepEqual(await measure(task), ["task own"]);
    }
    for (const left of [null, false] as const) {
      assert.deepEqual(await measure({ names: ["@own"], files: { own: left } }, { own: `${folder}/evil.ts` }), [
        "task own",
      ]);
    }
    await Deno.stat(mark);
  });
});

Deno.test("options of programs that have another form are refused with the form that they have", async () => {
  const out = "nowhere", experiment = defineExperiment(PLAIN);
  const refused = async (options: object, message: RegExp): Promise<void> => {
    for (const work of [planExperiment, runExperiment]) {
      // As of a program whose types nobody checks.
      const made: Promise<unknown> = Reflect.apply(work, null, [experiment, options]);
      await rejectsWith(made, "usage", message);
    }
  };
  const map = 'rule: it is a Map from names .*new Map\\(\\[\\["seed", \\["1", "2"\\]\\]\\]\\)';
  await refused({}, /'out'; rule: it is the path of a folder; now: undefined; mend: give one$/);
  await refused({ out: "" }, /'out'; .*; now: an empty text/);
  await refused({ out, only: { seed: 1 } }, RegExp(`'only'; ${map}; now: an object; mend: give it so, or leave`));
  await refused({ out, only: new Map([["seed", [2]]]) }, RegExp(`'only'; ${map}; now: seed: \\[2\\]; mend`));
  await refused({ out, only: new Map([["seed", "2"]]) }, /'only'; .*; now: seed: 2; mend/);
  await refused({ out, set: { seed: 1 } }, /'set'; rule: .* such as { seed: \[1, 2\] }; now: seed: 1; mend/);
  await refused({ out, set: { seed: [] } }, /'set'; .*; now: seed: \[\]; mend/);
  await refused({ out, set: new Map([["seed", [1]]]) }, /'set'; .*; now: an object; mend/);
  await refused({ out, data: "rows.jsonl" }, /'data'; rule: it is an object of paths by name; now: rows\.jsonl; mend/);
  await refused({ out, models: { model: 5 } }, /'models'; .*; now: model: 5; mend/);
  const only = new Map([["seed", ["1"]]]);
  assert.equal((await planExperiment(experiment, { out, only, set: { rank: [2] } })).length, 1);
});

Deno.test("the commonest slips of a definition are refused with what was meant", () => {
  const wrong = (change: object, message: RegExp): void =>
    // As of a file of JSON, whose types nobody checks.
    refuses(() => defineExperiment(JSON.parse(JSON.stringify({ ...PLAIN, ...change }))), "usage", message);
  wrong({ grid: { rank: 4 } }, /rule: grid\.rank: expected a list of values, such as \[2, 4\]; now: 4; mend/);
  wrong({ grid: [{ rank: [2] }, { rank: 4 }] }, /rule: grid\.1\.rank: expected a list of values.*; now: 4; mend/);
  wrong({ grid: { rank: [] } }, /rule: grid\.rank: .*now: \[\]; mend/);
  wrong({ grid: 4 }, /rule: grid: expected lists of values by option, or a list of such grids; now: 4; mend/);
  wrong({ model: 5 }, /rule: model: expected a path, or paths by name; now: 5; mend/);
  wrong({ model: { big: 5 } }, /rule: model\.big: .*expected string.*; now: 5; mend/);
  wrong({ files: { wiki: true } }, /rule: files\.wiki: expected a path, null or false; now: true; mend/);
  wrong({ grid: { units: [["kv", "foo"]] } }, /this units .*; rule: expected some of heads, kv, ffn, .*"foo"/);
  wrong({ base: { targets: ["q", "foo"] } }, /this targets .*; rule: expected some of q, k, v/);
  wrong({ base: { prompt: 5 } }, /rule: expected true, false or the path of a text; now: 5/);
  wrong({ base: { onAlarm: 5 } }, /rule: expected settings such as divergence=warn, or a list of them; now: 5/);

  const file = "a.jsonl",
    misspelt = (key: string): RegExp =>
      RegExp(
        `rule: data: one set has file, limit, last, textField, skipBroken, and of several .*; now: ${key}; mend: did you`,
      );
  wrong({ data: { file, textfield: "x" } }, misspelt("textfield"));
  wrong({ data: { file, limt: 3 } }, /rule: data: Unrecognized key: "limt"/);
  for (const data of [{ file, held: "b.jsonl" }, { generate: "a.jsonl", file }]) {
    assert.doesNotThrow(() => defineExperiment({ ...PLAIN, data, base: { ...PLAIN.base, data: "file" } }), "two sets");
  }
  wrong({ data: { own: { file, limt: 3 } } }, /rule: data\.own: Unrecognized key: "limt"/);
  wrong({ data: { generate: { count: 3 } } }, /rule: data\.generate\.tokens: .*; now: not given/);
  wrong({ data: { file, limit: "3" } }, /rule: data\.limit: .*expected number.*; now: "3"/);
  wrong({ data: { generate: "a.jsonl" } }, /rule: data\.generate: .*expected object.*; now: "a\.jsonl"/);
  for (const data of [{ file }, { a: file, b: { file } }, { generate: { count: 3, tokens: 8 } }]) {
    defineExperiment({ ...PLAIN, data, ...("a" in data ? { base: { ...PLAIN.base, data: "a" } } : {}) });
  }
});

Deno.test("data that are a folder are refused before a cell loads its model", async () => {
  await inTemporaryFolder(async (folder) => {
    const message = /cannot read .*; rule: the data are one file; now: a folder; mend: name a file in it/;
    for (const data of [folder, { file: folder, limit: 3 }]) {
      await rejectsWith(planExperiment(defineExperiment({ ...PLAIN, data }), { out: "nowhere" }), "input", message);
    }
    const beside = { data: { a: demoData("train"), b: folder }, base: { ...PLAIN.base, data: "a", calibration: "b" } };
    await rejectsWith(planExperiment(defineExperiment({ ...PLAIN, ...beside }), { out: "nowhere" }), "input", message);
  });
});
