// eval with tasks, several models and several windows, on the demo as a user drives it.
import assert from "node:assert/strict";
import { writeShortDemo } from "../demo.ts";
import { assertNames, type Refusal } from "../refuses.ts";
import { HAS_PYTHON } from "../python.ts";
import { HELD } from "../../lib/files/lock.ts";
import type { ErrorCode } from "../../lib/core/errors.ts";
import { cli, command, copyDemo, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const TASKS = ["--task-data", "fixtures/tasks", "--no-tuning"];

Deno.test("eval --tasks --json prints acc, acc_norm, their errors and n of each task", async () => {
  const { tasks } = await json(["eval", "demo", "--tasks", "arc_easy,mmlu", ...TASKS, "--limit", "2"]);
  assert.deepEqual(Object.keys(tasks), ["arc_easy", "mmlu"]);
  const { acc, acc_norm, stderr: error, acc_norm_stderr, n } = tasks.arc_easy;
  assert.equal(n, 2);
  for (const share of [acc, acc_norm]) assert.ok([0, 0.5, 1].includes(share));
  // √(¼ + ¼) / √2 where one of two is right, 0 where they are alike.
  assert.equal(error, acc === 0.5 ? 0.5 : 0);
  assert.equal(acc_norm_stderr, acc_norm === 0.5 ? 0.5 : 0);
  assert.deepEqual([tasks.mmlu.n, tasks.mmlu.subsets.anatomy.n], [4, 2]);
  const text = await cli(["eval", "demo", "--tasks", "arc_easy", ...TASKS]);
  assert.match(text.stdout, /^arc_easy acc +\d+\.\d ± \d+\.\d % of 3$/m); // the table
});

Deno.test("eval takes a task of one's own, as the example has it", async () => {
  using folder = new TemporaryFolder();
  const row = { day: "Monday", next: ["Tuesday", "Friday"], right: 0 };
  await Deno.writeTextFile(folder.at("weekdays.test.jsonl"), JSON.stringify(row));
  const task = "scripts/examples/own_task.ts";
  const { tasks } = await json(["eval", "demo", "--tasks", task, "--task-data", folder.path, "--no-tuning"]);
  assert.equal(tasks.weekdays.n, 1);
});

Deno.test("eval of several models prints a table, and paired differences from the first", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("same"));
  // Another model: the last bytes of the weights are of some tensor.
  await copyDemo(folder.at("other"), (weights) => weights.fill(0, weights.length - 60000));
  const models = ["demo", folder.at("same"), folder.at("other")];
  const args = ["eval", ...models, "--tasks", "piqa,mmlu", ...TASKS];
  const report = await json(args);
  assert.deepEqual(report.models.map(({ model }: { model: string }) => model), models);
  assert.deepEqual(report.models[0].tasks, report.models[1].tasks);
  const [same, other] = report.differences;
  assert.deepEqual([same.model, same.against], [models[1], "demo"]);
  assert.deepEqual(same.tasks.piqa.acc, { difference: 0, stderr: 0, low: null, high: null });
  const gap = other.tasks.mmlu.acc;
  const [first, , last] = report.models.map(({ tasks }: { tasks: { mmlu: { acc: number } } }) => tasks.mmlu.acc);
  assert.ok(Math.abs(gap.difference - (last - first)) < 1e-12);
  assert.ok(gap.low <= gap.difference && gap.difference <= gap.high);
  const { stdout } = await cli(["eval", "demo", models[2] ?? "", "--tasks", "piqa", ...TASKS]);
  assertNames(stdout, ["demo", "95 %"]);
  assert.match(stdout, /^piqa acc_norm +\d.*\d/m);
});

