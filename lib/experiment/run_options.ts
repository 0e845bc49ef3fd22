// Checks the options of runExperiment and planExperiment.
import { CompressoError, refusal } from "../core/errors.ts";
import { checkNames, checkWord, type NamesOf, shown } from "../core/check_options.ts";
import type { ExperimentOverrides, RunExperimentOptions } from "./types.ts";

type PlanExperimentOptions = Pick<RunExperimentOptions, "out" | "only"> & ExperimentOverrides;

const PLAN_NAMES: NamesOf<PlanExperimentOptions> = {
  ...{ out: "text", only: true },
  ...{ root: "text", files: true, models: true, data: true, set: true },
};

const RUN_NAMES: NamesOf<RunExperimentOptions> = {
  ...PLAN_NAMES,
  ...{ device: true, maxCells: "number", keep: true, evaluateOnly: "switch", redo: "switch", signal: true },
  ...{ shared: true, shard: true },
  ...{ onCell: true, onFailure: true, onNote: true, onModel: true, onRecord: true, onAlarm: true, onPhase: true },
};

/** Throws `CompressoError("usage")` for unknown options of planExperiment, and for values of another type. */
export function checkPlanOptions(options: PlanExperimentOptions): void {
  checkNames(options, PLAN_NAMES, { whose: "planExperiment" });
  checkForms(options);
}

/** Throws `CompressoError("usage")` for unknown options of runExperiment, and for values of another type or word. */
export function checkRunOptions(options: RunExperimentOptions): void {
  checkNames(options, RUN_NAMES, { whose: "runExperiment" });
  checkForms(options);
  const { keep = "none", shared = false, shard = { index: 1, count: 1 } } = options;
  if (typeof shared !== "boolean" && !(Number(shared?.takeOverAfter) > 0)) {
    throw wrong("shared", "it is true, false or { takeOverAfter: seconds }", shared);
  }
  const isShare = Number.isInteger(shard?.index) && Number.isInteger(shard?.count) && shard.index >= 1 &&
    shard.index <= shard.count;
  if (!isShare) throw wrong("shard", "it is { index, count }, whole numbers with 1 ≤ index ≤ count", shard);
  checkWord(keep, ["none", "models"], { what: `cannot keep '${keep}'` });
}

/** Refuses types that JavaScript would misread, such as a text in place of a list. */
function checkForms({ out, only, set, files, models, data }: PlanExperimentOptions): void {
  if (!isText(out)) throw wrong("out", "it is the path of a folder", out);
  if (only !== undefined) {
    const rule = 'it is a Map from names of options to lists of texts, such as new Map([["seed", ["1", "2"]]])';
    if (!(only instanceof Map)) throw wrong("only", rule, only);
    for (const [name, values] of only) {
      if (!isText(name) || !isListOf(values, isText)) throw wrong("only", rule, values, name);
    }
  }
  const ofValues = "it is an object of lists of values by option, such as { seed: [1, 2] }";
  for (const [name, values] of partsOf("set", set, ofValues)) {
    if (!isListOf(values, () => true)) throw wrong("set", ofValues, values, name);
  }
  for (const [option, paths] of Object.entries({ files, models, data })) {
    const rule = "it is an object of paths by name";
    for (const [name, path] of partsOf(option, paths, rule)) if (!isText(path)) throw wrong(option, rule, path, name);
  }
}

function partsOf(option: string, value: unknown, rule: string): [string, unknown][] {
  if (value === undefined) return [];
  if (typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Map)) {
    return Object.entries(value);
  }
  throw wrong(option, rule, value);
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value !== "";
}

function isListOf(value: unknown, isPart: (part: unknown) => boolean): boolean {
  return Array.isArray(value) && value.length > 0 && value.every(isPart);
}

/** The error of an option, or of the part of it that is called `name`. */
function wrong(option: string, rule: string, value: unknown, name?: unknown): CompressoError {
  const present = Array.isArray(value) ? JSON.stringify(value) : value === "" ? "an empty text" : shown(value);
  return refusal("usage", `cannot use the option '${option}'`, {
    rule,
    value: name === undefined ? present : `${String(name)}: ${present}`,
  });
}
