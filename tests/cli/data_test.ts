// `compresso data` as a user drives it, and the prompt at inference.
import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { NO_ENDS } from "../../cli/verbs/prune/data_line.ts";
import { assertNames } from "../refuses.ts";
import { checkRefused, cli, cliProcess, command, copyDemo, json, refused, TemporaryFolder } from "./helpers/cli.ts";

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
  const { training: joined } = await json(args);
  assert.deepEqual([joined.examples, joined.packed, joined.leftOver, joined.padding], [1, true, 137, 0]);
  assertNames(lineOf((await cli(args)).stdout, "at seq 64"), ["1 example", 137, "0.0 %", 6]);
  args.push("--no-packing");
  const { read, training: apart, kind } = await json(args);
  assert.deepEqual([kind, read.format, read.compression, read.rows], ["instruct", "JSON lines", "gzip", 3]);
  assert.deepEqual([apart.examples, apart.truncated, apart.broken, apart.promptTokens], [3, 1, 1, 0]);
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  for (
    const [line, names] of [
      ["rows", 3],
      ["empty", ["1", "row 2", '"output"']],
      ["broken", ["1", "row 5"]],
      ["at seq 64", ["3", "1", "row 4"]],
      ["prompt", "none"],
    ] as const
  ) assertNames(lineOf(stdout, line), names, stdout);
  // Elements of an array are named with their lines.
  await Deno.writeTextFile(folder.at("rows.json"), JSON.stringify([row, { ...row, output: "" }, { text: 1 }], null, 2));
  const array = await cli(["data", "inspect", folder.at("rows.json")]);
  assertNames(lineOf(array.stdout, "empty"), ["row 2, line 7", '"output"']);
  assertNames(lineOf(array.stdout, "broken"), "row 3, line 12");
  // What a run keeps from training is told beforehand and by the run.
  await Deno.writeTextFile(folder.at("many.jsonl"), `${JSON.stringify(row)}\n`.repeat(35));
  const many = ["--no-prompt", "--seq", "64"],
    inspect = ["data", "inspect", folder.at("many.jsonl"), "--model", "demo"];
  assertNames(lineOf((await cli([...inspect, ...many])).stdout, "held out"), 3);
  const { training } = await json([...inspect, ...many]);
  assert.deepEqual([training.rows, training.heldOut], [32, 3]);
  const { data } = await json([
    ...["prune", "demo", "--data", folder.at("many.jsonl"), ...many, "--method", "magnitude", "--steps", "0"],
    ...["--sparsity", "0.1", "--no-tuning", "--out", folder.at("out")],
  ]);
  assert.deepEqual([data.rows, data.heldOut], [32, 3]);
});

/** The line of a fact. */
function lineOf(text: string, name: string): string {
  return text.split("\n").find((line) => line.startsWith(`${name} `)) ?? "";
}

Deno.test("prune refuses a prompt of one's own beside texts, which get none", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("texts.txt"), "A text. ".repeat(40));
  await Deno.writeTextFile(folder.at("prompt.txt"), "Be brief.");
  const prune = [
    ...["prune", "demo", "--data", folder.at("texts.txt"), "--prompt", folder.at("prompt.txt")],
    ...["--sparsity", "0.2", "--steps", "2", "--out", folder.at("out")],
  ];
  await refused(prune, "usage", { names: [folder.at("prompt.txt"), "--prompt"] });
  // Rows of the calibration get it: what ends this run before it begins is its memory.
  const rows = Array.from({ length: 8 }, () => JSON.stringify({ instruction: "Name a colour.", output: "Red." }));
  await Deno.writeTextFile(folder.at("asking.jsonl"), rows.join("\n"));
  await refused([...prune, "--memory-limit", "1M", "--calibration", folder.at("asking.jsonl")], "gpu", {
    option: "--memory-limit",
    names: "1 MiB",
  });
  assert.ok(!folder.has("out"));
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
  const told = async (given: unknown): Promise<readonly unknown[]> => {
    await Deno.writeTextFile(folder.at("model/tokenizer_config.json"), JSON.stringify(given));
    const inspect = ["data", "inspect", data, "--model", model, "--limit", "4"], { hasEnds } = await json(inspect);
    assert.equal(lineOf((await cli(inspect)).stdout, "end") === "", hasEnds, "a line tells that there is none");
    const { code, stderr } = await cli([
      ...["prune", model, "--data", data, "--limit-rows", "4", "--sparsity", "0.2", "--method", "magnitude"],
      ...["--steps", "0", "--batch", "1", "--seq", "64", "--no-prompt", "--no-tuning", "--overwrite"],
      ...["--out", folder.at("out")],
    ]);
    assert.equal(code, 0, stderr);
    return [hasEnds, stderr.includes(NO_ENDS)];
  };
  assert.ok(eos_token);
  assert.deepEqual(await told(others), [false, true]);
  assert.deepEqual(await told(config), [true, false]);
});

