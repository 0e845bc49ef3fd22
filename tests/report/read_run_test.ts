// Reading of runs and evaluations: what is taken, what is refused, and how it is said.
import assert from "node:assert/strict";
import { parseEvaluation, readEvaluation } from "../../lib/report/evaluation.ts";
import { evaluationTable, optionTable } from "../../lib/report/overview.ts";
import { writeSafetensors } from "../disk.ts";
import { refuses, rejects } from "../refuses.ts";
import { readRun } from "../../lib/report/read_run.ts";
import { recordsCsv } from "../../lib/report/records_csv.ts";
import { renderReport } from "../../lib/report/report.ts";
import type { Alarm } from "../../lib/run/monitors/alarm.ts";
import { parseRecords } from "../../lib/run/run_json.ts";
import { TemporaryFolder } from "../cli/helpers/cli.ts";
import { madeRecord, madeRun } from "./made_run.ts";

const RUN = madeRun("a");

const ALARM: Alarm = {
  ...{ monitor: "constraint", step: 8, action: "stop", restored: null },
  ...{ message: "the constraint is not met", change: "let the schedule end later", options: [] },
};

/** run.json of the made run. */
function summaryText(change: Readonly<Record<string, unknown>> = {}): string {
  return JSON.stringify({ ...RUN.summary, ...change });
}

function lines(count: number): string {
  return Array.from({ length: count }, (_, index) => `${JSON.stringify(madeRecord(index + 1))}\n`).join("");
}

Deno.test("readRun() reads records, run.json and every eval….json of a finished run", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("records.jsonl"), lines(40));
  const changes = [{ step: 12, differences: ["schedule: cubic then, linear now"] }];
  await Deno.writeTextFile(folder.at("run.json"), summaryText({ changes }));
  await Deno.writeTextFile(
    folder.at("eval_dense.json"),
    JSON.stringify({ perplexity: 20.5, tokens: 100, nll: 302, windows: 3, window: 128 }),
  );
  await Deno.writeTextFile(folder.at("other.json"), "not read");
  // One that is being written, and one of another program.
  await Deno.writeTextFile(folder.at("eval_new.json"), "");
  await Deno.writeTextFile(folder.at("eval_harness.json"), JSON.stringify({ results: {}, versions: {} }));
  const run = await readRun(folder.path);
  assert.deepEqual(run.records, RUN.records);
  assert.deepEqual([run.summary?.masks, run.summary?.versions], [RUN.summary?.masks, RUN.summary?.versions]);
  assert.deepEqual(run.summary?.changes, changes);
  assert.deepEqual([run.options, run.adapter, run.origin], [RUN.options, RUN.adapter, RUN.origin]);
  assert.equal(run.folder, folder.path);
  assert.deepEqual(run.evaluations.map(({ name }) => name), ["eval_dense"]);
  assert.equal(run.unread.length, 2);
  assert.match(run.unread.join("\n"), /eval_harness\.json.*results, versions.*\n.*eval_new\.json/);
});

Deno.test("run.json of a version that wrote no warnings is read as one without warnings", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("records.jsonl"), "");
  await Deno.writeTextFile(folder.at("run.json"), summaryText({ warnings: undefined }));
  assert.deepEqual((await readRun(folder.path)).summary?.warnings, []);
});

Deno.test("a run that goes on is read as far as its last whole line, without run.json", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("records.jsonl"), lines(7) + `{"stage":"pru`);
  const { records, summary, options } = await readRun(folder.path);
  assert.deepEqual([records.length, summary, options], [7, null, null]);
});

Deno.test("the options of a run that is not finished are those of its checkpoint, as run.json would have them", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("records.jsonl"), lines(7));
  const identity = {
    sparsity: 0.3,
    units: ["kv", "ffn"],
    lora: { rank: 8 },
    size: null,
    prompt: null,
    schedule: "cubic",
  };
  const data = new Float32Array(1), compresso = JSON.stringify({ identity: { ...identity, adapter: "a GPU" } });
  const tensor = { name: "a", dtype: "F32", shape: [1], data: () => Promise.resolve(data) } as const;
  await writeSafetensors(folder.at("checkpoint.safetensors"), [tensor], { metadata: { compresso } });
  const { options, adapter, alarms } = await readRun(folder.path);
  assert.deepEqual(alarms, []);
  assert.deepEqual(options, {
    sparsity: 0.3,
    units: ["kv", "ffn"],
    lora: { rank: 8 },
    size: null,
    prompt: null,
    schedule: "cubic",
  });
  assert.equal(adapter, "a GPU");
});

