// Opens an experiment from a file, and resolves its paths. A script runs with all permissions of the process, so it
// must be local. An experiment in JSON cannot give such permissions to scripts of schedules or tasks.
import { dirname, extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { stripVTControlCharacters } from "node:util";
import { CompressoError, option, refuse } from "../core/errors.ts";
import { importFault, isTaskFile, isTaskModule } from "../eval/task_file.ts";
import { withoutMark } from "../core/text.ts";
import { exactText, textProblem } from "../files/text_file.ts";
import { isHubName } from "../hub/name.ts";
import { asExperiment, defineExperiment, gridsOf } from "./definition.ts";
import type { Experiment, ExperimentDefinition } from "./types.ts";

/** A path relative to a folder, or to the current one, as an absolute path; a name on the Hub as it is. */
export function absolutePath(...parts: readonly string[]): string {
  const last = parts.at(-1) ?? "";
  return isHubName(last) ? last : resolve(...parts);
}

/**
 * Opens an experiment: a .ts, .js or .mjs file, which is imported, or a .json file with the argument of {@link
 * defineExperiment}. A .json file cannot have `trust` and tasks that are modules; overrides can set them.
 *
 * @throws CompressoError("input") if it cannot be read or gives no experiment
 * @throws CompressoError("usage") for an experiment that is refused
 */
export async function openExperiment(path: string): Promise<Experiment> {
  const what = `cannot read the experiment ${path}`;
  const fail = (value: string, cause?: unknown): never => {
    const rule = "it is a local .ts, .js, .mjs or .json file", fix = "check the path, or fix the file";
    refuse("input", what, { rule, value, fix, cause });
  };
  const kind = extname(path).toLowerCase();
  if (/^https?:/i.test(path)) return fail("an address");
  const info = await Deno.stat(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    return fail(error instanceof Error ? error.message : String(error), error);
  });
  if (!info?.isFile) return fail(info ? "not a file" : "no such file");
  const root = dirname(resolve(path));
  if (kind === ".json") {
    const experiment = defineExperiment(await readJson(path, fail));
    refuseTrust(experiment, path);
    return { ...experiment, root };
  }
  if (![".ts", ".js", ".mjs"].includes(kind)) return fail(`its name ends with '${kind}'`);
  let module: { readonly default?: unknown };
  try {
    module = await import(pathToFileURL(resolve(path)).href);
  } catch (error) {
    // The definition's own error says more.
    if (error instanceof CompressoError) throw error;
    const { rule, value, fix } = importFault(error);
    // Deno colours its messages on imports.
    refuse("input", what, { rule, value: stripVTControlCharacters(value ?? ""), fix, cause: error });
  }
  return { ...asExperiment(module.default, path), root };
}

/** Refuses an experiment in JSON that would run a script, of a schedule or of tasks, with all permissions. */
function refuseTrust({ definition }: Experiment, path: string): void {
  const { base } = definition;
  const trusted = [
    ...(base?.trust === true ? ["trust: true in its base"] : []),
    ...(gridsOf(definition).some(({ trust }) => trust?.includes(true)) ? ["trust: [true] in its grid"] : []),
  ];
  const modules = taskModules(definition);
  if (trusted.length + modules.length === 0) return;
  const fixes = [
    ...(trusted.length > 0 ? [`set trust to true by ${option("set")} where you trust the script`] : []),
    ...(modules.length > 0
      ? [`name the task @NAME with null in files, and give its path by ${option("files")} where you trust the module`]
      : []),
  ];
  refuse("usage", `cannot use the experiment ${path}`, {
    rule: "JSON is data, and cannot give scripts all permissions",
    value: [...trusted, ...modules].join(", "),
    fix: `leave it out there, and ${fixes.join("; ")}`,
  });
}

/** Tasks that would be imported; files that the caller must name are the caller's. */
function taskModules({ files = {}, evaluate }: ExperimentDefinition): string[] {
  const paths = new Map(Object.entries(files));
  return (evaluate?.tasks?.names ?? []).flatMap((name) => {
    const path = name.startsWith("@") ? paths.get(name.slice(1)) : isTaskFile(name) ? name : null;
    return typeof path === "string" && isTaskModule(path) ? [`the module ${path} among its tasks`] : [];
  });
}

async function readJson(path: string, fail: (value: string, cause: unknown) => never): Promise<ExperimentDefinition> {
  try {
    return JSON.parse(withoutMark(await exactText(path)));
  } catch (error) {
    return fail(textProblem(error), error);
  }
}
