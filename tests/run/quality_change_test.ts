// Quality before and after pruning: loss, perplexity, bits per byte and tasks, as the model that is written has them.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import { ON_DISK } from "../../lib/run/prune.ts";
import { pruneOn } from "../../lib/run/session.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { evaluateTasks, fidelity, perplexity, readReference, rowPerplexity, type TaskRow } from "../../lib/eval/mod.ts";
import { compareLosses } from "../../lib/eval/compare.ts";
import { labelBytes } from "../../lib/eval/text_bytes.ts";
import { loadModelFrom } from "../../lib/model/mod.ts";
import { measuredSequences } from "../../lib/run/quality.ts";
import { rejects } from "../refuses.ts";
import { warningsOf } from "../../lib/run/warnings.ts";
import { qualityLines, qualityWarnings } from "../../cli/verbs/prune/quality.ts";
import { BASE, withShortDemo } from "./helpers/demo_run.ts";

/** 110 different sentences: some windows of the demo's context. */
const TEXT = Array.from({ length: 110 }, (_, i) => `The ${i % 7} dogs of street ${i} saw ${i * i} cats. `).join("");
const ANSWERED = {
  name: "boolq",
  splits: ["validation"],
  generate: { maxTokens: 4 },
  item: (row: TaskRow) => ({ context: row.text("question"), answers: ["to the", "he saw", "Yes"] }),
};
const ASKED = { tasks: ["arc_easy", "piqa", ANSWERED], taskData: "fixtures/tasks", questions: 2 } as const;
const { questions: limit, ...tasks } = ASKED, TASKS = { ...tasks, limit };

