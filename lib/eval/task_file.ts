// Tasks from a user's file: a module that exports a definition, or JSON with templates.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import { withoutMark } from "../core/text.ts";
import { fileKind, isMissing } from "../files/held_file.ts";
import { urlOf } from "../files/url.ts";
import { exactText } from "../files/text_file.ts";
import { z } from "../core/packages.ts";
import { shownJson } from "../core/text.ts";
import { asTask, type TaskDefinition, type TaskRow } from "./task.ts";

/** A task as JSON. `{{field}}` in a text stands for a field of the row. */
const JsonTask = z.strictObject({
  name: z.string(),
  /** The text before a choice. */
  context: z.string(),
  /** A field with a list of texts, or the choices themselves. Without, the answer is generated. */
  choices: z.union([z.string(), z.array(z.string()).min(2)]).optional(),
  /** A field: the index of the right choice, its text, or its label; without choices the right answer, or a list of accepted answers. */
  answer: z.string(),
  /** Tokens of a generated answer at most. */
  maxTokens: z.int().min(1).optional(),
  /** Texts before which a generated answer ends. */
  until: z.array(z.string().min(1)).optional(),
  /** How a generated answer is judged: "exact" or "number". */
  rule: z.enum(["exact", "number"]).optional(),
  /** Whether a generated answer is asked for in the model's chat template. */
  chat: z.boolean().optional(),
  /** A field with the labels of the choices. */
  labels: z.string().optional(),
  splits: z.array(z.string()).min(1).optional(),
  shots: z.int().min(0).optional(),
  shotSplits: z.array(z.string()).min(1).optional(),
  description: z.string().optional(),
  delimiter: z.string().optional(),
  shotDelimiter: z.string().optional(),
  /** A field that names the subset of a row. */
  subset: z.string().optional(),
});

/** Whether the word names a file and not a built-in task. */
export function isTaskFile(word: string): boolean {
  return /[/\\]/.test(word) || /\.(?:ts|js|mjs|json)$/.test(word);
}

/** Whether a task's file is imported; all but JSON are. */
export function isTaskModule(path: string): boolean {
  return !path.endsWith(".json");
}

/**
 * Reads a task from a file. A `.ts`, `.js` or `.mjs` file is the user's own code: it is imported and runs with the permissions of the process.
 *
 * @throws CompressoError("input") if the file is missing or defines no task.
 */
export async function readTaskFile(path: string): Promise<TaskDefinition> {
  if (!isTaskModule(path)) return await readJsonTask(path);
  let module: unknown;
  try {
    await fileKind(path);
    module = await import(urlOf(path).href);
  } catch (error) {
    throw unreadable(path, importFault(error), error);
  }
  const value = typeof module === "object" && module !== null && "default" in module ? module.default : undefined;
  return asTask(value, path);
}

async function readJsonTask(path: string): Promise<TaskDefinition> {
  let value: unknown;
  try {
    value = JSON.parse(withoutMark(await exactText(path)));
  } catch (error) {
    const value = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    throw unreadable(path, { rule: "it is a JSON file of UTF-8", value, fix: "fix the file" }, error);
  }
  const parsed = JsonTask.safeParse(value);
  if (!parsed.success) {
    // A mistyped part says more than the part that is missing for it.
    const { issues } = parsed.error, issue = issues.find(({ code }) => code === "unrecognized_keys") ?? issues[0];
    refuse("input", `cannot use the task of ${path}`, {
      rule:
        "a task in JSON has name, context, answer, and perhaps choices, labels, maxTokens, until, rule, chat, splits, shots, shotSplits, description, delimiter, shotDelimiter, subset",
      value: issue ? `${issue.path.join(".") || "the file"}: ${issue.message}` : "another shape",
      fix: "correct that part",
    });
  }
  const { context, choices, answer, labels, maxTokens, until, rule, chat, description, subset, ...rest } = parsed.data;
  const idle = choices === undefined ? { labels } : { maxTokens, until, rule, chat };
  const given = Object.entries(idle).find(([, part]) => part !== undefined)?.[0];
  if (given !== undefined) {
    refuse("input", `cannot use the task of ${path}`, {
      rule: "labels go with choices; maxTokens, until, rule and chat with answers that are generated",
      value: `${given} ${choices === undefined ? "without" : "with"} choices`,
      fix: `leave ${given} out`,
    });
  }
  return asTask({
    ...defined(rest),
    ...(choices === undefined ? { generate: defined({ maxTokens, until, rule, chat }) } : {}),
    item: (row: TaskRow) => {
      if (choices === undefined) return { context: filled(context, row), answers: answersOf(row, answer) };
      const texts = typeof choices === "string" ? row.texts(choices) : choices.map((choice) => filled(choice, row));
      return { context: filled(context, row), choices: texts, answer: answerOf(row, { answer, labels, texts }) };
    },
    ...(description === undefined ? {} : { description: (row: TaskRow) => filled(description, row) }),
    ...(subset === undefined ? {} : { subset: (row: TaskRow) => row.text(subset) }),
  }, path);
}

/** The parts that are given. */
function defined(parts: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(parts).filter(([, part]) => part !== undefined));
}

/** The right answers of a row: a list, or a text, number or truth value. */
function answersOf(row: TaskRow, field: string): readonly string[] {
  return Array.isArray(row.value(field)) ? row.texts(field) : [textOf(row, field)];
}

/** A template with the fields of a row in place of their names. */
function filled(template: string, row: TaskRow): string {
  return template.replace(/\{\{\s*([^{}]+?)\s*\}\}/g, (_, field: string) => textOf(row, field));
}

function textOf(row: TaskRow, field: string): string {
  const value = row.value(field);
  return typeof value === "number" || typeof value === "boolean" ? String(value) : row.text(field);
}

function answerOf(
  row: TaskRow,
  { answer, labels, texts }: {
    readonly answer: string;
    readonly labels: string | undefined;
    readonly texts: readonly string[];
  },
): number {
  const value = row.value(answer);
  if (labels === undefined && typeof value !== "string") return row.whole(answer);
  const wanted = row.text(answer),
    known = labels === undefined ? texts : row.texts(labels),
    index = known.indexOf(wanted);
  if (index >= 0) return index;
  if (labels === undefined && /^\s*\d+\s*$/.test(wanted)) return row.whole(answer);
  throw row.error(
    `"${answer}" is ${labels === undefined ? "a choice or its index" : `one of "${labels}"`}`,
    `has ${shownJson(wanted)}`,
  );
}

/** What is wrong with a file, as an error says it. */
type Fault = { readonly [part in "rule" | "value" | "fix"]: string };

/** Why a module of the user's own could not be imported. */
export function importFault(error: unknown): Fault {
  return {
    rule: "it is a module that Deno can import",
    value: error instanceof Error ? `${error.name}: ${error.message}` : String(error),
    fix: "fix the file; a name such as compresso/evaluate needs a Compresso that was installed with -c deno.json",
  };
}

function unreadable(path: string, { rule, ...fault }: Fault, error: unknown): CompressoError {
  const { value, fix } = isMissing(error) ? { value: "no such file", fix: "check the path" } : fault;
  return refusal("input", `cannot read the task ${path}`, { rule, value, fix, cause: error });
}
