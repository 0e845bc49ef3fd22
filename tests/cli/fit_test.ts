// `fit`: its plan is measured on the very files that it writes, its command writes them again, and a budget that nothing meets is refused.
import assert from "node:assert/strict";
import { demoData } from "../../lib/local/open_model.ts";
import { choiceText, runOf } from "../../lib/fit/choice.ts";
import { type Attempt, searchChoices } from "../../lib/fit/search.ts";
import { memoryOfUse, writeText } from "../../lib/fit/use.ts";
import { openDevice } from "../../lib/gpu/device.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { splitTexts } from "../../lib/fit/texts.ts";
import type { Row } from "../../lib/data/rows.ts";
import { shortDemo, writeShortDemo } from "../demo.ts";
import { refuses } from "../refuses.ts";
import { cli, json, refused, TemporaryFolder } from "./helpers/cli.ts";

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

Deno.test("fit chooses types alone where a cut loses more, and says what a vocabulary costs", async () => {
  using folder = new TemporaryFolder();
  const asked = ["fit", ...await written(folder), "--levers", "types,vocabulary"];
  const { code, stdout, stderr } = await cli([...asked, "--file-size", "420K", "--dry"]);
  assert.equal(code, 0, stderr);
  assert.ok(stdout.split("\n").every((line) => line.length <= 80 || line.startsWith("command")), stdout);
  const [first = "", second = ""] = stdout.split("\n").filter((line) => /^[> ] \w.* [KM]iB .* %/.test(line));
  assert.match(first, /^> types /);
  assert.match(second, /^ {2}vocabulary /);
  // Tokens that both vocabularies have get the same shares, but the text has more tokens.
  const [kl = NaN, lost = NaN] = (/ ([\d.]+) +[\d.]+ % +([\d.]+)/.exec(second) ?? []).slice(1).map(Number);
  assert.ok(lost > kl, second);
  assert.match(stdout, /^command +compresso export .*--gguf-size 430080/m);
  await refused([...asked, "--file-size", "420K"], "usage", { names: "--out" });
  const only = ["--levers", "vocabulary", "--file-size", "50K", "--dry"];
  await refused([...asked.slice(0, -2), ...only], "input", { option: "--file-size", value: 51200 });
  const { expected } = await refused([...asked, "--file-size", "50K", "--dry"], "input", { option: "--file-size" });
  assert.ok(Number(/\d{5,}/.exec(expected ?? "")?.[0]) > 50 * 1024, expected ?? "");
});

Deno.test("the search stops where a larger cut loses more, and then joins the best ones", async () => {
  const tried: string[] = [];
  /** Loses by a made-up rule: a width of 15 % and 1,500 tokens lose least. */
  const attempt: Attempt = (choice) => {
    tried.push(choiceText(choice));
    const { width, vocabulary, types } = choice, tokens = vocabulary === "needed" ? 6000 : vocabulary;
    if (!types || (tokens === null && Number(width) < 0.1)) return Promise.resolve(null);
    const lost = Math.abs((Number(width) || 0.15) - 0.15) + Math.abs((Number(tokens) || 1500) - 1500);
    return Promise.resolve({ choice: { ...choice, vocabulary: tokens }, lost });
  };
  await searchChoices(["types", "vocabulary", "width"], attempt, { hasSize: true });
  const words = [6000, 3000, 1500, 750].map((count) => `vocabulary ${count.toLocaleString("en")}, types`);
  assert.deepEqual(tried, [
    ...["types", "vocabulary", "width", "vocabulary, types", ...words.slice(1)],
    ...[5, 10, 15, 20].map((share) => `width ${share} %, types`),
    ...[10, 15].map((share) => `width ${share} %, vocabulary 1,500, types`),
  ]);
  tried.length = 0;
  await searchChoices(["vocabulary", "width"], attempt, { hasSize: true });
  assert.deepEqual(tried, ["vocabulary", "width"]);
  tried.length = 0;
  await searchChoices(["types", "width"], attempt, { hasSize: false });
  assert.deepEqual(tried, ["as it is", ...[5, 10, 15, 20, 25, 30, 40, 50].map((share) => `width ${share} %`)]);
});

Deno.test("memory and speed are budgets, too: memory is what a device holds, and the file may have any size", async () => {
  const { source, tokenizer } = await shortDemo(), context = 40;
  using device = await openDevice();
  const planned = await memoryOfUse(source.spec, { device, baseDtype: "f16", context });
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

Deno.test("a choice is a run, and has a name", () => {
  const shape = {
    bytes: 9,
    names: { exported: "m", pruned: "m pruned" },
    dtype: "q8_0",
    units: ["kv", "ffn"],
    seq: 4,
  } as const;
  const size = { bytes: 9, file: { format: "gguf", dtype: "q8_0" }, name: "m pruned" };
  const words = runOf({ width: null, vocabulary: "to size", types: false }, shape, []);
  assert.deepEqual([words.units, words.size, words.method], [["vocab"], size, undefined]);
  const both = runOf({ width: 0.2, vocabulary: 700, types: true }, shape, []);
  assert.deepEqual([both.units, both.vocab, both.sparsity], [["kv", "ffn", "vocab"], { size: 700 }, 0.2]);
  assert.deepEqual(both.export, { formats: ["gguf"], name: "m pruned", ggufSize: 9 });
  assert.equal(choiceText({ width: 0.05, vocabulary: 24000, types: true }), "width 5 %, vocabulary 24,000, types");
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