for (const method of ["flap", "gradual"] as const) {
  Deno.test(`a run by ${method} measures rows, text and tasks as the model that it slices has them`, async () => {
    await withShortDemo(async ({ model, device }) => {
      const { rows, seq, prompt } = BASE, out = await Deno.makeTempDir();
      const steps = { prefinetune: 0, steps: method === "flap" ? 0 : 3, postfinetune: 1 };
      using run = prune(model, { ...BASE, ...steps, method, packing: false, evaluate: { text: TEXT, ...ASKED } });
      for await (const _ of run);
      const { source } = await run.slice(), { tokenizer } = model;
      const summary = await run.export(out, { formats: ["hf"] }), { heldoutLoss: rowLoss, evaluation } = summary;
      assert.ok(rowLoss && evaluation.text && tokenizer);
      using sliced = await loadModelFrom(source, { device, tokenizer });
      const near = (value: number | undefined, expected: number, what: string): void =>
        assert.ok(value !== undefined && Math.abs(value - expected) < 2e-3, `${what}: ${value}, ${expected}`);
      const held = rows.slice(-summary.data.heldOut);
      for (const [when, one] of [["before", model], ["after", sliced]] as const) {
        near(rowLoss[when], (await rowPerplexity(one, held, { seq, prompt })).nll, `rows ${when}`);
        const { nll, tokens, windows } = await perplexity(one, TEXT, { window: 512 });
        near(evaluation.text[when], nll, `text ${when}`);
        assert.deepEqual([evaluation.text.labels, evaluation.text.sequences], [tokens, windows]);
        const bits = nll * tokens / evaluation.text.bytes / Math.LN2;
        near(evaluation.text.bitsPerByte?.[when], bits, `bits per byte ${when}`);
        const { tasks } = await evaluateTasks(one, TASKS);
        for (const name of ["arc_easy", "piqa", "boolq"]) {
          assert.equal(evaluation.tasks[name]?.[when].n, tasks[name]?.n);
        }
        assert.equal(evaluation.tasks["boolq"]?.[when].exact_match, tasks["boolq"]?.exact_match);
        near(evaluation.tasks["piqa"]?.[when].acc, tasks["piqa"]?.acc ?? NaN, "piqa");
      }
      const written = evaluation.text.agreement, reference = await readReference(model, TEXT, { window: 512 });
      const { kl, top1, kl99, tokens: compared } = await fidelity(sliced, reference);
      near(written?.kl, kl, "KL on the text");
      near(written?.kl99, kl99, "99th percentile");
      assert.deepEqual([written?.tokens, written?.dropped], [compared, 0]);
      assert.ok(
        Math.abs((written?.top1 ?? NaN) - top1) <= 2 / compared && kl > 1e-4,
        `first choices: ${written?.top1}, ${top1}`,
      );
      assert.equal(rowLoss.agreement?.tokens, rowLoss.labels);
      const { difference: { difference, low, high } } = evaluation.text;
      near(difference, evaluation.text.after - evaluation.text.before, "difference");
      assert.ok(low < difference && difference < high);
      const [rowLine, rowsKept, textLine, textKept, ...taskLines] = qualityLines(summary);
      for (const line of [rowsKept, textKept]) {
        assert.match(line ?? "", /^ {12}keeps .* \d+\.\d % of [\d,]+ tokens; mean KL \d/);
      }
      assert.match(rowLine ?? "", /^held out {4}loss .* perplexity .* bits per byte .* tokens of rows/);
      assert.match(textLine ?? "", /^text {8}loss \d\.\d+ → .*95 %: .* in \d+ windows$/);
      assert.match(
        taskLines.join("\n"),
        /^arc_easy {4}acc [\d.]+ → [\d.]+ %.*of 2 questions\npiqa[^]*\nboolq {7}exact_match [\d.]+ → /,
      );
      const card = await Deno.readTextFile(`${out}/model/README.md`);
      // So few steps leave a model that is much worse.
      const { warnings: [warned, ...others] } = JSON.parse(await Deno.readTextFile(`${out}/run.json`));
      assert.deepEqual([warned.measure, warned.ratio, others], ["heldoutLoss", rowLoss.after / rowLoss.before, []]);
      assert.match(card, new RegExp(`^\\| warning +\\| ${warned.message} +\\|$`, "m"));
      for (
        const name of [
          "fidelity on held-out rows",
          "fidelity on the text",
          "bits per byte of held-out rows",
          "perplexity on the text",
          "piqa",
        ]
      ) {
        assert.ok(card.includes(`| ${name}`), name);
      }
      if (method === "flap") {
        const gguf = async (ggufImatrix: boolean): Promise<Uint8Array> => {
          await run.export(out, { formats: ["gguf"], ggufDtype: "q4_0", ggufImatrix, replace: true });
          return await Deno.readFile(`${out}/model.gguf`);
        };
        const [plain, fitted] = [await gguf(false), await gguf(true)];
        assert.ok(
          plain.length === fitted.length && plain.some((byte, at) => byte !== fitted[at]),
          "fitted by the rows",
        );
      }
      await Deno.remove(out, { recursive: true });
    });
  });
}

Deno.test("a text that is too short, and unknown tasks, are refused before the first step", async () => {
  await withShortDemo(async ({ model }) => {
    for (const evaluate of [{ text: "short" }, { tasks: ["arc_esay"], taskData: "fixtures/tasks" }]) {
      using run = prune(model, { ...BASE, evaluate });
      await assert.rejects(run.prepare(), (error) => error instanceof CompressoError);
    }
    using elsewhere = pruneOn({ ...ON_DISK, loadTasks: null }, model, { ...BASE, evaluate: ASKED });
    await rejects(elsewhere.prepare(), "usage", { option: "evaluate.tasks" });
  });
});

Deno.test("bytes are those of the text after its first token, in UTF-8, without special tokens", async () => {
  await withShortDemo(({ model: { tokenizer } }) => {
    assert.ok(tokenizer);
    const text = "A dog saw two cats.", ids = tokenizer.encode(text), first = tokenizer.decode(ids.slice(0, 1));
    assert.equal(labelBytes(tokenizer, ids, ids), text.length - first.length);
    const labels = ids.map((id, at) => at === 2 || at === 3 ? id : -100);
    assert.equal(labelBytes(tokenizer, ids, labels), tokenizer.decode(ids.slice(2, 4)).length);
    const ended = [...ids, tokenizer.eosId ?? 0];
    assert.equal(labelBytes(tokenizer, ended, ended), text.length - first.length);
    return Promise.resolve();
  });
});

