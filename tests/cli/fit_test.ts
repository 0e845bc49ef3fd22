// `fit`: its plan is measured on the very files that it writes, its command writes them again, and a budget that nothing meets is refused.
import assert from "node:assert/strict";
import { frontier } from "../../cli/verbs/fit/chart.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { choiceText, type FitChoice, type Lever, LEVERS, runOf } from "../../lib/fit/choice.ts";
import { type Attempt, depthsOf, searchChoices } from "../../lib/fit/search.ts";
import { createWorkshop, type FitRow, makeRow } from "../../lib/fit/make.ts";
import { planFit } from "../../lib/fit/plan.ts";
import { memoryOfUse, writeText } from "../../lib/fit/use.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import { runInto } from "../../lib/run/run_into.ts";
import { memorySink } from "../../lib/run/sink/memory.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { readRows } from "../../lib/local/rows.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { splitTexts } from "../../lib/fit/texts.ts";
import type { Row } from "../../lib/data/rows.ts";
import { shortDemo, writeShortDemo } from "../demo.ts";
import { refuses } from "../refuses.ts";
import { assertFinished, cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const textRow = (text: string): Row => ({ kind: "text", text, extra: {} });

/** A model of two layers, and rows for it. */
async function written(folder: TemporaryFolder): Promise<readonly string[]> {
  const data = folder.at("rows.jsonl"), all = await Deno.readTextFile(demoData("train"));
  await Deno.writeTextFile(data, all.split("\n", 90).join("\n"));
  return [await writeShortDemo(folder.at("short")), "--data", data];
}

Deno.test("fit writes what its plan has measured, and its command writes the same file", async () => {
  using folder = new TemporaryFolder();
  const asked = ["fit", ...await written(folder), "--levers", "width", "--file-size", "700K"];
  const made = await json([...asked, "--out", folder.at("made")]), [best] = made.rows;
  assert.deepEqual([best.levers, best.width, best.types], ["width", "to size", false]);
  assert.ok(best.bytes <= 700 * 1024 && best.bytes > 690 * 1024);
  assert.ok(best.kl > 0 && best.top1 < 1 && best.lost > 0);
  const { gguf, ...measured } = made.written, file = Deno.readFileSync(gguf);
  for (const [name, value] of Object.entries(measured)) assert.deepEqual(value, best[name], name);
  assert.equal(file.length, best.bytes);
  const [program, ...words]: string[] = made.command.split(" ");
  assert.equal(program, "compresso");
  const { code, stderr } = await cli(words.map((word) => word === folder.at("made") ? folder.at("again") : word));
  assert.equal(code, 0, stderr);
  assert.deepEqual(Deno.readFileSync(folder.at("again", "model.gguf")), file);
});

Deno.test("fit trains the cut that it chose, and the command that it shows finds its run", async () => {
  using folder = new TemporaryFolder();
  const short = await writeShortDemo(folder.at("short"));
  const asked = ["fit", short, "--levers", "depth", "--file-size", "700K", "--steps", "2"];
  const made = await json([...asked, "--out", folder.at("made"), "--windows", "1"]), [best] = made.rows;
  assert.deepEqual([best.levers, best.depth, best.width], ["depth", "to size", null]);
  assert.equal(made.written.bytes, best.bytes);
  assert.notEqual(made.written.kl, best.kl);
  const summary = JSON.parse(Deno.readTextFileSync(folder.at("made", "run.json")));
  assert.deepEqual([summary.options.units, summary.options.postfinetune], [["layers"], 2]);
  const words: string[] = made.command.split(" ").slice(1);
  assert.ok(words.join(" ").includes("--postfinetune 2"), made.command);
  // Without data the model has written texts, which the command reads.
  const texts = folder.at("made", "texts.jsonl");
  assert.equal(words[words.indexOf("--data") + 1], texts);
  assert.equal(Deno.readTextFileSync(texts).trimEnd().split("\n").length, 128);
  await assertFinished([...words, "--resume"], folder.at("made"));
});

Deno.test("cuts that share scores are those of runs without others, whole layers and smaller vocabularies too", async () => {
  const { source, tokenizer } = await shortDemo(), { rows } = await readRows(demoData("train"));
  using device = await openDevice();
  using model = await loadModelFrom(source, { device, tokenizer });
  const names = { exported: "m", pruned: "m" }, levers: readonly Lever[] = [];
  const asked = { memory: 2 ** 30, context: 40, rows: rows.slice(0, 60), names, levers, windows: 1 };
  const { workshop: planned } = await planFit(model, asked);
  const workshop = createWorkshop({ ...planned, shape: { ...planned.shape, seq: 32 } });
  const made = async (cut: FitChoice["cut"], vocabulary: FitChoice["vocabulary"], by = workshop): Promise<FitRow> =>
    await makeRow({ cut, vocabulary, types: false }, by);
  const { choice: { vocabulary: needed } } = await made(null, "needed"), tokens = Number(needed);
  const narrow = { lever: "width", share: 0.2 } as const, deep = { lever: "depth", share: 0.5 } as const;
  await made(narrow, null);
  for (const size of [tokens, Math.floor(tokens / 2)]) {
    assert.deepEqual(await made(narrow, size), await made(narrow, size, createWorkshop(workshop)));
  }
  const { parameters, lost, fidelity: { kl } } = await made(deep, tokens), { spec: { layers, ...spec } } = source;
  assert.equal(parameters, parameterCount({ ...spec, layers: layers.slice(1), vocab: tokens }));
  assert.ok(kl > 0 && lost > 0);
  // The run of a choice measures nothing; its file is measured.
  const run = runOf({ cut: deep, vocabulary: tokens, types: false }, workshop.shape, workshop.texts);
  const sink = memorySink(memoryFiles(), { out: "run", export: run.export });
  const { heldoutLoss, vocabulary } = await runInto(sink, model, run, { measures: false });
  assert.deepEqual([heldoutLoss, vocabulary?.after, vocabulary?.heldout], [null, tokens, null]);
});

Deno.test("fit chooses types alone where a cut loses more, and says what a vocabulary costs", async () => {
  using folder = new TemporaryFolder();
  const asked = ["fit", ...await written(folder), "--levers", "types,vocabulary"];
  const { code, stdout, stderr } = await cli([
    ...asked,
    "--file-size",
    "420K",
    "--dry",
    "--steps",
    "2",
    "--chart",
    folder.at("plan.svg"),
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /--steps/); // nothing is cut, so nothing is trained
  const chart = Deno.readTextFileSync(folder.at("plan.svg"));
  assert.ok(chart.startsWith("<svg ") && ["types", "vocabulary", ">budget<"].every((word) => chart.includes(word)));
  assert.ok(stdout.split("\n").every((line) => line.length <= 80 || line.startsWith("command")), stdout);
  const [first = "", second = ""] = stdout.split("\n").filter((line) => /^[> ] \w.* [KM]iB .* %/.test(line));
  assert.match(first, /^> types /);
  assert.match(second, /^ {2}vocabulary /);
  // Tokens that both vocabularies have get the same shares, but the text has more tokens.
  const [kl = NaN, lost = NaN] = (/ ([\d.]+) +[\d.]+ % +([\d.]+)/.exec(second) ?? []).slice(1).map(Number);
  assert.ok(lost > kl, second);
  assert.match(stdout, /^command +compresso export .*--gguf-size 430080/m);
  await refused([...asked, "--file-size", "420K"], "usage", { names: "--out" });
  await refused(["fit", "short", "--file-size", "420K", "--dry"], "usage", { names: "--out" });
  const only = ["--levers", "vocabulary", "--file-size", "50K", "--dry"];
  await refused([...asked.slice(0, -2), ...only], "input", { option: "--file-size", value: 51200 });
  const { expected } = await refused([...asked, "--file-size", "50K", "--dry"], "input", { option: "--file-size" });
  assert.ok(Number(/\d{5,}/.exec(expected ?? "")?.[0]) > 50 * 1024, expected ?? "");
});

Deno.test("the search stops where a larger cut loses more, and then joins the best ones", async () => {
  const tried: string[] = [], depths = depthsOf({ layers: new Array(24).fill({ heads: 1, ffn: 1 }) });
  let most = 1, tokensAtMost = Infinity;
  /** Loses by a made-up rule: 15 % of the layers' weights and 1,500 tokens lose least. */
  const attempt: Attempt = (choice) => {
    tried.push(choiceText(choice));
    const { cut, vocabulary, types } = choice, tokens = vocabulary === "needed" ? 6000 : vocabulary;
    const share = Number(cut?.share) || 0;
    if (share >= most) return Promise.resolve(null);
    if (!types || Number(tokens) > tokensAtMost || (tokens === null && share < 0.1)) return Promise.resolve("over");
    const lost = Math.abs((share || 0.15) - 0.15) + Math.abs((Number(tokens) || 1500) - 1500);
    return Promise.resolve({ choice: { ...choice, vocabulary: tokens }, lost });
  };
  const triedOf = async (levers: readonly Lever[], { hasSize = true } = {}): Promise<string[]> => {
    await searchChoices(levers, attempt, { hasSize, vocab: 9000, depths });
    return tried.splice(0);
  };
  const words = [6000, 3000, 1500, 750].map((count) => `vocabulary ${count.toLocaleString("en")}, types`);
  assert.deepEqual(await triedOf(LEVERS), [
    ...["types", "vocabulary", "width", "depth", "vocabulary, types", ...words.slice(1)],
    ...[5, 10, 15, 20].map((share) => `width ${share} %, types`),
    ...[4, 8, 12, 16, 25].map((share) => `depth ${share} %, types`),
    ...[10, 15].map((share) => `width ${share} %, vocabulary 1,500, types`),
  ]);
  assert.deepEqual((await triedOf(["types", "depth", "vocabulary"])).slice(-3), [
    "depth 25 %, types",
    ...[12, 16].map((share) => `depth ${share} %, vocabulary 1,500, types`),
  ]);
  assert.deepEqual(await triedOf(["vocabulary", "width"]), ["vocabulary", "width"]);
  const free = [5, 10, 15, 20, 25, 30, 40, 50].map((share) => `width ${share} %`);
  assert.deepEqual(await triedOf(["types", "width"], { hasSize: false }), ["as it is", ...free]);
  // Where the tokens that the texts need are too many, smaller vocabularies are tried all the same.
  tokensAtMost = 3000;
  const halves = ["vocabulary, types", ...["4,500", "2,250", "1,125"].map((count) => `vocabulary ${count}, types`)];
  assert.deepEqual((await triedOf(["types", "vocabulary"])).slice(2), halves);
  // What cannot be made at all ends the lever.
  most = 0.2;
  assert.deepEqual(await triedOf(["width"], { hasSize: false }), ["as it is", ...free.slice(0, 4)]);
  assert.deepEqual(depthsOf({ layers: new Array(5).fill({ heads: 1, ffn: 1 }) }), [0.2, 0.4]);
});

Deno.test("memory and speed are budgets, too: memory is what a device holds, and the file may have any size", async () => {
  const { source, tokenizer } = await shortDemo(), context = 40;
  using device = await openDevice();
  const planned = await memoryOfUse(source, { device, baseDtype: "f16", context });
  {
    using model = await loadModelFrom(source, { device, tokenizer });
    await writeText(model, context);
    assert.equal(planned, device.peakBytes);
  }
  using folder = new TemporaryFolder();
  const asked = ["fit", ...await written(folder), "--levers", "types", "--windows", "1", "--dry"];
  const use = ["--memory", "100M", "--context", String(context), "--tokens-per-second", "1e-3"];
  const { rows: [row], budget, command, measuredOn } = await json([...asked, ...use]);
  assert.deepEqual([row.levers, row.kl, row.lost, measuredOn.windows], ["as it is", 0, 0, 1]);
  assert.deepEqual(budget, { fileSize: null, memory: 100 * 2 ** 20, context, tokensPerSecond: 1e-3 });
  assert.ok(row.memory === planned && row.tokensPerSecond > 1, `${row.memory} ${row.tokensPerSecond}`);
  assert.match(command, /^compresso export .* --formats gguf --out DIR$/);
  await refused([...asked, ...use, "--memory", "1M"], "input", {
    option: "--memory",
    names: planned.toLocaleString("en"),
  });
  await refused([...asked, "--tokens-per-second", "1e9"], "input", { option: "--tokens-per-second" });
  await refused([...asked, "--context", "9"], "usage", { option: "--context" });
  await refused(asked, "usage", { names: ["--file-size", "--memory", "--tokens-per-second"] });
});

Deno.test("the frontier of a plan has the choices than which no other is smaller and better", () => {
  const rows = [[5, 1], [3, 2], [4, 2], [4, 3], [9, 1], [8, 0.5], [3, 4]].map(([bytes = 0, lost = 0]) => ({
    bytes,
    lost,
  }));
  assert.deepEqual(frontier(rows).map(({ bytes, lost }) => [bytes, lost]), [[3, 2], [5, 1], [8, 0.5]]);
});

Deno.test("a choice is a run, and has a name", () => {
  const shape = {
    bytes: 9,
    names: { exported: "m", pruned: "m pruned" },
    dtype: "q8_0",
    units: ["kv", "ffn"],
    seq: 4,
  } as const;
  const size = { bytes: 9, file: { format: "gguf", dtype: "q8_0" }, name: "m pruned" };
  const words = runOf({ cut: null, vocabulary: "to size", types: false }, shape, { rows: [] });
  assert.deepEqual([words.units, words.size, words.method], [["vocab"], size, undefined]);
  const both = runOf({ cut: { lever: "width", share: 0.2 }, vocabulary: 700, types: true }, shape, { rows: [] });
  assert.deepEqual([both.units, both.vocab, both.sparsity], [["kv", "ffn", "vocab"], { size: 700 }, 0.2]);
  assert.deepEqual(both.export, { formats: ["gguf"], name: "m pruned", ggufSize: 9 });
  const deep = { cut: { lever: "depth", share: "to size" }, vocabulary: null, types: false } as const;
  const layers = runOf(deep, shape, { rows: [] });
  assert.deepEqual([layers.units, layers.method, layers.size], [["layers"], "block-influence", size]);
  const few = { cut: { lever: "width", share: 0.05 }, vocabulary: 24000, types: true } as const;
  assert.deepEqual([few, deep].map(choiceText), ["width 5 %, vocabulary 24,000, types", "depth"]);
});

Deno.test("texts are measured from the end, and never cut by", async () => {
  const { tokenizer } = await shortDemo();
  assert.ok(tokenizer);
  const rows = Array.from({ length: 8 }, (_, at) => textRow(`row ${at} of the text`));
  const few = splitTexts(rows, { tokenizer, tokens: 4 });
  assert.deepEqual([few.rows.length, few.text.trim()], [7, "row 7 of the text"]);
  const most = splitTexts(rows, { tokenizer, tokens: 1e6 });
  assert.equal(most.rows.length, 6);
  refuses(() => splitTexts(rows.slice(0, 1), { tokenizer, tokens: 4 }), "input", { option: "data", value: 1 });
});