Deno.test("what decides a run beside its options is among them, finished or not, and calibration as what was asked", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("records.jsonl"), lines(40));
  const inputs = { model: "m", baseDtype: "f16", schedule: "cubic, the default" };
  const optionsOf = async (summary: Readonly<Record<string, unknown>>): Promise<Readonly<Record<string, unknown>>> => {
    await Deno.writeTextFile(folder.at("run.json"), summaryText(summary));
    return (await readRun(folder.path)).options ?? {};
  };
  assert.deepEqual(await optionsOf({ inputs }), { ...RUN.options, baseDtype: "f16", schedule: "cubic" });
  assert.equal((await optionsOf({ inputs: { schedule: "script 0123" } })).schedule, "script 0123");
  // What cuts in one shot goes by none, but in its recovery by one that is given.
  const taylor = { options: { ...RUN.options, method: "taylor" } };
  assert.deepEqual(await optionsOf({ ...taylor, inputs }), { ...taylor.options, baseDtype: "f16" });
  const recovery = { ...taylor, inputs: { schedule: "script 0123" } };
  assert.deepEqual(await optionsOf(recovery), { ...taylor.options, schedule: "script 0123" });
  // Programs need not say it, and so it is no difference.
  const rows = async (): Promise<readonly string[]> => {
    const run = await readRun(folder.path);
    return optionTable([run, RUN])?.rows.flatMap(([name = ""]) => /schedule|baseDtype/.test(name) ? [name] : []) ?? [];
  };
  await optionsOf({ inputs });
  assert.deepEqual(await rows(), ["baseDtype", "schedule"]);
  await Deno.remove(folder.at("run.json"));
  const position = { stopped: [ALARM] };
  const data = new Float32Array(1), tensor = { name: "a", dtype: "F32", shape: [1], data: () => data } as const;
  const begun = async (calibration: unknown): Promise<Awaited<ReturnType<typeof readRun>>> => {
    const identity = { baseDtype: "f16", calibration, schedule: "script 0123" };
    const metadata = { compresso: JSON.stringify({ identity, position }) };
    await writeSafetensors(folder.at("checkpoint.safetensors"), [tensor], { metadata });
    return await readRun(folder.path);
  };
  const { options, alarms } = await begun("0123456789abcdef");
  assert.deepEqual(options, { baseDtype: "f16", calibration: true, schedule: "script 0123" });
  assert.deepEqual(alarms.map(({ message }) => message), [ALARM.message], "of what stopped it no record says a word");
  assert.equal((await begun(false)).options?.calibration, false);
  await Deno.writeTextFile(folder.at("records.jsonl"), `${JSON.stringify(madeRecord(1, { alarms: [ALARM] }))}\n`);
  assert.equal((await begun(false)).alarms.length, 1, "unless one does");
});

Deno.test("a loss that was not a number is null in JSON, and NaN when read", () => {
  const [record] = parseRecords(JSON.stringify(madeRecord(1, { loss: NaN })) + "\n", { path: "r", isFinished: false });
  assert.ok(Number.isNaN(record?.loss));
  const masks = JSON.stringify(madeRecord(1, { layers: [{ heads: NaN, ffn: 0, sparsity: 0 }] }));
  assert.deepEqual(parseRecords(masks + "\n", { path: "r", isFinished: false })[0]?.layers, [{
    heads: NaN,
    ffn: 0,
    sparsity: 0,
  }]);
});

Deno.test("broken lines, other versions and folders without a run are refused, with file and line", async () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    [lines(2) + "{oops}\n" + lines(1), /line 3 of r.*each line is a step's record as JSON/s],
    [lines(1) + "\n" + lines(1), /line 2 of r.*an empty line/s],
    [lines(1) + JSON.stringify({ ...madeRecord(2), loss: "low" }) + "\n", /line 2 of r.*as this version.*loss: /s],
    [JSON.stringify({ step: 1 }) + "\n", /line 1 of r.*stage: /s],
    [JSON.stringify({ ...madeRecord(1), stage: "anneal" }) + "\n", /line 1 of r.*stage: /s],
    [lines(1) + "[]\n", /line 2 of r/],
    [lines(1) + `{"half`, /line 2 of r/],
  ];
  for (const [text, message] of cases) {
    assert.throws(() => parseRecords(text, { path: "r", isFinished: true }), {
      name: "CompressoError",
      code: "input",
      message,
    });
  }
  using folder = new TemporaryFolder();
  await rejects(readRun(folder.at("none")), "input", { names: folder.at("none") });
  await rejects(readRun(folder.path), "input", { names: [folder.path, "records.jsonl"] });
  await Deno.writeTextFile(folder.at("records.jsonl"), lines(2));
  await rejects(readRun(folder.at("records.jsonl")), "input", { names: folder.at("records.jsonl") });
  for (
    const [text, ...names] of [
      ["{", "run.json", "JSON"],
      ["{}", "run.json", "sparsity:"],
      [summaryText({ parameters: { before: -1, after: 2 } }), "parameters.before"],
      [summaryText({ masks: { heads: [], ffn: [], hidden: [] } }), "2 layers", "heads"],
    ] as const
  ) {
    await Deno.writeTextFile(folder.at("run.json"), text);
    await rejects(readRun(folder.path), "input", { names });
  }
});

