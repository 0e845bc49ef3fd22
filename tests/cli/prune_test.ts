// `compresso prune` on the demo: its files, Ctrl-C, a kill, and going on with the same bits.
import assert from "node:assert/strict";
import { formatCount } from "../../cli/terminal/output.ts";
import { cli, type CliResult, command, ROOT, TemporaryFolder } from "./helpers/cli.ts";
import { join } from "./helpers/paths.ts";

// Small enough for a CPU adapter; prefinetune and postfinetune follow: 2 + 16 + 5 steps.
const OPTIONS = [
  "--sparsity",
  "0.3",
  "--steps",
  "16",
  "--batch",
  "1",
  "--seq",
  "48",
  "--no-prompt",
  "--limit-rows",
  "400",
  "--checkpoint-every",
  "4",
];
const STEPS = 23;

function prune(out: string, ...more: readonly string[]): string[] {
  return ["prune", "demo", ...OPTIONS, "--out", out, ...more];
}

interface Reference {
  readonly result: CliResult;
  readonly folder: TemporaryFolder;
  readonly weights: Uint8Array;
  readonly gguf: Uint8Array;
}

let reference: Promise<Reference> | null = null;

/** A run that was never stopped, made once. */
function uninterrupted(): Promise<Reference> {
  return reference ??= (async () => {
    const folder = new TemporaryFolder();
    globalThis.addEventListener("unload", () => folder[Symbol.dispose]());
    const result = await cli(prune(folder.at("run")));
    assert.equal(result.code, 0, result.stderr);
    return { result, folder, ...await modelBytes(folder.at("run")) };
  })();
}

async function modelBytes(out: string): Promise<{ weights: Uint8Array; gguf: Uint8Array }> {
  return {
    weights: await Deno.readFile(`${out}/model/model.safetensors`),
    gguf: await Deno.readFile(`${out}/model.gguf`),
  };
}

/** Asserts equal bytes; `assert.deepEqual` would print a difference of megabytes, which takes all memory. */
function assertSameBytes(actual: Uint8Array, expected: Uint8Array, what: string): void {
  assert.equal(actual.length, expected.length, `length of ${what}`);
  const at = actual.findIndex((byte, index) => byte !== expected[index]);
  assert.equal(at, -1, `${what} differs from byte ${at} on`);
}

async function records(out: string): Promise<Record<string, unknown>[]> {
  const lines = (await Deno.readTextFile(`${out}/records.jsonl`)).trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line));
}

/** Starts a run, sends it a signal once it has written so many records, and waits for its end. */
async function stopped(
  out: string,
  { signal, records: count, run = command(prune(out)) }: {
    readonly signal: Deno.Signal;
    readonly records: number;
    readonly run?: Deno.Command;
  },
): Promise<CliResult & { readonly milliseconds: number }> {
  const child = run.spawn();
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  while ((await Deno.readTextFile(`${out}/records.jsonl`).catch(() => "")).split("\n").length <= count) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const start = performance.now();
  child.kill(signal);
  const { code } = await child.status;
  const milliseconds = performance.now() - start;
  const [stdout, stderr] = await output;
  return { code, stdout, stderr, milliseconds };
}

Deno.test("prune writes the model, its GGUF, a record a step and run.json", async () => {
  const { result, folder } = await uninterrupted();
  const out = folder.at("run");
  assert.match(result.stdout, /^sparsity +30\.\d %/);
  assert.match(result.stdout, /^check +sliced and masked logits differ/m);
  assert.match(result.stdout, /llama\.cpp/);
  const rows = await records(out);
  assert.equal(rows.length, STEPS);
  assert.deepEqual(rows.map(({ step }) => step), rows.map((_, index) => index + 1));
  const stages = rows.map(({ stage }) => stage);
  assert.deepEqual([...new Set(stages)], ["finetune", "prune", "postfinetune"]);
  for (const { loss, tokensPerSecond } of rows) assert.ok(Number(loss) > 0 && Number(tokensPerSecond) > 0);
  const targets = rows.filter(({ stage }) => stage === "prune").map(({ target }) => Number(target));
  assert.equal(targets.at(-1), 0.3);

  const run = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.equal(run.sparsity.target, 0.3);
  assert.ok(run.sparsity.hard >= 0.3 && run.sparsity.hard < 0.32, `hard sparsity ${run.sparsity.hard}`);
  assert.ok(Math.abs(run.sparsity.expected - 0.3) < 0.01, `expected sparsity ${run.sparsity.expected}`);
  for (const { stage, step, target, expected } of rows) {
    if (stage !== "prune") continue;
    assert.ok(Math.abs(Number(expected) - Number(target)) < 0.01, `step ${step}: ${expected}, target ${target}`);
  }
  assert.ok(run.parameters.after < run.parameters.before);
  assert.ok(run.maskedVsSliced.maxAbs <= 1e-3 * run.maskedVsSliced.range);
  for (const key of ["seconds", "tokensPerSecond", "peakGpuBytes", "adapter", "options", "hidden"]) {
    assert.ok(run[key], key);
  }
  const inspected = JSON.parse((await cli(["inspect", `${out}/model`, "--json"])).stdout);
  assert.equal(inspected.parameters, run.parameters.after);
  assert.deepEqual(inspected.spec.layers, run.layers);
  assert.equal(inspected.spec.hidden, run.hidden);
  assert.ok(!folder.has("run", "checkpoint.safetensors"), "a finished run needs no checkpoint");
});

