// Reading and story tasks, with the prompts of lm-evaluation-harness.
import { isObject, type Json } from "../core/guards.ts";
import { parsePythonLiteral } from "../compat/python_text.ts";
import { shownJson } from "../core/text.ts";
import type { TaskDefinition, TaskItem, TaskRow } from "./task.ts";

/** BoolQ: rows of SuperGLUE have `label`, those of the first release `answer`. */
export const BOOLQ: TaskDefinition = {
  name: "boolq",
  splits: ["validation", "valid"],
  item: (row) => ({
    context: `${row.text("passage")}\nQuestion: ${row.text("question")}?\nAnswer:`,
    choices: ["no", "yes"],
    answer: row.has("answer") ? truth(row, "answer") : row.whole("label"),
  }),
};

/** RACE: an article with several `problems`, where the last problem is asked; or one `question` with `options` a row. */
export const RACE: TaskDefinition = {
  name: "race",
  item: (row): TaskItem => {
    const problems = row.has("problems") ? problemsOf(row) : [ownProblem(row)];
    const last = problems.at(-1);
    if (!last) throw row.error('"problems" has at least one', "has none");
    const solved = problems.slice(0, -1).map(({ question, options, answer }) =>
      question.endsWith("  _  .")
        ? `${question.slice(0, -5)}${options[answer]}\n`
        : `Question: ${question}\nAnswer: ${options[answer]}\n`
    );
    return {
      context: `Article: ${row.text("article")}\n\n${solved.join("")}${last.question}`,
      choices: last.options,
      answer: last.answer,
    };
  },
};

/** StoryCloze, one of its years. */
function storycloze(name: string): TaskDefinition {
  return {
    name,
    item: (row) => ({
      context: [1, 2, 3, 4].map((number) => row.text(`input_sentence_${number}`)).join(" "),
      choices: [row.text("sentence_quiz1"), row.text("sentence_quiz2")],
      answer: row.whole("answer_right_ending") - 1,
    }),
  };
}

/** StoryCloze by its names in the harness, and without a year. */
export const STORYCLOZE: readonly TaskDefinition[] = ["storycloze", "storycloze_2016", "storycloze_2018"].map(
  storycloze,
);

function truth(row: TaskRow, field: string): number {
  const value = row.value(field);
  if (typeof value === "boolean") return Number(value);
  throw row.error(`"${field}" is true or false`, `has ${shownJson(value)}`);
}

interface Problem {
  readonly question: string;
  readonly options: readonly string[];
  readonly answer: number;
}

/** The problem of a row that holds a single question. */
function ownProblem(row: TaskRow): Problem {
  const [question, options, answer] = [row.text("question"), row.texts("options"), row.text("answer")];
  return problemOf(row, { question, options, answer });
}

/** The data set holds its problems as a Python literal in a string. */
function problemsOf(row: TaskRow): Problem[] {
  const value = row.value("problems");
  let list: unknown = value;
  if (typeof value === "string") {
    try {
      list = parsePythonLiteral(value);
    } catch (error) {
      throw row.error('"problems" is a list, or one as Python writes it', error instanceof Error ? error.message : "");
    }
  }
  if (!Array.isArray(list)) throw row.error('"problems" is a list', `has ${shownJson(value)}`);
  return list.map((problem: unknown) => problemOf(row, problem));
}

function problemOf(row: TaskRow, value: unknown): Problem {
  const { question, options, answer }: Json = isObject(value) ? value : {};
  const number = typeof answer === "string" && answer.length === 1 ? "ABCD".indexOf(answer) : -1;
  const isFour = Array.isArray(options) && options.length === 4 &&
    options.every((option) => typeof option === "string");
  if (typeof question === "string" && isFour && number >= 0) return { question, options, answer: number };
  throw row.error(
    'a problem has "question", four texts in "options", and "answer", one of A, B, C, D',
    `has ${shownJson(value)}`,
  );
}
