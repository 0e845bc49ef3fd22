// `compresso prune` on the demo: its files, Ctrl-C, a kill, and going on with the same bits.
import assert from "node:assert/strict";
import { formatCount } from "../../cli/terminal/output.ts";
import { RUN_PARTS } from "../../lib/run/parts_of_time.ts";
import { assertNames } from "../refuses.ts";
import {
  assertFinished,
  checkRefused,
  cli,
  cliProcess,
  type CliResult,
  command,
  copyChatDemo,
  json,
  refused,
  ROOT,
  TemporaryFolder,
} from "./helpers/cli.ts";
import { join } from "./helpers/paths.ts";

// Small enough for a CPU adapter: 1 + 8 + 2 steps. The model's own calibration is in supervisor_test.ts.
const OPTIONS = [
  ...["--sparsity", "0.3", "--steps", "8", "--prefinetune", "1", "--postfinetune", "2", "--batch", "1", "--seq", "32"],
  ...["--no-prompt", "--limit-rows", "60", "--calibration", "none", "--checkpoint-every", "4", "--no-tuning"],
  ...["--on-alarm", "divergence=off"],
];
const STEPS = 11;

function prune(out: string, ...more: readonly string[]): string[] {
  return ["prune", "demo", ...OPTIONS, "--out", out, ...more];
}

interface Reference {
  readonly result: CliResult;
  readonly folder: TemporaryFolder;
  readonly weights: Uint8Array;
  readonly gguf: Uint8Array;
}

/** A folder that lasts until the file's tests have ended. */
function lastingFolder(): TemporaryFolder {
  const folder = new TemporaryFolder();
  globalThis.addEventListener("unload", () => folder[Symbol.dispose]());
  return folder;
}

let reference: Promise<Reference> | null = null;

/** A run that was never stopped, made once. */
function uninterrupted(): Promise<Reference> {
  return reference ??= (async () => {
    const folder = lastingFolder(), result = await cli(prune(folder.at("run")));
    assert.equal(result.code, 0, result.stderr);
    return { result, folder, ...await modelBytes(folder.at("run")) };
  })();
}

/** The name of its folder has to be quoted. */
const OUT = "a run";

let interrupted: Promise<{ readonly folder: TemporaryFolder; readonly result: Stopped }> | null = null;

/** A run that Ctrl-C stopped in its own working folder, made once: tests copy it. */
function stoppedRun(): NonNullable<typeof interrupted> {
  return interrupted ??= (async () => {
    const folder = lastingFolder();
    const run = new Deno.Command(Deno.execPath(), {
      // Behind -- every word is a name, so that --resume has to stand before it.
      args: ["run", "-A", join(ROOT, "cli/main.ts"), "prune", ...OPTIONS, "--out", OUT, "--", "demo"],
      cwd: folder.path,
      ...PIPES,
    });
    return { folder, result: await stopped(folder.at(OUT), { signal: "SIGINT", records: 3, run }) };
  })();
}

/** Copies the files of a stopped run. */
async function copyRun(from: string, to: string): Promise<void> {
  await Deno.mkdir(to);
  for await (const { name, isFile } of Deno.readDir(from)) {
    if (isFile) await Deno.copyFile(join(from, name), join(to, name));
  }
}

const PIPES = { stdin: "null", stdout: "piped", stderr: "piped" } as const;

interface Stopped extends CliResult {
  readonly milliseconds: number;
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
): Promise<Stopped> {
  const child = run.spawn();
  const output = Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  while ((await Deno.readTextFile(`${out}/records.jsonl`).catch(() => "")).split("\n").length <= count) {
    await new Promise((resolve) => setTimeout(resolve, 5));
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
  assertNames(result.stdout, "llama.cpp");
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
  assertNames(result.stdout, run.maskedVsSliced.maxAbs.toExponential(1));
  const { seconds, predicted } = run.parts, measured = RUN_PARTS.map((part) => Number(seconds[part]));
  for (const part of RUN_PARTS) assert.ok(seconds[part] > 0 && predicted[part] >= 0, `${part}: ${seconds[part]}`);
  for (const part of ["reading", "steps", "check", "quality", "writing"]) assert.ok(predicted[part] > 0, part);
  const whole = measured.reduce((sum, value) => sum + value, 0);
  assert.ok(whole <= run.wallSeconds && whole > 0.7 * run.wallSeconds, `${whole} of ${run.wallSeconds} s`);
  assertNames(result.stderr, ["time", "check", "steps"]);
  const inspected = await json(["inspect", `${out}/model`]);
  assert.equal(inspected.parameters, run.parameters.after);
  assert.deepEqual(inspected.spec.layers, run.layers);
  assert.equal(inspected.spec.hidden, run.hidden);
  assert.ok(!folder.has("run", "checkpoint.safetensors"), "a finished run needs no checkpoint");
});