Deno.test("progress comes as plain lines with loss, sparsity and target, speed and time left", async () => {
  const { result } = await uninterrupted();
  assert.match(
    result.stderr,
    /^prune \d+\/16 {2}loss \d+\.\d{3} {2}sparsity \d+\.\d % \(target \d+\.\d %\) {2}[\d.]+ tokens\/s {2}\d+ s left$/m,
  );
  assert.ok(!result.stderr.includes("\x1b"), "no escape codes where stderr is no terminal");
});

Deno.test("the sliced model generates and can be exported again", async () => {
  const { folder } = await uninterrupted();
  for (const path of [folder.at("run", "model"), folder.at("run", "model.gguf")]) {
    const { code, stdout, stderr } = await cli(["generate", path, "--prompt", "Where is Tom?\nTom ran to the hall.\n"]);
    assert.equal(code, 0, stderr);
    assert.ok(stdout.trim() !== "");
  }
  const args = ["export", folder.at("run", "model"), "--out", folder.at("padded"), "--layout", "padded"];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /vLLM|mlx/);
  const { parameters } = JSON.parse((await cli(["inspect", folder.at("padded", "model"), "--json"])).stdout);
  assert.ok(
    stdout.startsWith(`parameters  ${formatCount(parameters)}, `),
    stdout,
  );
});

Deno.test("Ctrl-C stops within a second with a checkpoint and no model, and --resume ends with the same bits", async () => {
  const { weights, gguf, folder: first } = await uninterrupted();
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  const { code, stdout, stderr, milliseconds } = await stopped(out, { signal: "SIGINT", records: 6 });
  assert.equal(code, 130, stderr);
  assert.equal(stdout, "");
  assert.match(stderr, /stopped by Ctrl-C\n {2}fix: +to resume, run: .* --resume$/m);
  assert.ok(milliseconds < 1000, `took ${milliseconds} ms`);
  assert.ok(folder.has("run", "checkpoint.safetensors"));
  for (const name of ["model", "model.gguf", "run.json"]) assert.ok(!folder.has("run", name), name);
  const before = await Deno.readFile(folder.at("run", "checkpoint.safetensors"));

  const fresh = await cli(prune(out));
  assert.equal(fresh.code, 2, fresh.stderr);
  assert.match(fresh.stderr, /it holds checkpoint\.safetensors\n {2}fix: +continue with --resume/);

  await Deno.writeTextFile(
    folder.at("data.jsonl"),
    '{"instruction":"Where is Tom?","input":"Tom is here.","output":"hall"}\n',
  );
  const others: [string[], RegExp][] = [
    [["--seed", "2"], /seed: 1 then, 2 now/],
    [["--sparsity", "0.25"], /sparsity: 0\.3 then, 0\.25 now/],
    [["--rank", "4"], /got: +lora\.rank: 8 then, 4 now$/m],
    [["--data", folder.at("data.jsonl")], /examples: \d+ examples.* then, 1 examples.* now/],
  ];
  for (const [args, message] of others) {
    const refused = await cli(prune(out, "--resume", ...args));
    assert.equal(refused.code, 6, refused.stderr);
    assert.match(refused.stderr, message);
  }
  assertSameBytes(await Deno.readFile(folder.at("run", "checkpoint.safetensors")), before, "the refused checkpoint");

  const resumed = await cli(prune(out, "--resume"));
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.match(resumed.stderr, /resuming after step \d+/);
  const after = await modelBytes(out);
  assertSameBytes(after.weights, weights, "model.safetensors");
  assertSameBytes(after.gguf, gguf, "model.gguf");
  const losses = async (path: string): Promise<unknown[]> =>
    (await records(path)).map(({ step, loss }) => [step, loss]);
  assert.deepEqual(await losses(out), await losses(first.at("run")));
});

