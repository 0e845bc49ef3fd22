// `compresso data` as a user drives it, and the prompt at inference.
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { cli, command, copyDemo, TemporaryFolder } from "./helpers/cli.ts";

const SMALL = ["--count", "3", "--tokens", "8", "--seed", "2"] as const;

Deno.test("data inspect names empty and broken lines, and with a model what becomes of the rows", async () => {
  using folder = new TemporaryFolder();
  const row = {
    instruction: "Answer the question.",
    input: "Story: Tom went to Rome. Where is Tom?",
    output: "in Rome",
  };
  const lines = [row, { ...row, output: "" }, row, { ...row, input: "Tom took the axe. ".repeat(30) }];
  const text = lines.map((line) => JSON.stringify(line)).join("\n") + "\n{broken\n";
  await Deno.writeFile(folder.at("rows.jsonl.gz"), gzipSync(text));
  const args = ["data", "inspect", folder.at("rows.jsonl.gz"), "--model", "demo", "--no-prompt", "--seq", "64"];
  const joined = await cli(args);
  assert.match(
    joined.stdout,
    /^at seq 64 +1 example, rows packed; 137 tokens left out; 0.0 % padding; 6 tokens learned$/m,
  );
  args.push("--no-packing");
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /JSON lines in gzip/);
  assert.match(stdout, /^rows +3 instructions$/m);
  assert.match(stdout, /^empty +1 \(row 2: empty "output"\)$/m);
  assert.match(stdout, /^broken +1 \(row 5: is not JSON/m);
  assert.match(stdout, /^at seq 64 +3 examples; 1 rows cut \(row 4\)/m);
  assert.match(stdout, /^prompt +none$/m);
  const json = JSON.parse((await cli([...args, "--json"])).stdout);
  assert.deepEqual([json.kind, json.read.rows, json.training.truncated, json.training.broken], ["instruct", 3, 1, 1]);
  assert.equal(json.training.promptTokens, 0);
  // Elements of an array are named with their lines.
  await Deno.writeTextFile(folder.at("rows.json"), JSON.stringify([row, { ...row, output: "" }, { text: 1 }], null, 2));
  const array = await cli(["data", "inspect", folder.at("rows.json")]);
  assert.match(array.stdout, /^empty +1 \(row 2, line 7: empty "output"\)\nbroken +1 \(row 3, line 12: /m);
  // What a run keeps from training is told beforehand and by the run.
  await Deno.writeTextFile(folder.at("many.jsonl"), `${JSON.stringify(row)}\n`.repeat(35));
  const many = ["--data", folder.at("many.jsonl"), "--no-prompt", "--seq", "64"];
  const before = await cli(["data", "inspect", folder.at("many.jsonl"), "--model", "demo", ...many.slice(2)]);
  assert.match(before.stdout, /^held out +the last 3 rows: prune does not train/m);
  const facts = await cli(["data", "inspect", folder.at("many.jsonl"), "--model", "demo", ...many.slice(2), "--json"]);
  const { training } = JSON.parse(facts.stdout);
  assert.deepEqual([training.rows, training.heldOut], [32, 3]);
  const run = await cli([
    ...[
      "prune",
      "demo",
      ...many,
      "--method",
      "magnitude",
      "--steps",
      "0",
      "--sparsity",
      "0.1",
      "--out",
      folder.at("out"),
    ],
  ]);
  assert.match(run.stderr, /the last 3 rows held out/);
});

Deno.test("prune refuses a prompt of one's own beside texts, which get none", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("texts.txt"), "A text. ".repeat(40));
  await Deno.writeTextFile(folder.at("prompt.txt"), "Be brief.");
  const { code, stderr } = await cli([
    ...["prune", "demo", "--data", folder.at("texts.txt"), "--prompt", folder.at("prompt.txt")],
    ...["--sparsity", "0.2", "--steps", "2", "--out", folder.at("out")],
  ]);
  assert.notEqual(code, 0);
  assert.match(stderr, /before instructions and conversations.*the data are texts/s);
  // Rows of the calibration get it: what ends this run before it begins is its memory.
  const rows = Array.from({ length: 8 }, () => JSON.stringify({ instruction: "Name a colour.", output: "Red." }));
  await Deno.writeTextFile(folder.at("asking.jsonl"), rows.join("\n"));
  const beside = await cli([
    ...["prune", "demo", "--data", folder.at("texts.txt"), "--prompt", folder.at("prompt.txt"), "--memory-limit", "1M"],
    ...["--calibration", folder.at("asking.jsonl"), "--sparsity", "0.2", "--steps", "2", "--out", folder.at("out")],
  ]);
  assert.match(beside.stderr, /cannot prune in the memory that there is/);
  await assert.rejects(Deno.stat(folder.at("out")), Deno.errors.NotFound);
});

