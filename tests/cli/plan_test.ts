// `compresso plan`, and the refusal of a prune run that does not fit.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { MemoryOptions } from "../../lib/run/options/options.ts";
import { planMemory } from "../../lib/run/memory/plan.ts";
import type { ErrorCode } from "../../lib/core/errors.ts";
import { formatBytes } from "../../cli/terminal/output.ts";
import { assertNames, type Refusal } from "../refuses.ts";
import { cli, copyDemo, json, refused, TemporaryFolder } from "./helpers/cli.ts";

/** Runs without an adapter: a backend that this system does not have. */
const NO_ADAPTER = { env: { DENO_WEBGPU_BACKEND: Deno.build.os === "windows" ? "metal" : "dx12" } };

const CONFIG = JSON.stringify({
  model_type: "llama",
  vocab_size: 1000,
  hidden_size: 256,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  intermediate_size: 700,
});

Deno.test("plan prints what each part takes, the peak and the largest buffer", async () => {
  const { code, stdout, stderr } = await cli(["plan", "demo", "--batch", "2"]);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, "");
  const run = stdout.split("\n").find((line) => line.startsWith("run "));
  assertNames(run ?? "", ["2 × 256", "f16", 8, "q,k,v,o,gate,up,down", "kv,ffn"]);
  const shares = [...stdout.matchAll(/^(\S.*?) {2,}[\d.]+ [KM]iB +([\d.]+) %$/gm)].map(([, name, share]) => ({
    name,
    share: Number(share),
  }));
  assert.deepEqual(shares.at(-1), { name: "peak", share: 100 });
  const sum = shares.slice(0, -1).reduce((total, { share }) => total + share, 0);
  assert.ok(shares.length >= 9 && Math.abs(sum - 100) < 0.5, `${shares.length} parts, ${sum} %`); // each is rounded to 0.1 %
  assert.match(stdout, /^largest .*'[\w: ]+', [\d.]+ [KM]iB .*[\d.]+ [MG]iB/m);
});

Deno.test("plan --time predicts each part, longer with more steps and a full check; without it nothing is measured", async () => {
  const seconds = async (...more: readonly string[]): Promise<Record<string, number>> =>
    (await json(["plan", "demo", "--batch", "1", "--seq", "64", ...more])).time;
  // Each is measured by itself, so that other work may make one step 20 times as long.
  const few = await seconds("--time", "--steps", "10"), many = await seconds("--time", "--steps", "400000");
  assert.ok((many["steps"] ?? 0) > 20 * (few["steps"] ?? 0) && (few["steps"] ?? 0) > 0, JSON.stringify({ few, many }));
  for (const part of ["reading", "preparing", "check", "quality", "writing"]) assert.ok((few[part] ?? 0) > 0, part);
  assert.equal(await seconds(), null);
  const { stdout } = await cli(["plan", "demo", "--batch", "1", "--seq", "64", "--time"]);
  assertNames(stdout, ["time", "steps", "check"]);
});

Deno.test("a plan counts what dropout takes and what rules spare, as a run does", async () => {
  const { source: { spec } } = await openModelFiles("demo");
  const peak = async (dropout: number, protect: number[], other: MemoryOptions = {}): Promise<number> =>
    (await planMemory(spec, { lora: { dropout }, rules: { protect }, ...other })).peakBytes;
  const plain = await peak(0, []), units = ["heads", "ffn"] as const;
  // Layers that are to be alike lose heads by their groups, which are fewer units.
  assert.ok(await peak(0, [], { units, layout: "uniform" }) < await peak(0, [], { units }));
  assert.ok(await peak(0.1, []) > plain);
  assert.ok(await peak(0, [], { focus: 1 }) < plain);
  assert.ok(await peak(0, [0, 1, 2]) < plain);
  const [without, withDropout] = await Promise.all(
    [[], ["--dropout", "0.1"]].map(async (more) => (await json(["plan", "demo", ...more])).peakBytes),
  );
  assert.ok(withDropout > without);
});

Deno.test("plan --json needs a config.json only and no adapter, and says for which limits it is", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("config.json"), CONFIG);
  const args = ["--base-dtype", "q8", "--batch", "1", "--seq", "64", "--no-recompute", "--json"];
  const file = await cli(["plan", folder.at("config.json"), ...args], NO_ADAPTER);
  assert.equal(file.code, 0, file.stderr);
  const plan = JSON.parse(file.stdout);
  assert.deepEqual([plan.adapter, plan.layers, plan.parameters > 0], [
    null,
    JSON.parse(CONFIG).num_hidden_layers,
    true,
  ]);
  assert.equal(plan.fits, true);
  assert.deepEqual(plan.windows, Array(plan.layers).fill(null));
  const sliding = { ...JSON.parse(CONFIG), model_type: "mistral", num_key_value_heads: 1, sliding_window: 100 };
  await Deno.writeTextFile(folder.at("sliding.json"), JSON.stringify(sliding));
  const { windows } = await json(["plan", folder.at("sliding.json"), ...args.slice(0, -1)]);
  assert.deepEqual(windows, Array(plan.layers).fill(100));
  assert.deepEqual(plan.advice, []);
  assert.equal(Object.values<number>(plan.parts).reduce((sum, bytes) => sum + bytes, 0), plan.peakBytes);
  assert.equal(plan.largestBuffer.limit, 2 ** 27);
  assert.ok(plan.parts.operands === 0 && plan.parts.attention === 0, "a GPU reads buffers");
  const alone = JSON.parse((await cli(["plan", folder.path, ...args], NO_ADAPTER)).stdout);
  assert.deepEqual({ ...alone, model: plan.model }, plan);
  const text = await cli(["plan", folder.path], NO_ADAPTER);
  assert.match(text.stdout, /^adapter +none /m);
});

