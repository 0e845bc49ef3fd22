// The built-in tasks by name.
import { refuse } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import type { TaskDefinition } from "./task.ts";
import { EXACT, GSM8K, HUMANEVAL, NUMBER } from "./tasks_answers.ts";
import { ARC_CHALLENGE, ARC_EASY, HELLASWAG, OPENBOOKQA, PIQA, WINOGRANDE } from "./tasks_common.ts";
import { BOOLQ, RACE, STORYCLOZE } from "./tasks_reading.ts";
import { BBH, BBH_PARTS, MMLU, MMLU_PARTS } from "./tasks_shots.ts";

const CHOICES = [
  ARC_EASY,
  ARC_CHALLENGE,
  PIQA,
  HELLASWAG,
  WINOGRANDE,
  OPENBOOKQA,
  BOOLQ,
  RACE,
  ...STORYCLOZE,
  MMLU,
  BBH,
];
const MAIN = [...CHOICES, GSM8K, HUMANEVAL, EXACT, NUMBER];
const TASKS: ReadonlyMap<string, TaskDefinition> = new Map(
  [...MAIN, ...MMLU_PARTS, ...BBH_PARTS].map((task) => [task.name, task]),
);

/** Names of the built-in tasks. Those of single subsets, such as mmlu_anatomy and bbh_snarks, are not among them. */
export const TASK_NAMES: readonly string[] = MAIN.map(({ name }) => name);

/** Tasks for the subsets of a built-in task, which may have files of their own. */
export function builtinParts(task: TaskDefinition): readonly TaskDefinition[] {
  return task === MMLU ? MMLU_PARTS : task === BBH ? BBH_PARTS : [];
}

/** The built-in task of a name. Throws `CompressoError("usage")` for an unknown one, with the likeliest meant. */
export function builtinTask(name: string): TaskDefinition {
  const task = TASKS.get(name);
  if (task) return task;
  const near = nearest(name, [...TASKS.keys()]);
  refuse("usage", `cannot evaluate the task '${name}'`, {
    rule: `a task is one of ${TASK_NAMES.join(", ")}, or a path to your own, such as ./mine.ts`,
    value: name,
    fix: near === null ? "take one of these" : `did you mean ${near}?`,
  });
}
