// Experiments on the demo model: what they write, going on, failures, changes, and numbers that can be computed again.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { demoData } from "../../lib/local/open_model.ts";
import type { RunSummary } from "../../lib/run/result.ts";
import { exists } from "../../lib/files/exists.ts";
import { Store } from "../../lib/experiment/store.ts";
import { experimentTest, json, TINY } from "./tiny.ts";
import type {
  CellFile,
  CellOutcome,
  ExperimentDefinition,
  ExperimentReport,
  Measured,
} from "../../lib/experiment/types.ts";
import { rejects } from "../refuses.ts";

experimentTest(
  "an experiment runs in sittings, skips what is finished, and its tables follow from its cells",
  async (run, out) => {
    const first = await run(TINY, out, { maxCells: 3 });
    assert.deepEqual(first.worked, ["rank=2,alpha=4,seed=1", "rank=4,alpha=8,seed=1", "rank=2,alpha=4,seed=2"]);
    assert.equal(first.result.left, 1);
    const resultTime = (await Deno.stat(`${out}/cells/rank=2,alpha=4,seed=1/cell.json`)).mtime;
    const second = await run(TINY, out);
    assert.deepEqual(second.worked, ["rank=4,alpha=8,seed=2"]);
    assert.equal(second.result.left, 0);
    assert.deepEqual((await run(TINY, out)).worked, []);
    assert.deepEqual((await Deno.stat(`${out}/cells/rank=2,alpha=4,seed=1/cell.json`)).mtime, resultTime);
    // Measures by other names are what was measured: the models are gone.
    const { rows = [], choices = [] } = TINY.evaluate ?? {};
    const evaluate = { rows: rows.map((one) => ({ ...one, name: "replies" })), choices, prompt: [false, true] };
    const renamed = (await run({ ...TINY, evaluate }, out, { evaluateOnly: true })).result.report.cells;
    const before = await json<ExperimentReport>(`${out}/report.json`);
    assert.ok(renamed.every(({ numbers }) => (numbers["replies, no prompt"] ?? 0) > 1), JSON.stringify(renamed));
    assert.deepEqual(Object.keys(before.cells[0]?.numbers ?? {}).filter((name) => name === "answers"), []);
    await run(TINY, out);
    assert.ok(!(await exists(`${out}/cells/rank=2,alpha=4,seed=1/model`)), "models are dropped once measured");

    const report = await json<ExperimentReport>(`${out}/report.json`);
    assert.deepEqual(report.axes, ["rank", "alpha", "seed"]);
    assert.equal(report.contrasts.length, 1, "rank and alpha change together");
    assert.deepEqual(report.groups.map(({ at }) => at), [{ rank: "2", alpha: "4" }, { rank: "4", alpha: "8" }]);
    const measured = async (cell: string): Promise<Record<string, number>> => {
      const all = await json<Measured>(`${out}/cells/${cell}/measures.json`);
      return Object.fromEntries(
        Object.values(all).flatMap(({ values }) => values.map(({ name, value }) => [name, value])),
      );
    };
    const values = {
      "2": [await measured("rank=2,alpha=4,seed=1"), await measured("rank=2,alpha=4,seed=2")],
      "4": [await measured("rank=4,alpha=8,seed=1"), await measured("rank=4,alpha=8,seed=2")],
    };
    for (const name of ["answers", "questions"]) {
      for (const rank of ["2", "4"] as const) {
        const [a = NaN, b = NaN] = values[rank].map((one) => one[name] ?? NaN);
        const spread = report.groups.find(({ at }) => at["rank"] === rank)?.numbers[name];
        assert.deepEqual(spread?.values, [a, b]);
        near(spread?.mean, (a + b) / 2);
        near(spread?.sd, Math.abs(a - b) / Math.SQRT2);
      }
      const gaps = [0, 1].map((seed) => (values["4"][seed]?.[name] ?? NaN) - (values["2"][seed]?.[name] ?? NaN));
      const [contrast] = report.contrasts;
      assert.deepEqual([contrast?.axis, contrast?.from, contrast?.to], ["rank with alpha", "2", "4"]);
      near(contrast?.numbers[name]?.mean, ((gaps[0] ?? NaN) + (gaps[1] ?? NaN)) / 2);
      near(contrast?.numbers[name]?.stderr, Math.abs((gaps[0] ?? NaN) - (gaps[1] ?? NaN)) / 2);
    }
    const outcome = async (folder: string): Promise<CellOutcome> =>
      await new Store(out).outcome(folder) ?? assert.fail("no outcome");
    // Layers weigh alike in the demo, and the hard sparsity is the mean over them.
    for (const cell of report.cells) {
      const mean = cell.layers.reduce((sum, share) => sum + share, 0) / cell.layers.length;
      near(mean, cell.numbers["hard sparsity"], 1e-6);
      assert.ok((cell.numbers["unevenness of layers"] ?? 0) > 0);
      assert.equal(cell.steps, 5);
      const { labels, cutRows, promptTokens } = await outcome(cell.folder);
      assert.ok(
        (labels ?? 0) > 0 && cutRows === 0 && promptTokens !== undefined,
        `${labels} ${cutRows} ${promptTokens}`,
      );
      assert.equal(cell.numbers["labels seen"], labels);
    }
    const text = await Deno.readTextFile(`${out}/report.md`);
    const mean = report.groups[0]?.numbers["answers"]?.mean ?? NaN,
      sd = report.groups[0]?.numbers["answers"]?.sd ?? NaN;
    assert.ok(text.includes(`| 2 | 4 | 2 | ${mean.toFixed(2)} ± ${sd.toFixed(2)} |`), text);
    assert.match(text, /\| unpruned \| {2}\| {2}\|/);
    const page = await Deno.readTextFile(`${out}/experiment.html`);
    assert.ok(page.includes(`${mean.toFixed(2)} ± ${sd.toFixed(2)}<`), page);
    assert.equal(page.match(/<svg /g)?.length, 3);
    for (const file of ["measures.svg", "loss.svg", "layers.svg"]) {
      assert.ok((await Deno.readTextFile(`${out}/${file}`)).startsWith("<svg "), file);
    }
  },
);

