// Tasks for `compresso eval --tasks`: their questions, and what has to be the same for resuming.
import { encodeQuestion, mayBeLong } from "../../../lib/eval/encode.ts";
import { refuse } from "../../../lib/core/errors.ts";
import { openPython } from "../../../lib/eval/code/python.ts";
import type { CodeRunner } from "../../../lib/eval/code/runner.ts";
import { type EvaluateResult, hasContext, isolationOf, loadTasks, taskDigest } from "../../../lib/eval/evaluate.ts";
import { type EncodedTask, encodeTask, type KnownQuestion, scoreTask } from "../../../lib/eval/score_task.ts";
import { type EvaluationFile, type QuestionEntry, QUESTIONS } from "../../../lib/eval/evaluation_file.ts";
import { taskScore } from "../../../lib/eval/metrics.ts";
import type { LoadedTask } from "../../../lib/eval/task_data.ts";
import { keptWork } from "./kept.ts";
import { checkEach } from "./models.ts";
import { BATCH_TOKENS, type EvalSettings, type EvalWork } from "./work.ts";
import { note } from "../../terminal/output.ts";
import { promptAtInference, promptNote } from "../../options/prompt.ts";
import { type Loaded, tokenizerOf } from "../../with_model.ts";

/** Reads the questions of all tasks. */
export async function chooseTasks(
  paths: readonly string[],
  names: readonly string[],
  options: EvalSettings,
): Promise<EvalWork> {
  const { limit, refuseLong = false, taskData, maxTokens, plain } = options;
  const prompt = await promptAtInference(options);
  const runsCode = options.runCode ?? false;
  const tasks = await loadTasks({ tasks: names, taskData, prompt, limit, maxTokens, plain, runsCode });
  const isCode = tasks.some(({ generate }) => generate?.rule === "code");
  if (runsCode && !isCode) {
    refuse("usage", "cannot use these options together", {
      rule: "--run-code goes with a task whose answers are code, such as humaneval",
      value: names.join(","),
      fix: "leave --run-code out",
    });
  }
  const runCode = isCode ? await openPython() : undefined, isolation = isolationOf(tasks, runCode);
  if (isolation) note(`compresso: programs that a model writes run isolated by ${isolation.join(", ")}`);
  for (const { name, path, parts } of tasks) {
    if (parts && parts.there < parts.all) {
      note(`compresso: ${name} covers ${parts.there} of its ${parts.all} subsets; the others have no file ${path}`);
    }
  }
  await checkEach(paths, {}, ({ source: { spec }, tokenizer }) => {
    const how = { tokenizer: tokenizerOf({ tokenizer }), context: spec.maxPosition, refuseLong };
    for (const task of tasks) {
      for (const question of task.questions) if (mayBeLong(task, question, how)) encodeQuestion(task, question, how);
    }
  });
  const digests = tasks.map((task) => [`task ${task.name}`, `${task.questions.length} questions, ${taskDigest(task)}`]);
  const identity = { refuseLong, ...Object.fromEntries(digests) };
  return await keptWork(paths, options, {
    kind: QUESTIONS,
    identity,
    measure: async (path, loaded, file) => {
      return { kind: "tasks", result: await measure(path, loaded, { tasks, prompt, file, refuseLong, runCode }) };
    },
  });
}

async function measure(
  path: string,
  { model, adapters, ranks, signal, progress, tune }: Loaded,
  { tasks, prompt, file, refuseLong, runCode }: {
    readonly tasks: readonly LoadedTask[];
    readonly prompt: string | null;
    readonly file: EvaluationFile<KnownQuestion, QuestionEntry> | null;
    readonly refuseLong: boolean;
    readonly runCode: CodeRunner | undefined;
  },
): Promise<EvaluateResult> {
  const tokenizer = tokenizerOf(model);
  const questions = tasks.flatMap((task) => task.questions);
  if (prompt !== null) {
    const count = questions.filter(hasContext).length;
    const some = count < questions.length ? ` that has a context (${count} of ${questions.length})` : "";
    promptNote(tokenizer.encode(`${prompt}\n\n`).length, `each question${some}`);
  }
  // All tasks are encoded before the first is measured, so that a refusal wastes no work.
  const encoded: EncodedTask[] = [];
  for (const task of tasks) {
    encoded.push(
      await encodeTask(model, task, {
        refuseLong,
        signal,
        known: file?.known(path, task.name),
        onEncoded: (done, all) => progress.phase(`encoding ${task.name}`, done / all),
      }),
    );
  }
  const tokens = encoded.flatMap((of) => [...of.values()]).reduce(
    (sum, { sequences }) => sum + (sequences[0]?.prefix.length ?? 0) + sequences.flatMap(({ choice }) => choice).length,
    0,
  );
  await tune({ rows: BATCH_TOKENS, directions: ["forward"], tokens });
  const isolation = isolationOf(tasks, runCode);
  const result: EvaluateResult = { tasks: {}, items: {}, ...(isolation ? { isolation } : {}) };
  for (const [index, task] of tasks.entries()) {
    const items = await scoreTask(model, task, {
      adapters,
      ranks,
      signal,
      runCode,
      encoded: encoded[index],
      known: file?.known(path, task.name),
      onItem: (place, item) => file?.add(path, task.name, { place, label: task.questions[place]?.label ?? "", item }),
      onProgress: (done, all) => progress.phase(`scoring ${task.name}`, done / all),
    });
    result.items[task.name] = items;
    result.tasks[task.name] = taskScore(items);
  }
  return result;
}