Deno.test("plan over the limit ends with 4 and names changes, of which each fits", async () => {
  const args = ["plan", "demo", "--batch", "3", "--memory-limit", "16M"];
  const { code, stdout, stderr } = await cli([...args, "--json"]), { error } = JSON.parse(stderr);
  assert.deepEqual([code, error.code, error.option], [4, "gpu", "--memory-limit"], stderr);
  assert.equal(JSON.parse(stdout).fits, false);
  assertNames(error.expected, "16 MiB");
  const changes = [...error.fix.matchAll(/(--[\w-]+ \w+) \(([\d.]+) MiB\)/g)];
  assert.ok(changes.length >= 2, stderr);
  for (const [, change = "", mebibytes] of changes) {
    const { peakBytes } = await json([...args, ...change.split(" ")]);
    assert.equal(Math.ceil(10 * peakBytes / 2 ** 20) / 10, Number(mebibytes));
  }
});

Deno.test("plan refuses what is no model, and options out of range", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "hello");
  await Deno.writeTextFile(folder.at("config.json"), CONFIG.replace("llama", "bloom"));
  const cases: readonly (readonly [string[], ErrorCode, Refusal])[] = [
    [[folder.at("none")], "input", { names: folder.at("none") }],
    [[folder.at("text.txt")], "input", { names: [folder.at("text.txt"), "config.json", "GGUF"] }],
    [[folder.path], "input", { names: "model_type" }],
    [["demo", "--batch", "0"], "usage", { option: "--batch", value: 0, names: 1 }],
    [["demo", "--seq", "4096"], "usage", { option: "--seq", value: 4096, names: 512 }],
    [["demo", "--units", "heads,rows"], "usage", { option: "--units", value: "heads,rows", names: "kv" }],
  ];
  for (const [args, code, refusal] of cases) await refused(["plan", ...args], code, refusal);
});

Deno.test("prune over its memory limit is refused with 4 before a weight is read, and runs when the advice is followed", async () => {
  using folder = new TemporaryFolder();
  // Weights that loading would refuse with status 5: all bits set is NaN.
  await copyDemo(folder.at("model"), (bytes) => {
    const header = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    return bytes.fill(0xff, 8 + header);
  });
  const data = new URL("../../fixtures/demo_data/heldout.jsonl", import.meta.url).pathname;
  const args = (
    model: string,
  ): string[] => [
    "prune",
    model,
    "--data",
    data,
    "--sparsity",
    "0.3",
    "--steps",
    "2",
    "--prefinetune",
    "0",
    "--batch",
    "3",
    "--limit-rows",
    "40",
    "--calibration",
    "none",
    "--no-tuning",
    "--out",
    folder.at("out"),
  ];
  const limit = ["--memory-limit", "16M"];
  const { fix } = await refused([...args(folder.at("model")), ...limit], "gpu", { option: "--memory-limit" });
  assert.ok(!folder.has("out"));
  await refused(args(folder.at("model")), "numeric");

  const batch = /--batch (\d+) \([\d.]+ MiB\)/.exec(fix ?? "")?.[1] ?? "";
  const run = await cli([...args("demo"), ...limit, "--batch", batch]);
  assert.equal(run.code, 0, run.stderr);
  const summary = JSON.parse(await Deno.readTextFile(folder.at("out", "run.json")));
  assertNames(run.stdout, [formatBytes(summary.peakGpuBytes), formatBytes(summary.plannedGpuBytes)]);
  assert.ok(summary.peakGpuBytes <= 16 * 2 ** 20);
  assert.deepEqual(summary.versions, { compresso: config.version, deno: Deno.version.deno });
  // A plan counts both LoRA stages, of which so short a run has one.
  assert.ok(Math.abs(summary.plannedGpuBytes / summary.peakGpuBytes - 1) < 0.1);
  const [record = ""] = (await Deno.readTextFile(folder.at("out", "records.jsonl"))).split("\n");
  assert.equal(JSON.parse(record).plannedGpuBytes, summary.plannedGpuBytes);
});
