// What is refused before a sitting begins: code that JSON names, options of programs and slips of a definition. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { planExperiment, runExperiment } from "../../lib/experiment/run.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { refuses, rejects } from "../refuses.ts";
import { PLAIN } from "./plain.ts";
import type { ExperimentDefinition } from "../../lib/experiment/types.ts";

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
    const cases = [
      [{ names: ["piqa", "./evil.ts"] }, "./evil.ts"],
      [{ names: ["@own"], files: { own: "evil.ts" } }, "evil.ts"],
      // Without an end, or with one that is taken away again, it is a module too.
      [{ names: ["./evil"] }, "./evil"],
      [{ names: ["@own"], files: { own: "evil.ts/x.json/.." } }, "evil.ts/x.json/.."],
    ] as const;
    for (const [change, path] of cases) await rejects(measure(change), "usage", { value: path, names: "data.json" });
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

Deno.test("options of programs that have another form are refused", async () => {
  const out = "nowhere", experiment = defineExperiment(PLAIN), seed = "seed";
  const cases: readonly (readonly [options: object, name: string, value: string])[] = [
    [{}, "out", "undefined"],
    [{ out: "" }, "out", "an empty text"],
    [{ out, only: { seed: 1 } }, "only", "an object"],
    [{ out, only: new Map([[seed, [2]]]) }, "only", "seed: [2]"],
    [{ out, only: new Map([[seed, "2"]]) }, "only", "seed: 2"],
    [{ out, set: { seed: 1 } }, "set", "seed: 1"],
    [{ out, set: { seed: [] } }, "set", "seed: []"],
    [{ out, set: new Map([[seed, [1]]]) }, "set", "an object"],
    [{ out, data: "rows.jsonl" }, "data", "rows.jsonl"],
    [{ out, models: { model: 5 } }, "models", "model: 5"],
  ];
  for (const [options, name, value] of cases) {
    for (const work of [planExperiment, runExperiment]) {
      // As of a program whose types nobody checks.
      const made: Promise<unknown> = Reflect.apply(work, null, [experiment, options]);
      await rejects(made, "usage", { value, names: `'${name}'` });
    }
  }
  const only = new Map([[seed, ["1"]]]);
  assert.equal((await planExperiment(experiment, { out, only, set: { rank: [2] } })).length, 1);
});

Deno.test("the commonest slips of a definition are refused at the part that is wrong", () => {
  const file = "a.jsonl", data = "data";
  const cases: readonly (readonly [change: object, names: string, value: string | number])[] = [
    [{ grid: { rank: 4 } }, "grid.rank", 4],
    [{ grid: [{ rank: [2] }, { rank: 4 }] }, "grid.1.rank", 4],
    [{ grid: { rank: [] } }, "grid.rank", "[]"],
    [{ grid: 4 }, "grid", 4],
    [{ model: 5 }, "model", 5],
    [{ model: { big: 5 } }, "model.big", 5],
    [{ files: { wiki: true } }, "files.wiki", "true"],
    [{ grid: { units: [["kv", "foo"]] } }, "units", "foo"],
    [{ base: { loraTargets: ["q", "foo"] } }, "loraTargets", "foo"],
    [{ base: { prompt: 5 } }, "prompt", 5],
    [{ base: { valData: "other" } }, "valData", "other"],
    [{ base: { onAlarm: 5 } }, "onAlarm", 5],
    [{ data: { file, textfield: "x" } }, "textField", "'textfield'"],
    [{ data: { file, limt: 3 } }, '"limt"', "limt"],
    [{ data: { own: { file, limt: 3 } } }, "data.own", "limt"],
    [{ data: { generate: { count: 3 } } }, "data.generate.tokens", "not given"],
    [{ data: { file, limit: "3" } }, "data.limit", '"3"'],
    [{ data: { generate: "a.jsonl" } }, "data.generate", "a.jsonl"],
    [{ data: { answers: { file } } }, "data.answers.tokens", "not given"],
    [{ data: { own: { answers: { file, tokens: 8, limit: 3, last: 3 } } } }, "first", "limit and last"],
  ];
  for (const [change, names, value] of cases) {
    // As of a file of JSON, whose types nobody checks.
    const given = JSON.parse(JSON.stringify({ ...PLAIN, ...change }));
    refuses(() => defineExperiment(given), "usage", { names, value });
  }
  for (const sets of [{ file, held: "b.jsonl" }, { generate: "a.jsonl", file }]) {
    assert.doesNotThrow(() => defineExperiment({ ...PLAIN, [data]: sets, base: { ...PLAIN.base, data: "file" } }));
  }
  for (const data of [{ file }, { a: file, b: { file } }, { generate: { count: 3, tokens: 8 } }]) {
    defineExperiment({ ...PLAIN, data, ...("a" in data ? { base: { ...PLAIN.base, data: "a" } } : {}) });
  }
});

Deno.test("data that are a folder are refused before a cell loads its model", async () => {
  await inTemporaryFolder(async (folder) => {
    for (const data of [folder, { file: folder, limit: 3 }]) {
      await rejects(planExperiment(defineExperiment({ ...PLAIN, data }), { out: "nowhere" }), "input", {
        value: "a folder",
      });
    }
    const beside = { data: { a: demoData("train"), b: folder }, base: { ...PLAIN.base, data: "a", calibration: "b" } };
    await rejects(planExperiment(defineExperiment({ ...PLAIN, ...beside }), { out: "nowhere" }), "input", {
      value: "a folder",
    });
  });
});
