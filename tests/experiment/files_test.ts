// Files that an experiment names: where their paths lead, what of them tells a stale value, and which are refused. Without a GPU.
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { type ExperimentPlan, planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { makeReport, writeReport } from "../../lib/experiment/report.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { missingOf, Store, valuesOf } from "../../lib/experiment/store.ts";
import { modelDigest } from "../../lib/files/fingerprint.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { digestOf } from "../../lib/core/digest.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { PLAIN, resolved } from "./plain.ts";
import type { DataSource, Experiment, ExperimentDefinition, Value } from "../../lib/experiment/types.ts";

Deno.test("tasks by subject and of one's own are measured, and whatever they ask tells a stale value", async () => {
  await inTemporaryFolder(async (folder) => {
    const write = async (name: string, ...rows: readonly object[]): Promise<void> =>
      await Deno.writeTextFile(`${folder}/${name}`, rows.map((row) => JSON.stringify(row)).join("\n"));
    const asked = (question: string): object => ({ question, choices: ["a", "b", "c", "d"], answer: 0 });
    const examples = ["1", "2", "3", "4", "5"].map((question) => ({ ...asked(question), subject: "anatomy" }));
    await write("mmlu_anatomy.test.jsonl", { ...asked("Which?"), subject: "anatomy" });
    await write("mmlu_anatomy.dev.jsonl", ...examples);
    await write("mine.json", { name: "own", context: "{{question}}", choices: "choices", answer: "answer" });
    await write("own.test.jsonl", asked("What?"));
    const tasks = { names: ["mmlu", "./mine.json"], data: "." };
    const identities = async (evaluate: ExperimentDefinition["evaluate"] = {}): Promise<[string, string][]> => {
      const files = resolved({ evaluate: { tasks, ...evaluate } }, { root: folder }).evaluate;
      return (await measuresOf(files, new RowCache())).map(({ id, identity }) => [id, identity]);
    };
    const before = await identities();
    assert.deepEqual(before.map(([id]) => id), ["task mmlu", "task own"]);
    assert.deepEqual(await identities(), before);
    await write("mmlu_anatomy.dev.jsonl", ...examples.toReversed());
    const after = await identities();
    assert.deepEqual(after.map(([, identity], index) => identity === before[index]?.[1]), [false, true]);
    // Each prompt is before the questions of its own measures.
    const both = await identities({ prompt: [false, true] });
    assert.deepEqual(
      both.map(([id]) => id),
      ["mmlu, no prompt", "own, no prompt", "mmlu, with prompt", "own, with prompt"].map((name) => `task ${name}`),
    );
    assert.deepEqual(both.slice(0, 2).map(([, identity]) => identity), after.map(([, identity]) => identity));
    assert.deepEqual(
      await identities({ prompt: [true] }),
      both.slice(2).map(([, identity], index) => [after[index]?.[0], identity]),
    );
    assert.equal(new Set(both.map(([, identity]) => identity)).size, 4);
    const choices = [{ name: "own acc", file: demoData("heldout") }];
    await rejects(identities({ choices }), "usage", { value: "own acc" });
  });
});

Deno.test("a byte anywhere in data tells them apart, and data that a model's digest covers have the same one", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/rows.jsonl`, digest = async (): Promise<string> => await new RowCache().digest(path);
    for (const size of [2 << 20, (2 << 20) + 1, 5 << 20]) {
      const bytes = new Uint8Array(size), seen = new Set<string>();
      for (const place of [0, (1 << 20) - 1, 1 << 20, size >> 1, size - 1]) {
        bytes[place] = (bytes[place] ?? 0) + 1;
        await Deno.writeFile(path, bytes);
        seen.add(await digest());
      }
      assert.equal(seen.size, 5, `${size} bytes`);
      assert.equal(await digest() === await modelDigest(path), size === 2 << 20);
    }
  });
});

Deno.test("data are the same however what is taken of them is written down", async () => {
  await inTemporaryFolder(async (folder) => {
    const file = `${folder}/rows.jsonl`, cache = new RowCache();
    await Deno.writeTextFile(file, '{"text": "One."}\n');
    const identity = (source: DataSource): Promise<string> => cache.identity(source, "weights");
    const two = await identity({ file, limit: 1, textField: "text" });
    assert.equal(await identity({ textField: "text", limit: 1, file, skipBroken: false }), two);
    assert.equal(await identity({ file }), await identity(file));
    // As folders of earlier versions hold them.
    const digest = await cache.digest(file), rows = [{ name: "r", file, textField: "text", last: 1, seq: 8 }];
    assert.equal(two, `{"textField":"text","limit":1,"file":"${digest}"}`);
    const [measure] = await measuresOf({ rows }, cache);
    assert.equal(measure?.identity, `{"file":"${digest}","textField":"text","last":1,"seq":8,"prompt":"none"}`);
    const others = [{ file, limit: 2, textField: "text" }, { file, last: 1, textField: "text" }, { file }];
    const text = { window: 8, maxWindows: 2, name: "t", text: file }, { window, ...rest } = text;
    const [first, second] = await measuresOf({ perplexity: [text, { ...rest, window }] }, cache);
    assert.equal(second?.identity, first?.identity);
    const written = await identity({ generate: { tokens: 8, seed: 1, count: 4 } });
    assert.equal(await identity({ generate: { count: 4, tokens: 8, seed: 1 } }), written);
    const answers = await identity({ answers: { file, limit: 1, tokens: 8 } });
    assert.equal(await identity({ answers: { tokens: 8, seed: 1, temperature: 0, limit: 1, file } }), answers);
    for (const change of [{ limit: 2 }, { tokens: 9 }, { temperature: 1 }, { seed: 2 }]) {
      assert.notEqual(await identity({ answers: { file, limit: 1, tokens: 8, ...change } }), answers);
    }
    for (const other of [...others, { file, limit: 1, textField: "text", skipBroken: true }]) {
      assert.notEqual(await identity(other), two);
    }
  });
});

Deno.test("a prompt and a schedule that are set are found from the current folder, named files and those of the definition not", () => {
  const set = (prompt: unknown, schedule: string): unknown[] =>
    resolved({ files: { it: "it.txt" }, base: { ...PLAIN.base, schedule: "own.ts" } }, {
      root: "/somewhere",
      set: { prompt: [prompt], schedule: [schedule] },
    }).cells.map(({ options }) => [options.prompt, options.schedule]);
  assert.deepEqual(set("p.txt", "s.ts"), [[resolve("p.txt"), resolve("s.ts")]]);
  assert.deepEqual(set("@it", "@it"), [["/somewhere/it.txt", "/somewhere/it.txt"]]);
  assert.deepEqual(set(false, "linear"), [[false, "linear"]]);
  assert.deepEqual(set(true, "https://example.com/s.ts"), [[true, "https://example.com/s.ts"]]);
  const [cell] = resolved({ base: { ...PLAIN.base, schedule: "own.ts" } }, { root: "/somewhere" }).cells;
  assert.equal(cell?.options.schedule, "/somewhere/own.ts");
});

Deno.test("a schedule's text is a fact of a cell, by whatever address it is named", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/mine.ts`, facts: (string | undefined)[] = [];
    for (const share of [0.1, 0.2]) {
      await Deno.writeTextFile(path, `export default { sparsity: () => ${share} };`);
      for (const schedule of [path, pathToFileURL(path).href]) {
        const { all } = await planCells(resolved({ grid: { schedule: [schedule] } }), new Store(`${folder}/out`));
        facts.push(String(all[0]?.identity["schedule"]));
      }
    }
    assert.match(facts[0] ?? "", /^script [0-9a-f]+$/);
    assert.equal(facts[1], facts[0]);
    assert.notEqual(facts[2], facts[0]);
    assert.equal(facts[3], facts[2]);
  });
});