Deno.test("eval --text takes several windows and a stride, and compares models window by window", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const args = ["--text", folder.at("text.txt"), "--window", "16,32", "--no-tuning"];
  const { perplexities } = await json(["eval", "demo", ...args, "--stride", "8"]);
  assert.deepEqual(perplexities.map(({ window, stride }: { window: number; stride: number }) => [window, stride]), [[
    16,
    8,
  ], [32, 8]]);
  assert.equal(perplexities[0].tokens, perplexities[1].tokens, "each token but the first counts once");
  await copyDemo(folder.at("same"));
  const { differences } = await json(["eval", "demo", folder.at("same"), ...args]);
  assert.deepEqual(differences[0].perplexities, [
    { window: 16, ratio: 1, low: 1, high: 1 },
    { window: 32, ratio: 1, low: 1, high: 1 },
  ]);
  const table = await cli(["eval", "demo", folder.at("same"), ...args]);
  assert.match(table.stdout, /^perplexity 16 +\d+\.\d+ +\d+\.\d+$/m);
  assert.match(table.stdout, /^perplexity 32 +× 1\.0000 \(1\.0000 … 1\.0000\)$/m);
});

Deno.test("eval --against tells KL and equal first choices of one model or several, over the second halves of windows", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const short = await writeShortDemo(folder.at("short")), on = ["--text", folder.at("text.txt"), "--no-tuning"];
  const found = await json(["eval", short, "--against", "demo", ...on, "--window", "32"]), said = JSON.stringify(found);
  const { kl, klError, klMedian, kl99, top1, dropped, nll, bitsPerByte, tokens, windows, against } = found;
  assert.ok(klMedian < kl99 && klError > 0 && klError < kl && top1 > 0 && top1 < 1, said);
  assert.deepEqual([dropped, tokens, against.model], [0, 15 * windows, "demo"]);
  assert.ok(Math.abs(bitsPerByte / against.bitsPerByte - nll / against.nll) < 1e-9 && nll !== against.nll, said);
  const plain = await json(["eval", "demo", ...on, "--window", "32"]);
  assert.ok(plain.bitsPerByte > 0 && plain.bitsPerByte < plain.nll / Math.LN2, "a token has more than a byte");
  const table = await cli(["eval", "demo", short, "--against", "demo", ...on, "--window", "16,32"]);
  assert.match(table.stdout, / 16 +100\.0 % +\d+\.\d %$/m);
  assert.match(table.stdout, /KL\b.* 32 +0\.0000 ± 0\.0000 nats +\d+\.\d+ ± \d\.\d+ nats$/m);
  for (const [flag, value] of [["--stride", "8"], ["--out", folder.at("kept.jsonl")]] as const) {
    await refused(["eval", short, "--against", "demo", ...on, flag, value], "usage", { value: flag });
  }
  const tasks = ["--tasks", "piqa", "--task-data", "fixtures/tasks"];
  await refused(["eval", short, "--against", "demo", ...tasks], "usage", { value: "--tasks", names: "--against" });
});

Deno.test("eval --text without windows has one for all models, which fits the shortest context", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  await copyDemo(folder.at("short"));
  const config = folder.at("short", "config.json"), shape = JSON.parse(await Deno.readTextFile(config));
  await Deno.writeTextFile(config, JSON.stringify({ ...shape, max_position_embeddings: 24 }));
  const { models, differences } = await json([
    ...["eval", "demo", folder.at("short"), "--text", folder.at("text.txt"), "--no-tuning"],
  ]);
  assert.deepEqual(models.map(({ window }: { window: number }) => window), [24, 24]);
  assert.deepEqual(differences[0].perplexities, [{ window: 24, ratio: 1, low: 1, high: 1 }]);
});

