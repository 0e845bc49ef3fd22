// What is refused before a sitting begins: code that JSON names, options of programs and slips of a definition. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { planExperiment, runExperiment } from "../../lib/experiment/run.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { inTemporaryFolder, refuses, rejectsWith } from "../formats/files.ts";
import type { ExperimentDefinition } from "../../lib/experiment/types.ts";

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
        `cannot use .*data\\.json; expected: .*JSON is data, .*; got: the module ${path} among its tasks; ` +
          `fix: leave it out there, and name the task @NAME with null in files, and give its path by files`,
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
  const map = 'expected: it is a Map from names .*new Map\\(\\[\\["seed", \\["1", "2"\\]\\]\\]\\)';
  await refused({}, /'out'; expected: it is the path of a folder; got: undefined; fix: give one$/);
  await refused({ out: "" }, /'out'; .*; got: an empty text/);
  await refused({ out, only: { seed: 1 } }, RegExp(`'only'; ${map}; got: an object; fix: give it so, or leave`));
  await refused({ out, only: new Map([["seed", [2]]]) }, RegExp(`'only'; ${map}; got: seed: \\[2\\]; fix`));
  await refused({ out, only: new Map([["seed", "2"]]) }, /'only'; .*; got: seed: 2; fix/);
  await refused({ out, set: { seed: 1 } }, /'set'; expected: .* such as { seed: \[1, 2\] }; got: seed: 1; fix/);
  await refused({ out, set: { seed: [] } }, /'set'; .*; got: seed: \[\]; fix/);
  await refused({ out, set: new Map([["seed", [1]]]) }, /'set'; .*; got: an object; fix/);
  await refused(
    { out, data: "rows.jsonl" },
    /'data'; expected: it is an object of paths by name; got: rows\.jsonl; fix/,
  );
  await refused({ out, models: { model: 5 } }, /'models'; .*; got: model: 5; fix/);
  const only = new Map([["seed", ["1"]]]);
  assert.equal((await planExperiment(experiment, { out, only, set: { rank: [2] } })).length, 1);
});

Deno.test("the commonest slips of a definition are refused with what was meant", () => {
  const wrong = (change: object, message: RegExp): void =>
    // As of a file of JSON, whose types nobody checks.
    refuses(() => defineExperiment(JSON.parse(JSON.stringify({ ...PLAIN, ...change }))), "usage", message);
  wrong({ grid: { rank: 4 } }, /expected: grid\.rank: expected a list of values, such as \[2, 4\]; got: 4; fix/);
  wrong({ grid: [{ rank: [2] }, { rank: 4 }] }, /expected: grid\.1\.rank: expected a list of values.*; got: 4; fix/);
  wrong({ grid: { rank: [] } }, /expected: grid\.rank: .*got: \[\]; fix/);
  wrong({ grid: 4 }, /expected: grid: expected lists of values by option, or a list of such grids; got: 4; fix/);
  wrong({ model: 5 }, /expected: model: expected a path, or paths by name; got: 5; fix/);
  wrong({ model: { big: 5 } }, /expected: model\.big: .*expected string.*; got: 5; fix/);
  wrong({ files: { wiki: true } }, /expected: files\.wiki: expected a path, null or false; got: true; fix/);
  wrong({ grid: { units: [["kv", "foo"]] } }, /this units .*; expected: it is some of heads, kv, ffn, .*"foo"/);
  wrong({ base: { loraTargets: ["q", "foo"] } }, /this loraTargets .*; expected: it is some of q, k, v/);
  wrong({ base: { prompt: 5 } }, /expected: it is true, false or the path of a text; got: 5/);
  wrong({ base: { onAlarm: 5 } }, /expected: it is a setting such as divergence=warn, or a list of them; got: 5/);

  const file = "a.jsonl",
    misspelt = (key: string): RegExp =>
      RegExp(
        `expected: data: one set has file, limit, last, textField, skipBroken, and of several .*; got: ${key}; fix: did you`,
      );
  wrong({ data: { file, textfield: "x" } }, misspelt("textfield"));
  wrong({ data: { file, limt: 3 } }, /expected: data: Unrecognized key: "limt"/);
  for (const data of [{ file, held: "b.jsonl" }, { generate: "a.jsonl", file }]) {
    assert.doesNotThrow(() => defineExperiment({ ...PLAIN, data, base: { ...PLAIN.base, data: "file" } }), "two sets");
  }
  wrong({ data: { own: { file, limt: 3 } } }, /expected: data\.own: Unrecognized key: "limt"/);
  wrong({ data: { generate: { count: 3 } } }, /expected: data\.generate\.tokens: .*; got: not given/);
  wrong({ data: { file, limit: "3" } }, /expected: data\.limit: .*expected number.*; got: "3"/);
  wrong({ data: { generate: "a.jsonl" } }, /expected: data\.generate: .*expected object.*; got: "a\.jsonl"/);
  for (const data of [{ file }, { a: file, b: { file } }, { generate: { count: 3, tokens: 8 } }]) {
    defineExperiment({ ...PLAIN, data, ...("a" in data ? { base: { ...PLAIN.base, data: "a" } } : {}) });
  }
});

Deno.test("data that are a folder are refused before a cell loads its model", async () => {
  await inTemporaryFolder(async (folder) => {
    const message = /cannot read .*; expected: the data are one file; got: a folder; fix: name a file in it/;
    for (const data of [folder, { file: folder, limit: 3 }]) {
      await rejectsWith(planExperiment(defineExperiment({ ...PLAIN, data }), { out: "nowhere" }), "input", message);
    }
    const beside = { data: { a: demoData("train"), b: folder }, base: { ...PLAIN.base, data: "a", calibration: "b" } };
    await rejectsWith(planExperiment(defineExperiment({ ...PLAIN, ...beside }), { out: "nowhere" }), "input", message);
  });
});
