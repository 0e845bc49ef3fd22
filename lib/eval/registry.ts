// The tasks that are built in, by name. Owns the list and the "did you mean"; refuses to define tasks.
import { CompressoError } from "../errors.ts";
import type { TaskDefinition } from "./task.ts";
import { ARC_CHALLENGE, ARC_EASY, HELLASWAG, OPENBOOKQA, PIQA, WINOGRANDE } from "./tasks_common.ts";
import { BOOLQ, RACE, STORYCLOZE } from "./tasks_reading.ts";
import { BBH, BBH_PARTS, MMLU, MMLU_PARTS } from "./tasks_shots.ts";

const MAIN = [ARC_EASY, ARC_CHALLENGE, PIQA, HELLASWAG, WINOGRANDE, OPENBOOKQA, BOOLQ, RACE, ...STORYCLOZE, MMLU, BBH];
const TASKS: ReadonlyMap<string, TaskDefinition> = new Map(
  [...MAIN, ...MMLU_PARTS, ...BBH_PARTS].map((task) => [task.name, task]),
);

/** Names of the built-in tasks. Those of single subsets, such as mmlu_anatomy and bbh_snarks, are not among them. */
export const TASK_NAMES: readonly string[] = MAIN.map(({ name }) => name);

/** Tasks for the subsets of a built-in task, which may lie in files of their own. */
export function builtinParts(task: TaskDefinition): readonly TaskDefinition[] {
  return task === MMLU ? MMLU_PARTS : task === BBH ? BBH_PARTS : [];
}

/** The built-in task of a name. Throws `CompressoError("usage")` for an unknown one, with the likeliest meant. */
export function builtinTask(name: string): TaskDefinition {
  const task = TASKS.get(name);
  if (task) return task;
  const near = nearest(name, [...TASKS.keys()]);
  throw new CompressoError("usage", {
    what: `cannot evaluate the task '${name}'`,
    rule: `a task is one of ${TASK_NAMES.join(", ")}, or a path to your own, such as ./mine.ts`,
    value: name,
    mend: near === null ? "take one of these" : `did you mean ${near}?`,
  });
}

/** The candidate that begins with `word`, or that with the fewest edits to it; null where all are far. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const plain = (text: string): string => text.toLowerCase().replaceAll(/[-\s]/g, "_");
  const begun = word.length > 2 ? candidates.find((candidate) => candidate.startsWith(plain(word))) : undefined;
  if (begun !== undefined) return begun;
  const ranked = candidates
    .map((candidate) => ({ candidate, edits: distance(plain(word), candidate) }))
    .sort((a, b) => a.edits - b.edits);
  const best = ranked[0];
  return best && best.edits <= Math.max(2, Math.floor(best.candidate.length / 3)) ? best.candidate : null;
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
