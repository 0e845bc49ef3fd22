// Tasks for `compresso eval --tasks`. Owns the questions, what is kept of them in a file and what must agree to go on; refuses other work.
import { CompressoError } from "../lib/errors.ts";
import { type EvaluateResult, loadTasks, scoreTask, taskDigest } from "../lib/eval/evaluate.ts";
import { type EvaluationFile, openEvaluationFile } from "../lib/eval/evaluation_file.ts";
import { taskScore } from "../lib/eval/metrics.ts";
import type { LoadedTask } from "../lib/eval/task_data.ts";
import { modelPath } from "../lib/io/open_model.ts";
import { BATCH_TOKENS, type EvalSettings, type EvalWork, type Measurement } from "./eval_work.ts";
import { modelDigest } from "../lib/io/fingerprint.ts";
import { note } from "./output.ts";
import { required } from "./values.ts";
import { type Loaded, tokenizerOf } from "./with_model.ts";

/** About what a tokenizer makes of English; only to tell whether the run will be long. */
const CHARS_PER_TOKEN = 4;

/** Reads the questions of all tasks. */
export async function chooseTasks(
  paths: readonly string[],
  names: readonly string[],
  options: EvalSettings,
): Promise<EvalWork> {
  const { limit, out, refuseLong = false } = options;
  const taskData = required(options.taskData, "--task-data");
  const tasks = await loadTasks({ tasks: names, taskData, ...(limit === undefined ? {} : { limit }) });
  const file = out === undefined ? null : await openEvaluationFile(out, await identityOf(paths, tasks, options));
  if (file && file.found > 0) note(`going on with ${file.found} scored questions of ${out}`);
  const kept = `what is scored stays in ${out}, and the same command goes on`;
  return {
    interrupt: file ? { onInterrupt: `stopping; ${kept}; once more ends at once` } : {},
    async measure(path, loaded): Promise<Measurement> {
      try {
        return { kind: "tasks", result: await measure(path, loaded, { tasks, file, refuseLong }) };
      } catch (error) {
        if (!file || !(error instanceof CompressoError) || error.code !== "aborted") throw error;
        throw new CompressoError("aborted", { ...error.parts, mend: kept });
      }
    },
    [Symbol.dispose]: () => file?.[Symbol.dispose](),
  };
}

async function measure(
  path: string,
  { model, adapters, signal, progress, tune }: Loaded,
  { tasks, file, refuseLong }: {
    readonly tasks: readonly LoadedTask[];
    readonly file: EvaluationFile | null;
    readonly refuseLong: boolean;
  },
): Promise<EvaluateResult> {
  tokenizerOf(model);
  const chars = tasks.flatMap(({ questions }) => questions).reduce(
    (sum, { contexts, continuations }) => sum + (contexts[0]?.length ?? 0) + continuations.join("").length,
    0,
  );
  await tune({ rows: BATCH_TOKENS, directions: ["forward"], tokens: chars / CHARS_PER_TOKEN });
  const result: EvaluateResult = { tasks: {}, items: {} };
  for (const task of tasks) {
    const items = await scoreTask(model, task, {
      adapters,
      refuseLong,
      signal,
      known: file?.known(path, task.name),
      onItem: (place, item) => file?.add(path, task.name, { place, label: task.questions[place]?.label ?? "", item }),
      onProgress: (done, all) => progress.phase(`scoring ${task.name}`, done / all),
    });
    result.items[task.name] = items;
    result.tasks[task.name] = taskScore(items);
  }
  return result;
}

/** What must be as in the first run for its questions to count: scores depend on all of it. */
async function identityOf(
  paths: readonly string[],
  tasks: readonly LoadedTask[],
  { baseDtype = "f16", adapter, refuseLong = false }: EvalSettings,
): Promise<Record<string, string | boolean>> {
  const identity: Record<string, string | boolean> = { baseDtype, refuseLong };
  for (const path of paths) identity[`model ${path}`] = await modelDigest(modelPath(path));
  for (const task of tasks) identity[`task ${task.name}`] = `${task.questions.length} questions, ${taskDigest(task)}`;
  if (adapter !== undefined) identity["adapter"] = await modelDigest(adapter);
  return identity;
}