experimentTest(
  "a grid that is widened keeps what is finished, in the folders that it has",
  async (run, out) => {
    const few: ExperimentDefinition = { ...TINY, grid: { rank: [2, 4], seed: [1] }, evaluate: {} };
    assert.deepEqual((await run(few, out, { keep: "models" })).worked, ["rank=2", "rank=4"]);
    const wide = { ...few, grid: { rank: [2, 4], seed: [1, 2] }, evaluate: TINY.evaluate };
    const measured = await run(wide, out, { evaluateOnly: true });
    assert.deepEqual(measured.worked, ["rank=2,seed=1", "rank=4,seed=1"]);
    const two = await run(wide, out, { only: new Map([["rank", ["2"]]]) });
    assert.deepEqual(two.worked, ["rank=2,seed=2"]);
    assert.equal(two.result.left, 0);
    const folders = async (): Promise<string[]> =>
      (await Array.fromAsync(Deno.readDir(`${out}/cells`), ({ name }) => name)).sort();
    assert.deepEqual(await folders(), ["rank=2", "rank=2,seed=2", "rank=4"]);
    const { groups, cells } = await json<ExperimentReport>(`${out}/report.json`);
    assert.deepEqual(groups.map(({ cells }) => cells), [["rank=2,seed=1", "rank=2,seed=2"], ["rank=4,seed=1"]]);
    assert.deepEqual(cells.map(({ folder }) => folder), ["rank=2", "rank=4", "rank=2,seed=2"]);
    assert.equal(groups[0]?.numbers["answers"]?.n, 2);

    const store = new Store(out), before = await store.outcome("rank=4");
    const { identity } = await store.cellFile("rank=4") ?? assert.fail("no cell.json");
    await store.begin("rank=4", identity, { restarts: true });
    await store.setCell("rank=4", { identity, failure: { code: "defect", message: "once", tries: 1 } });
    const again = await run(wide, out, { redo: true, only: new Map([["rank", ["4"]], ["seed", ["1"]]]) });
    assert.deepEqual([again.worked, again.result.failed], [["rank=4,seed=1"], []]);
    assert.deepEqual(await folders(), ["rank=2", "rank=2,seed=2", "rank=4"]);
    assert.deepEqual((await store.outcome("rank=4"))?.cut, before?.cut);
  },
);