Deno.test("parseEvaluation() reads tasks, perplexity and accuracy, with their standard errors and counts", () => {
  const tasks = {
    tasks: {
      arc_easy: { acc: 0.5, acc_norm: 0.48, stderr: 0.02, acc_norm_stderr: 0.03, n: 600, truncated: 2 },
      piqa: { acc: 0.7, stderr: null, n: 100 },
    },
  };
  assert.deepEqual(parseEvaluation(JSON.stringify(tasks), "runs/e.json"), [{
    name: "e",
    file: "runs/e.json",
    scores: [
      { task: "arc_easy", metric: "acc", value: 0.5, stderr: 0.02, count: 600, truncated: 2, change: null },
      { task: "arc_easy", metric: "acc_norm", value: 0.48, stderr: 0.03, count: 600, truncated: 2, change: null },
      { task: "piqa", metric: "acc", value: 0.7, stderr: null, count: 100, change: null },
    ],
  }]);
  const scores = (text: string): unknown => parseEvaluation(text, "e")[0]?.scores;
  assert.deepEqual(scores(`{"perplexity":20.5,"tokens":511,"nll":1543,"windows":1,"window":512}`), [
    { task: "text, windows of 512", metric: "perplexity", value: 20.5, stderr: null, count: 511, change: null },
  ]);
  assert.deepEqual(scores(`{"accuracy":0.99,"correct":99,"n":100}`), [
    { task: "choices", metric: "accuracy", value: 0.99, stderr: null, count: 100, change: null },
  ]);
  for (
    const text of [
      "",
      "[1]",
      "{}",
      `{"tasks":{}}`,
      `{"tasks":{"a":{"n":3}}}`,
      `"acc"`,
      "null",
      `{"models":[]}`,
      `{"models":[{}]}`,
    ]
  ) {
    refuses(() => parseEvaluation(text, "e.json"), "input", { names: "e.json" });
  }
});

Deno.test("parseEvaluation() reads several models, with the paired differences from the first", () => {
  const text = JSON.stringify({
    models: [
      {
        model: "dense",
        tasks: { piqa: { acc: 0.7, n: 10 } },
        perplexities: [{ perplexity: 20, window: 128, stride: 64, tokens: 5 }],
      },
      {
        model: "small",
        tasks: { piqa: { acc: 0.6, n: 10 } },
        perplexities: [{ perplexity: 30, window: 128, stride: 64, tokens: 5 }],
      },
    ],
    differences: [{
      model: "small",
      against: "dense",
      tasks: { piqa: { acc: { difference: -0.1, stderr: 0.05, low: -0.2, high: 0 } } },
      perplexities: [{ window: 128, stride: 64, ratio: 1.5, low: 1.4, high: 1.6 }],
    }],
  });
  const [dense, small] = parseEvaluation(text, "both.json");
  assert.deepEqual([dense?.name, small?.name], ["dense", "small"]);
  assert.ok(dense?.scores.every(({ change }) => change === null));
  assert.deepEqual(small?.scores.map(({ task, metric, value, change }) => [task, metric, value, change]), [
    [
      "text, windows of 128, each 64 further",
      "perplexity",
      30,
      { against: "dense", isRatio: true, value: 1.5, low: 1.4, high: 1.6 },
    ],
    ["piqa", "acc", 0.6, { against: "dense", isRatio: false, value: -0.1, low: -0.2, high: 0 }],
  ]);
  const heads = (files: readonly string[]): string[] => {
    const evaluations = files.flatMap((file) => parseEvaluation(text, file));
    const table = evaluationTable([madeRun("mine", { evaluations: [] })], evaluations);
    return table?.head.slice(1) ?? [];
  };
  assert.deepEqual(heads(["both.json"]), ["dense", "small"]);
  assert.deepEqual(heads(["wiki.json", "c4.json"]), [
    ...["wiki.json: dense", "wiki.json: small", "c4.json: dense", "c4.json: small"],
  ]);
  assert.deepEqual(heads(["a/e.json", "b/e.json"]).slice(0, 3), [
    "a/e.json: dense",
    "a/e.json: small",
    "b/e.json: dense",
  ]);
  assert.equal(new Set(heads(["e.json", "e.json"])).size, 4);
  const html = renderReport([madeRun("mine", { evaluations: parseEvaluation(text, "both.json") })]);
  assert.ok(html.includes("30.0000 (5); × 1.5000 (1.4000 … 1.6000) against dense"));
  assert.ok(html.includes("0.6000 (10); −0.1000 (−0.2000 … +0.0000) against dense"));
});

