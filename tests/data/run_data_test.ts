// Which rows of a run are held out, where rows are few, long, or do not fit.
import assert from "node:assert/strict";
import type { Ranks } from "../../lib/ranks/ranks.ts";
import { parseRows, type Row } from "../../lib/data/rows.ts";
import type { ResolvedOptions } from "../../lib/run/options/options.ts";
import { IGNORED_LABEL } from "../../lib/data/prompts/encode.ts";
import { encodeRun, type RunData } from "../../lib/run/data.ts";
import { tokenizerOf, withConfig } from "../text/fixtures.ts";
import { together } from "../run/helpers/ranks.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { type Refusal, refuses } from "../refuses.ts";

const tokenizer = await tokenizerOf("byte_level");
const model = { tokenizer, spec: { vocab: tokenizer.vocabSize } };

function optionsOf(
  rows: readonly Row[],
  given: { readonly packing: boolean; readonly prompt?: string; readonly allTokens?: boolean },
): ResolvedOptions {
  const options = { rows, sparsity: 0.2, steps: 1, batch: 1, seq: 32, prompt: null, ...given };
  return resolveOptions(options, { maxPosition: 64 });
}

/** Instructions with answers of so many words. */
function instructions(words: readonly number[]): readonly Row[] {
  const lines = words.map((count, row) =>
    JSON.stringify({ instruction: `say ${row}`, output: "on and ".repeat(count) })
  );
  return parseRows(lines.join("\n"), "rows.jsonl").rows;
}

Deno.test("of a long text a few sequences are compared, not the whole", () => {
  const { rows } = parseRows("It was the best of times, it was the worst of times. ".repeat(200), "book.txt");
  for (const packing of [true, false]) {
    const { heldout, report } = encodeRun(model, optionsOf(rows, { packing }));
    assert.ok(report.examples > 20, `${report.examples}`);
    assert.equal(heldout.length, 32);
    assert.ok(heldout.every(({ length }) => length <= 32));
  }
});

Deno.test("a tenth of the rows is held out, of 32 rows at most", () => {
  for (const [rows, held] of [[100, 10], [400, 32]] as const) {
    const { heldout, report } = encodeRun(model, optionsOf(instructions(Array(rows).fill(1)), { packing: false }));
    assert.deepEqual([heldout.length, report.rows], [held, rows - held]);
  }
  const few = encodeRun(model, optionsOf(instructions([1, 1, 1]), { packing: false }));
  assert.deepEqual([few.heldout.length, few.report.rows], [3, 3]);
});

Deno.test("with all tokens as labels the instruction is learned, on held-out and calibration rows too", () => {
  const rows = instructions(Array(20).fill(1));
  for (const packing of [true, false]) {
    const given = { packing }, answers = encodeRun(model, optionsOf(rows, given));
    const all = encodeRun(model, optionsOf(rows, { ...given, allTokens: true }));
    assert.deepEqual(all.heldout, answers.heldout);
    assert.deepEqual(all.heldoutLabels, all.heldout);
    assert.ok(answers.heldoutLabels.flat().includes(IGNORED_LABEL));
    // The first token of a sequence is predicted from nothing.
    assert.equal(all.report.labelTokens, all.report.tokens - all.report.examples);
    assert.ok(answers.report.labelTokens < all.report.labelTokens / 2);
    const labelsOf = ({ encodeCalibration }: RunData): number => encodeCalibration(rows).report.labelTokens;
    assert.ok(labelsOf(answers) < labelsOf(all));
    assert.notEqual(all.digest, answers.digest);
  }
});

Deno.test("fewer sequences than ranks are refused", () => {
  const options = optionsOf(instructions([1, 1, 1]), { packing: false });
  const first = (size: number): Ranks => together(size)[0] ?? assert.fail("no rank");
  refuses(() => encodeRun(model, options, { ranks: first(4) }), "input", { value: 3, names: 4 });
  assert.equal(encodeRun(model, options, { ranks: first(3) }).report.examples, 3);
});

Deno.test("rows that are held out and do not fit refuse no run: sequences that are trained on are compared", () => {
  const rows = instructions([...Array(11).fill(1)]).concat(
    parseRows(
      JSON.stringify({ instruction: "on and ".repeat(40), output: "end" }),
      "rows.jsonl",
    ).rows,
  );
  const { heldout, report } = encodeRun(model, optionsOf(rows, { packing: false }));
  assert.deepEqual([report.rows, report.examples], [11, 11]);
  assert.equal(heldout.length, 11);
});

