// eval with tasks, several models and several windows, on the demo as a user drives it.
import assert from "node:assert/strict";
import { cli, command, copyDemo, TemporaryFolder } from "./helpers/cli.ts";

const TASKS = ["--task-data", "fixtures/tasks", "--no-tuning"];

Deno.test("eval --tasks --json prints acc, acc_norm, their errors and n of each task", async () => {
  const { code, stdout, stderr } = await cli([
    "eval",
    "demo",
    "--tasks",
    "arc_easy,mmlu",
    ...TASKS,
    "--limit",
    "2",
    "--json",
  ]);
  assert.equal(code, 0, stderr);
  const { tasks } = JSON.parse(stdout);
  assert.deepEqual(Object.keys(tasks), ["arc_easy", "mmlu"]);
  const { acc, acc_norm, stderr: error, acc_norm_stderr, n } = tasks.arc_easy;
  assert.equal(n, 2);
  for (const share of [acc, acc_norm]) assert.ok([0, 0.5, 1].includes(share));
  // √(¼ + ¼) / √2 where one of two is right, 0 where they are alike.
  assert.equal(error, acc === 0.5 ? 0.5 : 0);
  assert.equal(acc_norm_stderr, acc_norm === 0.5 ? 0.5 : 0);
  assert.deepEqual([tasks.mmlu.n, tasks.mmlu.subsets.anatomy.n], [4, 2]);
  const text = await cli(["eval", "demo", "--tasks", "arc_easy", ...TASKS]);
  assert.match(text.stdout, /^arc_easy acc +\d+\.\d ± \d+\.\d % of 3$/m);
});

Deno.test("eval takes a task of one's own, as the example has it", async () => {
  using folder = new TemporaryFolder();
  const row = { day: "Monday", next: ["Tuesday", "Friday"], right: 0 };
  await Deno.writeTextFile(folder.at("weekdays.test.jsonl"), JSON.stringify(row));
  const task = "scripts/examples/own_task.ts";
  const { code, stdout, stderr } = await cli([
    "eval",
    "demo",
    "--tasks",
    task,
    "--task-data",
    folder.path,
    "--no-tuning",
    "--json",
  ]);
  assert.equal(code, 0, stderr);
  assert.equal(JSON.parse(stdout).tasks.weekdays.n, 1);
});

Deno.test("eval of several models prints a table, and paired differences from the first", async () => {
  using folder = new TemporaryFolder();
  await copyDemo(folder.at("same"));
  // Another model: the last bytes of the weights are of some tensor.
  await copyDemo(folder.at("other"), (weights) => weights.fill(0, weights.length - 60000));
  const models = ["demo", folder.at("same"), folder.at("other")];
  const args = ["eval", ...models, "--tasks", "piqa,mmlu", ...TASKS];
  const { code, stdout, stderr } = await cli([...args, "--json"]);
  assert.equal(code, 0, stderr);
  const report = JSON.parse(stdout);
  assert.deepEqual(report.models.map(({ model }: { model: string }) => model), models);
  assert.deepEqual(report.models[0].tasks, report.models[1].tasks);
  const [same, other] = report.differences;
  assert.deepEqual([same.model, same.against], [models[1], "demo"]);
  assert.deepEqual(same.tasks.piqa.acc, { difference: 0, stderr: 0, low: null, high: null });
  const gap = other.tasks.mmlu.acc;
  const [first, , last] = report.models.map(({ tasks }: { tasks: { mmlu: { acc: number } } }) => tasks.mmlu.acc);
  assert.ok(Math.abs(gap.difference - (last - first)) < 1e-12);
  assert.ok(gap.low <= gap.difference && gap.difference <= gap.high);
  const text = await cli(args);
  assert.match(text.stdout, /^compared with demo, with 95 % confidence/m);
  assert.match(text.stdout, /^piqa acc_norm +\d.*\d.*\d/m);
});

Deno.test("eval --text takes several windows and a stride, and compares models window by window", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const args = ["--text", folder.at("text.txt"), "--window", "16,32", "--no-tuning"];
  const { code, stdout, stderr } = await cli(["eval", "demo", ...args, "--stride", "8", "--json"]);
  assert.equal(code, 0, stderr);
  const { perplexities } = JSON.parse(stdout);
  assert.deepEqual(perplexities.map(({ window, stride }: { window: number; stride: number }) => [window, stride]), [[
    16,
    8,
  ], [32, 8]]);
  assert.equal(perplexities[0].tokens, perplexities[1].tokens, "each token but the first counts once");
  await copyDemo(folder.at("same"));
  const both = await cli(["eval", "demo", folder.at("same"), ...args, "--json"]);
  assert.deepEqual(JSON.parse(both.stdout).differences[0].perplexities, [
    { window: 16, ratio: 1, low: 1, high: 1 },
    { window: 32, ratio: 1, low: 1, high: 1 },
  ]);
  const table = await cli(["eval", "demo", folder.at("same"), ...args]);
  assert.match(table.stdout, /^perplexity 16 +\d+\.\d+ +\d+\.\d+$/m);
  assert.match(table.stdout, /^perplexity 32 +× 1\.0000 \(1\.0000 … 1\.0000\)$/m);
});