Deno.test("rows that end without an end token are told, since the model would not learn to end", async () => {
  using folder = new TemporaryFolder();
  await Deno.mkdir(folder.at("model"));
  for (const name of ["config.json", "model.safetensors", "tokenizer.json"]) {
    await Deno.copyFile(`fixtures/demo/${name}`, folder.at(`model/${name}`));
  }
  const config = JSON.parse(await Deno.readTextFile("fixtures/demo/tokenizer_config.json"));
  const { eos_token, ...others } = config;
  const data = "fixtures/demo_data/heldout.jsonl", model = folder.at("model");
  const told = async (given: unknown): Promise<readonly [boolean, boolean]> => {
    await Deno.writeTextFile(folder.at("model/tokenizer_config.json"), JSON.stringify(given));
    const { code, stdout } = await cli(["data", "inspect", data, "--model", model, "--limit", "4"]);
    assert.equal(code, 0);
    const { stderr } = await cli([
      ...["prune", model, "--data", data, "--limit-rows", "4", "--sparsity", "0.2", "--calibration", "none"],
      ...["--steps", "1", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--overwrite"],
      ...["--out", folder.at("out")],
    ]);
    return [/^end +none: the tokenizer adds no end token/m.test(stdout), /none with an end token/.test(stderr)];
  };
  assert.ok(eos_token);
  assert.deepEqual(await told(others), [true, true]);
  assert.deepEqual(await told(config), [false, false]);
});

Deno.test("data inspect shows what the prompt costs: ours, and one's own", async () => {
  using folder = new TemporaryFolder();
  const args = ["data", "inspect", "fixtures/demo_data/heldout.jsonl", "--model", "demo", "--limit", "20", "--json"];
  await Deno.writeTextFile(folder.at("prompt.txt"), "Tom.\n");
  const inspect = async (...more: readonly string[]): Promise<{ readonly tokens: number; readonly prompt: number }> => {
    const { code, stdout, stderr } = await cli([...args, "--seq", "400", "--no-packing", ...more]);
    assert.equal(code, 0, stderr);
    const { training } = JSON.parse(stdout);
    return { tokens: training.tokens, prompt: training.promptTokens };
  };
  const none = await inspect("--no-prompt"),
    ours = await inspect(),
    own = await inspect("--prompt", folder.at("prompt.txt"));
  const lines = await cli([...args.slice(0, 5), "--limit", "1", "--seq", "90"]);
  const share =
    /^prompt +\d+ tokens a row, (\d+\.\d) % of all \(--prompt FILE gives a shorter one, --no-prompt leaves it out\), so no answer has all of it before it in a sequence of 90$/m
      .exec(lines.stdout)?.[1];
  assert.ok(Number(share) > 30 && Number(share) < 100, lines.stdout);
  assert.match(lines.stdout, /tokens left out/);
  assert.deepEqual([none.prompt, ours.prompt > 50, own.prompt > 0], [0, true, true]);
  // Of 20 rows a run keeps two from training.
  assert.equal(ours.tokens - none.tokens, 18 * ours.prompt);
  assert.equal(own.tokens - none.tokens, 18 * own.prompt);
  await Deno.writeTextFile(folder.at("prompt.txt"), " \n");
  const empty = await cli([...args, "--prompt", folder.at("prompt.txt")]);
  assert.equal(empty.code, 3);
  assert.match(empty.stderr, /prompt\.txt/);
});

Deno.test("data inspect tells what it knows of rows that training could not take", async () => {
  const args = [
    "data",
    "inspect",
    "fixtures/demo_data/heldout.jsonl",
    "--model",
    "demo",
    "--seq",
    "20",
    "--no-packing",
  ];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 3);
  assert.match(stderr, /cannot train on these data.*seq 20, of which the prompt takes \d+.*raise seq/s);
  assert.match(stdout, /^rows +\d+ instructions$/m);
  assert.match(stdout, /^tokens +\d+/m);
});

