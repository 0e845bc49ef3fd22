// Perplexity over rows on the demo model.
import assert from "node:assert/strict";
import { takeMeasures } from "../../lib/experiment/cell.ts";
import { measuresOf } from "../../lib/experiment/measures.ts";
import { RowCache } from "../../lib/experiment/rows.ts";
import { Store } from "../../lib/experiment/store.ts";
import { readRows } from "../../lib/local/rows.ts";
import { type Row } from "../../lib/data/rows.ts";
import { DEMO, demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { toRow } from "../../lib/data/row.ts";
import { encodeExample } from "../../lib/data/prompts/encode.ts";
import { createTokenizer } from "../../lib/text/tokenizer.ts";
import { loadModel } from "../../lib/local/load_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { rowPerplexity } from "../../lib/eval/row_perplexity.ts";
import { sharedDevice } from "../device.ts";
import type { Value } from "../../lib/experiment/types.ts";
import { rejects } from "../refuses.ts";

Deno.test("rowPerplexity() is the mean over all labels of all rows, each read alone, whatever the batches", async () => {
  const device = await sharedDevice();
  using model = await loadModel("demo", { device, baseDtype: "f32" });
  const { tokenizer } = model;
  if (!tokenizer) throw new Error("the demo has no tokenizer");
  const { rows } = await readRows(demoData("heldout"), { limit: 3 });
  const text: Row = { kind: "text", text: "Mary took the tea. ".repeat(30), extra: {} };
  const seq = 80, all: readonly Row[] = [...rows, text];
  // The oracle: loss of each row by itself, from the gradient's own forward pass.
  let sum = 0, count = 0;
  const sums: number[] = [], counts: number[] = [];
  for (const row of all) {
    const { tokens, labels } = encodeExample(row, { tokenizer, prompt: null, seq });
    const own = [...labels.slice(0, seq)];
    const { loss } = await model.lossAndGradients({ tokens: [...tokens.slice(0, seq)], labels: own });
    const n = own.slice(1).filter((label) => label >= 0).length;
    sum += loss * n;
    count += n;
    sums.push(loss * n);
    counts.push(n);
  }
  const seen: number[] = [];
  const result = await rowPerplexity(model, all, { seq, onProgress: (done) => seen.push(done) });
  assert.equal(result.rows, 4);
  assert.equal(result.tokens, count);
  assert.equal(counts[3], seq - 1, "a long text is cut to seq tokens");
  // f32 sums in another order.
  assert.ok(Math.abs(result.nll - sum / count) < 1e-5, `${result.nll} for ${sum / count}`);
  assert.equal(result.perplexity, Math.exp(result.nll));
  assert.equal(seen.at(-1), 4);
  // Error of a ratio of sums, n = 4.
  const squares = sums.reduce((total, one, row) => total + (one - sum / count * (counts[row] ?? 0)) ** 2, 0);
  assert.ok(Math.abs(result.stderr - Math.sqrt(squares * 4 / 3) / count) < 1e-5);

  for (const row of all) {
    assert.ok(Number.isNaN((await rowPerplexity(model, [row], { seq })).stderr), "of one row none");
  }

  const prompted = await rowPerplexity(model, rows, { seq, prompt: "You are asked about a story." });
  const plain = await rowPerplexity(model, rows, { seq });
  assert.equal(prompted.tokens, plain.tokens, "a prompt adds no labels");
  assert.notEqual(prompted.nll, plain.nll);
  await rejects(rowPerplexity(model, rows, { seq: 1 }), "usage", { names: 2 });
  await rejects(rowPerplexity(model, [], { seq }), "input", { value: 0 });
});

Deno.test("conversations that the template refuses end a measure, or are left out of it, as of training in an experiment", async () => {
  const { source, tokenizer } = await openModelFiles(DEMO);
  if (!tokenizer) throw new Error("the demo has no tokenizer");
  const chatTemplate = "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no') }}{% endif %}" +
    "{{ m.content + ' ' }}{% endfor %}";
  const { json, config: { compresso_style: _, ...config } } = tokenizer;
  const device = await sharedDevice();
  using model = await loadModelFrom(source, { device, tokenizer: createTokenizer(json, { config, chatTemplate }) });
  const chat = (content: string): string =>
    JSON.stringify({ messages: [{ role: "user", content }, { role: "assistant", content: "Tom" }] });
  const folder = await Deno.makeTempDir(), file = `${folder}/chats.jsonl`;
  await Deno.writeTextFile(file, [chat("Who?"), chat("no"), chat("And?")].join("\n"));
  const measured = async (skipBroken: boolean, seq = 64): Promise<Partial<Value>> => {
    const [measure] = await measuresOf({ rows: [{ name: "chats", file, seq, skipBroken }] }, new RowCache());
    const [value = {}] = measure?.named(await measure.take(model, {})) ?? [];
    return value;
  };
  await rejects(measured(false), "input", { names: "row 2" });
  const { n = 0, rows: counts } = await measured(true);
  assert.ok(n > 0);
  assert.deepEqual(counts, { rows: 2, truncated: 0, skipped: 0, broken: 1 });
  // One of the two questions leaves room for the beginning of the answer, the other for none of it.
  assert.deepEqual((await measured(true, 5)).rows, { rows: 1, truncated: 1, skipped: 1, broken: 1 });
  await Deno.writeTextFile(file, [chat("no"), chat("no")].join("\n"));
  await rejects(measured(true), "input", { names: "row 1" });
  await Deno.writeTextFile(file, [chat("Who?"), chat("no"), chat("And?")].join("\n"));
  const writer = { model, weights: "", folder };
  const { rows, skipBroken } = await new RowCache().rows({ file, skipBroken: true }, writer);
  assert.deepEqual([rows.length, skipBroken], [3, true]);
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a row with a token that the model has no embedding of is refused by its number, or left out", async () => {
  const { source, tokenizer } = await openModelFiles(DEMO);
  if (!tokenizer) throw new Error("the demo has no tokenizer");
  const { json, config } = tokenizer, { vocab } = source.spec;
  const far = { id: vocab, content: "<far>", special: false, normalized: false };
  const device = await sharedDevice();
  using model = await loadModelFrom(source, {
    device,
    tokenizer: createTokenizer({ ...json, added_tokens: [...[json.added_tokens].flat(), far] }, { config }),
  });
  const rows = ["Mary took the tea.", "Mary took <far> tea."].map((text): Row => ({ kind: "text", text, extra: {} }));
  await rejects(rowPerplexity(model, rows, { seq: 32 }), "input", { names: "row 2" });
  const { rows: measured, broken } = await rowPerplexity(model, rows, { seq: 32, skipBroken: true });
  assert.deepEqual([measured, broken], [1, 1]);
  const beyond = rows.slice(1);
  await rejects(rowPerplexity(model, [...beyond, ...beyond], { seq: 32, skipBroken: true }), "input", {
    names: "row 1",
  });
  // A measure has a skipBroken of its own, whatever the data are trained on.
  const folder = await Deno.makeTempDir(), file = `${folder}/rows.jsonl`;
  await Deno.writeTextFile(
    file,
    rows.map((row) => JSON.stringify({ text: row.kind === "text" ? row.text : "" })).join("\n"),
  );
  const measures = await measuresOf({ rows: [{ name: "heldout", file, seq: 32 }] }, new RowCache());
  await rejects(takeMeasures(model, measures, { dir: folder, store: new Store(folder), events: {} }), "input", {
    names: "row 2",
  });
  await Deno.remove(folder, { recursive: true });
});

Deno.test("rows that are cut, and those that are left out, are counted", async () => {
  const device = await sharedDevice();
  using model = await loadModel("demo", { device });
  const instruct = (input: string): Row => ({
    ...{ kind: "instruct", instruction: "Who?", input, output: "Tom", choices: null, extra: {} },
  });
  const text = (content: string): Row => ({ kind: "text", text: content, extra: {} });
  const long = "Mary took the tea. ".repeat(30), seq = 24;
  const rows = [
    ...[instruct("Tom."), instruct(long), text("Mary took the tea."), text(long), text(""), text("M")],
    // Its instruction alone is longer, so that nothing of the answer is left.
    toRow({ instruction: long, output: "Tom" }),
  ];
  const counts = async (all: readonly Row[]): Promise<readonly number[]> => {
    const { rows: measured, truncated, skipped, broken } = await rowPerplexity(model, all, { seq });
    return [measured, truncated, skipped, broken];
  };
  assert.deepEqual(await counts(rows), [4, 2, 3, 0]);
  assert.deepEqual(await counts(rows.slice(0, 1)), [1, 0, 0, 0]);
  const { length = 0 } = model.tokenizer?.encode(long, { addSpecial: true }) ?? [];
  const fit = async (size: number): Promise<number> =>
    (await rowPerplexity(model, [text(long)], { seq: size })).truncated;
  assert.deepEqual([await fit(length), await fit(length - 1)], [0, 1]);
});
