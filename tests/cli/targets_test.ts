// Targets, presets and rates on the command line: what they ask of a run, what contradicts them, and a run with them all.
import assert from "node:assert/strict";
import { pruneOptionsOf, type TableFlags } from "../../cli/options/table_flags.ts";
import { layoutLines } from "../../cli/verbs/prune/layout_lines.ts";
import { headsLine, targetOf } from "../../cli/verbs/prune/targets.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { expectedPrograms } from "../../lib/slice/programs.ts";
import { linearCount, parameterCount } from "../../lib/spec/decoder.ts";
import type { Layout } from "../../lib/units/layout.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { CompressoError, type RunSummary } from "../../mod.ts";
import type { MethodName, Rates } from "../../lib/types/mod.ts";
import { cli, type CliResult, TemporaryFolder } from "./helpers/cli.ts";

const BASE = { rows: [], sparsity: 0.2, steps: 9 };
const FILES = { dtype: "bf16", ggufDtype: "q8_0", layout: "compact" } as const, NAME = { name: "mine" };

function refuses(run: () => unknown, message: RegExp): void {
  assert.throws(run, (error) => {
    assert.ok(error instanceof CompressoError && error.code === "usage", String(error));
    assert.match(error.message, message);
    return true;
  });
}

Deno.test("exactly one target becomes the goal, bytes those of the file that is meant", () => {
  assert.deepEqual(targetOf({ ...FILES, sparsity: 0.2 }, NAME), { sparsity: 0.2 });
  assert.deepEqual(targetOf({ ...FILES, targetParams: 5.4e9 }, NAME), { size: { parameters: 5.4e9 } });
  const folder = { bytes: 2 ** 20, file: { format: "hf", dtype: "bf16" } };
  assert.deepEqual(targetOf({ ...FILES, targetBytes: 2 ** 20 }, NAME), { size: folder });
  assert.deepEqual(targetOf({ ...FILES, targetBytes: 2 ** 20, targetFile: "hf" }, NAME), { size: folder });
  assert.deepEqual(targetOf({ ...FILES, targetBytes: 2 ** 20, targetFile: "gguf" }, NAME), {
    size: { bytes: 2 ** 20, file: { format: "gguf", dtype: "q8_0" }, name: "mine" },
  });
  refuses(
    () => targetOf(FILES, NAME),
    /cannot start without sparsity.*size\.parameters, size\.bytes or a schedule script/,
  );
  refuses(() => targetOf({ ...FILES, sparsity: 0.2, targetParams: 9 }, NAME), /either .* or .*; got: both were given/);
  refuses(() => targetOf({ ...FILES, targetParams: 9, targetBytes: 9 }, NAME), /either .* or .*; got: both were given/);
  refuses(
    () => targetOf({ ...FILES, sparsity: 0.2, targetFile: "gguf" }, NAME),
    /size\.file\.format goes with size\.bytes/,
  );
  for (const size of [{ targetParams: 9 }, { targetBytes: 9 }]) {
    refuses(() => targetOf({ ...FILES, ...size, layout: "padded" }, NAME), /prune to a size with the layout padded/);
  }
  assert.deepEqual(targetOf({ ...FILES, sparsity: 0.2, layout: "padded" }, NAME), { sparsity: 0.2 });
});

Deno.test("only options that were given reach the run, each at its path", () => {
  assert.deepEqual(pruneOptionsOf({ out: "x", json: true, prompt: false, calibration: "none" }), {});
  const rates = { lora: 1, postfinetune: 2, mask: 3, noise: 0, saliencyDecay: 0.5, tracking: 0, logAlphaLimit: 9 };
  const flags = { loraRate: 1, postfinetuneRate: 2, maskRate: 3, noise: 0, saliencyDecay: 0.5, tracking: 0 } as const;
  assert.deepEqual(
    pruneOptionsOf({
      ...flags,
      logAlphaLimit: 9,
      preset: "paper",
      rank: 2,
      loraTargets: ["q"],
      minFfn: 4,
      trust: true,
    }),
    {
      ...{ rates, preset: "paper", lora: { rank: 2, targets: ["q"] }, rules: { minimum: { ffn: 4 } } },
      trustSchedule: true,
    },
  );
});