Deno.test("data inspect refuses sequences beyond the model's context, as plan and prune do", async () => {
  const long = ["--seq", "513"], data = "fixtures/demo_data/heldout.jsonl";
  const [inspected, planned] = await Promise.all([
    cli(["data", "inspect", data, "--model", "demo", "--limit", "2", ...long]),
    cli(["plan", "demo", ...long]),
  ]);
  assert.deepEqual([inspected.code, inspected.stdout], [2, ""]);
  assert.match(inspected.stderr, /longest context is 512 tokens\s+got: +513\s+fix: +lower --seq/);
  assert.equal(inspected.stderr, planned.stderr);
});

Deno.test("data inspect tells the least lengths that half of the rows, and 95 in 100, have at most", async () => {
  using folder = new TemporaryFolder();
  const inspect = async (count: number): Promise<unknown> => {
    const lines = Array.from({ length: count }, (_, index) => JSON.stringify({ text: "x".repeat(index + 1) }));
    await Deno.writeTextFile(folder.at("texts.jsonl"), lines.join("\n"));
    return JSON.parse((await cli(["data", "inspect", folder.at("texts.jsonl"), "--json"])).stdout).characters;
  };
  assert.deepEqual(await inspect(20), { least: 1, median: 10, p95: 19, most: 20 });
  assert.deepEqual(await inspect(21), { least: 1, median: 11, p95: 20, most: 21 });
  assert.deepEqual(await inspect(1), { least: 1, median: 1, p95: 1, most: 1 });
});

Deno.test("data inspect takes texts by their field, joined unless told not to", async () => {
  using folder = new TemporaryFolder();
  const lines = ["Tom went to Rome.", "Eva took the axe."].map((body) => JSON.stringify({ body }) + "\n").join("");
  await Deno.writeTextFile(folder.at("texts.jsonl"), lines);
  const args = ["data", "inspect", folder.at("texts.jsonl"), "--model", "demo", "--seq", "5", "--json"];
  const wrong = await cli(args);
  assert.equal(wrong.code, 3);
  const { got, fix } = JSON.parse(wrong.stderr).error;
  assert.match(got, /line 1 has "body"; of the rows are 2 broken, 0 empty, and none is left/);
  assert.match(fix, /--text-field/);
  const joined = JSON.parse((await cli([...args, "--text-field", "body"])).stdout).training;
  assert.deepEqual([joined.packed, joined.padding], [true, 0]);
  const apart = JSON.parse((await cli([...args, "--text-field", "body", "--no-packing"])).stdout).training;
  assert.equal(apart.packed, false);
});

Deno.test("data generate writes texts that data inspect reads, the same ones each time, and replaces nothing unasked", async () => {
  using folder = new TemporaryFolder();
  const generate = (name: string, ...more: readonly string[]): ReturnType<typeof cli> =>
    cli(["data", "generate", "demo", ...SMALL, "--out", folder.at(name), ...more]);
  const first = await generate("a.jsonl"), json = await generate("b.jsonl", "--json");
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stdout, /^3 texts in .*a\.jsonl; \d+ tokens generated now/);
  const { count, tokens } = JSON.parse(json.stdout);
  assert.deepEqual([count, tokens >= 6], [3, true]);
  const text = await Deno.readTextFile(folder.at("a.jsonl"));
  assert.equal(await Deno.readTextFile(folder.at("b.jsonl")), text);
  const rows = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.ok(rows.every((row) => typeof row.text === "string" && (row.ended ?? false) === false), text);
  const { stdout } = await cli(["data", "inspect", folder.at("a.jsonl")]);
  assert.match(stdout, /^rows +3 texts$/m);
  const again = await generate("a.jsonl");
  assert.equal(again.code, 2);
  assert.match(again.stderr, /--overwrite/);
  assert.equal((await generate("a.jsonl", "--overwrite")).code, 0);
  assert.equal((await generate("a.jsonl", "--resume", "--overwrite")).code, 2);
  assert.equal((await cli(["data", "generate", "demo"])).code, 2);
  await Deno.mkdir(folder.at("folder"));
  const into = await generate("folder", "--overwrite");
  assert.equal(into.code, 2);
  assert.match(into.stderr, /--out is a file\n.*got: +a folder/);
  assert.ok(!folder.has("folder.part"));
  await copyDemo(folder.at("model"));
  const weights = folder.at("model", "model.safetensors"), bytes = await Deno.readFile(weights);
  const over = await cli(["data", "generate", folder.at("model"), ...SMALL, "--out", weights, "--overwrite"]);
  assert.equal(over.code, 2);
  assert.match(over.stderr, /--out is not one of the files that are read/);
  assert.deepEqual(await Deno.readFile(weights), bytes);
  const absent = await cli(["data", "generate", folder.at("absent"), ...SMALL, "--out", folder.at("c.jsonl")]);
  assert.equal(absent.code, 3, absent.stderr);
});

