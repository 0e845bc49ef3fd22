// Scores tasks by a model.
import { digestOf } from "../core/digest.ts";
import { type CompressoError, option, refusal, refuse } from "../core/errors.ts";
import type { Ranks } from "../ranks/ranks.ts";
import { checkNames, count, type NamesOf } from "../core/check_options.ts";
import { checkPromptText } from "../data/prompts/format.ts";
import type { Adapters, Model } from "../model/model.ts";
import { type ItemScore, type TaskScore, taskScore } from "./metrics.ts";
import { type EncodedTask, encodeTask, scoreTask } from "./score_task.ts";
import { builtinParts, builtinTask } from "./registry.ts";
import type { CodeRunner } from "./code/runner.ts";
import { asTask, type TaskDefinition } from "./task.ts";
import { type LoadedTask, loadTask, type Question } from "./task_data.ts";
import { isTaskFile, readTaskFile } from "./task_file.ts";

/** Options of {@link evaluateTasks}. */
export interface EvaluateOptions {
  /**
   * Names of built-in tasks, paths of task files (a module or JSON), and tasks that the program defines. A text may name
   * the file of the questions, too: `gsm8k=rows.jsonl`.
   */
  readonly tasks: readonly (string | TaskDefinition)[];
  /**
   * Folder of the data, `<task>.<split>.jsonl` (or .json, .jsonl.gz, .jsonl.zst, .parquet). Not needed if each task names
   * its file; examples are then sought in the folder of that file.
   */
  readonly taskData?: string | undefined;
  /** Most questions of each task, or of each of its subsets, from the first. Default: all. */
  readonly limit?: number | undefined;
  /**
   * Text before each question, with a blank line between, such as the collaborative prompt. Questions without context
   * get none. Default null: none, as in the harness.
   */
  readonly prompt?: string | null | undefined;
  /** Tokens of a generated answer at most. Default: as each task says. */
  readonly maxTokens?: number | undefined;
  /** Whether questions with generated answers are asked without the model's chat template. Default false. */
  readonly plain?: boolean | undefined;
  /**
   * Runs the programs of tasks whose answers are code, such as humaneval; `openPython` makes one. Default: such tasks are
   * refused.
   */
  readonly runCode?: CodeRunner | undefined;
  /** Masks and LoRA. */
  readonly adapters?: Adapters | undefined;
  /**
   * Whether a question that does not fit the model's context is an error. Default false: its context is cut from the
   * left.
   */
  readonly refuseLong?: boolean | undefined;
  /** Processes that share the questions: all call it with the same options, and each gets all scores. */
  readonly ranks?: Ranks | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the questions of a task scored so far. */
  readonly onProgress?: ((done: number, total: number, task: string) => void) | undefined;
}

const NAMES: NamesOf<EvaluateOptions> = {
  tasks: true,
  taskData: "text",
  limit: "number",
  prompt: true,
  maxTokens: count(1),
  plain: "switch",
  runCode: true,
  adapters: true,
  refuseLong: "switch",
  ranks: true,
  signal: true,
  onProgress: true,
};

/** Scores of all tasks by name. */
export interface EvaluateResult {
  /** Scores of each task. */
  readonly tasks: Record<string, TaskScore>;
  /** What the model made of each question, in the order of the data. */
  readonly items: Record<string, readonly ItemScore[]>;
  /** What kept the programs of answers that are code from files, network and other processes. */
  readonly isolation?: readonly string[];
}

/**
 * Evaluates a model on multiple choice tasks as EleutherAI's lm-evaluation-harness 0.4.13 does, with the same prompts
 * and the same split into context and continuation. Gives acc, acc_norm and their standard errors. In a task with
 * `generate` the model answers in its own words, decoded greedily, and the score is exact_match; where answers are code
 * it is pass@1, the share of the programs that run to their end. All questions are
 * encoded before the first is scored.
 *
 * @throws CompressoError("usage") for an unknown task or option, an empty prompt, and a prompt if no question has a context.
 * @throws CompressoError("input") if data are missing or do not fit, for questions that cannot be scored or are refused as too long, and for a
 * model without tokenizer.
 * @throws CompressoError("numeric") if a likelihood is not finite.
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { evaluateTasks } from "compresso/evaluate";
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { tasks } = await evaluateTasks(model, { tasks: ["arc_easy", "piqa"], taskData: "fixtures/tasks", limit: 2 });
 * console.log(tasks.arc_easy?.acc, tasks.arc_easy?.stderr);
 * ```
 */
export async function evaluateTasks(model: Model, options: EvaluateOptions): Promise<EvaluateResult> {
  checkNames(options, NAMES, { whose: "evaluateTasks" });
  const loaded = await loadTasks({ ...options, runsCode: options.runCode !== undefined });
  const tasks: Record<string, TaskScore> = {}, items: Record<string, readonly ItemScore[]> = {};
  const ready: (readonly [LoadedTask, EncodedTask])[] = [];
  for (const task of loaded) ready.push([task, await encodeTask(model, task, options)]);
  for (const [task, encoded] of ready) {
    const scored = await scoreTask(model, task, { ...options, encoded });
    tasks[task.name] = taskScore(scored);
    items[task.name] = scored;
  }
  const isolation = isolationOf(loaded, options.runCode);
  return { tasks, items, ...(isolation ? { isolation } : {}) };
}