Deno.test("broken rows are counted and named wherever they stand, in those that are held out too", () => {
  const template = "{% for m in messages %}{% if m['content'] == 'no' %}{{ raise_exception('no') }}{% endif %}" +
    "{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
  const own = { tokenizer: withConfig(tokenizer, {}, template), spec: model.spec };
  const lines = Array.from({ length: 20 }, (_, row) => {
    const content = row === 4 || row === 18 ? "no" : `say ${row}`;
    return JSON.stringify({ messages: [{ role: "user", content }, { role: "assistant", content: "on" }] });
  });
  const { rows } = parseRows(lines.join("\n"), "rows.jsonl");
  for (const packing of [true, false]) {
    const { report, heldout } = encodeRun(own, optionsOf(rows, { packing }), { skipBroken: true });
    assert.deepEqual([report.rows, report.broken, report.lines.broken], [18, 2, [5, 19]]);
    assert.ok(heldout.length > 0);
    refuses(() => encodeRun(own, optionsOf(rows, { packing })), "input", { names: "row 5" });
    // Rows of a program have no numbers of their own.
    const unnumbered = rows.map(({ number: _, ...row }) => row);
    const again = encodeRun(own, optionsOf(unnumbered, { packing }), { skipBroken: true });
    assert.deepEqual(again.report.lines.broken, [5, 19]);
    assert.deepEqual([again.digest, again.heldout.length], [
      encodeRun(own, optionsOf(rows, { packing }), { skipBroken: true }).digest,
      heldout.length,
    ]);
  }
});

Deno.test("tokens without an embedding are refused before training, and do not serve as padding", () => {
  const rows = instructions([1, 1, 1]), options = optionsOf(rows, { packing: false });
  const used = Math.max(...encodeRun(model, options).heldout.flat());
  const { makeBatches } = encodeRun({ tokenizer: { ...tokenizer, padId: 90_000 }, spec: model.spec }, options);
  assert.ok(makeBatches(1).next().tokens.every((token) => token < tokenizer.vocabSize));
  refuses(() => encodeRun({ tokenizer, spec: { vocab: used } }, options), "input", {
    value: `token ${used}`,
    names: ["row 1", used],
  });
});

Deno.test("a row with a token that the model does not have is named, and left out where broken ones are", () => {
  const last = tokenizer.vocabSize - 1, at = 7, own = { tokenizer, spec: { vocab: last } };
  const lines = Array.from({ length: 20 }, (_, row) => row === at ? `on${tokenizer.decode([last])}` : "on and on");
  assert.ok(lines.every((line, row) => tokenizer.encode(line).includes(last) === (row === at)));
  for (const key of ["text", "output"]) {
    const rows = lines.map((line) =>
      JSON.stringify(key === "text" ? { text: line } : { instruction: "on", output: line })
    );
    const { rows: read } = parseRows(rows.join("\n"), "rows.jsonl");
    for (const packing of [true, false]) {
      const options = optionsOf(read, { packing });
      refuses(() => encodeRun(own, options), "input", { names: "row 8" });
      const { report } = encodeRun(own, options, { skipBroken: true });
      assert.deepEqual([report.broken, report.lines.broken], [1, [8]], `${key}, packing ${packing}`);
    }
  }
});

Deno.test("a row of a program with fields that are none of its kind is named, and what a file may leave out is filled in", () => {
  const good: readonly unknown[] = [
    { kind: "instruct", instruction: "on and", input: "", output: "on", choices: null, extra: {} },
    { kind: "text", text: "on and on", extra: {} },
    {
      ...{ kind: "chat", extra: {} },
      messages: [{ role: "user", content: "on and" }, { role: "assistant", content: "on" }],
    },
  ];
  const bare: readonly unknown[] = [
    { kind: "instruct", instruction: "on and", input: null, output: "on" },
    { kind: "text", text: "on and on" },
    { kind: "chat", messages: [{ from: "human", value: "on and" }, { role: "gpt", content: "on" }] },
  ];
  const broken: readonly (readonly [unknown, Refusal])[] = [
    [
      { kind: "instruct", instruction: "on" },
      { value: '"output"', names: "row 4" },
    ],
    [{ kind: "instruct", instruction: "on", output: 7 }, { value: '"output"', names: "row 4" }],
    [{ kind: "instruct", instruction: "on", input: [], output: "on" }, { value: '"input"', names: "row 4" }],
    [{ kind: "text", text: 5 }, { value: '"text"', names: "row 4" }],
    [{ kind: "chat" }, { value: '"messages"', names: "row 4" }],
    [{ kind: "chat", messages: ["on"] }, { value: "message 1", names: "row 4" }],
    [{ kind: "chat", messages: [{ role: "bot", content: "on" }] }, { value: ['"bot"', "message 1"], names: "row 4" }],
    [{ kind: "chat", messages: [{ role: "user", content: 5 }] }, { value: "message 1", names: "row 4" }],
  ];
  for (const packing of [true, false]) {
    const encode = (rows: readonly unknown[], skipBroken = false): ReturnType<typeof encodeRun> =>
      encodeRun(model, optionsOf(JSON.parse(JSON.stringify(rows)), { packing, prompt: "Be small." }), { skipBroken });
    const whole = encode(good);
    assert.equal(encode(bare).digest, whole.digest);
    for (const [row, said] of broken) {
      refuses(() => encode([...good, row]), "input", said);
      const { report, digest } = encode([...good, row], true);
      assert.deepEqual([report.broken, report.lines.broken, digest], [1, [4], whole.digest], JSON.stringify(row));
    }
  }
});
