// Tasks scored by the demo model, kept in a file and compared. The demo is no good at them: what counts is that numbers agree.
import assert from "node:assert/strict";
import { join } from "node:path";
import { compareItems, comparePairs, comparePerplexity, halfWidth } from "../../lib/eval/compare.ts";
import { isExactMatch } from "../../lib/eval/answers.ts";
import { generate as generateTokens, generateText } from "../../lib/generate/mod.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { readRows } from "../../lib/local/rows.ts";
import { encodePrefix, endToken, formatExample } from "../../lib/data/prompts/encode.ts";
import { answerEnds, encodeQuestion, mayBeLong } from "../../lib/eval/encode.ts";
import { evaluateTasks, loadTasks, taskDigest } from "../../lib/eval/evaluate.ts";
import { type ChoiceItem, wilson } from "../../lib/eval/metrics.ts";
import { scoreTask } from "../../lib/eval/score_task.ts";
import { openEvaluationFile, QUESTIONS } from "../../lib/eval/evaluation_file.ts";
import type { TaskDefinition } from "../../lib/eval/task.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { refuses, rejects } from "../refuses.ts";
import { argmax, nllReference, openDemo } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

const KIND = { kind: QUESTIONS };
const FOLDER = join(import.meta.dirname ?? ".", "../../fixtures/tasks");

// The reference takes the same f32 logits of another pass, only its log-sum-exp is f64.
const TOLERANCE = 1e-5;

Deno.test("evaluateTasks() gives each choice the likelihood of its own sequence, and counts by it", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const names = ["arc_easy", "winogrande", "mmlu"], seen: string[] = [];
  const { tasks, items } = await evaluateTasks(model, {
    tasks: names,
    taskData: FOLDER,
    limit: 2,
    onProgress: (done, total, task) => seen.push(`${task} ${done}/${total}`),
  });
  assert.deepEqual(Object.keys(tasks), names);
  assert.deepEqual(seen.slice(-1), ["mmlu 4/4"]);
  for (const task of await loadTasks({ tasks: names, taskData: FOLDER, limit: 2 })) {
    const own = items[task.name] ?? [];
    let right = 0;
    for (const [index, question] of task.questions.entries()) {
      const { sequences } = encodeQuestion(task, question, {
        tokenizer: demo.tokenizer,
        context: model.spec.maxPosition,
      });
      const wanted: number[] = [];
      for (const { prefix, choice } of sequences) {
        wanted.push(-await nllReference(model, [...prefix, ...choice], { from: prefix.length }));
      }
      const { scores = [], picked } = own[index] ?? {};
      scores.forEach((score, choice) => {
        const want = wanted[choice] ?? NaN;
        const what = `${task.name} ${question.label}, choice ${choice}: ${score}, expected ${want}`;
        assert.ok(Math.abs(score - want) <= TOLERANCE * Math.abs(want), what);
      });
      assert.equal(picked, argmax(wanted));
      right += Number(argmax(wanted) === question.answer);
    }
    assert.equal(tasks[task.name]?.acc, right / task.questions.length);
    assert.equal(tasks[task.name]?.n, task.questions.length);
  }
});

Deno.test("a prompt stands before every context, nothing else of a question changes, and its scores are others", async () => {
  const names = ["arc_easy", "winogrande", "mmlu"], where = { tasks: names, taskData: FOLDER, limit: 2 };
  const plain = await loadTasks(where), prompted = await loadTasks({ ...where, prompt: "Tom went to Rome." });
  plain.forEach((task, index) => {
    const own = prompted[index] ?? assert.fail();
    assert.notEqual(taskDigest(own), taskDigest(task));
    const wanted = task.questions.map((question) => ({
      ...question,
      contexts: question.contexts.map((text) => `Tom went to Rome.\n\n${text}`),
    }));
    assert.deepEqual(own, { ...task, questions: wanted });
  });
  const bare: TaskDefinition = { name: "piqa", item: () => ({ context: "", choices: ["a", "b"], answer: 0 }) };
  const alone = { ...where, tasks: [bare], prompt: "Tom." };
  await rejects(loadTasks(alone), "usage", { value: 2 });
  const [, mixed] = await loadTasks({ ...alone, tasks: ["arc_easy", bare] });
  assert.deepEqual(mixed?.questions[0]?.contexts, ["", ""]);
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const first = { ...where, tasks: ["arc_easy"], limit: 1 };
  const without = await evaluateTasks(model, first), beside = await evaluateTasks(model, { ...first, prompt: "Tom." });
  assert.notDeepEqual(beside.items["arc_easy"]?.[0]?.scores, without.items["arc_easy"]?.[0]?.scores);
});

