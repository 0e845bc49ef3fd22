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
import type { RunSummary } from "../../mod.ts";
import type { MethodName, Rates } from "../../lib/types/mod.ts";
import { assertNames, refuses } from "../refuses.ts";
import { assertFinished, cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

/** Nothing is trained. */
const SHORT = ["--steps", "0", "--no-prompt", "--limit-rows", "40", "--batch", "1", "--seq", "32", "--no-tuning"];
const BASE = { rows: [], sparsity: 0.2, steps: 9 };
const FILES = { dtype: "bf16", ggufDtype: "q8_0", layout: "compact" } as const, NAME = { name: "mine" };

Deno.test("exactly one target becomes the goal, bytes those of the file that is meant", () => {
  assert.deepEqual(targetOf({ ...FILES, sparsity: 0.2 }, NAME), { sparsity: 0.2 });
  assert.deepEqual(targetOf({ ...FILES, targetParams: 5.4e9 }, NAME), { size: { parameters: 5.4e9 } });
  const folder = { bytes: 2 ** 20, file: { format: "hf", dtype: "bf16" } };
  assert.deepEqual(targetOf({ ...FILES, targetBytes: 2 ** 20 }, NAME), { size: folder });
  assert.deepEqual(targetOf({ ...FILES, targetBytes: 2 ** 20, targetFile: "hf" }, NAME), { size: folder });
  assert.deepEqual(targetOf({ ...FILES, targetBytes: 2 ** 20, targetFile: "gguf" }, NAME), {
    size: { bytes: 2 ** 20, file: { format: "gguf", dtype: "q8_0" }, name: "mine" },
  });
  refuses(() => targetOf(FILES, NAME), "usage", { option: "sparsity", names: ["size.parameters", "size.bytes"] });
  refuses(() => targetOf({ ...FILES, sparsity: 0.2, targetParams: 9 }, NAME), "usage", {
    names: ["sparsity", "size.parameters"],
  });
  refuses(() => targetOf({ ...FILES, targetParams: 9, targetBytes: 9 }, NAME), "usage", {
    names: ["size.parameters", "size.bytes"],
  });
  refuses(() => targetOf({ ...FILES, sparsity: 0.2, targetFile: "gguf" }, NAME), "usage", {
    names: ["size.file.format", "size.bytes"],
  });
  for (const size of [{ targetParams: 9 }, { targetBytes: 9 }]) {
    refuses(() => targetOf({ ...FILES, ...size, layout: "padded" }, NAME), "usage", { names: "padded" });
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
  refuses(() => run({ warmup: 0.5 }, "flap"), "usage", {
    option: "rates.warmup",
    value: "flap",
    names: ["compresso", "gradual"],
  });
  refuses(() => run({ noise: 0 }, "gradual"), "usage", { option: "rates.noise", value: "gradual", names: "compresso" });
  // Log α that starts from a constant has no saliency to spread, to follow or to add to.
  for (const rate of ["spread", "saliencyDecay", "prior"] as const) {
    const refusal = { option: `rates.${rate}` };
    refuses(() => run({ [rate]: 0.5, start: "constant" }, "compresso"), "usage", refusal);
    refuses(() => run({ [rate]: 0.5, preset: "paper" }, "compresso"), "usage", refusal);
    const wide = { [rate]: 0.5, preset: "paper", start: "saliency", logAlphaLimit: 100 } as const;
    assert.equal(run(wide, "compresso")[rate], 0.5);
    refuses(() => run({ [rate]: 0.5 }, "gradual"), "usage", refusal);
  }
  // As the published limit is: units would begin closed, half of them.
  refuses(() => run({ preset: "paper", start: "saliency" }, "compresso"), "usage", {
    value: [Math.log(100), 8],
    names: "rates.logAlphaLimit",
  });
});

Deno.test("what else does not go with the method is refused as early", () => {
  const run = (flags: TableFlags, { isCalibrated = false } = {}): unknown =>
    resolveOptions({ ...pruneOptionsOf(flags), ...BASE, ...(isCalibrated ? { calibration: [] } : {}) });
  refuses(() => run({ ranking: "all" }), "usage", { option: "ranking", value: "compresso", names: "magnitude" });
  refuses(() => run({ method: "wanda-sp", ranking: "all" }), "usage", { option: "ranking", names: "wanda-sp" });
  refuses(
    () =>
      resolveOptions({ rows: [], sparsity: 0.2, steps: 9, method: "flap", layout: "uniform", ranking: "all" }, {
        maxPosition: 512,
      }),
    "usage",
    { option: "ranking", names: "uniform" },
  );
  refuses(() => run({ method: "taylor", schedule: "linear" }), "usage", { names: ["linear", "taylor"] });
  run({ method: "flap", units: ["ffn", "layers"] });
  refuses(() => run({ method: "magnitude" }, { isCalibrated: true }), "usage", {
    option: "calibration",
    value: "magnitude",
    names: ["compresso", "taylor"],
  });
  run({ method: "magnitude" });
  run({ method: "taylor" }, { isCalibrated: true });
});

Deno.test("a run as published writes a GGUF of the wanted bytes and an adapter, and is known again when it is resumed", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), limit = 1_500_000;
  const args = [
    ...["prune", "demo", "--target-bytes", String(limit), "--target-file", "gguf", "--preset", "paper", "--steps", "3"],
    ...["--limit-rows", "40", "--noise", "0.5", "--batch", "1", "--seq", "32", "--no-prompt", "--no-tuning"],
    ...["--save-adapter", "--out", out],
  ];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  const { size } = await Deno.stat(`${out}/model.gguf`);
  assert.ok(size <= limit && size > limit - 20_000, `${size}`); // a hidden dim is some 10,000 bytes
  assert.ok(stdout.includes(`size        ${size.toLocaleString("en")} bytes in model.gguf, f16`), stdout);
  for (const name of ["unmerged/model.safetensors", "adapter/adapter_model.safetensors", "adapter/README.md"]) {
    assert.ok(folder.has("run", ...name.split("/")), name);
  }
  const { options, size: wanted } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  assert.deepEqual([wanted.unit, wanted.sparsityOf, wanted.reached], ["bytes", "model", size]);
  const { noise, mask, logAlphaLimit: clamp, postfinetune } = options.rates;
  assert.deepEqual([options.preset, options.start, noise, mask, clamp, postfinetune], [
    ...["paper", "constant", 0.5, 0.1, Math.log(100), 4e-4],
  ]);
  await assertFinished([...args, "--resume"], out);
  await refused([...args.with(3, String(limit + 1)), "--resume"], "mismatch", {
    value: "size.bytes: 1500000 then, 1500001 now",
  });
  await refused([...args, "--resume", "--units", "ffn", "--rank", "4", "--protect", "-1"], "mismatch", {
    value: ["units:", "lora.rank:", "rules.protect:"],
  });
  const script = folder.at("mine.ts");
  await Deno.writeTextFile(script, "export default { sparsity: () => 0.1 };");
  const elsewhere = ["--limit-rows", "9", "--base-dtype", "f32", "--schedule", script, "--dtype", "f32"];
  await refused([...args, "--resume", ...elsewhere], "mismatch", {
    value: ["data:", "baseDtype:", "schedule:", "files:"],
  });
  const again = ["prune", `${out}/model`, ...args.slice(2), "--resume"];
  await refused(again, "usage", { names: "--data" });
  const data = folder.at("rows.jsonl");
  await Deno.writeTextFile(data, Array(12).fill(`{"instruction": "Say a.", "output": "a"}\n`).join(""));
  await refused([...again, "--data", data], "mismatch", { value: "model:" });
  const none = folder.at("none.jsonl");
  await refused([...args, "--resume", "--data", none], "input", { names: none });
});