Deno.test("an evaluation table says beside the count how many questions lost their beginning, and only where some have", () => {
  const tableOf = (truncated: number): string => {
    const text = JSON.stringify({ tasks: { arc_easy: { acc: 0.5, stderr: 0.02, n: 2376, truncated } } });
    return renderReport([madeRun("mine", { evaluations: parseEvaluation(text, "e.json") })]);
  };
  const cell = />0\.5000 ± 0\.0200 \(2,376(, 1,200 [^)]+)?\)<\/td>/, [cut, whole] = [tableOf(1200), tableOf(0)];
  assert.ok(cell.exec(cut)?.[1] !== undefined && whole.match(cell)?.[1] === undefined);
  assert.match(whole, cell);
  assert.ok(cut.replace(cell, "").length > whole.replace(cell, "").length, "the text below explains the second count");
});

Deno.test("readEvaluation() takes UTF-8 and UTF-16 with a byte order mark, as PowerShell writes them, and refuses what is neither", async () => {
  using folder = new TemporaryFolder();
  const json = `{"tasks":{"größe":{"acc":0.5,"n":3}}}\r\n`, path = folder.at("eval.json");
  const utf16 = (isLittle: boolean): Uint8Array => {
    const bytes = new Uint8Array(2 * json.length + 2), view = new DataView(bytes.buffer);
    [0xfeff, ...json.split("").map((letter) => letter.charCodeAt(0))].forEach((unit, at) =>
      view.setUint16(2 * at, unit, isLittle)
    );
    return bytes;
  };
  const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
  for (const bytes of [utf8(json), utf8(`\ufeff${json}`), utf16(true), utf16(false)]) {
    await Deno.writeFile(path, bytes);
    const [{ scores } = { scores: [] }] = await readEvaluation(path);
    assert.deepEqual(scores.map(({ task, value }) => [task, value]), [["größe", 0.5]], String(bytes.subarray(0, 4)));
  }
  assert.equal(parseEvaluation(`\ufeff${json}`, "e.json")[0]?.scores[0]?.value, 0.5);
  const refused = async (bytes: Uint8Array, value: string): Promise<void> => {
    await Deno.writeFile(path, bytes);
    await rejects(readEvaluation(path), "input", { value, names: path });
  };
  // Latin-1, where a task would have another name if it were read all the same.
  const latin = Uint8Array.from(json.split("").map((letter) => letter.charCodeAt(0)));
  await refused(latin, "UTF-8");
  await refused(utf16(true).subarray(0, 9), "UTF-16");
});

Deno.test("a run.json with heads that its masks do not have, or options nested without end, is refused", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("records.jsonl"), lines(2));
  const before = RUN.summary?.before, layers = before?.layers.map((layer) => ({ ...layer, kvHeads: 2 ** 32 }));
  await Deno.writeTextFile(folder.at("run.json"), summaryText({ before: { ...before, layers } }));
  await rejects(readRun(folder.path), "input", { names: ["layer 0", 2 ** 32] });
  const deep = summaryText({ options: "deep" }).replace('"deep"', `${'{"a":'.repeat(3000)}1${"}".repeat(3000)}`);
  await Deno.writeTextFile(folder.at("run.json"), deep);
  await rejects(readRun(folder.path), "input", { names: ["options:", 32] });
});

Deno.test("records as CSV have a line for each step that counts, with empty cells for numbers that are not there", () => {
  const again = madeRecord(2, { loss: NaN, heldout: 1.5 });
  const alarm = {
    monitor: "divergence",
    step: 1,
    action: "warn",
    restored: null,
    message: "",
    change: "",
    options: [],
  } as const;
  const records = [madeRecord(1, { alarms: [alarm, alarm] }), madeRecord(2), again, madeRecord(5)];
  const [head = "", ...lines] = recordsCsv([{ folder: 'a "b",c', records }]).trimEnd().split("\n");
  const names = head.split(","), rows = lines.map((line) => line.replace('"a ""b"",c"', "quoted").split(","));
  const column = (name: string): unknown[] => rows.map((row) => row[names.indexOf(name)]);
  assert.deepEqual(rows.map((row) => row.length), Array(3).fill(names.length));
  assert.deepEqual(column("run"), Array(3).fill("quoted"));
  assert.deepEqual(column("step"), ["1", "2", "5"]);
  assert.deepEqual(column("loss"), [String(records[0]?.loss), "", String(records[3]?.loss)]);
  assert.deepEqual(column("heldout"), ["", "1.5", ""]);
  assert.deepEqual(column("target"), ["", "", String(records[3]?.target)]);
  assert.deepEqual(column("alarms"), ["divergence", "", ""]);
});