Deno.test("eval --text says that rows are measured with their markup, and what to do about a packed file", async () => {
  using folder = new TemporaryFolder();
  const text = JSON.stringify({ text: "Sam met the bee. Tom went to Rome." }) + "\n";
  await Deno.writeTextFile(folder.at("rows.jsonl"), text);
  await Deno.writeFile(folder.at("rows.jsonl.gz"), Uint8Array.of(0x1f, 0x8b, 8, 0));
  const measure = (
    name: string,
  ): string[] => ["eval", "demo", "--text", folder.at(name), "--window", "8", "--no-tuning"];
  const { code, stderr } = await cli(measure("rows.jsonl"));
  assert.equal(code, 0, stderr);
  assertNames(stderr, folder.at("rows.jsonl"));
  const packed = await refused(measure("rows.jsonl.gz"), "input", { names: folder.at("rows.jsonl.gz") });
  const none = await refused(measure("none.jsonl.gz"), "input", { names: folder.at("none.jsonl.gz") });
  assert.notEqual(packed.fix, none.fix);
});

Deno.test("eval --text refuses a window beyond the context before it measures any", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const args = ["eval", "demo", "--text", folder.at("text.txt"), "--window", "16,32,2048", "--no-tuning"];
  const out = folder.at("windows.jsonl");
  await refused([...args, "--out", out], "usage", { value: 2048, names: 512 });
  const lines = (await Deno.readTextFile(out).catch(() => "")).trimEnd().split("\n");
  assert.ok(lines.length <= 1, "no window was measured");
  // What has failed before its first score binds no later run; one with scores does.
  const rest = args.slice(0, 4);
  const with16 = await cli([...rest, "--window", "16", "--no-tuning", "--out", out]);
  assert.equal(with16.code, 0, with16.stderr);
  await refused([...rest, "--window", "32", "--no-tuning", "--out", out], "mismatch", { value: ["window", 16, 32] });
});

Deno.test("eval refuses what a later model cannot do before it measures the first", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const [short, mute] = [folder.at("short"), folder.at("mute")];
  for (const copy of [short, mute]) await copyDemo(copy);
  const config = JSON.parse(await Deno.readTextFile(`${short}/config.json`));
  await Deno.writeTextFile(`${short}/config.json`, JSON.stringify({ ...config, max_position_embeddings: 24 }));
  await Deno.remove(`${mute}/tokenizer.json`);
  const out = folder.at("windows.jsonl");
  const cases: readonly (readonly [string, ErrorCode, Refusal])[] = [
    [folder.at("absent"), "input", { names: folder.at("absent") }],
    [short, "usage", { value: 32, names: 24 }],
    [mute, "input", { names: "tokenizer" }],
  ];
  for (const [other, code, refusal] of cases) {
    const args = ["eval", "demo", other, "--text", folder.at("text.txt"), "--window", "16,32", "--no-tuning"];
    await refused([...args, "--out", out], code, refusal);
    assert.ok(!folder.has("windows.jsonl"), "nothing was begun");
  }
});

Deno.test("an evaluation holds its file, and goes on where the first line of it was cut off", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("windows.jsonl");
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const args = ["eval", "demo", "--text", folder.at("text.txt"), "--window", "32", "--no-tuning", "--out", out];
  {
    using held = await Deno.open(out, { write: true, create: true });
    assert.ok(await held.tryLock(true));
    await refused(args, "usage", { value: HELD, names: out });
  }
  const first = await cli(args), whole = await Deno.readTextFile(out);
  assert.equal(first.code, 0, first.stderr);
  await Deno.writeTextFile(out, whole.slice(0, 30));
  const again = await cli(args);
  assert.deepEqual([again.code, again.stdout], [0, first.stdout], again.stderr);
  assert.equal(await Deno.readTextFile(out), whole);
  // One line of something else is not taken for it.
  await Deno.writeTextFile(out, "notes of my own");
  await refused(args, "input", { names: out });
  assert.equal(await Deno.readTextFile(out), "notes of my own");
});

