// Tasks scored by a model. Owns the way from a list of tasks to their scores; refuses to print and to keep files.
import { CompressoError } from "../errors.ts";
import type { Adapters, Model } from "../run/model.ts";
import { logLikelihoods } from "../run/score.ts";
import { encodeQuestion } from "./encode.ts";
import { type ItemScore, pick, type TaskScore, taskScore } from "./metrics.ts";
import { builtinTask } from "./registry.ts";
import { asTask, type TaskDefinition } from "./task.ts";
import { type LoadedTask, loadTask } from "./task_data.ts";

/** Options of {@link evaluateTasks}. */
export interface EvaluateOptions {
  /** Names of built-in tasks, and tasks of your own. */
  readonly tasks: readonly (string | TaskDefinition)[];
  /** Folder of the data, `<task>.<split>.jsonl` or `.parquet`. */
  readonly taskData: string;
  /** Questions of each task, or of each of its subsets, at most, from the first on. Default: all. */
  readonly limit?: number;
  /** Masks and LoRA. */
  readonly adapters?: Adapters;
  /** Whether a question that does not fit the model's context is an error; else its context is cut from the left. Default false. */
  readonly refuseLong?: boolean;
  /** Stops the work. */
  readonly signal?: AbortSignal;
  /** Called with the questions of a task scored so far. */
  readonly onProgress?: (done: number, total: number, task: string) => void;
}

/** Scores of all tasks by name. */
export interface EvaluateResult {
  /** Scores of each task. */
  readonly tasks: Record<string, TaskScore>;
  /** What the model made of each question, in the order of the data. */
  readonly items: Record<string, readonly ItemScore[]>;
}

/**
 * Evaluates a model on multiple choice tasks as EleutherAI's lm-evaluation-harness 0.4 does: the same prompts, the same division into context
 * and continuation, acc, acc_norm and their standard errors.
 *
 * @throws CompressoError("usage") for an unknown task; "input" where data are missing or do not fit, and for a model without tokenizer;
 * "numeric" where a likelihood is not finite.
 * @example
 * ```ts ignore
 * const { tasks } = await evaluateTasks(model, { tasks: ["arc_easy", "piqa"], taskData: "data", limit: 100 });
 * console.log(tasks.arc_easy?.acc, tasks.arc_easy?.stderr);
 * ```
 */
export async function evaluateTasks(model: Model, options: EvaluateOptions): Promise<EvaluateResult> {
  const loaded = await loadTasks(options);
  const tasks: Record<string, TaskScore> = {}, items: Record<string, readonly ItemScore[]> = {};
  for (const task of loaded) {
    const scored = await scoreTask(model, task, options);
    tasks[task.name] = taskScore(scored);
    items[task.name] = scored;
  }
  return { tasks, items };
}

/** Reads the data of all tasks, so that what does not fit fails before the first is scored. */
export async function loadTasks(
  { tasks, taskData, limit }: Pick<EvaluateOptions, "tasks" | "taskData" | "limit">,
): Promise<LoadedTask[]> {
  const fail = (rule: string, value: string): never => {
    throw new CompressoError("usage", { what: "cannot evaluate tasks", rule, value });
  };
  if (tasks.length === 0) fail("there is at least one task", "none");
  if (limit !== undefined && (!Number.isInteger(limit) || limit < 1)) {
    fail("limit is a whole number, at least 1", String(limit));
  }
  const definitions = tasks.map((task) => typeof task === "string" ? builtinTask(task) : asTask(task, "evaluateTasks"));
  const names = definitions.map(({ name }) => name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) fail("each task is named once", twice);
  const loaded: LoadedTask[] = [];
  for (const definition of definitions) loaded.push(await loadTask(definition, { folder: taskData, limit }));
  return loaded;
}

/** Scores the questions of one task. */
export async function scoreTask(
  model: Model,
  task: LoadedTask,
  options: Pick<EvaluateOptions, "adapters" | "refuseLong" | "signal" | "onProgress">,
): Promise<(ItemScore & { readonly isTruncated: boolean })[]> {
  const { adapters, refuseLong, signal, onProgress } = options, { tokenizer, spec } = model;
  if (!tokenizer) {
    throw new CompressoError("input", {
      what: `cannot score the task ${task.name}`,
      rule: "a model needs a tokenizer to read text",
      value: "this one has none",
      mend: "put tokenizer.json beside the weights",
    });
  }
  const { questions } = task;
  const encoded = questions.map((question) =>
    encodeQuestion(task, question, { tokenizer, context: spec.maxPosition, refuseLong })
  );
  const owners = encoded.flatMap(({ sequences }, index) => sequences.map(() => index));
  const missing = encoded.map(({ sequences }) => sequences.length);
  let done = 0;
  const scores = await logLikelihoods(model, encoded.flatMap(({ sequences }) => sequences), {
    ...(adapters ? { adapters } : {}),
    ...(signal ? { signal } : {}),
    onScores: (places) => {
      for (const place of places) {
        const owner = owners[place] ?? 0, left = (missing[owner] ?? 0) - 1;
        missing[owner] = left;
        if (left === 0) done++;
      }
      onProgress?.(done, questions.length, task.name);
    },
  });
  let at = 0;
  return questions.map(({ choices, answer, subset }, index) => {
    const own = scores.slice(at, at += choices.length);
    return { scores: own, ...pick(own, choices), answer, subset, isTruncated: encoded[index]?.isTruncated ?? false };
  });
}