Deno.test("a rate that the method has no use for is refused before the model is read", () => {
  const run = (flags: TableFlags, method: MethodName): Rates =>
    resolveOptions({ ...pruneOptionsOf(flags), ...BASE, method }).rates;
  assert.equal(run({ postfinetuneRate: 2, clipNorm: 3 }, "flap").postfinetune, 2);
  assert.equal(run({ warmup: 0.5 }, "gradual").warmup, 0.5);
  refuses(() => run({ warmup: 0.5 }, "flap"), /rates\.warmup is for the methods compresso, gradual; got: method flap/);
  refuses(() => run({ noise: 0 }, "gradual"), /rates\.noise is for the method compresso; got: method gradual/);
  // Log α that starts from a constant has no saliency to spread, to follow or to add to.
  for (const rate of ["spread", "saliencyDecay", "prior"] as const) {
    const message = new RegExp(`cannot use rates\\.${rate}; `);
    refuses(() => run({ [rate]: 0.5, start: "constant" }, "compresso"), message);
    refuses(() => run({ [rate]: 0.5, preset: "paper" }, "compresso"), message);
    const wide = { [rate]: 0.5, preset: "paper", start: "saliency", logAlphaLimit: 100 } as const;
    assert.equal(run(wide, "compresso")[rate], 0.5);
    refuses(() => run({ [rate]: 0.5 }, "gradual"), message);
  }
  // As the published limit is: units would begin closed, half of them.
  refuses(
    () => run({ preset: "paper", start: "saliency" }, "compresso"),
    /limit of 4\.6\d+ at a spread of 8.*raise rates\.logAlphaLimit/,
  );
});

Deno.test("what else does not go with the method is refused as early", () => {
  const run = (flags: TableFlags, { isCalibrated = false } = {}): unknown =>
    resolveOptions({ ...pruneOptionsOf(flags), ...BASE, ...(isCalibrated ? { calibration: [] } : {}) });
  refuses(() => run({ ranking: "all" }), /ranking is for the methods magnitude, .*got: method compresso/);
  refuses(() => run({ method: "wanda-sp", ranking: "all" }), /ranks units by layer/);
  refuses(
    () =>
      resolveOptions({ rows: [], sparsity: 0.2, steps: 9, method: "flap", layout: "uniform", ranking: "all" }, {
        maxPosition: 512,
      }),
    /the layout uniform ranks units by layer/,
  );
  refuses(() => run({ method: "taylor", schedule: "linear" }), /cannot use the schedule linear with the method taylor/);
  run({ method: "flap", units: ["ffn", "layers"] });
  refuses(
    () => run({ method: "magnitude" }, { isCalibrated: true }),
    /calibration is for the methods compresso, taylor, .*method magnitude/,
  );
  run({ method: "magnitude" });
  run({ method: "taylor" }, { isCalibrated: true });
});

Deno.test("a run as published writes a GGUF of the wanted bytes and an adapter, and is known again when it is resumed", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), limit = 1_500_000;
  const args = [
    ...["prune", "demo", "--target-bytes", String(limit), "--target-file", "gguf", "--preset", "paper", "--steps", "3"],
    ...["--limit-rows", "400", "--noise", "0.5", "--batch", "1", "--seq", "96", "--no-prompt", "--no-tuning"],
    ...["--save-adapter", "--out", out],
  ];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  const { size } = await Deno.stat(`${out}/model.gguf`);
  assert.ok(size <= limit && size > limit - 20_000, `${size}`); // a hidden dim is some 10,000 bytes
  assert.ok(stdout.includes(`size        ${size.toLocaleString("en")} bytes in model.gguf, f16`), stdout);
  assert.match(stdout, /of the whole model \(target /);
  for (const name of ["unmerged/model.safetensors", "adapter/adapter_model.safetensors", "adapter/README.md"]) {
    assert.ok(folder.has("run", ...name.split("/")), name);
  }
  const { options } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  const { noise, mask, logAlphaLimit: clamp, postfinetune } = options.rates;
  assert.deepEqual([options.preset, options.start, noise, mask, clamp, postfinetune], [
    ...["paper", "constant", 0.5, 0.1, Math.log(100), 4e-4],
  ]);
  const again = await cli([...args, "--resume"]);
  assert.equal(again.code, 0, again.stderr);
  assert.match(again.stderr, /is finished already/);
  const other = await cli([...args.with(3, String(limit + 1)), "--resume"]);
  assert.match(other.stderr, /size\.bytes: 1500000 then, 1500001 now/);
  const changed = await cli([...args, "--resume", "--units", "ffn", "--rank", "4", "--protect", "-1"]);
  assert.equal(changed.code, 6);
  for (const name of ["units", "lora.rank", "rules.protect"]) {
    assert.match(changed.stderr, new RegExp(`${name}: .* then, .* now`));
  }
  const script = folder.at("mine.ts");
  await Deno.writeTextFile(script, "export default { sparsity: () => 0.1 };");
  const elsewhere = ["--limit-rows", "9", "--base-dtype", "f32", "--schedule", script, "--dtype", "f32"];
  const made = await cli([...args, "--resume", ...elsewhere]);
  assert.equal(made.code, 6);
  for (const name of ["data", "baseDtype", "schedule", "files"]) {
    assert.match(made.stderr, new RegExp(`${name}: .* then, .* now`));
  }
  assert.match(
    (await cli(["prune", `${out}/model`, ...args.slice(2), "--resume"])).stderr,
    /cannot prune without data/,
  );
  const data = folder.at("rows.jsonl");
  await Deno.writeTextFile(data, Array(12).fill(`{"instruction": "Say a.", "output": "a"}\n`).join(""));
  const smaller = await cli(["prune", `${out}/model`, ...args.slice(2), "--resume", "--data", data]);
  assert.equal(smaller.code, 6);
  assert.match(smaller.stderr, /model: .* then, .* now/);
  const none = await cli([...args, "--resume", "--data", folder.at("none.jsonl")]);
  assert.match(none.stderr, /cannot tell whether the run is the same.*none\.jsonl/s);
});