Deno.test("plan tells what sparsity a number of parameters is, and what cannot be reached", async () => {
  const plan = ["plan", "demo", "--target-params", "0.7M", "--batch", "1", "--seq", "64"];
  const { target } = await json(plan);
  assert.ok(target.sparsity >= 0.336 && target.sparsity < 0.337, `${target.sparsity}`);
  const line = (await cli(plan)).stdout.split("\n").find((text) => text.startsWith("target "));
  assertNames(line ?? "", ["700,000", target.sparsity.toFixed(4)]);
  const trainingWith = async (...more: string[]): Promise<number> =>
    (await json(["plan", "demo", "--units", "kv,ffn", "--rank", "8", ...more])).stages.training;
  const [some, all] = [await trainingWith(), await trainingWith("--focus", "1")];
  assert.ok(some > all, `${some} for a last stage that compares with the model before pruning, ${all} without`);
  assert.equal(
    await trainingWith("--method", "gradual", "--focus", "0.5") - await trainingWith("--method", "gradual"),
    some - all,
  );
  const { expected } = await refused(["plan", "demo", "--target-params", "1B"], "usage", { value: "1,000,000,000" });
  const [most, least] = (expected?.match(/\d[\d,]+/g) ?? []).map((number) => Number(number.replaceAll(",", "")));
  assert.ok(most === 979_008 && least !== undefined && least > 100_000 && least < 700_000, expected ?? "");
});

Deno.test("least and aligned widths go each to their own kind, and are refused where it is not among the units", async () => {
  using folder = new TemporaryFolder();
  const args = ["prune", "demo", "--method", "random", "--sparsity", "0.35", ...SHORT];
  const units = "heads,ffn,hidden", out = folder.at("run");
  const limits = ["--min-heads", "5", "--min-ffn", "50", "--min-hidden", "150", "--align", "4"];
  const { code, stderr } = await cli([...args, "--units", units, ...limits, "--out", out]);
  assert.equal(code, 0, stderr);
  assertNames(stderr, ["--units kv", "--target-params"]);
  const { hidden, layers }: RunSummary = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
  const widths = layers.map(({ ffn }) => ffn), heads = layers.map((layer) => layer.heads);
  assert.ok(hidden >= 152 && hidden < 192 && hidden % 4 === 0, `hidden size ${hidden}`);
  assert.ok(widths.every((width) => width >= 52 && width % 4 === 0) && Math.min(...widths) < 96, `${widths}`);
  assert.ok(heads.every((count) => count >= 5), `${heads}`);
  const others = [["--min-heads", "ffn"], ["--min-ffn", "hidden"], ["--min-hidden", "ffn"], ["--align", "kv"]] as const;
  for (const [option, other] of others) {
    await refused([...args, "--units", other, option, "2", "--out", folder.at("none")], "usage", {
      option,
      value: other,
    });
  }
});