Deno.test("the interval of a difference of losses is that of the sums, and there is none for one sequence", () => {
  const losses = (...sums: number[]): { nll: number; tokens: number }[] => sums.map((nll) => ({ nll, tokens: 10 }));
  const { difference, stderr, low, high } = compareLosses(losses(10, 20, 30), losses(11, 22, 33));
  // Differences of 0.1, 0.2 and 0.3 a token: mean 0.2, standard error 0.1 / √3, Student's 4.3027 at 2 degrees of freedom.
  for (const [value, expected] of [[difference, 0.2], [stderr, 0.1 / Math.sqrt(3)], [high - low, 0.49683]] as const) {
    assert.ok(Math.abs(value - expected) < 1e-4, `${value}, ${expected}`);
  }
  assert.ok(Number.isNaN(compareLosses(losses(1), losses(2)).low));
});

Deno.test("a loss of more than 1.25 times that before, or none, or one that is not finite, is warned of, and no smaller one", () => {
  const loss = (after: number): Parameters<typeof warningsOf>[0] => ({
    heldoutLoss: {
      before: 2,
      after,
      perplexity: { before: 1, after: 1 },
      bitsPerByte: null,
      difference: { difference: after - 2, stderr: NaN, low: NaN, high: NaN },
      agreement: null,
      labels: 5,
      bytes: 0,
      sequences: 1,
    },
    evaluation: { text: null, tasks: {} },
    vocabulary: null,
  });
  const lines = (found: Parameters<typeof warningsOf>[0]): string =>
    qualityWarnings({ warnings: warningsOf(found) }).join();
  assert.deepEqual(warningsOf(loss(2.5)), []);
  assert.deepEqual(qualityWarnings({ warnings: [] }), []);
  const none = { ...loss(2.5), heldoutLoss: null };
  assert.deepEqual(warningsOf(none).map(({ measure, ratio }) => [measure, ratio]), [["none", null]]);
  assert.match(lines(none), /no loss was measured: .*--eval-text/);
  for (const after of [NaN, Infinity]) {
    assert.deepEqual(warningsOf(loss(after)).map(({ measure, ratio }) => [measure, ratio]), [["heldoutLoss", null]]);
  }
  const [warned] = warningsOf(loss(2.6));
  assert.equal(warned?.measure, "heldoutLoss");
  assert.equal(warned.ratio, 1.3);
  assert.ok(lines(loss(2.6)).includes(warned.message));
  assert.match(lines(loss(2.6)), /loss on held-out rows is 1\.30 times that before pruning/);
  const heldout = { before: 0.1, after: 1.5, bytes: 60, agreement: null };
  const vocabulary = { before: 9, after: 5, counted: 100, coverage: 0.9, growth: 0.1, heldout, text: null };
  assert.match(
    lines({ ...none, vocabulary }),
    /bits per byte of held-out rows are 15\.00 times .*a larger --vocab-size/,
  );
  assert.ok(!qualityLines(loss(2.6)).join().includes("95 %"));
});

Deno.test("as many held-out sequences are measured as take about 5 % of the steps' time, 8 to 32", () => {
  const run = { method: "compresso", prefinetune: 20, steps: 200, postfinetune: 60, batch: 4, accumulate: 1 } as const;
  const none = { prefinetune: 0, postfinetune: 0 };
  assert.equal(measuredSequences(run), 32);
  assert.equal(measuredSequences({ ...run, ...none, steps: 1 }), 8);
  // Two passes forward over 12 sequences, and twice as long for each of 240: 24 of 480.
  assert.equal(measuredSequences({ ...run, ...none, method: "taylor", steps: 30, accumulate: 2 }), 12);
});