Deno.test("a model without tokenizer is refused, and so is a question that is too long where that was asked", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  using bare = await loadModelFrom(model.source, { device });
  await rejects(evaluateTasks(bare, { tasks: ["piqa"], taskData: FOLDER }), "input", { names: "tokenizer.json" });
  const spec = { ...model.source.spec, maxPosition: 12 };
  using short = await loadModelFrom({ ...model.source, spec }, { device, tokenizer: demo.tokenizer });
  await rejects(evaluateTasks(short, { tasks: ["piqa"], taskData: FOLDER }), "input", { names: 12 });
  const cut = await evaluateTasks(short, { tasks: ["openbookqa"], taskData: FOLDER });
  assert.equal(cut.tasks["openbookqa"]?.truncated, 2);
  const refusing = evaluateTasks(short, { tasks: ["openbookqa"], taskData: FOLDER, refuseLong: true });
  await rejects(refusing, "input", { value: "line 1", names: 12 });
  const seen: string[] = [], onProgress = (_done: number, _total: number, task: string): unknown => seen.push(task);
  const later = evaluateTasks(short, { tasks: ["openbookqa", "piqa"], taskData: FOLDER, onProgress });
  await rejects(later, "input", { names: 12 });
  assert.deepEqual(seen, [], "no task is scored where a later one is refused");
});

Deno.test("an evaluation that stops goes on from its file, and refuses that of another", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const folder = await Deno.makeTempDir({ prefix: "compresso_evaluation_" });
  try {
    const path = join(folder, "scores.jsonl"), identity = { model: "demo", task: "x" };
    const [task] = await loadTasks({ tasks: ["arc_easy"], taskData: FOLDER });
    assert.ok(task);
    const whole = await scoreTask(model, task);
    {
      using file = await openEvaluationFile(path, identity, KIND);
      assert.equal(file.found, 0);
      const item = whole[1];
      assert.ok(item);
      file.add("demo", "arc_easy", { place: 1, label: "line 2", item: { ...item, isTruncated: true } });
    }
    // The process died within a line.
    await Deno.writeTextFile(path, '{"model":"demo","task":"arc_easy","pla', { append: true });
    const scored: number[] = [];
    {
      using file = await openEvaluationFile(path, identity, KIND);
      assert.equal(file.found, 1);
      const known = file.known("demo", "arc_easy");
      assert.deepEqual([...known], [[1, { scores: whole[1]?.scores, isTruncated: true }]]);
      assert.equal(file.known("other", "arc_easy").size, 0);
      const items = await scoreTask(model, task, {
        known,
        onItem: (place, item) => {
          scored.push(place);
          file.add("demo", "arc_easy", { place, label: "", item });
        },
      });
      assert.deepEqual(items.map(({ picked }) => picked), whole.map(({ picked }) => picked));
      assert.deepEqual(items[1], { ...whole[1], isTruncated: true }, "whether it was cut comes from the file too");
    }
    assert.deepEqual(scored.sort(), [0, 2], "what was known is not scored again");
    const lines = (await Deno.readTextFile(path)).trim().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual(lines.slice(1).map(({ place }) => place).sort(), [0, 1, 2]);
    const kept = await Deno.readTextFile(path);
    await Deno.writeTextFile(path, kept.replace(/(-?\d+\.\d*)\d(?=[,\]])/, "$19"));
    assert.notEqual(await Deno.readTextFile(path), kept);
    await rejects(openEvaluationFile(path, identity, KIND), "input", { names: "scores.jsonl" });
    await Deno.writeTextFile(path, kept);
    {
      using again = await openEvaluationFile(path, identity, KIND);
      assert.equal(again.found, 3);
      await rejects(openEvaluationFile(path, identity, KIND), "usage", { names: "scores.jsonl" });
    }
    const other = openEvaluationFile(path, { ...identity, task: "y" }, KIND);
    await rejects(other, "mismatch", { names: "scores.jsonl" });
    await Deno.writeTextFile(join(folder, "notes.txt"), "my notes\nof today\n");
    await rejects(openEvaluationFile(join(folder, "notes.txt"), identity, KIND), "input", { names: "notes.txt" });
    assert.equal(await Deno.readTextFile(join(folder, "notes.txt")), "my notes\nof today\n");
    for (const text of ["my notes", "\nmy notes"]) {
      await Deno.writeTextFile(join(folder, "notes.txt"), text);
      await rejects(openEvaluationFile(join(folder, "notes.txt"), identity, KIND), "input", { names: "notes.txt" });
      assert.equal(await Deno.readTextFile(join(folder, "notes.txt")), text);
    }
    await rejects(openEvaluationFile(join(folder, "none", "x"), identity, KIND), "input", { value: 2 });
    const [shorter] = await loadTasks({ tasks: ["arc_easy"], taskData: FOLDER, limit: 2 });
    assert.ok(shorter);
    assert.notEqual(taskDigest(shorter), taskDigest(task));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("an abort is noticed while questions are encoded, and known ones are not encoded again", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using base = demo.model;
  let encoded = 0;
  const tokenizer: Tokenizer = {
    ...demo.tokenizer,
    encode: (text, options) => {
      // A slow tokenizer: all questions would take a second.
      for (const end = performance.now() + 5; performance.now() < end;);
      encoded++;
      return demo.tokenizer.encode(text, options);
    },
  };
  using model = await loadModelFrom(base.source, { device, tokenizer });
  const [task] = await loadTasks({ tasks: ["piqa"], taskData: FOLDER, limit: 1 }), [question] = task?.questions ?? [];
  assert.ok(task && question);
  const questions = Array.from({ length: 64 }, () => question), long = { ...task, questions };
  const stop = new AbortController(), seen: string[] = [];
  setTimeout(() => stop.abort(new Error("enough")), 10);
  const stopped = scoreTask(model, long, {
    signal: stop.signal,
    onEncoded: (done, total) => seen.push(`${done}/${total}`),
  });
  await assert.rejects(stopped, /enough/);
  assert.ok(encoded > 0 && encoded < 64, `${encoded} texts encoded`);
  assert.match(seen.join(), /^\d+\/64/);
  encoded = 0;
  const known = new Map(questions.map((_, place) => [place, { scores: [-2, -1 - place], isTruncated: place === 3 }]));
  const items = await scoreTask(model, long, { known });
  assert.equal(encoded, 0);
  assert.deepEqual(items.map(({ isTruncated }) => isTruncated), questions.map((_, place) => place === 3));
  assert.deepEqual(items[0]?.scores, [-2, -1]);
});