Deno.test("what single heads save is told where several share K and V and a share is asked for, and nowhere else", () => {
  const plain = { units: ["heads", "ffn"], size: null, layout: "compact" } as const;
  const told = (heads: number, kvHeads: number, change: Partial<Parameters<typeof headsLine>[1]> = {}): string | null =>
    headsLine({ layers: [{ heads, kvHeads, ffn: 8 }] }, { ...plain, ...change });
  assertNames(told(6, 2) ?? "", ["--units kv", "--target-params"]);
  const padded = told(6, 2, { layout: "padded" }) ?? "";
  assertNames(padded, "--units kv");
  assert.ok(!padded.includes("--target-params"), "a size has no padded layout");
  for (const change of [{ size: { parameters: 9 } }, { units: ["kv", "ffn"] }, { layout: "uniform" }] as const) {
    assert.equal(told(6, 2, change), null, JSON.stringify(change));
  }
  assert.deepEqual([told(6, 6), told(6, 1)], [null, null]);
});

Deno.test("a GGUF of whole blocks has its bytes by cutting whole layers alone", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run"), limit = 900_000;
  const size = ["--target-bytes", `${limit}`, "--target-file", "gguf", "--gguf-dtype", "q8_0"];
  const args = ["prune", "demo", "--units", "layers", "--method", "random", ...SHORT, ...size];
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
  const args = ["prune", "demo", "--units", "layers", "--method", "magnitude", ...SHORT, "--sparsity", "0.3"];
  const least = (count: number): string[] => [...args, "--min-layers", `${count}`, "--out", folder.at(`${count}`)];
  await refused(least(4), "usage", { names: "0.2000" });
  const { layers } = await json(least(3));
  assert.equal(layers.filter(({ ffn }: { readonly ffn: number }) => ffn > 0).length, 3);
});

Deno.test("what a layout saves and where its files load is said before the first step", async () => {
  const { spec } = (await openModelFiles("demo")).source;
  const lines = (layout: Layout, change: Partial<Parameters<typeof layoutLines>[1]> = {}): string =>
    layoutLines(spec, { layout, units: ["kv", "ffn"], size: null, sparsity: 0.2, ...change }).join("\n");
  const count = Math.round(0.2 * linearCount(spec)).toLocaleString("en"),
    all = parameterCount(spec).toLocaleString("en");
  assertNames(lines("compact"), [count, all, "trust_remote_code", "deci", "--layout uniform"]);
  assertNames(lines("uniform"), [count, all, "transformers", "mlx-lm", "llama.cpp", "node-llama-cpp"]);
  assertNames(lines("padded"), "--layout uniform");
  assert.ok(!lines("padded").includes(count), "files do not get smaller");
  assertNames(lines("compact", { units: ["layers"] }), ["transformers", "mlx-lm"]);
  // llama.cpp's OLMo 2 has the same widths in all layers.
  const olmo2 = { ...spec, tied: false, normPlaces: "after", qkNorm: "whole" } as const;
  for (const [layout, isWritten] of [["compact", false], ["uniform", true]] as const) {
    assert.equal(expectedPrograms(olmo2, { layout, units: ["ffn"] }).gguf !== null, isWritten, layout);
  }
});

Deno.test("a run that cuts layers writes a GGUF with types for its size", async () => {
  using folder = new TemporaryFolder();
  const most = 700_000, out = folder.at("cut"), cut = ["--method", "flap", "--sparsity", "0.2", ...SHORT];
  const files = ["--gguf-size", String(most), "--formats", "gguf", "--out", out];
  const summary: RunSummary = await json(["prune", "demo", ...cut, ...files]);
  const { spec } = (await openModelFiles(`${out}/model.gguf`)).source, { size } = Deno.statSync(`${out}/model.gguf`);
  assert.ok(size <= most && size > 0.95 * most, `${size} bytes`);
  assert.equal(parameterCount(spec), summary.parameters.after);
  const run = ["prune", "demo", "--out", folder.at("none"), "--gguf-size", "700K"], option = "--gguf-size";
  const type = ["--sparsity", "0.2", "--gguf-dtype", "q8_0"];
  await refused([...run, ...type], "usage", { option, names: "--gguf-dtype" });
  const bytes = ["--target-bytes", "600K", "--target-file", "gguf"];
  await refused([...run, ...bytes], "usage", { option, names: "--target-bytes" });
  await refused([...run, "--sparsity", "0.2", "--formats", "hf"], "usage", { names: "hf" });
  assert.ok(!folder.has("none"));
});
