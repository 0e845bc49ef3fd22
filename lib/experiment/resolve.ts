// Applies the overrides of an experiment and resolves the paths of its files. It does not read the files.
import { option, refuse } from "../core/errors.ts";
import { isTaskFile } from "../eval/task_file.ts";
import { DEMO, demoData } from "../local/open_model.ts";
import { dataOf, defineExperiment, gridsOf, modelsOf } from "./definition.ts";
import { cellsOf } from "./grid.ts";
import { isScriptPath } from "./identity.ts";
import { absolutePath } from "./open.ts";
import { type CellOptions, typeOfOption } from "./options.ts";
import type {
  DataSource,
  EvaluateDefinition,
  Experiment,
  ExperimentDefinition,
  ExperimentOverrides,
  Grid,
  ResolvedExperiment,
} from "./types.ts";

/** Stands for a file that is not there. */
const NONE = "none";

/**
 * Applies the overrides and resolves paths. Throws `CompressoError("usage")` for unknown names, and for files without a
 * path.
 */
export function resolveExperiment(experiment: Experiment, overrides: ExperimentOverrides = {}): ResolvedExperiment {
  const definition = withOptions(experiment.definition, overrides.set ?? {});
  const { root = experiment.root ?? "." } = overrides;
  const files: Record<string, string | null> = Object.fromEntries(
    Object.entries(definition.files ?? {}).map((
      [name, path],
    ) => [name, path === false ? NONE : path === null ? null : absolutePath(root, path)]),
  );
  assign(files, overrides.files, { kind: "files", experiment: definition.name });
  const find = (path: string): string =>
    path.startsWith("@") ? named(files, path.slice(1), definition) : absolutePath(root, path);

  const models: Record<string, string> = mapValues(
    modelsOf(definition),
    (path) => path === DEMO || path.startsWith("@") ? path : absolutePath(root, path),
  );
  assign(models, overrides.models, { kind: "models", experiment: definition.name });
  for (const [name, path] of Object.entries(models)) if (path.startsWith("@")) models[name] = find(path);

  const isDemo = Object.values(models).every((path) => path === DEMO);
  const own = dataOf(definition),
    sets = Object.keys(own).length === 0 ? { data: isDemo ? demoData("train") : "" } : own;
  const data: Record<string, DataSource> = { ...sets };
  assign(data, overrides.data, { kind: "data", experiment: definition.name });
  for (const [name, source] of Object.entries(data)) {
    if (source === "") {
      refuse("usage", `cannot run the experiment '${definition.name}' without data`, {
        rule: "it names its data; only the demo has its own",
        value: "no data, and a model other than demo",
        fix: `add data to the definition, or give ${option("data")}`,
      });
    }
    data[name] = overrides.data?.[name] !== undefined ? source : foundData(source, find);
  }
  const { evaluate = {} } = definition;
  return {
    definition,
    models,
    data,
    evaluate: foundMeasures(evaluate, {
      find,
      isThere: (path) => !path.startsWith("@") || files[path.slice(1)] !== NONE,
    }),
    cells: cellsOf(definition).map(({ name, options }) => ({ name, options: foundOptions(options, find) })),
  };
}

/** Sets options: an axis of a grid gets other values, the base another one. */
function withOptions(
  definition: ExperimentDefinition,
  set: Readonly<Record<string, readonly unknown[]>>,
): ExperimentDefinition {
  let base: CellOptions = definition.base ?? {}, grids = gridsOf(definition);
  for (const [name, given] of Object.entries(set)) {
    const values = together(name, given).map((value) => givenValue(name, value));
    if (grids.some((grid) => Object.hasOwn(grid, name))) {
      refuseUntied(name, grids, definition);
      grids = grids.map((grid): Grid => ({ ...grid, [name]: values }));
    } else if (values.length === 1) base = { ...base, [name]: values[0] };
    else grids = grids.map((grid): Grid => ({ ...grid, [name]: values }));
  }
  return defineExperiment({ ...definition, base, grid: grids }).definition;
}

/** Values of an option; several words or numbers are one value of an option that is a list. */
function together(name: string, given: readonly unknown[]): readonly unknown[] {
  const type = typeOfOption(name);
  if (type === "layers" && !given.some(Array.isArray)) return [given];
  return (type === "words" || type === "alarms") && given.every((value) => typeof value === "string")
    ? [given.join(",")]
    : given;
}