Deno.test("a task with generated answers gives each question the model's own greedy answer, and counts exact matches", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const folder = await Deno.makeTempDir({ prefix: "compresso_answers_" });
  const people = ["John", "Tom", "Max", "Lara", "Mary", "Paul", "Sam", "Ben", "Rosa", "Anna"];
  const rows = people.map((name, place) => ({ name, group: place < 6 ? "a" : "b" }));
  const task = (answers: (place: number) => readonly string[]): TaskDefinition => ({
    name: "stories",
    generate: { maxTokens: 12, until: [".", "?"] },
    shots: 1,
    subset: (row) => row.text("group"),
    item: (row) => ({ context: `${row.text("name")} went`, answers: answers(people.indexOf(row.text("name"))) }),
  });
  for (const split of ["test", "dev"]) {
    await Deno.writeTextFile(
      `${folder}/stories.${split}.jsonl`,
      rows.map((row) => `${JSON.stringify(row)}\n`).join(""),
    );
  }
  const where = { taskData: folder };
  const first = await evaluateTasks(model, { tasks: [task(() => ["to Rome"])], ...where });
  const wanted: string[] = [];
  for (const place of people.keys()) {
    const example = place < 6 ? "John" : "Sam", context = `${example} went to Rome\n\n${people[place]} went`;
    wanted.push((await Array.fromAsync(generateText(model, context, { maxTokens: 12, stop: [".", "?"] }))).join(""));
  }
  const texts = first.items["stories"]?.map(({ text }) => text);
  assert.deepEqual(texts, wanted);
  assert.ok(new Set(wanted).size > 1 && wanted.every((text) => text.trim() !== ""), wanted.join("|"));
  const right = wanted.filter((text) => text.trim().toLowerCase() === "to rome").length;
  assert.equal(first.tasks["stories"]?.exact_match, right / 10);

  // Case, punctuation and white space do not count, and any of several answers will do.
  const half = task((place) => place % 2 === 0 ? ["to Rome", ` ${wanted[place]?.toUpperCase()} !`] : ["none"]);
  const second = await evaluateTasks(model, { tasks: [half], ...where }), score = second.tasks["stories"];
  assert.equal(score?.exact_match, 0.5);
  assert.deepEqual(Object.values(score.subsets ?? {}).map(({ exact_match }) => exact_match), [0.5, 0.5]);
  // Deviations of 6 and 4 halves, pooled: √((6 · ¼ + 4 · ¼) / 8 / 10).
  assert.ok(Math.abs(score.stderr - Math.sqrt(2.5 / 8 / 10)) < 1e-12, String(score.stderr));
  const { exact_match: gap } = compareItems(first.items["stories"] ?? [], second.items["stories"] ?? []);
  assert.equal(gap?.difference, 0.5 - right / 10);

  // A question that is known is not asked again.
  const [loaded] = await loadTasks({ tasks: [half], ...where });
  const known = new Map(
    people.map((_, place) => [place, { text: place === 1 ? "None." : "", isTruncated: place > 7 }]),
  );
  const kept = await scoreTask(model, loaded ?? assert.fail(), { known });
  assert.deepEqual(kept.map(({ isExact }) => isExact), people.map((_, place) => place === 1));
  assert.deepEqual(kept.map(({ isTruncated }) => isTruncated), people.map((_, place) => place > 7));
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a question in chat has the model's own layout and its end token, and goes plain where asked so", async () => {
  const demo = await openDemo(await sharedDevice());
  using model = demo.model;
  const { tokenizer } = demo, rows = demoData("heldout"), [row] = (await readRows(rows, { limit: 1 })).rows;
  assert.ok(row?.kind === "instruct");
  const question = { label: "line 1", subset: "", contexts: [row.instruction], accepted: [row.output] };
  const whole = { ...question, choices: [], continuations: [], answer: null };
  const generate = { maxTokens: 12, until: ["\n"], chat: true };
  const task = { name: "chat", path: rows, generate, questions: [whole] };
  const { sequences: [own] } = encodeQuestion(task, whole, { tokenizer, context: 512 });
  const format = { tokenizer, prompt: null };
  const { prefix } = formatExample({ ...row, input: "", output: "" }, format);
  assert.deepEqual(own?.prefix, encodePrefix(prefix, format));
  assert.deepEqual(answerEnds(tokenizer, task), [endToken(format)]);
  const plain = { ...task, generate: { ...generate, chat: false } };
  const { sequences: [bare] } = encodeQuestion(plain, whole, { tokenizer, context: 512 });
  assert.notDeepEqual(bare?.prefix, own?.prefix);
  assert.deepEqual(answerEnds(tokenizer, plain), []);
  const [item] = await scoreTask(model, task);
  const ends = { maxTokens: 12, endTokens: answerEnds(tokenizer, task) };
  const ids = await Array.fromAsync(generateTokens(model, own?.prefix ?? [], ends));
  assert.equal(item?.text?.trim(), tokenizer.decode(ids, { skipSpecial: true }).split("\n")[0]?.trim());
});

