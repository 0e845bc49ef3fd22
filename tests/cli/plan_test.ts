// `compresso plan`, and the refusal of a prune run that does not fit.
import assert from "node:assert/strict";
import config from "../../deno.json" with { type: "json" };
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { MemoryOptions } from "../../lib/run/options/options.ts";
import { planMemory } from "../../lib/run/memory/plan.ts";
import { cli, copyDemo, TemporaryFolder } from "./helpers/cli.ts";

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
  assert.match(stdout, /^run +2 × 256 tokens, base f16, LoRA of rank 8 on q,k,v,o,gate,up,down, units kv,ffn$/m);
  const shares = [...stdout.matchAll(/^(\S.*?) {2,}[\d.]+ [KM]iB +([\d.]+) %$/gm)].map(([, name, share]) => ({
    name,
    share: Number(share),
  }));
  assert.deepEqual(shares.at(-1), { name: "peak", share: 100 });
  const sum = shares.slice(0, -1).reduce((total, { share }) => total + share, 0);
  assert.ok(shares.length >= 9 && Math.abs(sum - 100) < 0.5, `${shares.length} parts, ${sum} %`); // each is rounded to 0.1 %
  assert.match(stdout, /^largest +buffer '[\w: ]+', [\d.]+ [KM]iB of [\d.]+ [MG]iB that a binding may have$/m);
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
  const [without, withDropout] = await Promise.all([[], ["--dropout", "0.1"]].map(async (more) => {
    const { code, stdout, stderr } = await cli(["plan", "demo", "--json", ...more]);
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout).peakBytes;
  }));
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
  const other = await cli(["plan", folder.at("sliding.json"), ...args], NO_ADAPTER);
  assert.equal(other.code, 0, other.stderr);
  assert.deepEqual(JSON.parse(other.stdout).windows, Array(plan.layers).fill(100));
  assert.deepEqual(plan.advice, []);
  assert.equal(Object.values<number>(plan.parts).reduce((sum, bytes) => sum + bytes, 0), plan.peakBytes);
  assert.equal(plan.largestBuffer.limit, 2 ** 27);
  assert.ok(plan.parts.operands === 0 && plan.parts.attention === 0, "a GPU reads buffers");
  const alone = JSON.parse((await cli(["plan", folder.path, ...args], NO_ADAPTER)).stdout);
  assert.deepEqual({ ...alone, model: plan.model }, plan);
  const text = await cli(["plan", folder.path], NO_ADAPTER);
  assert.match(
    text.stdout,
    /^adapter +none here; planned with the limits that every WebGPU adapter grants$/m,
  );
});

Deno.test("plan over the limit ends with 4 and names changes, of which each fits", async () => {
  const args = ["plan", "demo", "--batch", "3", "--memory-limit", "16M"];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 4, stderr);
  assert.match(stdout, /^peak +[\d.]+ MiB +100\.0 %$/m);
  assert.match(stderr, /^compresso: cannot prune in the memory that there is$/m);
  assert.match(stderr, /expected: +the planned peak is within the memory limit, 16 MiB$/m);
  const changes = [
    ...(/fix: +raise --memory-limit, or use (.*)$/m.exec(stderr)?.[1] ?? "").matchAll(
      /(--[\w-]+ \w+) \(([\d.]+) MiB\)/g,
    ),
  ];
  assert.ok(changes.length >= 2, stderr);
  for (const [, change = "", mebibytes] of changes) {
    const changed = await cli([...args, ...change.split(" "), "--json"]);
    assert.equal(changed.code, 0, changed.stderr);
    const { peakBytes } = JSON.parse(changed.stdout);
    assert.equal(Math.ceil(10 * peakBytes / 2 ** 20) / 10, Number(mebibytes));
  }
});

Deno.test("plan refuses what is no model, and options out of range", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "hello");
  await Deno.writeTextFile(folder.at("config.json"), CONFIG.replace("llama", "bloom"));
  const cases: [string[], number, RegExp][] = [
    [[folder.at("none")], 3, /no such file|the path exists/],
    [[folder.at("text.txt")], 3, /folder with config\.json, such a file, or a file that starts with GGUF/],
    [[folder.path], 3, /model_type/],
    [["demo", "--batch", "0"], 2, /--batch is a whole number, at least 1/],
    [["demo", "--seq", "4096"], 2, /longest context is 512/],
    [["demo", "--units", "heads,rows"], 2, /--units .*heads, kv,/],
  ];
  for (const [args, status, message] of cases) {
    const { code, stdout, stderr } = await cli(["plan", ...args], NO_ADAPTER);
    assert.equal(code, status, `${args.join(" ")}: ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, message);
  }
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
    "--batch",
    "3",
    "--out",
    folder.at("out"),
  ];
  const limit = ["--memory-limit", "16M"];
  const refused = await cli([...args(folder.at("model")), ...limit]);
  assert.equal(refused.code, 4, refused.stderr);
  assert.equal(refused.stdout, "");
  assert.match(refused.stderr, /fix: +raise --memory-limit, or use .*--batch \d+ \([\d.]+ MiB\)/);
  assert.ok(!folder.has("out"));
  assert.equal((await cli(args(folder.at("model")))).code, 5);

  const batch = /--batch (\d+)/.exec(refused.stderr)?.[1] ?? "";
  const run = await cli([...args("demo"), ...limit, "--batch", batch]);
  assert.equal(run.code, 0, run.stderr);
  assert.match(run.stdout, /at most [\d.]+ MiB on the GPU \(planned: [\d.]+ MiB\)/);
  const summary = JSON.parse(await Deno.readTextFile(folder.at("out", "run.json")));
  assert.ok(summary.peakGpuBytes <= 16 * 2 ** 20);
  assert.deepEqual(summary.versions, { compresso: config.version, deno: Deno.version.deno });
  // A plan counts both LoRA stages, of which so short a run has one.
  assert.ok(Math.abs(summary.plannedGpuBytes / summary.peakGpuBytes - 1) < 0.1);
  const [record = ""] = (await Deno.readTextFile(folder.at("out", "records.jsonl"))).split("\n");
  assert.equal(JSON.parse(record).plannedGpuBytes, summary.plannedGpuBytes);
});
