// The options that make a run again, from those of its run.json.
import { refuse } from "../../core/errors.ts";
import { isObject } from "../../core/guards.ts";
import { cutsExperts, keepsLayers } from "../../units/kinds/all.ts";
import { isMethodName } from "../methods/all.ts";
import type { RunSummary } from "../result.ts";
import { atPaths, PRUNE_PATHS, valueAt } from "./check.ts";
import type { PruneOptions, ResolvedOptions } from "./options.ts";
import { resolveOptions } from "./resolve.ts";
import { entryOf, type OptionPath } from "./table.ts";

/** Options on which the defaults of others depend. */
const FIRST: readonly OptionPath[] = [
  ...["preset", "sparsity", "size.parameters", "size.bytes", "size.file.format", "size.file.dtype"] as const,
  ...["size.name", "units", "vocab.size", "method", "steps", "layout"] as const,
  // Without another loss, the cross-entropy has a weight.
  ...["objective.zLoss", "objective.distillation"] as const,
];

/** Options that run.json does not hold: it has the fact that there were calibration rows. */
const ABSENT: readonly OptionPath[] = ["calibration", "rows", "valRows"];

/**
 * The options to make a run again, as its run.json has them: those that differ from their defaults, and the steps. There are
 * no rows: the caller adds these, calibration rows and the schedule, which run.json does not hold.
 *
 * @param options - `options` of run.json, or of the summary of `pruneToFolder`.
 * @throws CompressoError("usage") if the method was a function of a program.
 *
 * @example
 * ```ts
 * import { prune } from "compresso";
 * import { optionsOfRun } from "compresso/run";
 *
 * async function again(model: Parameters<typeof prune>[0], folder: string, rows: Parameters<typeof prune>[1]["rows"]) {
 *   const { options } = JSON.parse(await Deno.readTextFile(`${folder}/run.json`));
 *   return await prune(model, { ...optionsOfRun(options), rows, seed: 2 });
 * }
 * ```
 */
export function optionsOfRun(options: RunSummary["options"]): PruneOptions {
  const { method, units } = options;
  const choosesNone = keepsLayers(units) && !cutsExperts(units);
  if (!choosesNone && !isMethodName(method)) {
    refuse("usage", "cannot repeat a run with a method of a program", {
      rule: "the method has a name in the list",
      value: String(method),
      option: "method",
    });
  }
  const skipped = new Set<string>([
    ...ABSENT,
    ...(choosesNone ? ["method"] : []),
    // Where the vocabulary alone is cut. Without units, a sparsity of 0 is the target.
    ...(choosesNone && units.length > 0 ? ["sparsity"] : []),
    ...(options.size === null ? [] : ["sparsity"]),
    // The multiples followed from the type of the file.
    ...(valueAt(options, "rules.fit") === undefined ? [] : ["rules.align"]),
  ]);
  const paths = PRUNE_PATHS.filter((path) => !skipped.has(path) && writtenAt(options, path) !== undefined);
  const values = new Map<OptionPath, unknown>();
  for (const path of FIRST.filter((one) => paths.includes(one))) {
    const value = writtenAt(options, path);
    if (!isSame(value, entryOf(path).default)) values.set(path, value);
  }
  for (const path of paths) {
    const value = writtenAt(options, path);
    if (!values.has(path) && !isSame(value, writtenAt(resolved(values), path))) values.set(path, value);
  }
  return asOptions(values);
}

function resolved(values: ReadonlyMap<OptionPath, unknown>): ResolvedOptions {
  return resolveOptions(asOptions(values));
}

function asOptions(values: ReadonlyMap<OptionPath, unknown>): PruneOptions {
  // `resolveOptions` checks them.
  return { ...atPaths(values), rows: [] } as unknown as PruneOptions;
}

/**
 * A resolved value as an option is given. Null stands for no value, for no prompt, and for a monitor that is off. A loss
 * without weight is absent.
 */
function writtenAt(options: Pick<ResolvedOptions, "objective">, path: OptionPath): unknown {
  const value = valueAt(options, path);
  if (path.startsWith("objective.") && isObject(options.objective)) return value ?? 0;
  if (path === "monitors" && isObject(value)) {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, one ?? { action: "off" }]));
  }
  return value !== null ? value : path === "prompt" ? "none" : undefined;
}

/** Whether two values of options are written the same. */
export function isSame(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}