Deno.test("the command to go on works in the folder where the run was started, whatever that is", async () => {
  using folder = new TemporaryFolder();
  const out = "a run", cwd = folder.path, pipes = { cwd, stdin: "null", stdout: "piped", stderr: "piped" } as const;
  const run = new Deno.Command(Deno.execPath(), {
    // Behind -- every word is a name, so that --resume has to stand before it.
    args: ["run", "-A", join(ROOT, "cli/main.ts"), "prune", ...OPTIONS, "--out", out, "--", "demo"],
    ...pipes,
  });
  const { stderr } = await stopped(folder.at(out), { signal: "SIGINT", records: 2, run });
  const [, line = ""] = /to resume, run: deno (.*)$/m.exec(stderr) ?? [];
  assert.match(line, /--out 'a run' --resume -- demo$/, stderr);
  const resumed = await new Deno.Command("sh", { args: ["-c", `"$0" ${line}`, Deno.execPath()], ...pipes }).output();
  assert.equal(resumed.code, 0, new TextDecoder().decode(resumed.stderr));
  assert.ok(folder.has(out, "run.json"));
});

Deno.test("Ctrl-C before the first step ends at once and leaves nothing", async () => {
  using folder = new TemporaryFolder();
  // Rows enough that encoding them, which blocks the event loop, takes longer than the wait for its end.
  const row = JSON.stringify({ instruction: "Where is Tom?", input: "Tom is here. ".repeat(40), output: "hall" });
  await Deno.writeTextFile(folder.at("data.jsonl"), `${row}\n`.repeat(20_000));
  const spawned = performance.now();
  const child = command(prune(folder.at("run"), "--data", folder.at("data.jsonl"), "--limit-rows", "20000")).spawn();
  const stdout = new Response(child.stdout).text();
  let stderr = "";
  const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  while (!stderr.includes("encoding 20,000 rows")) {
    const { value = "", done } = await reader.read();
    assert.ok(!done, stderr);
    stderr += value;
  }
  const start = performance.now();
  child.kill("SIGINT");
  const { code } = await child.status;
  const milliseconds = performance.now() - start;
  while (!(await reader.read()).done);
  assert.equal(code, 130, stderr);
  // A busy machine is as slow at the end as it was at the start; encoding takes many times as long.
  assert.ok(milliseconds < 1000 + (start - spawned), `took ${milliseconds} ms`);
  assert.equal(await stdout, "");
  assert.ok(!folder.has("run"));
});

Deno.test("a run that was killed goes on from its last checkpoint and ends with the same bits", async () => {
  const { weights, gguf } = await uninterrupted();
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  const { code } = await stopped(out, { signal: "SIGKILL", records: 10 });
  assert.equal(code, 137);
  assert.ok(folder.has("run", "checkpoint.safetensors"));
  for (const name of ["model", "model.gguf", "run.json"]) assert.ok(!folder.has("run", name), name);
  // As after a kill between two of its files.
  await Deno.writeTextFile(`${out}/model.gguf`, "moved into place before run.json was written");
  const resumed = await cli(prune(out, "--resume"));
  assert.equal(resumed.code, 0, resumed.stderr);
  const after = await modelBytes(out);
  assertSameBytes(after.weights, weights, "model.safetensors");
  assertSameBytes(after.gguf, gguf, "model.gguf");
  assert.equal((await records(out)).length, STEPS);
});