Deno.test("data inspect shows what the prompt costs: ours, and one's own", async () => {
  using folder = new TemporaryFolder();
  const args = ["data", "inspect", "fixtures/demo_data/heldout.jsonl", "--model", "demo"];
  await Deno.writeTextFile(folder.at("prompt.txt"), "Tom.\n");
  const inspect = async (...more: readonly string[]): Promise<{ readonly tokens: number; readonly prompt: number }> => {
    const { training } = await json([...args, "--limit", "20", "--seq", "400", "--no-packing", ...more]);
    return { tokens: training.tokens, prompt: training.promptTokens };
  };
  const none = await inspect("--no-prompt"),
    ours = await inspect(),
    own = await inspect("--prompt", folder.at("prompt.txt"));
  const lines = await cli([...args, "--limit", "1", "--seq", "90"]), line = lineOf(lines.stdout, "prompt");
  assertNames(line, [ours.prompt, "--prompt", "--no-prompt", 90]);
  const { training } = await json([...args, "--limit", "1", "--seq", "90"]);
  assertNames(lineOf(lines.stdout, "at seq 90"), training.leftOver);
  const share = Number(/(\d+\.\d) %/.exec(line)?.[1]);
  assert.ok(share > 30 && share < 100, line);
  assert.deepEqual([none.prompt, ours.prompt > 50, own.prompt > 0], [0, true, true]);
  // Of 20 rows a run keeps two from training.
  assert.equal(ours.tokens - none.tokens, 18 * ours.prompt);
  assert.equal(own.tokens - none.tokens, 18 * own.prompt);
  await Deno.writeTextFile(folder.at("prompt.txt"), " \n");
  await refused([...args, "--prompt", folder.at("prompt.txt")], "input", { names: folder.at("prompt.txt") });
});

Deno.test("data inspect tells what it knows of rows that training could not take", async () => {
  const args = ["data", "inspect", "fixtures/demo_data/heldout.jsonl", "--model", "demo", "--seq", "20"];
  const { code, stdout, stderr } = await cli([...args, "--no-packing", "--json"]);
  const { read, tokens, training } = JSON.parse(stdout), error = JSON.parse(stderr).error;
  assert.deepEqual([code, error.code, error.exitStatus, training], [3, "input", 3, null]);
  assertNames(error.got, 20);
  assert.ok(read.rows > 0 && tokens.most > 20, stdout);
  const text = await cli([...args, "--no-packing"]);
  assert.equal(text.code, 3, text.stderr);
  assertNames(lineOf(text.stdout, "rows"), read.rows);
  assertNames(lineOf(text.stdout, "tokens"), tokens.most);
});

Deno.test("data inspect refuses sequences beyond the model's context, as plan and prune do", async () => {
  const long = ["--seq", "513"],
    data = "fixtures/demo_data/heldout.jsonl",
    refusal = { option: "--seq", value: 513, names: 512 };
  const inspected = await refused(
    ["data", "inspect", data, "--model", "demo", "--limit", "2", ...long],
    "usage",
    refusal,
  );
  const planned = await refused(["plan", "demo", ...long], "usage", refusal);
  assert.deepEqual(inspected, planned);
});

