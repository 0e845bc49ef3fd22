// Questions of a task from its files, as the texts that a model scores.
import { CompressoError, option, refuse } from "../core/errors.ts";
import { type PlacedValue } from "../data/readers/values.ts";
import { readValues } from "../local/rows.ts";
import { isFolder } from "../files/exists.ts";
import { within } from "../files/path.ts";
import { isHubName } from "../hub/name.ts";
import { fileKind } from "../files/held_file.ts";
import { isObject, type Json } from "../core/guards.ts";
import { shownJson } from "../core/text.ts";
import {
  type AnswerQuestion,
  type CodeQuestion,
  createRow,
  type GenerateAnswers,
  type TaskDefinition,
  type TaskItem,
  type TaskRow,
} from "./task.ts";

/** One question as texts: `contexts[i]` and `continuations[i]` belong to choice i. Where the answer is generated there is one context, and no choice. */
export interface Question {
  /** Its place, such as "line 3". */
  readonly label: string;
  /** "" where the task has no subsets. */
  readonly subset: string;
  readonly contexts: readonly string[];
  readonly continuations: readonly string[];
  readonly choices: readonly string[];
  readonly answer: number | null;
  /** The answers that count, where the answer is generated. */
  readonly accepted?: readonly string[];
  /** What the answer is run in, where it is code. */
  readonly program?: CodeQuestion["program"];
  /** How the question is asked in chat, if not by its context alone. */
  readonly chat?: CodeQuestion["chat"];
}

/** A task with its questions. */
export interface LoadedTask {
  readonly name: string;
  /** How answers are generated; undefined where questions have choices. */
  readonly generate?: AnswerSettings | undefined;
  /** The file of the questions. */
  readonly path: string;
  readonly questions: readonly Question[];
  /** For a task whose subsets have files of their own: how many of how many are there. */
  readonly parts?: { readonly there: number; readonly all: number };
}

/** How answers are generated and judged, with the defaults of tokens and ends. */
export type AnswerSettings =
  & Required<Pick<GenerateAnswers, "maxTokens" | "until">>
  & Pick<GenerateAnswers, "rule" | "chat">;

const SPLITS = ["test", "validation", "valid"] as const;
/** Tokens of a generated answer at most. */
const MAX_TOKENS = 32;
const SHOT_SPLITS = ["dev", "fewshot", "train"] as const;
const EXTENSIONS = ["jsonl", "parquet", "jsonl.gz", "jsonl.zst", "json"] as const;

/** Folder of a task's data, and how much of it is taken. */
export interface LoadOptions {
  readonly folder: string;
  /** The file of the questions; examples are sought in `folder`. Default: a file of the task's name in `folder`. */
  readonly file?: string | undefined;
  /** Questions of each subset at most. */
  readonly limit?: number | undefined;
  /** Tasks of the subsets; they are read instead if the task itself has no file. */
  readonly parts?: readonly TaskDefinition[] | undefined;
}

/**
 * Reads a task's questions from `folder`, with `limit` the first ones of each subset only.
 *
 * @throws CompressoError("input") if there is no file of the task, and for rows whose fields do not fit, by their lines.
 */
export async function loadTask(
  task: TaskDefinition,
  { folder, file, limit = Infinity, parts = [] }: LoadOptions,
): Promise<LoadedTask> {
  const { name, splits = SPLITS, shots = 0, delimiter = " " } = task;
  const own = file ?? await findFile(name, { folder, splits });
  if (own === null) {
    const there: LoadedTask[] = [];
    for (const part of parts) {
      const { name: partName, splits: partSplits = SPLITS } = part;
      if (await findFile(partName, { folder, splits: partSplits })) there.push(await loadTask(part, { folder, limit }));
    }
    if (there.length > 0) {
      const counts = { there: there.length, all: parts.length };
      return {
        name,
        path: within(folder, `${name}_*`),
        questions: there.flatMap(({ questions }) => questions),
        parts: counts,
      };
    }
  }
  const path = own ?? await noData(name, { folder, splits });
  const rows = await readRowsOf(task, path, task.subset ? Infinity : limit);
  const shotPath = shots > 0 ? await findExamples(task, { folder, path }) : null;
  const examples = shotPath === null ? null : await readExamples(task, shotPath, { asked: shotPath === path });
  const taken = new Map<string, number>();
  const questions: Question[] = [];
  for (const placed of rows) {
    const { row, label } = placed, subset = subsetOf(task, row), count = taken.get(subset) ?? 0;
    if (count >= limit) continue;
    taken.set(subset, count + 1);
    const before = describe(task, row) + (examples ? examples(subset, placed) : "");
    const none = { choices: [], answer: null, continuations: [] };
    if (task.generate?.rule === "code") {
      const { context, program, chat } = makeCode(task, row);
      const asked = chat && { ...chat, asked: before + chat.asked };
      questions.push({
        label,
        subset,
        ...none,
        contexts: [before + context],
        program,
        ...(asked ? { chat: asked } : {}),
      });
      continue;
    }
    if (task.generate) {
      const { context, answers } = makeAnswer(task, row);
      questions.push({ label, subset, ...none, contexts: [before + context], accepted: answers });
      continue;
    }
    const item = makeItem(task, row);
    const [contexts, continuations] = sides(item, delimiter);
    questions.push({
      label,
      subset,
      choices: item.choices,
      answer: item.answer,
      contexts: contexts.map((context) => before + context),
      continuations,
    });
  }
  const generate = task.generate && { maxTokens: MAX_TOKENS, until: ["\n"], ...task.generate };
  return { name, path, questions, ...(generate ? { generate } : {}) };
}