Deno.test("a finished run is left alone: --resume says so, and only --overwrite replaces it", async () => {
  const { folder, weights } = await uninterrupted();
  const out = folder.at("run");
  const again = await cli(prune(out));
  assert.equal(again.code, 2, again.stderr);
  assert.match(again.stderr, /it holds run\.json, model, model\.gguf\n {2}fix: +start over with --overwrite/);
  const resumed = await cli(prune(out, "--resume", "--json"));
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.match(resumed.stderr, /finished already/);
  assert.equal(JSON.parse(resumed.stdout).sparsity.target, 0.3);
  const other = await cli(prune(out, "--resume", "--seed", "5"));
  assert.equal(other.code, 6, other.stderr);
  assertSameBytes((await modelBytes(out)).weights, weights, "model.safetensors");

  const copy = folder.at("copy");
  await Deno.mkdir(`${copy}/model`, { recursive: true });
  await Deno.writeTextFile(`${copy}/run.json`, "{}");
  await Deno.writeTextFile(`${copy}/model/stale.txt`, "of an earlier run");
  const short = ["--steps", "2", "--prefinetune", "0", "--postfinetune", "0", "--layout", "uniform"];
  const refused = await cli(prune(copy, "--overwrite", "--protect", "99", ...short));
  assert.equal(refused.code, 2, refused.stderr);
  assert.ok(folder.has("copy", "model", "stale.txt"), "what is refused leaves the earlier run as it was");
  for (const name of ["eval.json", "earlier-eval.json"]) await Deno.writeTextFile(`${copy}/${name}`, name);
  const itself = await cli([...prune(copy, "--overwrite", ...short)].with(1, `${copy}/model`));
  assert.equal(itself.code, 2, itself.stderr);
  assert.match(itself.stderr, /not among the files that --overwrite removes/);
  assert.ok(folder.has("copy", "model", "stale.txt"));
  const replaced = await cli(prune(copy, "--overwrite", ...short));
  assert.equal(replaced.code, 0, replaced.stderr);
  assert.ok(!folder.has("copy", "eval.json"));
  for (const [name, text] of [["earlier-eval.json", "earlier-eval.json"], ["earlier-2-eval.json", "eval.json"]]) {
    assert.equal(await Deno.readTextFile(`${copy}/${name}`), text);
  }
  assert.ok(!folder.has("copy", "model", "stale.txt"));
  const { layers } = JSON.parse(await Deno.readTextFile(`${copy}/run.json`));
  assert.equal(new Set(layers.map((layer: unknown) => JSON.stringify(layer))).size, 1, "uniform layers are alike");
});

Deno.test("a run goes on with another schedule and other rates where --may-differ names them", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), other = ["--schedule", "linear", "--lora-rate", "1e-4"];
  await stopped(out, { signal: "SIGINT", records: 6 });
  const refused = await cli(prune(out, "--resume", ...other));
  assert.equal(refused.code, 6, refused.stderr);
  assert.match(refused.stderr, /schedule: cubic then, linear now.*--may-differ rates,schedule/s);
  const half = await cli(prune(out, "--resume", "--may-differ", "schedule", ...other));
  assert.equal(half.code, 6, half.stderr);
  const alone = await cli(prune(folder.at("new"), "--may-differ", "schedule"));
  assert.equal(alone.code, 2, alone.stderr);
  assert.match(alone.stderr, /--may-differ.*with --resume/s);
  const seed = ["--resume", "--seed", "5", "--may-differ", "rates"];
  assert.equal((await cli(prune(out, ...seed))).code, 6, "what is not named is as it was");
  const { code, stderr } = await cli(prune(out, "--resume", "--may-differ", "schedule,rates", ...other));
  assert.equal(code, 0, stderr);
  const all = await records(out);
  assert.equal(all.length, STEPS);
  const { options, changes } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.equal(options.rates.lora, 1e-4);
  // What it was before is told too, and from which step on it is not.
  const [change, ...others] = changes;
  assert.deepEqual(others, []);
  assert.ok(change.step >= 6 && change.step < STEPS, `${change.step}`);
  assert.deepEqual(change.differences, [
    "rates.lora: 0.001 then, 0.0001 now",
    "rates.postfinetune: 0.001 then, 0.0001 now",
    "schedule: cubic then, linear now",
  ]);
});

Deno.test("a schedule that changes while a run is prepared is refused before anything is written", async () => {
  using folder = new TemporaryFolder();
  let asked = 0;
  await using server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, () => {
    // The run reads another text than was looked at and its digest is of.
    const sparsity = asked++ < 2 ? 0.2 : 0.1;
    return new Response(
      `import { defineSchedule } from "compresso";\nexport default defineSchedule({ sparsity: ${sparsity} });`,
    );
  });
  const schedule = `http://127.0.0.1:${server.addr.port}/mine.ts`;
  const { code, stderr } = await cli(prune(folder.at("run"), "--calibration", "none", "--schedule", schedule));
  assert.equal(code, 6, stderr);
  assert.match(
    stderr,
    /cannot run with the schedule http.*\n.*while a run is prepared\n.*script \w+ then, script \w+ now/,
  );
  assert.deepEqual([...Deno.readDirSync(folder.at("run"))].map(({ name }) => name), []);
});

Deno.test("--resume without a checkpoint is refused", async () => {
  using folder = new TemporaryFolder();
  const { code, stderr } = await cli(prune(folder.at("run"), "--resume"));
  assert.equal(code, 2, stderr);
  assert.match(stderr, /cannot resume/);
});