Deno.test("eval --text without windows has one for all models, which fits the shortest context", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  await copyDemo(folder.at("short"));
  const config = folder.at("short", "config.json"), shape = JSON.parse(await Deno.readTextFile(config));
  await Deno.writeTextFile(config, JSON.stringify({ ...shape, max_position_embeddings: 24 }));
  const { code, stdout, stderr } = await cli([
    ...["eval", "demo", folder.at("short"), "--text", folder.at("text.txt"), "--no-tuning", "--json"],
  ]);
  assert.equal(code, 0, stderr);
  const { models, differences } = JSON.parse(stdout);
  assert.deepEqual(models.map(({ window }: { window: number }) => window), [24, 24]);
  assert.deepEqual(differences[0].perplexities, [{ window: 24, ratio: 1, low: 1, high: 1 }]);
});

Deno.test("eval --text says that rows are measured with their markup, and what to do about a packed file", async () => {
  using folder = new TemporaryFolder();
  const text = JSON.stringify({ text: "Sam met the bee. Tom went to Rome." }) + "\n";
  await Deno.writeTextFile(folder.at("rows.jsonl"), text);
  await Deno.writeFile(folder.at("rows.jsonl.gz"), Uint8Array.of(0x1f, 0x8b, 8, 0));
  const measure = (name: string): ReturnType<typeof cli> =>
    cli(["eval", "demo", "--text", folder.at(name), "--window", "8", "--no-tuning"]);
  const plain = await measure("rows.jsonl"), packed = await measure("rows.jsonl.gz");
  assert.deepEqual([plain.code, packed.code], [0, 3], plain.stderr + packed.stderr);
  assert.match(plain.stderr, /rows\.jsonl is measured as one plain text, keys and escapes included/);
  assert.match(packed.stderr, /not UTF-8\n +fix: +unpack it to a plain text/);
  assert.match((await measure("none.jsonl.gz")).stderr, /no such file\n +fix: +check the path/);
});

Deno.test("eval --text refuses a window beyond the context before it measures any", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Sam met the bee. Tom went to Rome. Eva took the axe.\n".repeat(12));
  const args = ["eval", "demo", "--text", folder.at("text.txt"), "--window", "16,32,2048", "--no-tuning"];
  const out = folder.at("windows.jsonl"), { code, stderr } = await cli([...args, "--out", out]);
  assert.equal(code, 2, stderr);
  assert.match(stderr, /context of 512 tokens\n +got: +2048/);
  const lines = (await Deno.readTextFile(out).catch(() => "")).trimEnd().split("\n");
  assert.ok(lines.length <= 1, "no window was measured");
  // What has failed before its first score binds no later run; one with scores does.
  const rest = args.slice(0, 4);
  const with16 = await cli([...rest, "--window", "16", "--no-tuning", "--out", out]);
  assert.equal(with16.code, 0, with16.stderr);
  const with32 = await cli([...rest, "--window", "32", "--no-tuning", "--out", out]);
  assert.equal(with32.code, 6, with32.stderr);
  assert.match(with32.stderr, /cannot resume the evaluation/);
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
  for (
    const [other, status, said] of [
      [folder.at("absent"), 3, /absent/],
      [short, 2, /context of 24 tokens\n +got: +32/],
      [mute, 3, /needs a tokenizer/],
    ] as const
  ) {
    const args = ["eval", "demo", other, "--text", folder.at("text.txt"), "--window", "16,32", "--no-tuning"];
    const { code, stdout, stderr } = await cli([...args, "--out", out]);
    assert.equal(code, status, stderr);
    assert.match(stderr, said);
    assert.equal(stdout, "");
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
    const { code, stderr } = await cli(args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, /one evaluation at a time writes to a file\n.*another one writes to it/);
  }
  const first = await cli(args), whole = await Deno.readTextFile(out);
  assert.equal(first.code, 0, first.stderr);
  await Deno.writeTextFile(out, whole.slice(0, 30));
  const again = await cli(args);
  assert.deepEqual([again.code, again.stdout], [0, first.stdout], again.stderr);
  assert.equal(await Deno.readTextFile(out), whole);
  // One line of something else is not taken for it.
  await Deno.writeTextFile(out, "notes of my own");
  assert.equal((await cli(args)).code, 3);
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
  assert.match(one.stdout, /^perplexity 16 +× 1\.0000 +other tokens$/m);
  const { stdout } = await cli([...args, "--max-windows", "2", "--json"]);
  const { differences, models: measured } = JSON.parse(stdout);
  assert.deepEqual(measured.map(({ tokens }: { tokens: number }) => tokens), [30, 30, 30]);
  assert.deepEqual(differences[0].perplexities, [{ window: 16, ratio: 1, low: 1, high: 1 }]);
  assert.deepEqual(differences[1].perplexities, [{ window: 16, ratio: null }]);
});

