// Scores of choices against brute force, one sequence at a time in f64, and on the demo's held-out rows.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { readRows } from "../../lib/local/rows.ts";
import { demoData, openModelFiles } from "../../lib/local/open_model.ts";
import { encodeChoices } from "../../lib/eval/choice_rows.ts";
import { type ChoiceRow, logLikelihoods, scoreChoices } from "../../lib/eval/score.ts";
import { type Refusal, refuses, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { argmax, nllReference, openDemo, openGoldenModel, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

// The reference takes the same f32 logits, only its log-sum-exp is f64.
const SCORE_TOLERANCE = 1e-5;

Deno.test("scores of choices equal brute force", async () => {
  const device = await sharedDevice();
  for (const name of ["mqa_bf16_sharded", "gqa_f16"] as const) {
    const { model, adapters } = await openGoldenModel(name, { device });
    using _ = model;
    const tokens = someTokens(60, model.spec.vocab);
    const rows: ChoiceRow[] = [
      { prefix: tokens.slice(0, 1), choices: [[4], [7, 8, 2], [9, 2]], answer: 1 },
      { prefix: tokens.slice(3, 20), choices: [[30, 31, 32, 33, 2], [30, 31, 32, 34, 2]], answer: 0 },
      { prefix: tokens.slice(20, 29), choices: [[1], [2], [3], [4]], answer: 3 },
    ];
    for (const attached of [{}, { adapters }]) {
      const expected: number[][] = [];
      for (const { prefix, choices } of rows) {
        const scores: number[] = [];
        for (const choice of choices) {
          const from = prefix.length;
          scores.push(-await nllReference(model, [...prefix, ...choice], { from, ...attached }));
        }
        expected.push(scores);
      }
      const picked = expected.map(argmax);
      const actual = await scoreChoices(model, rows, attached);
      actual.perRow.forEach(({ scores }, row) =>
        scores.forEach((score, choice) => {
          const wanted = expected[row]?.[choice] ?? NaN;
          assert.ok(
            Math.abs(score - wanted) <= SCORE_TOLERANCE * Math.abs(wanted),
            `${name}, row ${row}, choice ${choice}: ${score}, expected ${wanted}`,
          );
        })
      );
      assert.deepEqual(actual.perRow.map((row) => row.scores.length), [3, 2, 4]);
      assert.deepEqual(actual.perRow.map((row) => row.picked), picked);
      const correct = picked.filter((choice, row) => choice === rows[row]?.answer).length;
      assert.deepEqual([actual.correct, actual.n, actual.accuracy], [correct, 3, correct / 3]);
    }
  }
});

Deno.test("packed sequences have the numbers of single ones, and the same choices win", async () => {
  const device = await sharedDevice();
  const { model, adapters } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const { vocab } = model.spec, tokens = someTokens(4000, vocab);
  // Beginnings of many lengths, some common to several rows, choices that begin alike, and more tokens than a pass has.
  const rows: ChoiceRow[] = Array.from({ length: 18 }, (_, row) => ({
    prefix: tokens.slice(row % 7 * 50, row % 7 * 50 + 1 + (row * 29) % 120),
    choices: Array.from({ length: 2 + row % 4 }, (_, choice) => [
      ...tokens.slice(900 + row, 901 + row + row % 5),
      ...tokens.slice(1000 + 40 * row + 9 * choice, 1001 + 40 * row + 9 * choice + (row + choice) % 9),
    ]),
    answer: 0,
  }));
  const sequences = rows.flatMap(({ prefix, choices }) => choices.map((choice) => ({ prefix, choice })));
  assert.ok(sequences.reduce((sum, { prefix, choice }) => sum + prefix.length + choice.length, 0) > 2048);
  for (const attached of [{}, { adapters }]) {
    const seen = new Map<number, number>();
    const packed = await logLikelihoods(model, sequences, {
      ...attached,
      onScores: (places, scores) => places.forEach((place, index) => seen.set(place, scores[index] ?? NaN)),
    });
    const single: number[] = [];
    for (const { prefix, choice } of sequences) {
      const labels = [...prefix.map(() => -100), ...choice];
      const losses = await model.tokenLosses([...prefix, ...choice], labels, { batch: 1, ...attached });
      single.push(-losses.reduce((sum, loss) => sum + loss, 0));
    }
    single.forEach((score, index) => {
      const other = packed[index] ?? NaN;
      assert.ok(
        Math.abs(score - other) <= SCORE_TOLERANCE * Math.abs(score),
        `sequence ${index}: ${other} not ${score}`,
      );
      assert.equal(seen.get(index), other);
    });
    let at = 0;
    for (const [row, { choices }] of rows.entries()) {
      const [a, b] = [packed, single].map((scores) => scores.slice(at, at + choices.length));
      assert.equal(argmax(a ?? []), argmax(b ?? []), `row ${row}`);
      at += choices.length;
    }
  }
});

Deno.test("a row is correct exactly where its answer is the choice that was picked", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const row = { prefix: [5, 9, 3], choices: [[4], [7], [9, 2]] };
  const [first] = (await scoreChoices(model, [{ ...row, answer: 0 }])).perRow;
  assert.ok(first);
  const rows = row.choices.map((_, answer) => ({ ...row, answer }));
  const { perRow, correct, accuracy } = await scoreChoices(model, rows);
  assert.deepEqual(perRow.map(({ isCorrect }) => isCorrect), row.choices.map((_, answer) => answer === first.picked));
  assert.deepEqual([correct, accuracy], [1, 1 / 3]);
  const twins = await scoreChoices(model, [{ prefix: [5, 9], choices: [[4, 6], [4, 6]], answer: 0 }]);
  assert.equal(twins.correct, 1, "the first among equals");
});

Deno.test("the demo model answers its held-out rows far better than chance", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const { tokenizer } = demo;
  const rows = encodeChoices((await readRows(demoData("heldout"))).rows, { tokenizer, limit: 40 });
  const { accuracy, n } = await scoreChoices(model, rows);
  assert.equal(n, 40);
  // A model that guesses among the five choices has 20 of 40 right with a probability of 2e-5.
  assert.ok(accuracy >= 0.8, `accuracy ${accuracy}, chance 0.2`);
  const chance = await scoreChoices(model, rows, {
    adapters: { masks: { hidden: new Float32Array(model.spec.hidden) } },
  });
  assert.ok(chance.accuracy < 0.5, `accuracy ${chance.accuracy} of a model that is masked away`);
});

