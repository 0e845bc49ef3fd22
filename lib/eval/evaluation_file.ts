// The file that an evaluation keeps its questions in as they are scored, so that one that stops goes on. Owns the format and what must agree;
// refuses to score.
//
// JSON lines: a head with what the evaluation is, then one line for each scored question. A line that was cut off as the process ended is
// dropped; the others count.
import { CompressoError } from "../errors.ts";
import { isObject } from "../io/tokenizer_compat.ts";
import type { RunIdentity } from "../run/checkpoint.ts";
import type { TaskItemScore } from "./evaluate.ts";

/** An open file; dispose it to close it. */
export interface EvaluationFile extends Disposable {
  /** Questions that it held when it was opened. */
  readonly found: number;
  /** Scores that it held of a model's questions, by place. */
  known(model: string, task: string): ReadonlyMap<number, readonly number[]>;
  /** Adds a question. */
  add(
    model: string,
    task: string,
    entry: { readonly place: number; readonly label: string; readonly item: TaskItemScore },
  ): void;
}

const VERSION = 1;

/**
 * Opens the file at a path, or begins it.
 *
 * @throws CompressoError("mismatch") where it is that of another evaluation, with what differs; "input" where it is no such file or cannot be
 * written.
 */
export async function openEvaluationFile(path: string, identity: RunIdentity): Promise<EvaluationFile> {
  const text = await readOld(path), scores = new Map<string, Map<number, readonly number[]>>();
  let found = 0;
  if (text !== "") {
    const [head = "", ...lines] = text.split("\n").slice(0, -1);
    checkHead(path, head, identity);
    for (const line of lines) {
      const value = parse(line);
      const { model, task, place, scores: own } = isObject(value) ? value : {};
      if (typeof place !== "number" || !Array.isArray(own)) throw broken(path, "a line that is no scored question");
      const key = `${model}\n${task}`, known = scores.get(key) ?? new Map<number, readonly number[]>();
      scores.set(key, known.set(place, own.map(Number)));
      found++;
    }
  }
  const file = await open(path, new TextEncoder().encode(text.slice(0, text.lastIndexOf("\n") + 1)).length);
  const write = (value: unknown): void => {
    const bytes = new TextEncoder().encode(`${JSON.stringify(value)}\n`);
    for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
  };
  if (text === "" || !text.includes("\n")) write({ compresso: "evaluation", version: VERSION, identity });
  return {
    found,
    known: (model, task) => scores.get(`${model}\n${task}`) ?? new Map<number, readonly number[]>(),
    add(model, task, { place, label, item }): void {
      const { scores, picked, pickedNorm, answer, subset, isTruncated } = item;
      write({
        model,
        task,
        place,
        label,
        subset,
        answer,
        picked,
        picked_norm: pickedNorm,
        truncated: isTruncated,
        scores,
      });
    },
    [Symbol.dispose]: () => file.close(),
  };
}

async function readOld(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw unwritable(path, error);
  }
}

async function open(path: string, length: number): Promise<Deno.FsFile> {
  try {
    const file = await Deno.open(path, { write: true, create: true });
    await file.truncate(length);
    await file.seek(0, Deno.SeekMode.End);
    return file;
  } catch (error) {
    throw unwritable(path, error);
  }
}

function checkHead(path: string, line: string, identity: RunIdentity): void {
  const head = parse(line);
  const then = isObject(head) && head["compresso"] === "evaluation" && head["version"] === VERSION
    ? head["identity"]
    : null;
  if (!isObject(then)) throw broken(path, line === "" ? "an empty line" : "another first line");
  const names = [...new Set([...Object.keys(identity), ...Object.keys(then)])];
  const differing = names.filter((name) => identity[name] !== then[name]);
  if (differing.length === 0) return;
  throw new CompressoError("mismatch", {
    what: `cannot go on with the evaluation in ${path}`,
    rule: "models, tasks, data and options are those of the first run",
    value: differing.map((name) => `${name}: ${then[name] ?? "none"} then, ${identity[name] ?? "none"} now`).join("; "),
    mend: "give the same options, remove the file, or choose another --out",
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
  return new CompressoError("input", {
    what: `cannot go on with the evaluation in ${path}`,
    rule: "the file was written by an evaluation",
    value,
    mend: "choose another --out",
  });
}

function unwritable(path: string, error: unknown): CompressoError {
  return new CompressoError("input", {
    what: `cannot keep the evaluation in ${path}`,
    rule: "the file can be read and written",
    value: error instanceof Error ? error.message : String(error),
  }, { cause: error });
}