interface PlacedRow {
  readonly row: TaskRow;
  readonly label: string;
}

async function readRowsOf({ name }: TaskDefinition, path: string, limit: number): Promise<PlacedRow[]> {
  const where = `the task ${name} from ${path}`;
  return (await readValues(path, { limit })).map(({ place: { label }, value }: PlacedValue) => ({
    row: createRow(value, { where, label }),
    label,
  }));
}

/** The text of the examples of each subset; where those rows are `asked` too, the first rows other than the row asked. */
async function readExamples(
  task: TaskDefinition,
  path: string,
  { asked }: { readonly asked: boolean },
): Promise<(subset: string, question: PlacedRow) => string> {
  const { shots = 0, delimiter = " ", shotDelimiter = "\n\n" } = task, wanted = shots + (asked ? 1 : 0);
  const bySubset = new Map<string, PlacedRow[]>();
  for (const placed of await readRowsOf(task, path, task.subset ? Infinity : wanted)) {
    const subset = subsetOf(task, placed.row), known = bySubset.get(subset);
    if (known) known.push(placed);
    else bySubset.set(subset, [placed]);
  }
  const made = new Map<PlacedRow, string>();
  const exampleOf = (placed: PlacedRow): string => {
    const known = made.get(placed);
    if (known !== undefined) return known;
    const text = `${solved(task, placed.row, delimiter)}${shotDelimiter}`;
    made.set(placed, text);
    return text;
  };
  return (subset, { row, label }) => {
    const others = (bySubset.get(subset) ?? []).filter((one) => !asked || one.label !== label).slice(0, shots);
    if (others.length === shots) return others.map(exampleOf).join("");
    const whose = subset === "" ? "" : ` for ${JSON.stringify(subset)}`,
      more = asked ? " in addition to the question" : "";
    throw row.error(`${path} has ${shots} examples${whose}${more}`, `needs ${shots}, and there are ${others.length}`);
  };
}

/** A question with its right answer. */
function solved(task: TaskDefinition, row: TaskRow, delimiter: string): string {
  if (task.generate) {
    const { context, answers: [first = ""] } = makeAnswer(task, row);
    return context + delimiter + first;
  }
  const item = makeItem(task, row), [contexts, continuations] = sides(item, delimiter);
  if (item.answer === null) throw row.error("an example has a right choice", "has none");
  return `${contexts[item.answer]}${continuations[item.answer]}`;
}

function describe({ description = "" }: TaskDefinition, row: TaskRow): string {
  if (typeof description === "string") return description;
  return textOf(row, { rule: "the task's description is a text", make: () => description(row) });
}

/** "" where the task has no subsets. */
function subsetOf({ subset }: TaskDefinition, row: TaskRow): string {
  return subset ? textOf(row, { rule: "the task's subset is a text", make: () => subset(row) }) : "";
}

/** What the task's own code makes of a row, which `rule` says. */
interface Made {
  readonly rule: string;
  readonly make: () => unknown;
}

function textOf(row: TaskRow, made: Made): string {
  const text = madeOf(row, made);
  if (typeof text === "string") return text;
  throw row.error(made.rule, `gives ${text === undefined ? "nothing" : shownJson(text)}`);
}

/** Runs what may be the user's own code. */
function madeOf(row: TaskRow, { rule, make }: Made): unknown {
  try {
    const made = make();
    if (!(made instanceof Promise)) return made;
    // What it throws later must not end the program.
    made.catch(() => {});
    throw row.error(rule, "gives a promise: the function is async");
  } catch (error) {
    if (error instanceof CompressoError) throw error;
    throw row.error(rule, `ends in ${error}`);
  }
}

/** Contexts and continuations of the choices. */
function sides(
  { context, choices, continuation = "" }: TaskItem,
  delimiter: string,
): [contexts: readonly string[], continuations: readonly string[]] {
  return typeof context === "string"
    ? [choices.map(() => context), choices.map((choice) => delimiter + choice)]
    : [context, choices.map(() => delimiter + continuation)];
}

const QUESTION_RULE = "the task makes a question of each row";