Deno.test("of a trusted script what it imports is a fact of a cell as of its run, of another one the text alone", async () => {
  await inTemporaryFolder(async (folder) => {
    const script = (others: string, share: string): string =>
      `${others}import { defineSchedule } from "compresso";\nexport default defineSchedule({ sparsity: ${share} });\n`;
    const factOf = async (path: string, trust: boolean): Promise<string> => {
      const { all } = await planCells(
        resolved({ base: { ...PLAIN.base, schedule: path, trust } }),
        new Store(`${folder}/out`),
      );
      return String(all[0]?.identity["schedule"]);
    };
    const text = script('import { share } from "./share.ts";\n', "share"), paths: string[] = [];
    // In folders of their own: within a process what was imported once stays.
    for (const share of [0.1, 0.2]) {
      await Deno.mkdir(`${folder}/${share}`);
      await Deno.writeTextFile(`${folder}/${share}/share.ts`, `export const share = ${share};`);
      await Deno.writeTextFile(`${folder}/${share}/mine.ts`, text);
      paths.push(`${folder}/${share}/mine.ts`);
    }
    const [one = "", other = ""] = paths, isolated = `script ${digestOf([text])}`;
    assert.notEqual(await factOf(one, true), await factOf(other, true));
    await using opened = await openSchedule(one, { trust: true });
    assert.equal(await factOf(one, true), opened.identity);
    assert.deepEqual([await factOf(one, false), await factOf(other, false)], [isolated, isolated]);
    // Both in one plan.
    const { all } = await planCells(
      resolved({ base: { ...PLAIN.base, schedule: one }, grid: { trust: [true, false] } }),
      new Store(`${folder}/out`),
    );
    assert.deepEqual(all.map(({ identity }) => identity["schedule"]), [opened.identity, isolated]);
    // One whose text is all of its code is the same, trusted or not.
    const own = `${folder}/own.ts`, whole = script("", "0.1");
    await Deno.writeTextFile(own, whole);
    assert.deepEqual([await factOf(own, true), await factOf(own, false)], Array(2).fill(`script ${digestOf([whole])}`));
  });
});

