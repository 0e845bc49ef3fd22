// Prompts and scores against what lm-evaluation-harness makes of the same rows (fixtures/tasks/golden.json).
import assert from "node:assert/strict";
import { join } from "node:path";
import { type ItemScore, pick, taskScore } from "../../lib/eval/metrics.ts";
import { loadTasks } from "../../lib/eval/evaluate.ts";
import { isSameNumber, lastNumber, markedNumber } from "../../lib/eval/number_answer.ts";
import type { Question } from "../../lib/eval/task_data.ts";

const FOLDER = join(import.meta.dirname ?? ".", "../../fixtures/tasks");

interface Golden {
  readonly tasks: Readonly<Record<string, GoldenTask>>;
}
interface GoldenTask {
  readonly subsets: Readonly<Record<string, readonly GoldenItem[]>>;
  readonly acc: number;
  readonly acc_stderr: number | null;
  readonly acc_norm: number;
  readonly acc_norm_stderr: number | null;
}
interface GoldenItem {
  readonly requests: readonly (readonly [context: string, continuation: string])[];
  readonly scores: readonly number[];
  readonly acc: number;
  readonly acc_norm: number;
}

const golden: Golden = JSON.parse(await Deno.readTextFile(join(FOLDER, "golden.json")));

for (const [name, { subsets, ...score }] of Object.entries(golden.tasks)) {
  Deno.test(`the task ${name} asks and scores as lm-evaluation-harness does`, async () => {
    const [task] = await loadTasks({ tasks: [name], taskData: FOLDER });
    assert.ok(task);
    const items: ItemScore[] = [];
    for (const [subset, wanted] of Object.entries(subsets)) {
      const questions: readonly Question[] = task.questions.filter((question) =>
        subset === "" || question.subset === subset
      );
      assert.equal(questions.length, wanted.length, `questions of '${subset}'`);
      for (const [index, { requests, scores, acc, acc_norm }] of wanted.entries()) {
        const question = questions[index];
        assert.ok(question);
        assert.deepEqual(asked(question), requests, `${subset} ${question.label}`);
        const picked = pick(scores, question.choices);
        const { answer } = question;
        assert.equal(Number(picked.picked === answer), acc, `acc of ${subset} ${question.label}`);
        assert.equal(Number(picked.pickedNorm === answer), acc_norm, `acc_norm of ${subset} ${question.label}`);
        items.push({ scores, ...picked, answer, subset: question.subset });
      }
    }
    const actual = taskScore(items);
    assert.equal(actual.n, items.length);
    const close = (value: number | undefined, want: number | null, what: string): void => {
      const fits = want === null ? Number.isNaN(value) : Math.abs((value ?? NaN) - want) < 1e-12;
      assert.ok(fits, `${what}: ${value}, expected ${want}`);
    };
    close(actual.acc, score.acc, "acc");
    close(actual.acc_norm, score.acc_norm, "acc_norm");
    close(actual.stderr, score.acc_stderr, "stderr");
    close(actual.acc_norm_stderr, score.acc_norm_stderr, "acc_norm_stderr");
  });
}

interface GoldenAnswers {
  readonly references: readonly string[];
  readonly cases: readonly {
    readonly text: string;
    readonly found: Readonly<Record<string, string>>;
    readonly right: Readonly<Record<string, readonly number[]>>;
  }[];
  readonly gsm8k: {
    readonly asked: readonly string[];
    readonly answers: readonly string[];
    readonly until: readonly string[];
    readonly shots: number;
  };
  readonly humaneval: {
    readonly asked: readonly string[];
    readonly chat: readonly (readonly [asked: string, begun: string])[];
    readonly tests: readonly string[];
    readonly until: readonly string[];
    readonly max_tokens: number;
  };
}

const answers: GoldenAnswers = JSON.parse(await Deno.readTextFile(join(FOLDER, "golden_answers.json")));

Deno.test("numbers of answers are found and compared as the filters and the metric of lm-evaluation-harness's gsm8k do", () => {
  assert.ok(answers.cases.length > 50);
  for (const [name, find] of [["strict-match", markedNumber], ["flexible-extract", lastNumber]] as const) {
    for (const { text, found, right } of answers.cases) {
      assert.equal(find(text), found[name], `${name}: ${JSON.stringify(text)}`);
      const equal = [...answers.references.keys()].filter((place) =>
        isSameNumber(find(text), [answers.references[place] ?? ""])
      );
      assert.deepEqual(equal, right[name], `${name}: ${JSON.stringify(text)}`);
    }
  }
});

Deno.test("gsm8k asks as lm-evaluation-harness does, after solved examples, which may be other questions of its file", async () => {
  const { gsm8k } = answers, file = join(FOLDER, "gsm8k.test.jsonl");
  const [task] = await loadTasks({ tasks: ["gsm8k"], taskData: FOLDER });
  assert.ok(task);
  assert.deepEqual(task.generate?.until, gsm8k.until);
  const solved = gsm8k.asked.map((asked, place) => `${asked} ${gsm8k.answers[place]}\n\n`);
  for (const [place, { contexts: [context], accepted }] of task.questions.entries()) {
    const examples = solved.filter((_, other) => other !== place).slice(0, gsm8k.shots).join("");
    assert.equal(context, examples + gsm8k.asked[place]);
    assert.deepEqual(accepted, [gsm8k.answers[place]]);
  }
  const [named] = await loadTasks({ tasks: [`gsm8k=${file}`], limit: 2 });
  assert.deepEqual([named?.path, named?.questions], [file, task.questions.slice(0, 2)]);
});

Deno.test("humaneval asks as lm-evaluation-harness does, plain and in chat, and its program is that of the harness", async () => {
  const { humaneval } = answers;
  const [task] = await loadTasks({ tasks: ["humaneval"], taskData: FOLDER, runsCode: true });
  assert.ok(task);
  assert.deepEqual(task.generate?.until, humaneval.until);
  assert.equal(task.generate?.maxTokens, humaneval.max_tokens);
  assert.deepEqual(task.questions.map(({ contexts }) => contexts), humaneval.asked.map((asked) => [asked]));
  assert.deepEqual(task.questions.map(({ chat }) => [chat?.asked, chat?.begun]), humaneval.chat);
  const programs = humaneval.asked.map((before, place) => ({ before, after: `\n${humaneval.tests[place]}` }));
  assert.deepEqual(task.questions.map(({ program }) => program), programs);
});

function asked({ contexts, continuations }: Question): [string, string][] {
  return contexts.map((context, index) => [context, continuations[index] ?? ""]);
}