Deno.test("plan tells what sparsity a number of parameters is, and what cannot be reached", async () => {
  const { code, stdout, stderr } = await cli([
    "plan",
    "demo",
    "--target-params",
    "0.7M",
    "--batch",
    "1",
    "--seq",
    "64",
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /target {4}700,000 parameters: a sparsity of 0\.336\d of the layers' linear weights/);
  const trainingWith = async (...more: string[]): Promise<number> =>
    JSON.parse((await cli(["plan", "demo", "--units", "kv,ffn", "--rank", "8", "--json", ...more])).stdout).stages
      .training;
  const [some, all] = [await trainingWith(), await trainingWith("--focus", "1")];
  assert.ok(some > all, `${some} for a last stage that compares with the model before pruning, ${all} without`);
  assert.equal(
    await trainingWith("--method", "gradual", "--focus", "0.5") - await trainingWith("--method", "gradual"),
    some - all,
  );
  const refused = await cli(["plan", "demo", "--target-params", "1B"]);
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /below the model's own 979,008, and at least [\d,]+, which/);
});

Deno.test("least and aligned widths go each to their own kind, and are refused where it is not among the units", async () => {
  using folder = new TemporaryFolder();
  const args = ["prune", "demo", "--method", "random", "--steps", "0", "--no-prompt", "--sparsity", "0.35"];
  const units = "heads,ffn,hidden", out = folder.at("run");
  const limits = ["--min-heads", "5", "--min-ffn", "50", "--min-hidden", "150", "--align", "4"];
  const { code, stderr } = await cli([...args, "--units", units, ...limits, "--out", out]);
  assert.equal(code, 0, stderr);
  assert.match(
    stderr,
    /heads share K and V here.*\(--units kv in place of heads cuts whole groups, --target-params counts/,
  );
  const { hidden, layers }: RunSummary = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  const widths = layers.map(({ ffn }) => ffn), heads = layers.map((layer) => layer.heads);
  assert.ok(hidden >= 152 && hidden < 192 && hidden % 4 === 0, `hidden size ${hidden}`);
  assert.ok(widths.every((width) => width >= 52 && width % 4 === 0) && Math.min(...widths) < 96, `${widths}`);
  assert.ok(heads.every((count) => count >= 5), `${heads}`);
  const others = [
    ["--min-heads", "ffn", "a least number of heads"],
    ["--min-ffn", "hidden", "a least FFN width"],
    ["--min-hidden", "ffn", "a least hidden size"],
    ["--align", "kv", "aligned widths"],
  ] as const;
  for (const [option, other, name] of others) {
    const refused = await cli([...args, "--units", other, option, "2", "--out", folder.at("none")]);
    assert.equal(refused.code, 2, option);
    assert.match(refused.stderr, new RegExp(`cannot keep to ${name}\n.*got: +${other}\n.*fix: +add `, "s"));
  }
});

Deno.test("what single heads save is told where several share K and V and a share is asked for, and nowhere else", () => {
  const plain = { units: ["heads", "ffn"], size: null, layout: "compact" } as const;
  const told = (heads: number, kvHeads: number, change: Partial<Parameters<typeof headsLine>[1]> = {}): string | null =>
    headsLine({ layers: [{ heads, kvHeads, ffn: 8 }] }, { ...plain, ...change });
  assert.match(told(6, 2) ?? "", /\(--units kv in place of heads cuts whole groups, --target-params/);
  assert.match(told(6, 2, { layout: "padded" }) ?? "", /\(--units kv in place of heads cuts whole groups\)$/);
  for (const change of [{ size: { parameters: 9 } }, { units: ["kv", "ffn"] }, { layout: "uniform" }] as const) {
    assert.equal(told(6, 2, change), null, JSON.stringify(change));
  }
  assert.deepEqual([told(6, 6), told(6, 1)], [null, null]);
});

Deno.test("a GGUF of whole blocks has its bytes by cutting whole layers alone", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), limit = 900_000;
  const size = ["--target-bytes", `${limit}`, "--target-file", "gguf", "--gguf-dtype", "q8_0"];
  const args = ["prune", "demo", "--units", "layers", "--method", "random", "--steps", "0", "--no-prompt", ...size];
  const { code, stderr } = await cli([...args, "--out", out]);
  assert.equal(code, 0, stderr);
  const { size: bytes } = await Deno.stat(`${out}/model.gguf`), layer = 160_000;
  assert.ok(bytes <= limit && bytes > limit - layer, `${bytes}`);
  const { model_type: type, num_hidden_layers: left } = JSON.parse(await Deno.readTextFile(`${out}/model/config.json`));
  const { layers }: RunSummary = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.deepEqual([type, left], ["llama", layers.filter(({ ffn }) => ffn > 0).length]);
  assert.ok(left < layers.length);
});

Deno.test("--min-layers keeps so many layers", async () => {
  using folder = new TemporaryFolder();
  const args = ["prune", "demo", "--units", "layers", "--method", "magnitude", "--steps", "0", "--no-prompt"];
  const least = async (count: number): Promise<CliResult> =>
    await cli([...args, "--sparsity", "0.3", "--min-layers", `${count}`, "--out", folder.at(`${count}`)]);
  const refused = await least(4);
  assert.equal(refused.code, 2, refused.stderr);
  assert.match(refused.stderr, /cutting layers reaches at most 0\.2000.*least widths/s);
  const { code, stderr } = await least(3);
  assert.equal(code, 0, stderr);
  const { layers } = JSON.parse(await Deno.readTextFile(`${folder.at("3")}/run.json`));
  assert.equal(layers.filter(({ ffn }: { readonly ffn: number }) => ffn > 0).length, 3);
});

Deno.test("what a layout saves and where its files load is said before the first step", async () => {
  const { spec } = (await openModelFiles("demo")).source;
  const lines = (layout: Layout, change: Partial<Parameters<typeof layoutLines>[1]> = {}): string =>
    layoutLines(spec, { layout, units: ["kv", "ffn"], size: null, sparsity: 0.2, ...change }).join("\n");
  const count = Math.round(0.2 * linearCount(spec)).toLocaleString("en"),
    all = parameterCount(spec).toLocaleString("en");
  assert.match(
    lines("compact"),
    new RegExp(`about ${count} of ${all} parameters are cut\n.*trust_remote_code.*deci.*\n.*--layout uniform`),
  );
  assert.match(lines("uniform"), /parameters are cut\n.*transformers, mlx-lm.*llama\.cpp, node-llama-cpp$/);
  assert.match(lines("padded"), /stay as large as before.*--layout uniform/);
  assert.match(lines("compact", { units: ["layers"] }), /transformers, mlx-lm/);
  // llama.cpp's OLMo 2 has the same widths in all layers.
  const olmo2 = { ...spec, tied: false, normPlaces: "after", qkNorm: "whole" } as const;
  for (const [layout, isWritten] of [["compact", false], ["uniform", true]] as const) {
    assert.equal(expectedPrograms(olmo2, { layout, units: ["ffn"] }).gguf !== null, isWritten, layout);
  }
});