Deno.test("data inspect refuses options of training without a model", async () => {
  for (
    const [option, name] of [[["--seq", "64"], "--seq"], [["--no-packing"], "--no-packing"], [
      ["--no-prompt"],
      "--no-prompt",
    ]] as const
  ) {
    const { code, stdout, stderr } = await cli(["data", "inspect", "fixtures/demo_data/heldout.jsonl", ...option]);
    assert.deepEqual([code, stdout], [2, ""], stderr);
    assert.match(stderr, new RegExp(`cannot use ${name} here\\n.*shown with --model`));
  }
});

Deno.test("data inspect of more rows than the heap holds names the option that takes fewer", async () => {
  using folder = new TemporaryFolder();
  const line = `${JSON.stringify({ text: "a".repeat(500_000) })}\n`;
  await Deno.writeFile(folder.at("long.jsonl.gz"), gzipSync(line.repeat(160)));
  const env = { DENO_V8_FLAGS: "--max-old-space-size=96,--max-semi-space-size=1" };
  const { code, stderr } = await cli(["data", "inspect", folder.at("long.jsonl.gz")], { env });
  assert.equal(code, 3, stderr);
  assert.match(
    stderr,
    /the rows fit into memory\n {2}got: +0\.06\d* GB after line 1\d\d, .*\n {2}fix: +take fewer with --limit, or/,
  );
});

Deno.test("data from a pipe are refused with what to do instead", async () => {
  const { code, stderr } = await cli(["data", "inspect", "/dev/stdin"], { input: '{"text": "Tom."}\n' });
  assert.equal(code, 3);
  assert.match(stderr, /got: +a pipe or a device\n {2}fix: +write them to a file first/);
});

Deno.test("data generate that is stopped says how to go on, and --resume gives the file of a run that was not", async () => {
  using folder = new TemporaryFolder();
  const args = ["data", "generate", "demo", "--tokens", "8", "--out", folder.at("own.jsonl")];
  const child = command([...args, "--count", "100000"]).spawn();
  while (!folder.has("own.jsonl.part") || (await Deno.stat(folder.at("own.jsonl.part"))).size < 300) {
    await new Promise((done) => setTimeout(done, 20));
  }
  child.kill("SIGINT");
  const { code, stderr } = await child.output();
  assert.equal(code, 130);
  assert.match(new TextDecoder().decode(stderr), /resume with the same command and --resume/);
  assert.equal(folder.has("own.jsonl"), false);
  const blocked = await cli([...args, "--count", "4"]);
  assert.equal(blocked.code, 2);
  assert.match(blocked.stderr, /resume it with --resume, or start again with --overwrite/);
  const part = await Deno.readTextFile(folder.at("own.jsonl.part"));
  const written = part.split("\n").length - 2;
  assert.ok(written >= 1);
  const resumed = await cli([...args, "--count", String(written + 1), "--resume", "--json"]);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.equal(JSON.parse(resumed.stdout).resumed, written);
  const [, ...before] = part.trimEnd().split("\n");
  const lines = (await Deno.readTextFile(folder.at("own.jsonl"))).trimEnd().split("\n");
  assert.deepEqual([lines.length, lines.slice(0, -1)], [written + 1, before]);
});

Deno.test("data generate --overwrite that is stopped keeps the earlier file, and --resume goes on and replaces it", async () => {
  using folder = new TemporaryFolder();
  const own = folder.at("own.jsonl"), part = `${own}.part`, old = '{"text":"old"}\n';
  await Deno.writeTextFile(own, old);
  const args = ["data", "generate", "demo", "--tokens", "8", "--out", own];
  const without = await cli([...args, "--count", "3", "--resume"]);
  assert.equal(without.code, 2);
  assert.match(
    without.stderr,
    /--resume continues an unfinished run\n.* no .*own\.jsonl\.part\n.*--overwrite in place of/,
  );

  const child = command([...args, "--count", "100000", "--overwrite"]).spawn();
  while (!folder.has("own.jsonl.part") || (await Deno.stat(part)).size < 300) {
    await new Promise((done) => setTimeout(done, 20));
  }
  child.kill("SIGINT");
  const { code, stderr } = await child.output();
  assert.equal(code, 130);
  assert.match(new TextDecoder().decode(stderr), /the same command and --resume in place of --overwrite/);
  assert.equal(await Deno.readTextFile(own), old);
  const blocked = await cli([...args, "--count", "4"]);
  assert.deepEqual([blocked.code, /resume it with --resume/.test(blocked.stderr)], [2, true]);

  const [, ...before] = (await Deno.readTextFile(part)).trimEnd().split("\n");
  const resumed = await cli([...args, "--count", String(before.length + 1), "--resume", "--json"]);
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.equal(JSON.parse(resumed.stdout).resumed, before.length);
  const lines = (await Deno.readTextFile(own)).trimEnd().split("\n");
  assert.deepEqual([lines.length, lines.slice(0, -1)], [before.length + 1, before]);
});