Deno.test("the next command chats with a model that has a chat template, and otherwise continues a text", async () => {
  using folder = new TemporaryFolder();
  const chat = folder.at("chat"), out = folder.at("run");
  await copyChatDemo(chat);
  const once = [
    "--sparsity",
    "0.3",
    "--method",
    "magnitude",
    "--steps",
    "0",
    "--batch",
    "1",
    "--seq",
    "32",
    "--no-tuning",
  ];
  const data = ["--data", "fixtures/demo_data/train.jsonl", "--limit-rows", "40", "--no-prompt", "--formats", "hf"];
  const { code, stderr } = await cli(["prune", chat, ...once, ...data, "--out", out]);
  assert.equal(code, 0, stderr);
  const next = (text: string): string => text.split("\n").find((line) => line.includes("--compare")) ?? "";
  assertNames(next(stderr), ` chat ${out}/model --compare ${chat}`);
  const { result, folder: plain } = await uninterrupted();
  assertNames(next(result.stderr), ` generate ${plain.at("run")}/model --compare demo --prompt `);
});

Deno.test("progress comes as plain lines with the step of the stage and the loss", async () => {
  const { result: { stderr }, folder } = await uninterrupted(), last = (await records(folder.at("run"))).at(-1);
  const line = stderr.split("\n").find((line) => line.startsWith("postfinetune 2/2 "));
  assertNames(line ?? "", Number(last?.loss).toFixed(3));
  assert.ok(!stderr.includes("\x1b"), "no escape codes where stderr is no terminal");
});

Deno.test("the sliced model generates and can be exported again", async () => {
  const { folder } = await uninterrupted();
  for (const path of [folder.at("run", "model"), folder.at("run", "model.gguf")]) {
    const { text } = await json([
      "generate",
      path,
      "--prompt",
      "Where is Tom?\nTom ran to the hall.\n",
      "--max-tokens",
      "8",
    ]);
    assert.ok(text.trim() !== "");
  }
  const args = ["export", folder.at("run", "model"), "--out", folder.at("padded"), "--layout", "padded"];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  assertNames(stdout, "vLLM");
  const { parameters } = await json(["inspect", folder.at("padded", "model")]);
  assert.ok(
    stdout.startsWith(`parameters  ${formatCount(parameters)}, `),
    stdout,
  );
});

Deno.test("Ctrl-C stops within a second with a checkpoint and no model, and the command that it names ends with the same bits", async () => {
  const { weights, gguf, folder: first } = await uninterrupted();
  const { folder: kept, result: { code, stdout, stderr, milliseconds } } = await stoppedRun();
  assert.equal(code, 130, stderr);
  assert.equal(stdout, "");
  assert.ok(milliseconds < 1000, `took ${milliseconds} ms`);
  assert.ok(kept.has(OUT, "checkpoint.safetensors"));
  for (const name of ["model", "model.gguf", "run.json"]) assert.ok(!kept.has(OUT, name), name);
  using folder = new TemporaryFolder();
  const out = folder.at(OUT);
  await copyRun(kept.at(OUT), out);
  const before = await Deno.readFile(`${out}/checkpoint.safetensors`);

  const { fix } = await refused(prune(out), "usage", { value: "checkpoint.safetensors" });
  assertNames(fix ?? "", "--resume");
  await Deno.writeTextFile(
    folder.at("data.jsonl"),
    '{"instruction":"Where is Tom?","input":"Tom is here.","output":"hall"}\n',
  );
  const others: readonly (readonly [string[], string | string[]])[] = [
    [["--seed", "2"], "seed: 1 then, 2 now"],
    [["--sparsity", "0.25"], "sparsity: 0.3 then, 0.25 now"],
    [["--rank", "4"], "lora.rank: 8 then, 4 now"],
    [["--data", folder.at("data.jsonl")], ["examples", "1 examples"]],
  ];
  for (const [args, value] of others) await refused(prune(out, "--resume", ...args), "mismatch", { value });
  assertSameBytes(await Deno.readFile(`${out}/checkpoint.safetensors`), before, "the refused checkpoint");

  // The command works in the folder where the run was started.
  const [, line = ""] = /deno (run .*)$/m.exec(stderr) ?? [];
  assert.ok(line.endsWith(` --out '${OUT}' --resume -- demo`), stderr);
  const resumed = await new Deno.Command("sh", {
    args: ["-c", `"$0" ${line}`, Deno.execPath()],
    cwd: folder.path,
    ...PIPES,
  }).output();
  assert.equal(resumed.code, 0, new TextDecoder().decode(resumed.stderr));
  const after = await modelBytes(out);
  assertSameBytes(after.weights, weights, "model.safetensors");
  assertSameBytes(after.gguf, gguf, "model.gguf");
  const losses = async (path: string): Promise<unknown[]> =>
    (await records(path)).map(({ step, loss }) => [step, loss]);
  assert.deepEqual(await losses(out), await losses(first.at("run")));
  const { resumedAfter } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.ok(resumedAfter >= 3 && resumedAfter < STEPS, `${resumedAfter}`);
});