Deno.test("data inspect tells the least lengths that half of the rows, and 95 in 100, have at most", async () => {
  using folder = new TemporaryFolder();
  const inspect = async (count: number): Promise<unknown> => {
    const lines = Array.from({ length: count }, (_, index) => JSON.stringify({ text: "x".repeat(index + 1) }));
    await Deno.writeTextFile(folder.at("texts.jsonl"), lines.join("\n"));
    return (await json(["data", "inspect", folder.at("texts.jsonl")])).characters;
  };
  assert.deepEqual(await inspect(20), { least: 1, median: 10, p95: 19, most: 20 });
  assert.deepEqual(await inspect(21), { least: 1, median: 11, p95: 20, most: 21 });
  assert.deepEqual(await inspect(1), { least: 1, median: 1, p95: 1, most: 1 });
});

Deno.test("data inspect takes texts by their field, joined unless told not to", async () => {
  using folder = new TemporaryFolder();
  const lines = ["Tom went to Rome.", "Eva took the axe."].map((body) => JSON.stringify({ body }) + "\n").join("");
  await Deno.writeTextFile(folder.at("texts.jsonl"), lines);
  const args = ["data", "inspect", folder.at("texts.jsonl"), "--model", "demo", "--seq", "5"];
  const { fix } = await refused(args, "input", { value: ["line 1", '"body"', 2, 0] });
  assertNames(fix ?? "", "--text-field");
  const { training: joined } = await json([...args, "--text-field", "body"]);
  assert.deepEqual([joined.packed, joined.padding], [true, 0]);
  const { training: apart } = await json([...args, "--text-field", "body", "--no-packing"]);
  assert.equal(apart.packed, false);
});

Deno.test("data generate writes texts that data inspect reads, the same ones each time, and replaces nothing unasked", async () => {
  using folder = new TemporaryFolder();
  const generate = (
    name: string,
    ...more: readonly string[]
  ): string[] => ["data", "generate", "demo", ...SMALL, "--out", folder.at(name), ...more];
  const first = await cli(generate("a.jsonl"));
  assert.equal(first.code, 0, first.stderr);
  assertNames(first.stdout, [3, folder.at("a.jsonl")]);
  const { count, tokens } = await json(generate("b.jsonl"));
  assert.deepEqual([count, tokens >= 6], [3, true]);
  const text = await Deno.readTextFile(folder.at("a.jsonl"));
  assert.equal(await Deno.readTextFile(folder.at("b.jsonl")), text);
  const rows = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.ok(rows.every((row) => typeof row.text === "string" && (row.ended ?? false) === false), text);
  const { kind, read } = await json(["data", "inspect", folder.at("a.jsonl")]);
  assert.deepEqual([kind, read.rows], ["text", 3]);
  await refused(generate("a.jsonl"), "usage", { names: [folder.at("a.jsonl"), "--overwrite"] });
  assert.equal((await cli(generate("a.jsonl", "--overwrite"))).code, 0);
  await refused(generate("a.jsonl", "--resume", "--overwrite"), "usage", { names: ["--resume", "--overwrite"] });
  await refused(["data", "generate", "demo"], "usage", { option: "--out" });
  await Deno.mkdir(folder.at("folder"));
  await refused(generate("folder", "--overwrite"), "usage", { names: [folder.at("folder"), "--out"] });
  assert.ok(!folder.has("folder.part"));
  await copyDemo(folder.at("model"));
  const weights = folder.at("model", "model.safetensors"), bytes = await Deno.readFile(weights);
  await refused(["data", "generate", folder.at("model"), ...SMALL, "--out", weights, "--overwrite"], "usage", {
    names: [weights, "--out"],
  });
  assert.deepEqual(await Deno.readFile(weights), bytes);
  await refused(["data", "generate", folder.at("absent"), ...SMALL, "--out", folder.at("c.jsonl")], "input", {
    names: folder.at("absent"),
  });
});