Deno.test("a prompt goes before each question, and leaves its choices as they are", async () => {
  const { tokenizer } = await openModelFiles("demo"), rows = await readRows(demoData("heldout"));
  assert.ok(tokenizer);
  const bare = encodeChoices(rows.rows, { tokenizer, limit: 3 });
  const asked = encodeChoices(rows.rows, { tokenizer, prompt: "Answer well.", limit: 3 });
  const first = asked[0]?.prefix.length ?? 0, more = first - (bare[0]?.prefix.length ?? 0);
  assert.ok(more >= 2, `${more} tokens more`);
  for (const [index, { prefix, choices, answer }] of asked.entries()) {
    assert.equal(prefix.length - (bare[index]?.prefix.length ?? 0), more);
    assert.deepEqual([choices, answer], [bare[index]?.choices, bare[index]?.answer]);
  }
});

Deno.test("a row that cannot be scored is named by its line", async () => {
  const { tokenizer } = await openModelFiles("demo");
  assert.ok(tokenizer);
  const row = { instruction: "Which?", input: "", output: "a", choices: ["a", "b"] };
  await inTemporaryFolder(async (folder) => {
    const lines = [row, null, null, { ...row, output: "c" }].map((one) => one ? JSON.stringify(one) : "");
    await Deno.writeTextFile(`${folder}/rows.jsonl`, lines.join("\n"));
    const data = await readRows(`${folder}/rows.jsonl`);
    refuses(() => encodeChoices(data.rows, { tokenizer }), "input", { value: '"c"', names: "row 4" });
    for (const limit of [-1, 0, 1.5, NaN]) {
      refuses(() => encodeChoices(data.rows, { tokenizer, limit }), "usage", { names: 1 });
    }
    assert.equal(encodeChoices(data.rows, { tokenizer, limit: 1 }).length, 1);
  });
});

Deno.test("scoreChoices() refuses rows and sizes that it cannot score", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_f16", { device });
  using _ = model;
  const row: ChoiceRow = { prefix: [5, 9, 3], choices: [[4], [7, 8]], answer: 1 };
  const refused = (rows: ChoiceRow[], [code, message]: [CompressoError["code"], Refusal]): Promise<void> =>
    rejects(scoreChoices(model, rows), code, message);
  await refused([], ["input", {}]);
  await refused([row, { ...row, prefix: [] }], ["input", { names: "row 2" }]);
  await refused([{ ...row, prefix: [], number: 7 }], ["input", { names: "row 7" }]);
  await refused([{ ...row, choices: [], answer: 0 }], ["input", { names: "row 1" }]);
  await refused([{ ...row, choices: [[4], []] }], ["input", { names: "row 1" }]);
  for (const answer of [-1, 2, 0.5]) await refused([{ ...row, answer }], ["input", { names: ["row 1", 2] }]);
  await refused([{ ...row, prefix: someTokens(128, model.spec.vocab) }], [
    "input",
    { names: 129 },
  ]);
  await refused([{ ...row, choices: [[4], [model.spec.vocab]] }], ["input", { value: 83 }]);
});