Deno.test("Ctrl-C before the first step ends at once and leaves nothing", async () => {
  using folder = new TemporaryFolder();
  // Rows enough that encoding them, which blocks the event loop, takes longer than the wait for its end.
  const row = JSON.stringify({ instruction: "Where is Tom?", input: "Tom is here. ".repeat(40), output: "hall" });
  await Deno.writeTextFile(folder.at("data.jsonl"), `${row}\n`.repeat(10_000));
  const spawned = performance.now();
  const child = command(prune(folder.at("run"), "--data", folder.at("data.jsonl"), "--limit-rows", "10000")).spawn();
  const stdout = new Response(child.stdout).text();
  let stderr = "";
  const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  while (!stderr.includes("10,000")) {
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
  const { code } = await stopped(out, { signal: "SIGKILL", records: 5 });
  assert.equal(code, 137);
  assert.ok(folder.has("run", "checkpoint.safetensors"));
  for (const name of ["model", "model.gguf", "run.json"]) assert.ok(!folder.has("run", name), name);
  // As after a kill between two of its files.
  await Deno.writeTextFile(`${out}/model.gguf`, "moved into place before run.json was written");
  await json(prune(out, "--resume"));
  const after = await modelBytes(out);
  assertSameBytes(after.weights, weights, "model.safetensors");
  assertSameBytes(after.gguf, gguf, "model.gguf");
  assert.equal((await records(out)).length, STEPS);
});

Deno.test("a finished run is left alone: --resume says so, and only --overwrite replaces it", async () => {
  const { folder, weights } = await uninterrupted();
  const out = folder.at("run");
  const { fix } = await refused(prune(out), "usage", { value: ["run.json", "model", "model.gguf"] });
  assertNames(fix ?? "", "--overwrite");
  await assertFinished(prune(out, "--resume"), out);
  await refused(prune(out, "--resume", "--seed", "5"), "mismatch", { value: "seed: 1 then, 5 now" });
  assertSameBytes((await modelBytes(out)).weights, weights, "model.safetensors");

  const copy = folder.at("copy");
  await Deno.mkdir(`${copy}/model`, { recursive: true });
  await Deno.writeTextFile(`${copy}/run.json`, "{}");
  await Deno.writeTextFile(`${copy}/model/stale.txt`, "of an earlier run");
  const short = ["--steps", "2", "--prefinetune", "0", "--postfinetune", "0", "--layout", "uniform"];
  await refused(prune(copy, "--overwrite", "--protect", "99", ...short), "usage", { names: 99 });
  assert.ok(folder.has("copy", "model", "stale.txt"), "what is refused leaves the earlier run as it was");
  for (const name of ["eval.json", "earlier-eval.json"]) await Deno.writeTextFile(`${copy}/${name}`, name);
  await refused([...prune(copy, "--overwrite", ...short)].with(1, `${copy}/model`), "usage", {
    value: `${copy}/model`,
    names: "--overwrite",
  });
  assert.ok(folder.has("copy", "model", "stale.txt"));
  const { layers } = await json(prune(copy, "--overwrite", ...short));
  assert.ok(!folder.has("copy", "eval.json"));
  for (const [name, text] of [["earlier-eval.json", "earlier-eval.json"], ["earlier-2-eval.json", "eval.json"]]) {
    assert.equal(await Deno.readTextFile(`${copy}/${name}`), text);
  }
  assert.ok(!folder.has("copy", "model", "stale.txt"));
  assert.equal(new Set(layers.map((layer: unknown) => JSON.stringify(layer))).size, 1, "uniform layers are alike");
});

Deno.test("a run goes on with another schedule and other rates where --may-differ names them", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"),
    other = ["--schedule", "linear", "--lora-rate", "1e-4"];
  await copyRun((await stoppedRun()).folder.at(OUT), out);
  const { fix } = await refused(prune(out, "--resume", ...other), "mismatch", {
    value: "schedule: cubic then, linear now",
  });
  assertNames(fix ?? "", "--may-differ rates,schedule");
  await refused(prune(out, "--resume", "--may-differ", "schedule", ...other), "mismatch", { value: "rates.lora" });
  await refused(prune(folder.at("new"), "--may-differ", "schedule"), "usage", { names: ["--may-differ", "--resume"] });
  // What is not named is as it was.
  await refused(prune(out, "--resume", "--seed", "5", "--may-differ", "rates"), "mismatch", { value: "seed" });
  await json(prune(out, "--resume", "--may-differ", "schedule,rates", ...other));
  const all = await records(out);
  assert.equal(all.length, STEPS);
  const { options, changes } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.equal(options.rates.lora, 1e-4);
  // What it was before is told too, and from which step on it is not.
  const [change, ...others] = changes;
  assert.deepEqual(others, []);
  assert.ok(change.step >= 3 && change.step < STEPS, `${change.step}`);
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
  const ended = await cliProcess(prune(folder.at("run"), "--schedule", schedule, "--json"));
  const { got } = checkRefused(ended, "mismatch", { names: schedule });
  assert.match(got ?? "", /\bscript (\w+)\b.*\bscript (?!\1)\w+/);
  assert.deepEqual([...Deno.readDirSync(folder.at("run"))].map(({ name }) => name), []);
});

Deno.test("--resume without a checkpoint is refused", async () => {
  using folder = new TemporaryFolder();
  await refused(prune(folder.at("run"), "--resume"), "usage", { option: "--resume" });
});