Deno.test("data generate --prompts answers the rows of a file, greedily, and data inspect reads the answers", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("answers.jsonl"), data = "fixtures/demo_data/train.jsonl";
  const args = ["data", "generate", "demo", "--prompts", data, "--count", "3", "--tokens", "8", "--out", out];
  const { count, tokens } = await json([...args, "--no-tuning"]);
  assert.deepEqual([count, tokens >= 3], [3, true]);
  const lines = (path: string): string[] => Deno.readTextFileSync(path).trimEnd().split("\n").slice(0, 3);
  const asked = lines(data).map((line) => JSON.parse(line).instruction);
  assert.deepEqual(lines(out).map((line) => JSON.parse(line).instruction), asked);
  const { kind, read } = await json(["data", "inspect", out]);
  assert.deepEqual([kind, read.rows], ["instruct", 3]);
  await refused([...args, "--overwrite", "--prompts", out], "usage", { names: [out, "--out"] });
  await refused(["data", "generate", "demo", ...SMALL, "--temperature", "0", "--out", folder.at("b.jsonl")], "usage", {
    value: 0,
  });
});

Deno.test("data inspect refuses options of training without a model", async () => {
  for (const words of [["--seq", "64"], ["--no-packing"], ["--no-prompt"]]) {
    const args = ["data", "inspect", "fixtures/demo_data/heldout.jsonl", ...words];
    await refused(args, "usage", { names: [words[0] ?? "", "--model"] });
  }
});

Deno.test("data inspect of more rows than the heap holds names the option that takes fewer", async () => {
  using folder = new TemporaryFolder();
  const line = `${JSON.stringify({ text: "a".repeat(500_000) })}\n`;
  await Deno.writeFile(folder.at("long.jsonl.gz"), gzipSync(line.repeat(160)));
  const env = { DENO_V8_FLAGS: "--max-old-space-size=96,--max-semi-space-size=1" };
  const args = ["data", "inspect", folder.at("long.jsonl.gz"), "--json"];
  const { got, fix } = checkRefused(await cliProcess(args, { env }), "input");
  assert.match(got ?? "", /^0\.06\d* GB .* line 1\d\d/);
  assertNames(fix ?? "", "--limit");
});

Deno.test("data from a pipe are refused with what to do instead", async () => {
  const args = ["data", "inspect", "/dev/stdin", "--json"];
  checkRefused(await cliProcess(args, { input: '{"text": "Tom."}\n' }), "input", { names: "/dev/stdin" });
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
  assertNames(new TextDecoder().decode(stderr), "--resume");
  assert.equal(folder.has("own.jsonl"), false);
  await refused([...args, "--count", "4"], "usage", { names: ["--resume", "--overwrite"] });
  const part = await Deno.readTextFile(folder.at("own.jsonl.part"));
  const written = part.split("\n").length - 2;
  assert.ok(written >= 1);
  assert.equal((await json([...args, "--count", String(written + 1), "--resume"])).resumed, written);
  const [, ...before] = part.trimEnd().split("\n");
  const lines = (await Deno.readTextFile(folder.at("own.jsonl"))).trimEnd().split("\n");
  assert.deepEqual([lines.length, lines.slice(0, -1)], [written + 1, before]);
});

Deno.test("data generate --overwrite that is stopped keeps the earlier file, and --resume goes on and replaces it", async () => {
  using folder = new TemporaryFolder();
  const own = folder.at("own.jsonl"), part = `${own}.part`, old = '{"text":"old"}\n';
  await Deno.writeTextFile(own, old);
  const args = ["data", "generate", "demo", "--tokens", "8", "--out", own];
  await refused([...args, "--count", "3", "--resume"], "usage", { names: ["--resume", `${own}.part`, "--overwrite"] });

  const child = command([...args, "--count", "100000", "--overwrite"]).spawn();
  while (!folder.has("own.jsonl.part") || (await Deno.stat(part)).size < 300) {
    await new Promise((done) => setTimeout(done, 20));
  }
  child.kill("SIGINT");
  const { code, stderr } = await child.output();
  assert.equal(code, 130);
  assertNames(new TextDecoder().decode(stderr), ["--resume", "--overwrite"]);
  assert.equal(await Deno.readTextFile(own), old);
  await refused([...args, "--count", "4"], "usage", { names: "--resume" });

  const [, ...before] = (await Deno.readTextFile(part)).trimEnd().split("\n");
  assert.equal((await json([...args, "--count", String(before.length + 1), "--resume"])).resumed, before.length);
  const lines = (await Deno.readTextFile(own)).trimEnd().split("\n");
  assert.deepEqual([lines.length, lines.slice(0, -1)], [before.length + 1, before]);
});