Deno.test("an evaluation that Ctrl-C stops keeps what is scored, and the same command ends it", async () => {
  using folder = new TemporaryFolder();
  const count = 400;
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
  while (await lines() < 20) await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill("SIGINT");
  const { code, stdout, stderr } = await child.output();
  const said = new TextDecoder().decode(stderr);
  assert.equal(code, 130, said);
  assert.match(said, /results so far are kept in/);
  assert.equal(stdout.length, 0);
  const kept = await lines() - 1;
  assert.ok(kept > 0 && kept < count, `${kept} of ${count} questions kept`);
  const again = await cli(args);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, new RegExp(`resuming with ${kept} scored questions`));
  assert.equal(JSON.parse(again.stdout).tasks.piqa.n, count);
  assert.equal(await lines() - 1, count);
  const other = await cli([...args, "--limit", "5"]);
  assert.equal(other.code, 6);
  assert.match(other.stderr, /400 questions.* then, 5 questions.* now/);
});

Deno.test("perplexities that stop keep their windows, and the same command ends with the numbers of one that did not", async () => {
  using folder = new TemporaryFolder();
  const text = (name: string): string => `${name} met the bee. Tom went to Rome. Eva took the axe.\n`.repeat(110);
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
    assert.match(again.stderr, new RegExp(`resuming with ${kept} measured windows`));
    assert.deepEqual((await Deno.readTextFile(out)).trim().split("\n"), [head, ...lines]);
  }
  // What the file says is believed, not measured again.
  const changed = lines.map((line) => JSON.stringify({ ...JSON.parse(line), nll: 0 }));
  await Deno.writeTextFile(out, [head, ...changed, ""].join("\n"));
  const believed = await cli([...args, "--out", out]);
  assert.deepEqual(JSON.parse(believed.stdout).perplexities.map(({ nll }: { nll: number }) => nll), [0, 0]);
  const before = await Deno.readTextFile(out);
  for (
    const [other, message] of [
      [["--text", folder.at("text.txt"), "--window", "64"], /window: 64,96 then, 64 now/],
      [["--text", folder.at("text.txt"), "--window", "64,96", "--max-windows", "3"], /maxWindows: none then, 3 now/],
      [["--text", folder.at("other.txt"), "--window", "64,96"], /^text: \w{16} then, \w{16} now$/],
    ] as const
  ) {
    const refused = await cli(["eval", "demo", ...other, ...rest, "--out", out]);
    assert.equal(refused.code, 6, refused.stderr);
    assert.match(JSON.parse(refused.stderr).error.got, message);
  }
  const tasks = await cli(["eval", "demo", "--tasks", "piqa", ...TASKS, "--out", out]);
  assert.equal(tasks.code, 6, tasks.stderr);
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
  while (await lines() < 20) await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill("SIGINT");
  const { code, stdout, stderr } = await child.output();
  assert.deepEqual([code, stdout.length], [130, 0]);
  assert.match(new TextDecoder().decode(stderr), /stopping; results so far are kept in .*windows\.jsonl/);
});

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
  for (
    const [args, code, message] of [
      [["demo", "--tasks", "hellaswagg", ...data], 2, /did you mean hellaswag\?/],
      [["demo", "--tasks", "piqa"], 2, /--task-data is required/],
      [["demo", "--tasks", "piqa", "--task-data", folder.at("none")], 3, /is no folder/],
      [["demo", "--tasks", "arc_easy", ...data], 3, /arc_easy\.<split>\.<ext>/],
      [["demo", "--tasks", "piqa", ...data], 3, /"sol2".*\n.*line 2/],
      [["demo", "--tasks", folder.at("none.ts"), ...data], 3, /no such file/],
      [["demo", "--data", folder.at("rows.jsonl")], 3, /line 1 .*\n +fix: +fix or remove it\n$/],
      [["demo", "--tasks", ",", ...data], 2, /comma-separated names/],
      [[folder.at("bare"), "--tasks", "arc_easy", ...TASKS], 3, /tokenizer/],
      [["demo", ...text, "--tasks", "piqa", ...data], 2, /either --text, --data or --tasks/],
      [["demo", "--out", folder.at("rows.jsonl")], 2, /--out goes with --text or --tasks/],
      [["demo", ...text, "--limit", "3"], 2, /--limit goes with --tasks/],
      [["demo", "--tasks", "arc_easy", ...TASKS, "--stride", "3"], 2, /--stride goes with --text/],
      [["demo", "demo", "--tasks", "arc_easy", ...TASKS], 2, /named once/],
      [["demo", ...text, "--window", "8,x"], 2, /whole numbers from 2 on/],
    ] as const
  ) {
    const result = await cli(["eval", ...args]);
    assert.equal(result.code, code, `${args.join(" ")}: ${result.stderr}`);
    assert.equal(result.stdout, "");
    assert.match(result.stderr, message);
  }
});