Deno.test("a file of JSON cannot say that scripts run with all rights; who runs it and a program can", async () => {
  await inTemporaryFolder(async (folder) => {
    const write = async (name: string, text: string): Promise<string> => {
      await Deno.writeTextFile(`${folder}/${name}`, text);
      return `${folder}/${name}`;
    };
    const opened = async (change: Partial<ExperimentDefinition>): Promise<Experiment> =>
      await openExperiment(await write("data.json", JSON.stringify({ ...PLAIN, ...change })));
    const base = { ...PLAIN.base, schedule: "https://example.com/mine.ts" };
    const refused = async (change: Partial<ExperimentDefinition>, value: string): Promise<void> =>
      await rejects(opened(change), "usage", { value, names: "data.json" });
    await refused({ base: { ...base, trust: true } }, "trust: true in its base");
    await refused({ base, grid: { trust: [true] } }, "trust: [true] in its grid");
    await refused({ base, grid: [{ seed: [1] }, { trust: [false, true] }] }, "trust: [true] in its grid");
    for (const change of [{ base }, { base: { ...base, trust: false } }, { base, grid: { trust: [false] } }]) {
      const experiment = await opened(change);
      const trusted = resolveExperiment(experiment, { set: { trust: [true] } }).cells;
      assert.deepEqual(trusted.map(({ options }) => options.trust), [true]);
      assert.ok(resolveExperiment(experiment).cells.every(({ options }) => options.trust !== true));
    }
    const program = await write(
      "program.ts",
      `export default { definition: ${JSON.stringify({ ...PLAIN, base: { ...base, trust: true } })} };`,
    );
    assert.equal((await openExperiment(program)).definition.base?.trust, true);
  });
});

Deno.test("a measure whose prompt has no file is left out", () => {
  const prompts = (prompt: (boolean | string)[]): unknown =>
    resolved({
      files: { mine: false },
      evaluate: { prompt, rows: [{ name: "rows", file: demoData("heldout"), seq: 8 }] },
    })
      .evaluate.prompt;
  assert.deepEqual(prompts([true, "@mine"]), [true]);
  assert.deepEqual(prompts(["@mine"]), [false]);
});