Deno.test("the interval of a share is Wilson's: exact ends where all or none are right", () => {
  // 3 of 10 by the formula in Python; 0 of 10 is z² / (n + z²).
  const ten = wilson(0.3, 10);
  assert.ok(Math.abs(ten.low - 0.10779126740630099) < 1e-12 && Math.abs(ten.high - 0.6032218525388546) < 1e-12);
  assert.deepEqual([wilson(0, 10).low, wilson(1, 10).high, wilson(1, 7).high], [0, 1, 1]);
  assert.ok(Math.abs(wilson(0, 10).high - 1.959963984540054 ** 2 / (10 + 1.959963984540054 ** 2)) < 1e-12);
});

Deno.test("answers are equal where SQuAD's normalisation makes them so, but for articles", () => {
  for (
    const [text, accepted] of [["in  Essen.\n", "In Essen"], ["A", "a"], ["U.S.A", "usa"], ["+", "+"], [
      "É",
      "é",
    ]] as const
  ) {
    assert.ok(isExactMatch(text, ["other", accepted]), text);
  }
  for (
    const [text, accepted] of [["the fox", "fox"], ["+", "-"], ["", "x"], ["in Essen or Rome", "in Essen"]] as const
  ) {
    assert.ok(!isExactMatch(text, [accepted]), text);
  }
});

Deno.test("a context loses its beginning where an answer would not fit, or is refused", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const { tokenizer } = demo, context = model.spec.maxPosition;
  const question = { label: "line 1", subset: "", contexts: ["Tom went ".repeat(context)], accepted: ["x"] };
  const whole = { ...question, choices: [], continuations: [], answer: null };
  const task = { name: "long", path: "long.jsonl", generate: { maxTokens: 16, until: [] } };
  const { sequences: [cut], isTruncated } = encodeQuestion(task, whole, { tokenizer, context });
  assert.deepEqual([cut?.prefix.length, cut?.choice.length, isTruncated], [context - 16, 0, true]);
  assert.deepEqual(cut?.prefix, tokenizer.encode(whole.contexts[0] ?? "").slice(16 - context));
  const refuse = { tokenizer, context, refuseLong: true };
  refuses(() => encodeQuestion(task, whole, refuse), "input", { names: 16 });
  assert.ok(mayBeLong(task, whole, refuse) && !mayBeLong(task, whole, { context }));
  const much = { ...task, generate: { maxTokens: context, until: [] } };
  refuses(() => encodeQuestion(much, whole, { tokenizer, context }), "input", { value: ["line 1", 512] });
  assert.ok(mayBeLong(much, whole, { context }));
});