/** Refuses to set an axis whose values differ between grids: they belong to the other options of these grids. Seeds do not. */
function refuseUntied(name: string, grids: readonly Grid[], { name: experiment }: ExperimentDefinition): void {
  const own = grids.map((grid): string =>
    JSON.stringify(Object.entries(grid).find(([option]) => option === name)?.[1]) ?? "none"
  );
  if (new Set(own).size === 1 || (name === "seed" && !own.includes("none"))) return;
  refuse("usage", `cannot set '${name}' in the experiment '${experiment}'`, {
    rule: "an option can be overridden only if every grid gives it the same values, or no grid gives it",
    value: own.map((values, index) => `${values} in grid ${index + 1}`).join(", "),
    fix: `change the definition's grids, or choose among their runs by ${option("only")}`,
  });
}

function assign(
  paths: Record<string, DataSource | null>,
  given: Readonly<Record<string, string>> | undefined,
  { kind, experiment }: { readonly kind: "files" | "models" | "data"; readonly experiment: string },
): void {
  for (const [name, path] of Object.entries(given ?? {})) {
    if (!Object.hasOwn(paths, name)) {
      refuse("usage", `cannot use ${option(kind, `${name}=${path}`)}`, {
        rule: `the experiment '${experiment}' has ${Object.keys(paths).join(", ") || "none"}`,
        value: name,
      });
    }
    const isWord = (path === DEMO && kind === "models") || (path === NONE && kind === "files");
    paths[name] = isWord ? path : absolutePath(path);
  }
}

function named(
  files: Readonly<Record<string, string | null>>,
  name: string,
  { name: experiment }: ExperimentDefinition,
): string {
  const path = files[name];
  if (typeof path === "string" && path !== NONE) return path;
  refuse("usage", `cannot run the experiment '${experiment}'`, {
    rule: `it needs a file that it calls '${name}'`,
    value: path !== undefined ? "no path is given" : `its files are ${Object.keys(files).join(", ") || "none"}`,
    fix: path !== undefined ? `give its path by ${option("files")} ${name}=PATH` : `add '${name}' to its files`,
  });
}

type Find = (path: string) => string;

function foundData(source: DataSource, find: Find): DataSource {
  if (typeof source === "string") return find(source);
  if ("answers" in source) return { answers: { ...source.answers, file: find(source.answers.file) } };
  return "generate" in source ? source : { ...source, file: find(source.file) };
}

function foundMeasures(
  { perplexity = [], rows = [], choices = [], tasks, prompt }: EvaluateDefinition,
  { find, isThere }: { readonly find: Find; readonly isThere: (path: string) => boolean },
): EvaluateDefinition {
  const taskNames = (tasks?.names ?? []).filter(isThere).map((name) =>
    name.startsWith("@") || isTaskFile(name) ? find(name) : name
  );
  const prompts = (prompt ?? []).filter((setting) => typeof setting !== "string" || isThere(setting))
    .map((setting) => typeof setting === "string" ? find(setting) : setting);
  return {
    perplexity: perplexity.filter(({ text }) => isThere(text)).map((item) => ({ ...item, text: find(item.text) })),
    rows: rows.filter(({ file }) => isThere(file)).map((item) => ({ ...item, file: find(item.file) })),
    choices: choices.filter(({ file }) => isThere(file)).map((item) => ({ ...item, file: find(item.file) })),
    ...(tasks && isThere(tasks.data) && taskNames.length > 0
      ? { tasks: { ...tasks, names: taskNames, data: find(tasks.data) } }
      : {}),
    prompt: prompts.length > 0 ? prompts : [false],
  };
}

function foundOptions(options: CellOptions, find: Find): CellOptions {
  const { schedule, prompt } = options;
  return {
    ...options,
    ...(schedule !== undefined && isScriptPath(schedule) ? { schedule: find(schedule) } : {}),
    ...(typeof prompt === "string" ? { prompt: find(prompt) } : {}),
  };
}

/** The value of an override: a path is relative to the current folder, unless it begins with @. */
function givenValue(option: string, value: unknown): unknown {
  if (typeof value !== "string" || value.startsWith("@")) return value;
  return option === "prompt" || (option === "schedule" && isScriptPath(value)) ? absolutePath(value) : value;
}

function mapValues(
  record: Readonly<Record<string, string>>,
  change: (value: string) => string,
): Record<string, string> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, change(value)]));
}