Deno.test("of a broken row in a file of a measure it is told what the measure can do about it", async () => {
  await inTemporaryFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/rows.jsonl`, '{"instruction":"a","output":"b","choices":["b","c"]}\n{"inst');
    const rows = { name: "rows", file: "rows.jsonl", seq: 8 }, choices = { name: "rows", file: "rows.jsonl" };
    const take = (evaluate: ExperimentDefinition["evaluate"]): Promise<unknown> =>
      measuresOf(resolved({ evaluate }, { root: folder }).evaluate, new RowCache());
    const fixOf = async (work: Promise<unknown>): Promise<string> =>
      checkRefusal(await work.catch((error) => error), "input", { names: "line 2" }).parts.fix ?? "";
    assert.match(await fixOf(take({ rows: [rows] })), /skipBroken/);
    assert.doesNotMatch(await fixOf(take({ choices: [choices] })), /skipBroken/);
    await take({ rows: [{ ...rows, skipBroken: true }] });
    const cache = new RowCache(), evaluate = { rows: [{ ...rows, skipBroken: true }] };
    assert.deepEqual(cache.newNotes(), []);
    await measuresOf(resolved({ evaluate }, { root: folder }).evaluate, cache);
    assert.deepEqual(cache.newNotes(), [`of the rows of ${folder}/rows.jsonl are left out: 1 broken (row 2)`]);
    assert.deepEqual(cache.newNotes(), [], "once");
  });
});

Deno.test("a schedule that is not there, a text that is not UTF-8 and results in a file are refused", async () => {
  await inTemporaryFolder(async (folder) => {
    const plan = async (change: Partial<ExperimentDefinition>, out = `${folder}/out`): Promise<ExperimentPlan> =>
      await planCells(resolved(change, { root: folder }), new Store(out));
    await rejects(plan({ grid: { schedule: ["absent.ts"] } }), "input", { names: "absent.ts" });
    for (const grid of [{ trust: [true] }, { trust: [true], schedule: ["cubic"] }]) {
      await rejects(plan({ grid }), "usage", {
        option: "trustSchedule",
        value: grid.schedule ? "cubic" : "no schedule",
      });
    }
    await Deno.writeTextFile(`${folder}/mine.ts`, "export default { definition: { sparsity: () => 0.1 } };");
    const long = { below: `${"x".repeat(300)}.jsonl` };
    await rejects(plan({ data: long }), "input", { value: "too long" });
    // A path below a file is none, which is no defect of the toolkit.
    await rejects(plan({ data: { below: "mine.ts/rows.jsonl" } }), "input", { names: "mine.ts/rows.jsonl" });
    const beside = await plan({ grid: { trust: [true], schedule: ["cubic", `${folder}/mine.ts`] } });
    assert.equal(beside.all.length, 2);
    await Deno.writeFile(`${folder}/latin.txt`, new Uint8Array([0x63, 0xe9]));
    await Deno.writeFile(`${folder}/latin.json`, new Uint8Array([0x22, 0xe9, 0x22]));
    await rejects(openExperiment(`${folder}/latin.json`), "input", { names: ["latin.json", "UTF-8"] });
    const perplexity = [{ name: "t", text: "latin.txt", window: 8 }];
    await rejects(plan({ evaluate: { perplexity } }), "input", { names: ["latin.txt", "UTF-8"] });
    for (const name of ["latin.txt", "latin.txt/below", "x".repeat(300)]) {
      await rejects(plan({}, `${folder}/${name}`), "usage", { option: "out" });
    }
  });
});

Deno.test("values stay known by another name, though theirs is given to another measure", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(folder), file = demoData("heldout"), cache = new RowCache();
    const rowsOf = (...named: readonly (readonly [string, number])[]): ReturnType<typeof measuresOf> =>
      measuresOf({ rows: named.map(([name, last]) => ({ name, file, last, seq: 48 })) }, cache);
    const value = (name: string, value: number): Value => ({ name, kind: "perplexity", value, stderr: null, n: 9 });
    const [a] = await rowsOf(["a", 4]), now = await rowsOf(["b", 4], ["a", 8]), [, other] = now;
    assert.ok(a && other);
    await store.addMeasured(folder, a, [value("a", 2)]);
    assert.deepEqual(missingOf(now, await store.measured(folder)), [other]);
    await store.addMeasured(folder, other, [value("a", 3)]);
    const measured = await store.measured(folder);
    assert.deepEqual(missingOf(now, measured), []);
    assert.deepEqual(valuesOf(now, measured).map(({ name, value }) => [name, value]), [["b", 2], ["a", 3]]);
    assert.deepEqual(valuesOf([a], measured).map(({ name, value }) => [name, value]), [["a", 2]]);
  });
});

Deno.test("a report of another experiment, and files of somebody's own in its place, are refused and stay", async () => {
  await inTemporaryFolder(async (folder) => {
    const plan = async (name: string): Promise<ExperimentPlan> =>
      await planCells(resolved({ name }), new Store(folder));
    const shown = "# Notes\n![Losses](loss-curve.svg)\n";
    for (const file of ["report.md", "report.json", "experiment.html", "measures.svg"]) {
      await Deno.writeTextFile(`${folder}/${file}`, shown);
      await rejects(plan("mine"), "usage", { value: file });
      assert.equal(await Deno.readTextFile(`${folder}/${file}`), shown);
      await Deno.remove(`${folder}/${file}`);
    }
    // Other files are nobody's business.
    await Deno.writeTextFile(`${folder}/loss-curve.svg`, "<svg/>");
    const store = new Store(folder), definition = resolved({ name: "mine" });
    await writeReport(await makeReport(definition, await planCells(definition, store), store), store);
    await plan("mine");
    await rejects(plan("other"), "usage", { value: "mine", names: "other" });
  });
});

Deno.test("a byte order mark before an experiment is no part of it, and a seed that is too large is refused there", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/plain.json`;
    await Deno.writeTextFile(path, `\uFEFF${JSON.stringify(PLAIN)}`);
    assert.equal((await openExperiment(path)).definition.name, "plain");
  });
  const wrong = (change: Partial<ExperimentDefinition>, names: string): void =>
    refuses(() => defineExperiment({ ...PLAIN, ...change }), "usage", { names });
  for (const seed of [2 ** 32, -1, 0.5]) {
    wrong({ grid: { seed: [1, seed] } }, "seed");
    wrong({ data: { generate: { count: 1, tokens: 8, seed } } }, "data");
  }
  defineExperiment({ ...PLAIN, grid: { seed: [2 ** 32 - 1] } });
});