Deno.test("the prompt at inference is none, ours, or a file, in generate --chat, eval --data and eval --tasks", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("prompt.txt"), "Tom went to Rome.\n");
  const prompt = async (...more: readonly string[]): Promise<number> => {
    const args = ["--chat", "--prompt", "Where is Tom?", "--max-tokens", "1", "--json"];
    const { code, stdout, stderr } = await cli(["generate", "demo", ...args, ...more]);
    assert.equal(code, 0, stderr);
    assert.equal(/the prompt takes \d+ tokens before the instruction/.test(stderr), more.length > 0, stderr);
    return JSON.parse(stdout).prompt.length;
  };
  const none = await prompt(), own = await prompt("--prompt-file", folder.at("prompt.txt"));
  assert.ok(none < own && own < await prompt("--with-prompt"));
  const eval5 = async (...more: readonly string[]): Promise<number> => {
    const { code, stdout, stderr } = await cli(["eval", "demo", "--limit-rows", "5", "--json", ...more]);
    assert.equal(code, 0, stderr);
    told = stderr;
    return JSON.parse(stdout).n;
  };
  const asked: [string, number][] = [];
  let told = "";
  for (
    const [more, said] of [[["--no-prompt"], ""], [["--with-prompt"], "ours"], [
      ["--prompt", folder.at("prompt.txt")],
      "own",
    ]] as const
  ) {
    assert.equal(await eval5(...more), 5);
    asked.push([said, Number(/the prompt takes (\d+) tokens before each instruction/.exec(told)?.[1] ?? 0)]);
  }
  const cost = new Map(asked);
  assert.deepEqual([cost.get(""), (cost.get("ours") ?? 0) > (cost.get("own") ?? 0), (cost.get("own") ?? 0) > 0], [
    0,
    true,
    true,
  ]);
  // Rows beyond the limit are not read.
  const [row = ""] = (await Deno.readTextFile("fixtures/demo_data/heldout.jsonl")).split("\n", 1);
  await Deno.writeTextFile(folder.at("cut.jsonl"), `${row}\n`.repeat(5) + "{broken\n");
  assert.equal(await eval5("--data", folder.at("cut.jsonl")), 5);
  const tasks = ["eval", "demo", "--tasks", "arc_easy", "--task-data", "fixtures/tasks", "--limit", "1"];
  const out = ["--out", folder.at("scores.jsonl")];
  const prompted = await cli([...tasks, ...out, "--prompt", folder.at("prompt.txt")]);
  assert.equal(prompted.code, 0, prompted.stderr);
  assert.match(prompted.stderr, /the prompt takes \d+ tokens before each question$/m);
  // They are other questions: their scores differ, and those of one file are not taken for the other's.
  const bare = await cli([...tasks, "--out", folder.at("bare.jsonl")]);
  assert.equal(bare.code, 0, bare.stderr);
  const [scored, others] = await Promise.all(
    ["scores", "bare"].map(async (name) =>
      (await Deno.readTextFile(folder.at(`${name}.jsonl`))).trimEnd().split("\n").at(-1)
    ),
  );
  assert.notEqual(scored, others);
  assert.equal((await cli([...tasks, ...out])).code, 6);
  for (
    const wrong of [
      ["eval", "demo", "--with-prompt", "--no-prompt"],
      ["eval", "demo", "--text", folder.at("prompt.txt"), "--with-prompt"],
      ["generate", "demo", "--prompt", "Tom", "--prompt-file", folder.at("prompt.txt")],
    ]
  ) assert.equal((await cli(wrong)).code, 2, wrong.join(" "));
});