/** By what the programs of these tasks are isolated; undefined if no task has any. */
export function isolationOf(
  tasks: readonly LoadedTask[],
  runCode: CodeRunner | undefined,
): readonly string[] | undefined {
  return tasks.some(({ generate }) => generate?.rule === "code") ? runCode?.isolation : undefined;
}

/** Options of {@link loadTasks}. */
export interface LoadTasksOptions
  extends Pick<EvaluateOptions, "tasks" | "taskData" | "limit" | "prompt" | "maxTokens" | "plain"> {
  /** Whether programs that the model writes will be run. Default false: tasks with such answers are refused. */
  readonly runsCode?: boolean | undefined;
}

/** Reads the data of all tasks, so that what does not fit fails before the first is scored. */
export async function loadTasks(
  { tasks, taskData, limit, prompt = null, maxTokens, plain = false, runsCode = false }: LoadTasksOptions,
): Promise<LoadedTask[]> {
  checkPromptText(prompt);
  const fail = (rule: string, value: string, fix: string): never => {
    refuse("usage", "cannot evaluate tasks", { rule, value, fix });
  };
  if (tasks.length === 0) fail("there is at least one task", "none", "name a task");
  if (limit !== undefined && (!Number.isInteger(limit) || limit < 1)) {
    fail("limit is a whole number, at least 1", String(limit), "leave it out for all questions");
  }
  const definitions: { readonly task: TaskDefinition; readonly file: string | undefined }[] = [];
  for (const task of tasks) {
    if (typeof task !== "string") definitions.push({ task: asTask(task, "evaluateTasks"), file: undefined });
    else {
      const { word, file } = taskWord(task);
      definitions.push({ task: isTaskFile(word) ? await readTaskFile(word) : builtinTask(word), file });
    }
  }
  const names = definitions.map(({ task }) => task.name);
  const code = definitions.find(({ task }) => task.generate?.rule === "code")?.task.name;
  if (code !== undefined && !runsCode) {
    refuse("usage", `cannot evaluate the task ${code}`, {
      rule: "its answers are programs that the model writes, which are run only where that is asked for",
      value: code,
      fix: `evaluate it with ${option("runCode")}, which runs them in a process without rights, or leave the task out`,
      option: "runCode",
    });
  }
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) fail("each task is named once", twice, "name it once");
  const loaded: LoadedTask[] = [];
  for (const { task, file } of definitions) {
    const folder = taskData ?? (file === undefined ? undefined : folderOf(file));
    if (folder === undefined) throw noFolder(task);
    const own = await loadTask(task, { folder, file, limit, parts: builtinParts(task) });
    const generate = own.generate && {
      ...own.generate,
      ...(maxTokens === undefined ? {} : { maxTokens }),
      ...(plain ? { chat: false } : {}),
    };
    const questions = prompt === null ? own.questions : own.questions.map((question) => withPrompt(prompt, question));
    loaded.push({ ...own, questions, ...(generate ? { generate } : {}) });
  }
  if ((plain || maxTokens !== undefined) && !loaded.some(({ generate }) => generate)) {
    fail("plain and maxTokens go with tasks whose answers are generated", names.join(", "), "leave them out");
  }
  const questions = loaded.flatMap((task) => task.questions);
  if (prompt !== null && !questions.some(hasContext)) {
    const rule = "at least one question has a context, which the prompt is put before";
    fail(rule, `none of ${questions.length}`, "leave the prompt out");
  }
  return loaded;
}

/** A task as it is named, and the file of its questions after a `=`. */
function taskWord(text: string): { readonly word: string; readonly file: string | undefined } {
  const [, word = text, file] = /^([\w.-]+|.+?\.(?:ts|js|mjs|json))=(.+)$/.exec(text) ?? [];
  return { word, file };
}

function folderOf(file: string): string {
  return /^(.*)[/\\][^/\\]*$/.exec(file)?.[1] ?? ".";
}

function noFolder({ name }: TaskDefinition): CompressoError {
  return refusal("usage", `cannot find the data of the task ${name}`, {
    rule: "the folder of the data is named, or each task with its file",
    value: "neither",
    fix: `name the folder by ${option("taskData")}, or the file: ${name}=FILE`,
    option: "taskData",
  });
}

/** Whether a prompt can be before it. */
export function hasContext({ contexts }: Question): boolean {
  return contexts.some((text) => text !== "");
}

/** A question with a text before it. What is scored alone stays alone. */
function withPrompt(prompt: string, question: Question): Question {
  const { contexts, chat } = question, before = (text: string): string => text === "" ? text : `${prompt}\n\n${text}`;
  return {
    ...question,
    contexts: contexts.map(before),
    ...(chat ? { chat: { ...chat, asked: before(chat.asked) } } : {}),
  };
}

/** What tells a task's questions from others: a hash of what is asked and what is right. */
export function taskDigest({ questions, generate }: LoadedTask): string {
  const of = questions.map(({ contexts, continuations, choices, answer, subset, accepted, program, chat }) =>
    JSON.stringify([
      ...[contexts, continuations, choices, answer, subset],
      ...(accepted ? [accepted] : []),
      ...(program ? [program, chat ?? null] : []),
    ])
  );
  return digestOf(generate ? [JSON.stringify(generate), ...of] : of);
}