Deno.test("the prompt at inference is none, ours, or a file, in generate --chat, eval --data and eval --tasks", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("prompt.txt"), "Tom went to Rome.\n");
  const generate = ["generate", "demo", "--chat", "--prompt", "Where is Tom?", "--max-tokens", "1", "--no-tuning"];
  const prompt = async (...more: readonly string[]): Promise<number> => {
    const { code, stdout, stderr } = await cli([...generate, "--json", ...more]);
    assert.equal(code, 0, stderr);
    assert.equal(costIn(stderr) > 0, more.length > 0, stderr);
    return JSON.parse(stdout).prompt.length;
  };
  const none = await prompt(), own = await prompt("--prompt-file", folder.at("prompt.txt"));
  assert.ok(none < own && own < await prompt("--with-prompt"));
  const costs: number[] = [];
  for (const more of [["--no-prompt"], ["--prompt", folder.at("prompt.txt")], ["--with-prompt"]]) {
    const { code, stdout, stderr } = await cli(["eval", "demo", "--limit-rows", "5", "--no-tuning", "--json", ...more]);
    assert.deepEqual([code, JSON.parse(stdout).n], [0, 5], stderr);
    costs.push(costIn(stderr));
  }
  const [without = NaN, short = NaN, ours = NaN] = costs;
  assert.ok(without === 0 && short > 0 && ours > short, costs.join());
  // Rows beyond the limit are not read.
  const [row = ""] = (await Deno.readTextFile("fixtures/demo_data/heldout.jsonl")).split("\n", 1);
  await Deno.writeTextFile(folder.at("cut.jsonl"), `${row}\n`.repeat(5) + "{broken\n");
  assert.equal(
    (await json(["eval", "demo", "--limit-rows", "5", "--no-tuning", "--data", folder.at("cut.jsonl")])).n,
    5,
  );
  const tasks = ["eval", "demo", "--tasks", "arc_easy", "--task-data", "fixtures/tasks", "--limit", "1", "--no-tuning"];
  const out = ["--out", folder.at("scores.jsonl")];
  const prompted = await cli([...tasks, ...out, "--prompt", folder.at("prompt.txt")]);
  assert.equal(prompted.code, 0, prompted.stderr);
  assert.ok(costIn(prompted.stderr) > 0, prompted.stderr);
  // They are other questions: their scores differ, and those of one file are not taken for the other's.
  await json([...tasks, "--out", folder.at("bare.jsonl")]);
  const [scored, others] = await Promise.all(
    ["scores", "bare"].map(async (name) =>
      (await Deno.readTextFile(folder.at(`${name}.jsonl`))).trimEnd().split("\n").at(-1)
    ),
  );
  assert.notEqual(scored, others);
  await refused([...tasks, ...out], "mismatch", { value: "task arc_easy:" });
  const file = folder.at("prompt.txt");
  for (
    const [wrong, names] of [
      [["eval", "demo", "--with-prompt", "--no-prompt"], ["--with-prompt", "--no-prompt"]],
      [["eval", "demo", "--text", file, "--with-prompt"], ["--with-prompt"]],
      [["generate", "demo", "--prompt", "Tom", "--prompt-file", file], ["--prompt-file"]],
    ] as const
  ) await refused(wrong, "usage", { names });
});

/** Tokens of the prompt, of which a note tells; 0 without. */
function costIn(stderr: string): number {
  return Number(/prompt takes (\d+) tokens/.exec(stderr)?.[1] ?? 0);
}