Deno.test("differences are paired: what is hard for both models cancels", () => {
  const item = (picked: number, pickedNorm: number): ChoiceItem & { readonly isTruncated: boolean } => ({
    ...{ scores: [0, 0], picked, pickedNorm, answer: 0, subset: "", isTruncated: false },
  });
  // Ten questions: the second model loses two that the first had right and wins one.
  const first = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1].map((picked) => item(picked, 0));
  const second = [1, 1, 0, 0, 0, 0, 0, 1, 1, 1].map((picked) => item(picked, 0));
  const { acc, acc_norm } = compareItems(first, second);
  assert.ok(acc && acc_norm);
  // Differences −1, −1, 1 and seven zeros: mean −0.1, squares 3 − 10 · 0.01.
  const stderr = Math.sqrt(2.9 / 9 / 10);
  assert.ok(Math.abs(acc.difference + 0.1) < 1e-12 && Math.abs(acc.stderr - stderr) < 1e-12);
  assert.ok(Math.abs(acc.high - (-0.1 + 2.2622 * stderr)) < 1e-9); // Student's, nine degrees of freedom
  assert.deepEqual([acc_norm.difference, acc_norm.low, acc_norm.high], [0, NaN, NaN], "no spread, no interval");
  for (const [n, quantile] of [[2, 12.7062], [12, 2.201], [13, 2.1788], [31, 2.0423], [1001, 1.9623]] as const) {
    assert.ok(Math.abs(halfWidth(n) - quantile) < 0.003, `${n}: ${halfWidth(n)}`);
  }
  assert.ok(Number.isNaN(comparePairs([true], [false]).low), "one question has no interval");
  refuses(() => compareItems(first, second.slice(1)), "mismatch", { value: [10, 9] });
  refuses(() => compareItems([], []), "usage");
  const other = (change: Partial<ChoiceItem>): ChoiceItem[] =>
    second.map((item, index) => index === 3 ? { ...item, ...change } : item);
  for (
    const [change, said] of [
      [{ subset: "anatomy" }, '"anatomy"'],
      [{ scores: [0, 0, 0] }, 3],
      [{ answer: null }, "null"],
    ] as const
  ) {
    refuses(() => compareItems(first, other(change)), "mismatch", { value: ["item 3", said] });
  }
});

Deno.test("the ratio of perplexities comes from the same windows, weighted by their tokens", () => {
  const result = (nlls: readonly number[], tokens: readonly number[], digest = "same") => {
    const total = tokens.reduce((a, b) => a + b, 0), nll = nlls.reduce((a, b) => a + b, 0) / total;
    const perWindow = nlls.map((nll, index) => ({ nll, tokens: tokens[index] ?? 0 }));
    return {
      nll,
      perplexity: Math.exp(nll),
      bitsPerByte: null,
      tokens: total,
      windows: nlls.length,
      perWindow,
      digest,
    };
  };
  const first = result([10, 20, 31], [5, 10, 15]);
  const same = comparePerplexity(first, result([15, 30, 46], [5, 10, 15]));
  // Each token of the second costs 1 nat more: the ratio is e without doubt.
  assert.ok(same && [same.ratio, same.low, same.high].every((value) => Math.abs(value - Math.E) < 1e-9));
  const mixed = comparePerplexity(first, result([15, 28, 48], [5, 10, 15]));
  assert.ok(mixed && Math.abs(mixed.ratio - Math.E) < 1e-9 && mixed.low < Math.E && mixed.high > Math.E);
  // Residuals 0, −2 and 2 of 30 tokens: √(8 · 3 / 2) / 30.
  assert.ok(Math.abs(Math.log(mixed.high) - 1 - 4.3027 * Math.sqrt(12) / 30) < 1e-9);
  assert.equal(comparePerplexity(first, result([10, 20, 31], [5, 10, 16])), null);
  // Other tokenizers may make windows of the same size.
  assert.equal(comparePerplexity(first, result([15, 30, 46], [5, 10, 15], "other")), null);
});
