// The file in which an evaluation keeps its questions or windows as they are scored, so that it can be resumed.
//
// JSON lines. The head holds the identity of the evaluation. Each further line holds a scored question or window, and a
// digest of its other fields. A last line that was cut off is dropped.
import { digestOf } from "../core/digest.ts";
import { type CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { openAlone } from "../files/lock.ts";
import { isObject } from "../core/guards.ts";
import { differencesOf, type RunIdentity } from "../core/identity.ts";
import type { WindowLoss } from "./perplexity.ts";
import type { KnownQuestion, TaskItemScore } from "./score_task.ts";

/** What a file keeps: `Added` goes into a line, `Known` comes back from it. */
export interface EntryKind<Known, Added> {
  /** Name of the field that says which part of the evaluation a line belongs to. */
  readonly part: string;
  /** What an entry is called. */
  readonly noun: string;
  /** The fields of a line. */
  write(entry: Added): object;
  /** What a line says; null if it is no such entry. */
  read(line: Readonly<Record<string, unknown>>): Known | null;
}

/** A scored question, and where the data have it. */
export interface QuestionEntry {
  readonly label: string;
  readonly item: TaskItemScore;
}

/** Questions of tasks. */
export const QUESTIONS: EntryKind<KnownQuestion, QuestionEntry> = {
  part: "task",
  noun: "scored question",
  write: ({ label, item }) => {
    const { subset, isTruncated: truncated } = item;
    if (item.isPassed !== undefined) {
      const { text, isPassed: passed, reason } = item;
      return { label, subset, passed, reason, truncated, text };
    }
    if (item.text !== undefined) {
      const { text, isExact: exact, isStrict: strict } = item;
      return { label, subset, exact, ...(strict === undefined ? {} : { strict }), truncated, text };
    }
    const { scores, picked, pickedNorm, answer } = item;
    return { label, subset, answer, picked, picked_norm: pickedNorm, truncated, scores };
  },
  read: ({ scores, text, passed, reason, truncated }) => {
    const isTruncated = truncated === true;
    if (typeof text === "string" && typeof passed === "boolean" && typeof reason === "string") {
      return { text, verdict: { isPassed: passed, reason }, isTruncated };
    }
    return isNumbers(scores) ? { scores, isTruncated } : typeof text === "string" ? { text, isTruncated } : null;
  },
};

/** Windows of a text, by their size. */
export const WINDOWS: EntryKind<WindowLoss, WindowLoss> = {
  part: "window",
  noun: "measured window",
  write: ({ nll, tokens }) => ({ nll, tokens }),
  read: ({ nll, tokens }) => typeof nll === "number" && typeof tokens === "number" ? { nll, tokens } : null,
};

/** An open file; dispose it to close it. */
export interface EvaluationFile<Known, Added> extends Disposable {
  /** Entries that it held when it was opened. */
  readonly found: number;
  /** What it held of one part of the evaluation of a model, by place. */
  known(model: string, part: string | number): ReadonlyMap<number, Known>;
  /** Adds an entry. */
  add(model: string, part: string | number, entry: { readonly place: number } & Added): void;
}

const VERSION = 1;

/**
 * Opens the file at a path, or begins it.
 *
 * @throws CompressoError("mismatch") if it is that of another evaluation, with what differs.
 * @throws CompressoError("input") if it is no such file or cannot be written.
 */
export async function openEvaluationFile<Known, Added>(
  path: string,
  identity: RunIdentity,
  { kind }: { readonly kind: EntryKind<Known, Added> },
): Promise<EvaluationFile<Known, Added>> {
  const headLine = `${JSON.stringify({ compresso: "evaluation", version: VERSION, digests: true, identity })}\n`;
  using stack = new DisposableStack();
  const file = stack.use(
    await openAlone(path, {
      what: `cannot keep the evaluation in ${path}`,
      one: "evaluation",
      fix: `wait for its end, or choose another ${option("out")}`,
    }),
  );
  const old = new TextDecoder().decode(await file.readAll()), entries = new Map<string, Map<number, Known>>();
  // A first line that was cut off does not count, and neither does one after which nothing was scored.
  const text = (!old.includes("\n") && headLine.startsWith(old)) || isHeadAlone(old) ? "" : old;
  let found = 0;
  if (text !== "") {
    if (!text.includes("\n")) throw broken(path, "another first line");
    const [head = "", ...lines] = text.split("\n").slice(0, -1);
    const { hasDigests } = checkHead(path, head, identity);
    for (const line of lines) {
      const parsed = parse(line),
        { digest, ...fields } = isObject(parsed) ? parsed : {},
        { model, place, [kind.part]: part } = fields;
      const entry = kind.read(fields), isPart = typeof part === "string" || typeof part === "number";
      if (typeof model !== "string" || !isPart || typeof place !== "number" || entry === null) {
        throw broken(path, `a line that is no ${kind.noun}`);
      }
      if (hasDigests && digest !== digestOf([JSON.stringify(fields)])) {
        throw broken(path, `a ${kind.noun} that has changed`);
      }
      const key = `${model}\n${part}`, known = entries.get(key) ?? new Map<number, Known>();
      entries.set(key, known.set(place, entry));
      found++;
    }
  }
  await file.cutAt(new TextEncoder().encode(text.slice(0, text.lastIndexOf("\n") + 1)).length);
  const writeLine = (line: string): void => file.append(new TextEncoder().encode(line));
  const write = (value: object): void =>
    writeLine(`${JSON.stringify({ ...value, digest: digestOf([JSON.stringify(value)]) })}\n`);
  if (text === "") writeLine(headLine);
  stack.move();
  return {
    found,
    known: (model, part) => entries.get(`${model}\n${part}`) ?? new Map<number, Known>(),
    add: (model, part, entry) => write({ model, [kind.part]: part, place: entry.place, ...kind.write(entry) }),
    [Symbol.dispose]: () => file[Symbol.dispose](),
  };
}

function isNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((one) => typeof one === "number");
}

/** Whether a file is the first line of an evaluation and no more, except for a line that was cut off. */
function isHeadAlone(text: string): boolean {
  const [head = "", ...others] = text.split("\n").slice(0, -1), fields = parse(head);
  return others.length === 0 && isObject(fields) && fields["compresso"] === "evaluation" &&
    fields["version"] === VERSION;
}

/** Whether lines have digests, which files of earlier versions lack. */
function checkHead(path: string, line: string, identity: RunIdentity): { readonly hasDigests: boolean } {
  const head = parse(line);
  const then = isObject(head) && head["compresso"] === "evaluation" && head["version"] === VERSION
    ? head["identity"]
    : null;
  if (!isObject(then)) throw broken(path, line === "" ? "an empty line" : "another first line");
  const differing = differencesOf(then, identity);
  if (differing.length === 0) return { hasDigests: isObject(head) && head["digests"] === true };
  refuse("mismatch", `cannot resume the evaluation in ${path}`, {
    rule: "models, data and options are those of the first run",
    value: differing.join("; "),
    fix: `give the same options, remove the file, or choose another ${option("out")}`,
  });
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

function broken(path: string, value: string): CompressoError {
  return refusal("input", `cannot resume the evaluation in ${path}`, {
    rule: "the file was written by an evaluation",
    value,
    fix: `choose another ${option("out")}`,
  });
}
