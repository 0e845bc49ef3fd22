// Common-sense and science tasks, with the prompts of lm-evaluation-harness.
import { capitalize, trim, trimStart } from "../compat/python_text.ts";
import { shownJson } from "../core/text.ts";
import type { TaskDefinition, TaskItem, TaskRow } from "./task.ts";

/** Splits of data sets whose test labels are not public. */
const VALIDATION = ["validation", "valid"] as const;

/** ARC: "Question: …\nAnswer:" and the choices. */
function arc(name: string): TaskDefinition {
  return {
    name,
    item: (row) => ({
      context: `Question: ${row.text("question")}\nAnswer:`,
      choices: row.texts("choices.text"),
      answer: labelled(row, row.text("answerKey")),
    }),
  };
}

/** ARC, the easy questions. */
export const ARC_EASY: TaskDefinition = arc("arc_easy");
/** ARC, the hard questions. */
export const ARC_CHALLENGE: TaskDefinition = arc("arc_challenge");

/** OpenBookQA. */
export const OPENBOOKQA: TaskDefinition = {
  name: "openbookqa",
  item: (row) => ({
    context: row.text("question_stem"),
    choices: row.texts("choices.text"),
    answer: labelled(row, trimStart(row.text("answerKey"))),
  }),
};

/** PIQA. */
export const PIQA: TaskDefinition = {
  name: "piqa",
  splits: VALIDATION,
  item: (row) => ({
    context: `Question: ${row.text("goal")}\nAnswer:`,
    choices: [row.text("sol1"), row.text("sol2")],
    answer: row.whole("label"),
  }),
};

/**
 * HellaSwag. The data set has activity_label, ctx_a and ctx_b; the harness capitalises ctx_b. Rows with only `ctx` are taken
 * unchanged, after the activity if there is one.
 */
export const HELLASWAG: TaskDefinition = {
  name: "hellaswag",
  splits: VALIDATION,
  item: (row) => ({
    context: withoutBrackets(hellaswagContext(row)),
    choices: row.texts("endings").map(withoutBrackets),
    answer: row.whole("label"),
  }),
};

/** WinoGrande, by partial evaluation: what follows the blank is scored after each of the two beginnings. */
export const WINOGRANDE: TaskDefinition = {
  name: "winogrande",
  splits: VALIDATION,
  item: (row): TaskItem => {
    const sentence = row.text("sentence"), blank = sentence.indexOf("_"), answer = row.text("answer");
    if (blank < 0) throw row.error('"sentence" has a blank, _', `has ${shownJson(sentence)}`);
    if (answer !== "1" && answer !== "2") throw row.error('"answer" is "1" or "2"', `has ${shownJson(answer)}`);
    const options = ["option1", "option2"].map((field) => row.text(field));
    if (options.includes("")) throw row.error("no choice is empty", `has ${shownJson(options)}`);
    const choices = options.map((option) => sentence.slice(0, blank) + option);
    return { context: choices, choices, continuation: trim(sentence.slice(blank + 1)), answer: Number(answer) - 1 };
  },
};

function hellaswagContext(row: TaskRow): string {
  const activity = row.has("activity_label") ? `${row.text("activity_label")}: ` : "";
  if (!row.has("ctx_a")) return activity + row.text("ctx");
  return `${activity}${row.text("ctx_a")} ${capitalize(row.text("ctx_b"))}`;
}

/** Brackets are left-overs of the data set's sources. */
function withoutBrackets(text: string): string {
  return trim(text).replaceAll(" [title]", ". ").replace(/\[[^\n]*?\]/g, "").replaceAll("  ", " ");
}

/** Index of the right choice by its label. */
function labelled(row: TaskRow, key: string): number {
  const labels = row.texts("choices.label"), index = labels.indexOf(key);
  if (index < 0) {
    throw row.error('"answerKey" is one of "choices.label"', `has ${shownJson(key)}, not among ${shownJson(labels)}`);
  }
  return index;
}