Deno.test("eval --text has no ratio for models with other tokenizers, and no interval for one window", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(3));
  for (const name of ["same", "other"]) await copyDemo(folder.at(name));
  const tokenizer = JSON.parse(await Deno.readTextFile(folder.at("other", "tokenizer.json")));
  tokenizer.model.merges = [];
  await Deno.writeTextFile(folder.at("other", "tokenizer.json"), JSON.stringify(tokenizer));
  const models = ["demo", folder.at("same"), folder.at("other")];
  const args = ["eval", ...models, "--text", folder.at("text.txt"), "--window", "16", "--no-tuning"];
  const one = await cli([...args, "--max-windows", "1"]);
  assert.equal(one.code, 0, one.stderr);
  assert.match(one.stdout, /^perplexity 16 +× 1\.0000 {2,}\D+$/m);
  const { differences, models: measured } = await json([...args, "--max-windows", "2"]);
  assert.deepEqual(measured.map(({ tokens }: { tokens: number }) => tokens), [30, 30, 30]);
  assert.deepEqual(differences[0].perplexities, [{ window: 16, ratio: 1, low: 1, high: 1 }]);
  assert.deepEqual(differences[1].perplexities, [{ window: 16, ratio: null }]);
});

Deno.test("an evaluation that Ctrl-C stops keeps what is scored, and the same command ends it", async () => {
  using folder = new TemporaryFolder();
  const count = 120;
  const row = (index: number): string =>
    JSON.stringify({
      goal: `Keep box ${index} of ${index * 7} stones dry.`,
      sol1: `Put a lid on ${index}.`,
      sol2: "Rain.",
      label: 0,
    });
  await Deno.writeTextFile(folder.at("piqa.valid.jsonl"), Array.from({ length: count }, (_, i) => row(i)).join("\n"));
  const out = folder.at("scores.jsonl");
  const args = ["eval", "demo", "--tasks", "piqa", "--task-data", folder.path, "--out", out, "--no-tuning", "--json"];
  const child = command(args).spawn();
  const lines = async (): Promise<number> => (await Deno.readTextFile(out).catch(() => "")).split("\n").length - 1;
  while (await lines() < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill("SIGINT");
  const { code, stdout, stderr } = await child.output();
  const said = new TextDecoder().decode(stderr);
  assert.equal(code, 130, said);
  assert.equal(JSON.parse(said.trimEnd().split("\n").at(-1) ?? "").error.code, "aborted");
  assertNames(said, out);
  assert.equal(stdout.length, 0);
  const kept = await lines() - 1;
  assert.ok(kept > 0 && kept < count, `${kept} of ${count} questions kept`);
  const again = await cli(args);
  assert.equal(again.code, 0, again.stderr);
  assertNames(lineWith(again.stderr, out), kept);
  assert.equal(JSON.parse(again.stdout).tasks.piqa.n, count);
  assert.equal(await lines() - 1, count);
  await refused([...args.filter((word) => word !== "--json"), "--limit", "5"], "mismatch", { value: [count, 5] });
});

Deno.test("perplexities that stop keep their windows, and the same command ends with the numbers of one that did not", async () => {
  using folder = new TemporaryFolder();
  const text = (name: string): string => `${name} met the bee. Tom went to Rome. Eva took the axe.\n`.repeat(96);
  await Deno.writeTextFile(folder.at("text.txt"), text("Sam"));
  await Deno.writeTextFile(folder.at("other.txt"), text("Ada"));
  const out = folder.at("windows.jsonl"), rest = ["--stride", "48", "--no-tuning", "--json"];
  const args = ["eval", "demo", "--text", folder.at("text.txt"), "--window", "64,96", ...rest];
  const whole = await cli(args);
  assert.equal(whole.code, 0, whole.stderr);
  const { perplexities: [first, second] } = JSON.parse(whole.stdout);
  assert.ok(first.windows > 2048 / 64, "more than one batch");
  const ended = await cli([...args, "--out", out]);
  assert.deepEqual([ended.code, ended.stdout], [0, whole.stdout], ended.stderr);
  const [head = "", ...lines] = (await Deno.readTextFile(out)).trim().split("\n");
  assert.equal(lines.length, first.windows + second.windows);
  // A process that died within a line of the first size of windows, then of the second.
  for (const kept of [2, first.windows + 3]) {
    await Deno.writeTextFile(out, [head, ...lines.slice(0, kept), lines[kept]?.slice(0, 20)].join("\n"));
    const again = await cli([...args, "--out", out]);
    assert.deepEqual([again.code, again.stdout], [0, whole.stdout], again.stderr);
    assertNames(lineWith(again.stderr, out), kept);
    assert.deepEqual((await Deno.readTextFile(out)).trim().split("\n"), [head, ...lines]);
  }
  // A line that was changed is told by its digest. Files of earlier versions have none: what they say is believed, not measured again.
  const own = rest.filter((word) => word !== "--json");
  const changed = lines.map((line) => ({ ...JSON.parse(line), nll: 0 }));
  await Deno.writeTextFile(out, [head, ...changed.map((line) => JSON.stringify(line)), ""].join("\n"));
  await refused([...args.filter((word) => word !== "--json"), "--out", out], "input", { names: out });
  const { digests, ...earlier } = JSON.parse(head);
  assert.equal(digests, true);
  const bare = changed.map(({ digest: _digest, ...line }) => JSON.stringify(line));
  await Deno.writeTextFile(out, [JSON.stringify(earlier), ...bare, ""].join("\n"));
  const believed = await cli([...args, "--out", out]);
  assert.equal(believed.code, 0, believed.stderr);
  assert.deepEqual(JSON.parse(believed.stdout).perplexities.map(({ nll }: { nll: number }) => nll), [0, 0]);
  const before = await Deno.readTextFile(out);
  const same = ["--text", folder.at("text.txt")];
  for (
    const [other, value] of [
      [[...same, "--window", "64"], "window: 64,96 then, 64 now"],
      [[...same, "--window", "64,96", "--max-windows", "3"], "maxWindows: none then, 3 now"],
      [["--text", folder.at("other.txt"), "--window", "64,96"], "text:"],
    ] as const
  ) await refused(["eval", "demo", ...other, ...own, "--out", out], "mismatch", { value });
  await refused(["eval", "demo", "--tasks", "piqa", ...TASKS, "--out", out], "mismatch");
  assert.equal(await Deno.readTextFile(out), before);
});

Deno.test("a perplexity that Ctrl-C stops says where its windows stay", async () => {
  using folder = new TemporaryFolder();
  const count = 3000, out = folder.at("windows.jsonl");
  await Deno.writeTextFile(
    folder.at("text.txt"),
    "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(count),
  );
  const args = ["eval", "demo", "--text", folder.at("text.txt"), "--window", "64", "--out", out, "--no-tuning"];
  const child = command(args).spawn();
  const lines = async (): Promise<number> => (await Deno.readTextFile(out).catch(() => "")).split("\n").length - 1;
  while (await lines() < 2) await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill("SIGINT");
  const { code, stdout, stderr } = await child.output();
  assert.deepEqual([code, stdout.length], [130, 0]);
  assertNames(new TextDecoder().decode(stderr), out);
});

Deno.test(
  "eval runs the programs that models write with --run-code alone, compares models by them, and keeps their ends",
  {
    ignore: !HAS_PYTHON,
  },
  async () => {
    using folder = new TemporaryFolder();
    await copyDemo(folder.at("same"));
    const file = "fixtures/tasks/humaneval.test.jsonl", out = folder.at("kept.jsonl");
    const args = [
      "eval",
      "demo",
      folder.at("same"),
      "--tasks",
      `humaneval=${file}`,
      "--max-tokens",
      "8",
      "--no-tuning",
    ];
    await refused(args, "usage", { option: "--run-code", value: "humaneval" });
    const { models, differences: [gap] } = await json([...args, "--run-code", "--out", out]);
    const { isolation, tasks: { humaneval } } = models[0];
    assert.ok(isolation.includes("seccomp"), String(isolation));
    assert.deepEqual([humaneval["pass@1"], humaneval.n, humaneval.low], [0, 2, 0]);
    assert.ok(Math.abs(humaneval.high - 0.6576) < 1e-4, String(humaneval.high));
    assert.deepEqual(gap.tasks.humaneval["pass@1"], { difference: 0, stderr: 0, low: null, high: null });
    const kept = (await Deno.readTextFile(out)).trim().split("\n").slice(1).map((line) => JSON.parse(line));
    assert.deepEqual(kept.map(({ passed }) => passed), [false, false, false, false]);
    assert.ok(kept.every(({ reason, text }) => /^failed: \w+/.test(reason) && typeof text === "string"));
    const { stdout, stderr } = await cli([...args, "--run-code", "--out", out]);
    assert.match(stdout, /^humaneval pass@1 +0\.0 ± 0\.0 % of 2 \(95 %: 0\.0 … 65\.8\)/m);
    assertNames(stderr, ["seccomp", "4 scored questions"]);
    assert.equal((await Deno.readTextFile(out)).trim().split("\n").length, 5);
    await refused(["eval", "demo", "--tasks", "piqa", ...TASKS, "--run-code"], "usage", { names: "--run-code" });
  },
);

Deno.test("eval refuses what it cannot do with tasks, by one clear error", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(
    folder.at("piqa.valid.jsonl"),
    '{"goal":"a","sol1":"b","sol2":"c","label":0}\n{"goal":"a","sol1":"b","label":0}\n',
  );
  await Deno.writeTextFile(folder.at("text.txt"), "text");
  await Deno.writeTextFile(folder.at("rows.jsonl"), '{"inst\n');
  await copyDemo(folder.at("bare"));
  await Deno.remove(folder.at("bare", "tokenizer.json"));
  const data = ["--task-data", folder.path], text = ["--text", folder.at("text.txt")];
  const cases: readonly (readonly [string[], ErrorCode, Refusal])[] = [
    [["demo", "--tasks", "hellaswagg", ...data], "usage", { names: ["hellaswagg", "hellaswag"] }],
    [["demo", "--tasks", "piqa"], "usage", { option: "--task-data" }],
    [["demo", "--tasks", "piqa", "--task-data", folder.at("none")], "input", { names: folder.at("none") }],
    [["demo", "--tasks", "arc_easy", ...data], "input", { names: "arc_easy.<split>.<ext>" }],
    [["demo", "--tasks", "piqa", ...data], "input", { names: ['"sol2"', "line 2"] }],
    [["demo", "--tasks", folder.at("none.ts"), ...data], "input", { names: folder.at("none.ts") }],
    [["demo", "--data", folder.at("rows.jsonl")], "input", { names: [folder.at("rows.jsonl"), "line 1"] }],
    [["demo", "--tasks", ",", ...data], "usage", { option: "--tasks", value: "," }],
    [[folder.at("bare"), "--tasks", "arc_easy", ...TASKS], "input", { names: "tokenizer" }],
    [["demo", ...text, "--tasks", "piqa", ...data], "usage", { names: ["--text", "--data", "--tasks"] }],
    [["demo", "--out", folder.at("rows.jsonl")], "usage", { names: ["--out", "--text", "--tasks"] }],
    [["demo", ...text, "--limit", "3"], "usage", { names: ["--limit", "--tasks"] }],
    [["demo", "--tasks", "arc_easy", ...TASKS, "--stride", "3"], "usage", { names: ["--stride", "--text"] }],
    [["demo", "demo", "--tasks", "arc_easy", ...TASKS], "usage", { value: "demo" }],
    [["demo", ...text, "--window", "8,x"], "usage", { option: "--window", value: "8,x" }],
  ];
  for (const [args, code, refusal] of cases) await refused(["eval", ...args], code, refusal);
});

/** The first line that has this part. */
function lineWith(text: string, part: string): string {
  return text.split("\n").find((line) => line.includes(part)) ?? "";
}