/** The question of a row whose answer is generated, checked. */
function makeAnswer(
  task: TaskDefinition,
  row: TaskRow,
): Pick<AnswerQuestion, "context"> & { readonly answers: readonly string[] } {
  const item = madeOf(row, { rule: QUESTION_RULE, make: () => task.item(row) });
  const { context, answers }: Json = isObject(item) ? item : {};
  const list = typeof answers === "string" ? [answers] : answers;
  if (typeof context !== "string" || !isTexts(list)) {
    const rule = "a question of a task with generate has a context and answers that are texts";
    throw row.error(rule, `gives ${item === undefined ? "nothing" : shownJson(item)}`);
  }
  if (list.length === 0 || list.some((one) => one.trim() === "")) {
    throw row.error("there is at least one answer, and none is empty", `has ${shownJson(list)}`);
  }
  return { context, answers: list };
}

/** The question of a row whose answer is code, checked. */
function makeCode(task: TaskDefinition, row: TaskRow): CodeQuestion {
  const item = madeOf(row, { rule: QUESTION_RULE, make: () => task.item(row) });
  const { context, program, chat }: Json = isObject(item) ? item : {};
  const isProgram = isObject(program) && typeof program["before"] === "string" && typeof program["after"] === "string";
  const isChat = chat === undefined ||
    isObject(chat) && typeof chat["asked"] === "string" && typeof chat["begun"] === "string";
  if (typeof context === "string" && isProgram && isChat) return item as CodeQuestion;
  const rule =
    "a question of a task with the rule code has a context, program: { before, after }, and perhaps chat: { asked, begun }";
  throw row.error(rule, `gives ${item === undefined ? "nothing" : shownJson(item)}`);
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((part) => typeof part === "string");
}

/** The question of a row, checked. */
function makeItem(task: TaskDefinition, row: TaskRow): TaskItem {
  const item = madeOf(row, { rule: QUESTION_RULE, make: () => task.item(row) });
  const { context, choices, continuation }: Json = isObject(item) ? item : {};
  const isContext = typeof context === "string" || isTexts(context);
  if (!isContext || !isTexts(choices) || (continuation !== undefined && typeof continuation !== "string")) {
    throw row.error(
      "a question has a context, choices that are texts, and an answer (or, in a task with generate, a context and answers)",
      `gives ${item === undefined ? "nothing" : shownJson(item)}`,
    );
  }
  return checkItem(item as TaskItem, row);
}

function checkItem(item: TaskItem, row: TaskRow): TaskItem {
  const { context, choices, continuation, answer } = item;
  if (choices.length < 2) throw row.error("a question has at least two choices", `has ${shownJson(choices)}`);
  const empty = choices.indexOf("");
  if (empty >= 0) {
    throw row.error("no choice is empty", `has ${shownJson(choices)}, where choice ${empty + 1} is empty`);
  }
  if (answer !== null && (!Number.isInteger(answer) || answer < 0 || answer >= choices.length)) {
    throw row.error(`the answer is one of the ${choices.length} choices`, `has number ${answer}, counted from 0`);
  }
  if (typeof context === "string") return item;
  if (continuation === undefined || continuation === "") {
    throw row.error("a question with a context for each choice has a continuation", "has none");
  }
  if (context.length === choices.length) return item;
  throw row.error(
    "there is one context, or one for each choice",
    `has ${context.length} for ${choices.length} choices`,
  );
}

interface Wanted {
  readonly folder: string;
  readonly splits: readonly string[];
}

/** The file of the examples. That of the questions has them where the task takes examples from its split. */
async function findExamples(
  { name, splits: [asked = ""] = SPLITS, shotSplits: splits = SHOT_SPLITS }: TaskDefinition,
  { folder, path }: { readonly folder: string; readonly path: string },
): Promise<string> {
  const found = await findFile(name, { folder, splits: splits.filter((split) => split !== asked) });
  return found ?? (splits.includes(asked) ? path : await noData(name, { folder, splits }));
}

async function findFile(name: string, { folder, splits }: Wanted): Promise<string | null> {
  for (const split of splits) {
    for (const extension of EXTENSIONS) {
      const path = within(folder, `${name}.${split}.${extension}`);
      if (await isFile(path)) return path;
    }
  }
  return null;
}

async function noData(name: string, { folder, splits }: Wanted): Promise<never> {
  refuse("input", `cannot find the data of the task ${name}`, {
    rule: `they are ${within(folder, `${name}.<split>.<ext>`)}, split ${splits.join(", ")}, ext ${
      EXTENSIONS.join(", ")
    }`,
    value: isHubName(folder)
      ? `${folder} is a name on the Hub`
      : await isFolder(folder)
      ? "no such file"
      : `${folder} is no folder`,
    fix: `${isHubName(folder) ? "download the files, " : ""}name the folder by ${
      option("taskData")
    }, and its files by task and split`,
  });
}

async function isFile(path: string): Promise<boolean> {
  return await fileKind(path).then((kind) => kind === "file", () => false);
}