experimentTest("a stopped cell goes on from its checkpoint and ends with the same losses", async (run, out, whole) => {
  const definition = { ...TINY, grid: { seed: [3] }, evaluate: {} };
  await run(definition, whole);
  const stop = new AbortController();
  let steps = 0;
  await rejects(
    run(definition, out, {
      signal: stop.signal,
      onRecord(): void {
        if (++steps === 3) stop.abort(new CompressoError("aborted", { what: "stopped" }));
      },
    }),
    "aborted",
  );
  assert.ok(await exists(`${out}/cells/only/checkpoint.safetensors`));
  assert.match(await Deno.readTextFile(`${out}/report.md`), /only: stopped/);
  const { worked } = await run(definition, out);
  assert.deepEqual(worked, ["only"]);
  const losses = async (out: string): Promise<unknown[]> =>
    (await Deno.readTextFile(`${out}/cells/only/records.jsonl`)).trimEnd().split("\n")
      .map((line) => JSON.parse(line)).map(({ step, loss }) => [step, loss]);
  assert.deepEqual(await losses(out), await losses(whole));
});

experimentTest(
  "a cell that fails is recorded, and the others run; a changed definition is refused until --redo",
  async (run, out) => {
    // So many columns stay that the second target cannot be reached.
    const definition: ExperimentDefinition = {
      ...TINY,
      base: { ...TINY.base, minFfn: 80, units: "ffn" },
      grid: { sparsity: [0.9, 0.05] },
      evaluate: {},
    };
    const { worked, result } = await run(definition, out);
    assert.deepEqual(worked, ["sparsity=0.9", "sparsity=0.05"]);
    assert.deepEqual(result.failed.map(({ cell }) => cell), ["sparsity=0.9"]);
    const fileOf = (sparsity: number): Promise<CellFile> => json(`${out}/cells/sparsity=${sparsity}/cell.json`);
    assert.equal((await fileOf(0.9)).failure?.code, "usage");
    assert.equal(await new Store(out).outcome("sparsity=0.9"), null);
    assert.equal((await fileOf(0.05)).failure, undefined);
    assert.match(await Deno.readTextFile(`${out}/report.md`), /## Not finished\n\n- sparsity=0\.9: failed: /);

    const changed = { ...definition, base: { ...definition.base, steps: 2 }, grid: { sparsity: [0.05, 0.04] } };
    await rejects(run(changed, out), "mismatch", { value: [3, 2], names: 0.05 });
    assert.equal((await run(changed, out, { redo: true })).result.left, 0);
    assert.equal((await fileOf(0.05)).identity["steps"], 2);
  },
);

experimentTest(
  "measures are added afterwards where models were kept, and only said to be missing where not",
  async (run, out, other) => {
    const plain = { ...TINY, grid: { seed: [1, 2] }, evaluate: {} };
    await run(plain, out, { keep: "models", only: new Map([["seed", ["1"]]]) });
    await run(plain, out, { only: new Map([["seed", ["2"]]]) });
    const question = {
      question: "Where is Tom?",
      choices: { text: ["in Lyon", "in Pisa"], label: ["A", "B"] },
      answerKey: "B",
    };
    await Deno.writeTextFile(`${other}/arc_easy.test.jsonl`, JSON.stringify(question) + "\n");
    const own = { name: "own", context: "{{place}}", choices: ["Lyon", "Pisa"], answer: "place" };
    await Deno.writeTextFile(`${other}/mine.json`, JSON.stringify(own));
    await Deno.writeTextFile(`${other}/own.test.jsonl`, JSON.stringify({ place: "Pisa" }) + "\n");
    const tasks = { names: ["arc_easy", `${other}/mine.json`], data: other };
    const text = "Tom went to Rome. Sam met the bee.\n".repeat(8);
    await Deno.writeTextFile(`${other}/plain.txt`, text);
    await Deno.writeTextFile(`${other}/marked.txt`, `\uFEFF${text}`);
    const perplexity = ["plain", "marked"].map((name) => ({ name, text: `${other}/${name}.txt`, window: 16 }));
    const notes: string[] = [], more = { ...plain, evaluate: { ...TINY.evaluate, perplexity, tasks } };
    const { worked, result } = await run(more, out, {
      evaluateOnly: true,
      onNote: (line) => notes.push(line),
    });
    assert.deepEqual(worked, ["seed=1"]);
    assert.match(notes.join("\n"), /1 cells lack .*, rows answers, choices questions, task arc_easy, task own, and/);
    assert.ok(await exists(`${out}/cells/seed=1/model`), "measuring afterwards leaves the models");
    assert.equal(result.report.groups[0]?.numbers["answers"]?.n, 1);
    assert.match(await Deno.readTextFile(`${out}/report.md`), /\(n = 1\)/);
    const numbers = result.report.cells.find(({ cell }) => cell === "seed=1")?.numbers ?? {};
    near(numbers["mean acc of 2 tasks"], ((numbers["arc_easy acc"] ?? NaN) + (numbers["own acc"] ?? NaN)) / 2);
    assert.ok((numbers["plain"] ?? 0) > 1);
    assert.equal(numbers["marked"], numbers["plain"], "a byte order mark is no part of a text");

    const prompts = { ...more, evaluate: { tasks, prompt: [false, true] } };
    const { result: { report, failed } } = await run(prompts, out, { evaluateOnly: true });
    assert.deepEqual(failed, []);
    const both = report.cells.find(({ cell }) => cell === "seed=1")?.numbers ?? {};
    for (const label of [", no prompt", ", with prompt"]) {
      const [first = NaN, second = NaN] = ["arc_easy", "own"].map((name) => both[`${name} acc${label}`]);
      near(both[`mean acc of 2 tasks${label}`], (first + second) / 2);
    }
    assert.equal(both["arc_easy acc, no prompt"], numbers["arc_easy acc"]);
  },
);

experimentTest(
  "cells without LoRA train masks alone, and texts that the model writes are written once, to train on and for calibration",
  async (run, out, other) => {
    const schedule = `${other}/mine.ts`;
    await Deno.writeTextFile(
      schedule,
      'import { defineSchedule } from "compresso";\nexport default defineSchedule({ rates: { lora: 1e-3 } });\n',
    );
    const definition: ExperimentDefinition = {
      ...TINY,
      data: {
        given: { file: demoData("train"), limit: 60 },
        own: { generate: { count: 5, tokens: 24 } },
        answers: { answers: { file: demoData("train"), limit: 12, tokens: 6 } },
      },
      grid: [
        { lora: [false], method: ["compresso", "magnitude"], data: ["given"] },
        { lora: [false], schedule: [schedule], data: ["given"] },
        { data: ["own"], seed: [1, 2] },
        { data: ["given"], calibration: ["own"] },
        { data: ["answers"], limitRows: [10], valData: ["own"], evalEvery: [2], postfinetune: [2] },
      ],
      evaluate: {},
    };
    const { result } = await run(definition, out);
    assert.deepEqual(result.failed, []);
    const names: string[] = [];
    for await (const { name } of Deno.readDir(`${out}/cells`)) names.push(name);
    const records = async (part: string): Promise<{ stage: string; learningRate: number }[]> =>
      (await Deno.readTextFile(`${out}/cells/${names.find((name) => name.includes(part))}/records.jsonl`))
        .split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
    assert.deepEqual(await records("method=magnitude"), [], "a one-shot cut without LoRA has no steps");
    const without = await records("lora=off,method=compresso");
    assert.deepEqual(without.map(({ stage }) => stage), ["prune", "prune", "prune"]);
    // Whatever a schedule sets.
    for (const record of [...without, ...await records("schedule=mine")]) assert.equal(record.learningRate, 0);
    const files: string[] = [];
    for await (const { name } of Deno.readDir(`${out}/data`)) if (name.endsWith(".jsonl")) files.push(name);
    assert.deepEqual(files.map((name) => name.replace(/-\w+\.jsonl$/, "")).sort(), ["self-answered", "self-written"]);
    const linesOf = async (name = ""): Promise<string[]> =>
      (await Deno.readTextFile(`${out}/data/${name}`)).trimEnd().split("\n");
    const answers = (await linesOf(files.find((name) => name.includes("answered")))).map((line) => JSON.parse(line));
    const asked = (await Deno.readTextFile(demoData("train"))).split("\n", 10).map((line) => JSON.parse(line));
    assert.deepEqual(answers.map(({ input }) => input), asked.map(({ input }) => input));
    const held = `${out}/cells/${names.find((name) => name.includes("valData=own"))}`;
    const { data: { heldOut }, validation } = await json<RunSummary>(`${held}/run.json`);
    assert.deepEqual([heldOut, validation?.last.step], [0, (await records("valData=own")).length]);
    assert.match(String((await json<CellFile>(`${held}/cell.json`)).identity["valRows"]), /"count":5,"tokens":24/);
    const beside = `${out}/cells/${names.find((name) => name.includes("calibration=own"))}`;
    const calibrates = async (folder: string): Promise<boolean> =>
      JSON.parse(await Deno.readTextFile(`${folder}/run.json`)).options.calibration;
    assert.equal(await calibrates(beside), true);
    // No cell has one that it does not name.
    const plain = names.filter((name) => name.includes("method=compresso") && !name.includes("calibration=own"));
    assert.ok(plain.length > 0);
    for (const name of plain) assert.equal(await calibrates(`${out}/cells/${name}`), false, name);
    const { identity } = await json<CellFile>(`${beside}/cell.json`);
    assert.match(String(identity["calibration"]), /"count":5,"tokens":24/);
    const path = `${out}/data/${files.find((name) => name.includes("written"))}`, texts = await Deno.readTextFile(path);
    assert.equal(texts.trimEnd().split("\n").length, 5);
    assert.equal(await exists(`${path}.sha256`), true);
    // Others in their place are not trained on under the same name.
    await Deno.writeTextFile(path, texts.slice(0, texts.trimEnd().lastIndexOf("\n") + 1));
    const more = (await run({ ...definition, grid: [{ data: ["own"], seed: [1, 2, 3] }] }, out)).result.failed;
    assert.deepEqual(more.map(({ cell }) => cell), ["seed=3"]);
    assert.match(more[0]?.message ?? "", /self-written-\w+\.jsonl/);
  },
);

function near(actual: number | null | undefined, expected: number | undefined, tolerance = 1e-12): void {
  assert.ok(Math.abs((actual ?? NaN) - (expected ?? NaN)) <= tolerance, `${actual} for ${expected}`);
}

experimentTest(
  "rows that data, calibration and measures leave out are told once each, and run.json has those of the run",
  async (run, out, other) => {
    const write = async (name: string, from: string, blanks: number): Promise<string> => {
      const lines = (await Deno.readTextFile(from)).split("\n").slice(0, 20);
      await Deno.writeTextFile(
        `${other}/${name}`,
        [...lines.slice(0, 2), ..."\n".repeat(blanks).split("\n").slice(1), ...lines.slice(2)].join("\n"),
      );
      return `${other}/${name}`;
    };
    const data = await write("data.jsonl", demoData("train"), 1),
      beside = await write("beside.jsonl", demoData("train"), 2);
    const file = await write("asked.jsonl", demoData("heldout"), 3), notes: string[] = [];
    const definition: ExperimentDefinition = {
      ...TINY,
      model: "demo", // which knows the answers
      data: { rows: { file: data }, beside: { file: beside } },
      base: { ...TINY.base, data: "rows", calibration: "beside" },
      grid: { seed: [1] },
      evaluate: { choices: [{ name: "questions", file, limit: 6, exactMatch: true }] },
    };
    const { result } = await run(definition, out, { onNote: (line) => void notes.push(line) });
    assert.deepEqual(result.failed, []);
    assert.deepEqual(
      notes.filter((line) => line.includes("left out")),
      [[file, "3 empty (row 3, 4, 5)"], [data, "1 empty (row 3)"], [beside, "2 empty (row 3, 4)"]]
        .map(([path, rows]) => `of the rows of ${path} are left out: ${rows}`),
    );
    const { data: { empty, calibration } } = await json<RunSummary>(
      `${out}/cells/${result.report.cells[0]?.folder}/run.json`,
    );
    assert.deepEqual([empty, calibration?.empty], [1, 2]);
    const [dense = []] = Object.values(result.report.dense), [chosen, exact] = dense;
    assert.deepEqual(dense.map(({ name, value }) => [name, value]), [["questions", 1], ["questions exact match", 1]]);
    assert.equal(exact?.n, chosen?.n);
  },
);
