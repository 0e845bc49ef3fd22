// Measurements of models as `compresso eval --json` prints them. Owns reading them for a table; refuses to measure.
import { basename } from "node:path";
import { CompressoError } from "../errors.ts";
import { isObject } from "../io/tokenizer_compat.ts";

/** One measured number. */
export interface Score {
  /** Task that it was measured at; "text" for perplexity. */
  readonly task: string;
  /** Its name, such as acc_norm. */
  readonly metric: string;
  /** The number. */
  readonly value: number;
  /** Its standard error; null where none was given. */
  readonly stderr: number | null;
  /** How many items or tokens it is of; null where that was not given. */
  readonly count: number | null;
}

/** The measurements of one model. */
export interface Evaluation {
  /** Name of the file without its ending. */
  readonly name: string;
  /** The numbers, in the file's order. */
  readonly scores: readonly Score[];
}

/** Numbers that say how something was measured, not how well the model did. */
const CIRCUMSTANCES = /^(n|nll|tokens|windows?|stride|correct|shots?|limit|seed|seconds|.*stderr.*)$/;

/** Reads a file of `compresso eval --json`. Throws `CompressoError("input")` for anything else. */
export async function readEvaluation(path: string): Promise<Evaluation> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    throw new CompressoError("input", {
      what: `cannot read the evaluation ${path}`,
      value: error instanceof Deno.errors.NotFound
        ? "no such file"
        : error instanceof Error
        ? error.message
        : String(error),
    });
  }
  return { name: basename(path).replace(/\.json$/, ""), scores: parseEvaluation(text, path) };
}

/** The numbers of an evaluation's JSON; `path` is named in errors. */
export function parseEvaluation(text: string, path: string): Score[] {
  let value: unknown = null;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw wrong(path, error instanceof Error ? error.message : String(error));
  }
  if (!isObject(value)) throw wrong(path, Array.isArray(value) ? "a list" : typeof value);
  const scores = scoresOf(value, "text"), tasks = value["tasks"];
  if (isObject(tasks)) {
    for (const [task, measured] of Object.entries(tasks)) {
      if (isObject(measured)) scores.push(...scoresOf(measured, task));
    }
  }
  if (scores.length === 0) throw wrong(path, `keys ${Object.keys(value).slice(0, 8).join(", ") || "none"}`);
  return scores;
}

function scoresOf(measured: Readonly<Record<string, unknown>>, task: string): Score[] {
  const numberAt = (...names: readonly string[]): number | null => {
    for (const name of names) if (typeof measured[name] === "number") return measured[name];
    return null;
  };
  return Object.entries(measured).flatMap(([metric, value]) => {
    if (typeof value !== "number" || CIRCUMSTANCES.test(metric)) return [];
    // One `stderr` is that of the first metric.
    const own = numberAt(`${metric}_stderr`, ...(metric === "acc" || metric === "accuracy" ? ["stderr"] : []));
    return [{
      task: metric === "accuracy" && task === "text" ? "choices" : task,
      metric,
      value,
      stderr: own,
      count: numberAt("n", "tokens"),
    }];
  });
}

function wrong(path: string, value: string): CompressoError {
  return new CompressoError("input", {
    what: `cannot use the evaluation ${path}`,
    rule: "it is what `compresso eval --json` prints: an object of tasks, perplexity or accuracy",
    value,
  });
}
