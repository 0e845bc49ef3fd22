// Measurements of models as `compresso eval --json` prints them.
import { isObject } from "../core/guards.ts";
import { CompressoError, refusal } from "../core/errors.ts";
import { withoutMark } from "../core/text.ts";
import { lastPart } from "../files/path.ts";
import { readMarkedText } from "../files/text_file.ts";

/** One measured number. */
export interface Score {
  /**
   * The task. For perplexity "text, windows of N", with a stride also ", each M further"; for rows with choices
   * "choices".
   */
  readonly task: string;
  /** Its name, such as acc_norm. */
  readonly metric: string;
  /** The number. */
  readonly value: number;
  /** Its standard error; null if none was given. */
  readonly stderr: number | null;
  /** Number of items or tokens; null if not given. */
  readonly count: number | null;
  /** How many of these items did not fit the model's context and lost their beginning; absent if that was not given. */
  readonly truncated?: number;
  /** Comparison with the same score of another model, item by item; null if not measured. */
  readonly change: ScoreChange | null;
}

/** A score compared with that of another model, with the 95 % confidence interval. */
export interface ScoreChange {
  /** The other model. */
  readonly against: string;
  /** Whether the numbers are ratios, this score over the other's. Otherwise they are differences. */
  readonly isRatio: boolean;
  /** The ratio or the difference. */
  readonly value: number;
  /** Lower end of the interval; null if it is not known. */
  readonly low: number | null;
  /** Upper end. */
  readonly high: number | null;
}

/** The measurements of one model. */
export interface Evaluation {
  /** Name of the file without its ending; the model, where the file holds several. */
  readonly name: string;
  /** The file, as it was named. */
  readonly file: string;
  /** The numbers, in the file's order. */
  readonly scores: readonly Score[];
}

type Values = Readonly<Record<string, unknown>>;

/** Numbers that say how something was measured, not how well the model did. */
const CIRCUMSTANCES = /^(n|nll|tokens|windows?|stride|correct|shots?|limit|seed|seconds|truncated|.*stderr.*)$/;

/** Metrics that come first. */
const FIRST = ["acc", "accuracy", "exact_match"];

/**
 * Reads a file of `compresso eval --json`, in UTF-8 or, as PowerShell may write it, in UTF-16 with a byte order mark. Throws `CompressoError("input")` for
 * anything else.
 */
export async function readEvaluation(path: string): Promise<Evaluation[]> {
  const text = await readMarkedText(path, {
    what: `cannot read the evaluation ${path}`,
    fix: "check the path, or make it with `compresso eval`, as JSON",
  });
  return parseEvaluation(text, path);
}

/** Models of one evaluation. */
const MOST_MODELS = 100;

/** The models of an evaluation's JSON. Errors name `path`; it is also the name of a single model. */
export function parseEvaluation(text: string, path: string): Evaluation[] {
  let value: unknown = null;
  try {
    value = JSON.parse(withoutMark(text));
  } catch (error) {
    throw wrong(path, error instanceof Error ? error.message : String(error));
  }
  if (!isObject(value)) throw wrong(path, Array.isArray(value) ? "a list" : typeof value);
  const { models, differences } = value;
  if (Array.isArray(models) && models.length > MOST_MODELS) {
    throw wrong(path, `${models.length} models, of at most ${MOST_MODELS}`);
  }
  const changes = objects(differences);
  const named = Array.isArray(models)
    ? objects(models).map((one, index) =>
      [typeof one["model"] === "string" ? one["model"] : `model ${index + 1}`, one] as const
    )
    : [[lastPart(path).replace(/\.json$/, ""), value] as const];
  const evaluations = named.map(([name, one]): Evaluation => {
    const change = Array.isArray(models) ? changes.find((other) => other["model"] === name) ?? null : null;
    return { name, file: path, scores: scoresOfModel(one, change) };
  });
  if (evaluations.length === 0 || evaluations.some(({ scores }) => scores.length === 0)) {
    throw wrong(path, `keys ${Object.keys(value).slice(0, 8).join(", ") || "none"}`);
  }
  return evaluations;
}

function scoresOfModel(values: Values, change: Values | null): Score[] {
  const against = typeof change?.["against"] === "string" ? change["against"] : "";
  const tasks = isObject(values["tasks"]) ? values["tasks"] : {}, changes = change?.["tasks"];
  const perplexities = objects(values["perplexities"]), ratios = objects(change?.["perplexities"]);
  const alone = typeof values["perplexity"] === "number" ? [values] : [];
  const windows = [...alone, ...perplexities].flatMap((measured, index) =>
    scoresOf(measured, { task: windowName(measured), change: { perplexity: ratios[index] }, against })
  );
  const choices = FIRST.some((metric) => typeof values[metric] === "number")
    ? scoresOf(values, { task: "choices", change, against })
    : [];
  return [
    ...windows,
    ...choices,
    ...Object.entries(tasks).flatMap(([task, measured]) =>
      isObject(measured)
        ? scoresOf(measured, {
          task,
          change: isObject(changes) && isObject(changes[task]) ? changes[task] : null,
          against,
        })
        : []
    ),
  ];
}

function scoresOf(measured: Values, { task, change, against }: {
  readonly task: string;
  readonly change: Values | null;
  readonly against: string;
}): Score[] {
  const numberAt = (...names: readonly string[]): number | null => numbers(measured, names)[0] ?? null;
  const truncated = numberAt("truncated");
  return Object.entries(measured).flatMap(([metric, value]) => {
    if (typeof value !== "number" || CIRCUMSTANCES.test(metric)) return [];
    // One `stderr` is that of the first metric.
    const stderr = numberAt(`${metric}_stderr`, ...(FIRST.includes(metric) ? ["stderr"] : []));
    const found = change?.[metric];
    return [{
      ...{ task, metric, value, stderr, count: numberAt("n", "tokens") },
      ...(truncated === null ? {} : { truncated }),
      change: isObject(found) ? changeOf(found, against) : null,
    }];
  });
}

function changeOf(found: Values, against: string): ScoreChange | null {
  const [ratio] = numbers(found, ["ratio"]), [value = ratio] = numbers(found, ["difference"]);
  if (value === undefined) return null;
  const at = (name: string): number | null => numbers(found, [name])[0] ?? null;
  return { against, isRatio: ratio !== undefined, value, low: at("low"), high: at("high") };
}

function windowName({ window, stride }: Values): string {
  if (typeof window !== "number") return "text";
  return `text, windows of ${window}${typeof stride === "number" ? `, each ${stride} further` : ""}`;
}

function numbers(values: Values, names: readonly string[]): number[] {
  return names.flatMap((name) => {
    const value = values[name];
    return typeof value === "number" ? [value] : [];
  });
}

function objects(value: unknown): Values[] {
  return Array.isArray(value) ? value.filter(isObject) : [];
}

function wrong(path: string, value: string): CompressoError {
  return refusal("input", `cannot use the evaluation ${path}`, {
    rule:
      "it is what `compresso eval` prints as JSON: an object of tasks, perplexity or accuracy, or of several models",
    value,
  });
}