Deno.test("of the last rows of a file the report tells what was left out among them, and not before", async () => {
  await inTemporaryFolder(async (folder) => {
    const row = (output: string): string => JSON.stringify({ instruction: "Why?", output });
    const lines = [
      row(""),
      "{broken",
      row("a"),
      row(""),
      "{broken",
      row("b"),
      row(""),
      "{broken",
      row("c"),
      row(""),
      "{",
    ];
    const path = `${folder}/rows.jsonl`, cache = new RowCache();
    await Deno.writeTextFile(path, lines.join("\n"));
    const read = async (last?: number): Promise<unknown> => {
      const { rows, report } = await cache.read({ file: path, skipBroken: true, ...(last ? { last } : {}) });
      const [skipped, broken] = [report.skipped, report.broken].map((list) => list.map(({ row }) => row));
      return [rows.map(({ number }) => number), report.rows, skipped, broken];
    };
    assert.deepEqual(await read(2), [[6, 9], 2, [7, 10], [8, 11]]);
    assert.deepEqual(await read(1), [[9], 1, [10], [11]]);
    const all = [[3, 6, 9], 3, [1, 4, 7, 10], [2, 5, 8, 11]];
    assert.deepEqual(await read(), all);
    assert.deepEqual(await read(3), [[3, 6, 9], 3, [4, 7, 10], [5, 8, 11]]);
  });
});

Deno.test("texts of its own that are longer than a model's context are refused before a cell runs", async () => {
  await inTemporaryFolder(async (folder) => {
    const store = new Store(`${folder}/out`);
    const plan = (tokens: number, change: Partial<ExperimentDefinition> = {}): Promise<ExperimentPlan> =>
      planCells(
        resolved({ data: { own: { generate: { count: 2, tokens } }, file: demoData("train") }, ...change }),
        store,
      );
    const named = (options: object): Partial<ExperimentDefinition> => ({ base: { ...PLAIN.base, ...options } });
    const said = { value: 513, names: 512 };
    await plan(512, named({ data: "own" }));
    await rejects(plan(513, named({ data: "own" })), "usage", said);
    await plan(512, named({ data: "file", calibration: "own" }));
    await rejects(plan(513, named({ data: "file", calibration: "own" })), "usage", said);
    await plan(513, named({ data: "file" }));
  });
});
