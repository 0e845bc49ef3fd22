// Checks and defaults that follow from the table of options: names, types, bounds, words, conflicts, presets.
import { checkNames, type OptionNames } from "../../core/check_options.ts";
import { option, refuse } from "../../core/errors.ts";
import { isObject } from "../../core/guards.ts";
import { ruleText, type ValueRule } from "../../core/value_rule.ts";
import { isMethodName, isOwnMethod, methodOf } from "../methods/all.ts";
import type { Method } from "../methods/method.ts";
import { MONITOR_NAMES } from "../monitors/alarm.ts";
import { entryOf, isOptionPath, nameOf, OPTION_PATHS, OPTION_TABLE, type OptionPath, pathsIn } from "./table.ts";
import { type Condition, GIVEN, methodsOf } from "./table/entry.ts";
import type { MemoryOptions, Preset, RunOptions } from "./options.ts";

/** Options whose value is an object with members that the table does not list. */
const PARTS: { readonly [path in OptionPath]?: OptionNames } = {
  hooks: Object.fromEntries(
    ["beforeStep", "afterStep", "beforeStage", "afterStage", "beforeExport", "afterExport"].map((name) => [name, true]),
  ),
  monitors: {
    rollbacks: "number",
    ...Object.fromEntries(MONITOR_NAMES.map((name) => [name, { action: true, threshold: "number" }])),
  },
};

/** Paths of the options of `prune`. */
export const PRUNE_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) => entryOf(path).of === undefined);

/** Paths of the options of `pruneToFolder`: those of `prune` without `checkpoint`, and its own. */
export const FOLDER_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) => {
  const { of } = entryOf(path);
  return of === "pruneToFolder" || (of === undefined && !path.startsWith("checkpoint."));
});

/** Paths of the options that memory depends on. */
const MEMORY_PATHS = pathsIn("memory");

/** Refuses options that a memory plan does not have; `whose` names the function. Throws `CompressoError("usage")`. */
export function checkMemoryOptions(
  { adapter, storedDtype: _types, ...options }: MemoryOptions,
  { whose }: { readonly whose: string },
): void {
  const { rules, ...others } = namesOf(MEMORY_PATHS);
  const names: OptionNames = {
    ...others,
    rules: isObject(rules) ? { ...rules, fit: true } : true,
    adapter: { limits: true, isCpu: "switch", subgroupSize: true },
  };
  checkNames({ ...options, adapter }, names, { whose });
  checkTogether(options, { paths: MEMORY_PATHS });
}

/** The value of an option in an object of options, as it was given; undefined if it is absent. */
export function valueAt(options: object, path: string): unknown {
  let part: unknown = options;
  for (const name of path.split(".")) part = isObject(part) ? part[name] : undefined;
  return part;
}

/** An object of options from values by path. Undefined values are left out. */
export function atPaths(values: Iterable<readonly [path: string, value: unknown]>): Readonly<Record<string, unknown>> {
  const whole: Record<string, unknown> = {};
  for (const [path, value] of values) {
    if (value === undefined) continue;
    const names = path.split("."), last = names.pop() ?? path;
    let part = whole;
    for (const name of names) {
      const inner = part[name], next: Record<string, unknown> = isObject(inner) ? inner : {};
      part[name] = next;
      part = next;
    }
    part[last] = value;
  }
  return whole;
}

/** Names that an object with these options may have, and what each is. */
export function namesOf(paths: readonly OptionPath[]): OptionNames {
  return atPaths(paths.map((path) => [path, PARTS[path] ?? kindOf(path)])) as OptionNames;
}

function kindOf(path: OptionPath): true | "list" | ValueRule {
  const { type, ...rule } = entryOf(path);
  if (type === "list" || type === "names") return "list";
  return type === "calibration" || type === "prompt" || type === "alarms" ? true : { ...rule, type };
}

/** What a value of an option is, in words: "a whole number, at least 1". */
export function ruleOf(path: OptionPath): string {
  return ruleText(entryOf(path));
}

/** The methods that take an option, in words. */
export function methodsNamed(methods: readonly string[]): string {
  return `the method${methods.length === 1 ? "" : "s"} ${methods.join(", ")}`;
}

/** Refuses unknown names, wrong types, and values that an option cannot have. Throws `CompressoError("usage")`. */
export function checkOptions(
  options: Pick<RunOptions, "hooks">,
  paths: readonly OptionPath[],
  { whose }: { readonly whose: string },
): void {
  const { hooks } = options, names = namesOf(paths);
  // An object of a class may have more fields than the hooks.
  const isPlain = !(hooks instanceof Object) || Object.getPrototypeOf(hooks) === Object.prototype;
  const others = Object.fromEntries([
    ...paths.map((path) => [nameOf(path) ?? path, path] as const).filter(([name, path]) => name !== path),
    ...FOREIGN.filter(([, path]) => paths.includes(path)),
  ]);
  checkNames(options, isPlain ? names : { ...names, hooks: true }, { whose, others });
}

/** Names of options in other toolkits. Names of flags are added by the table. */
const FOREIGN: readonly (readonly [name: string, path: OptionPath])[] = [
  ...(["ratio", "pruningRatio", "pruneRatio", "targetSparsity", "amount"] as const).map((name) =>
    [name, "sparsity"] as const
  ),
  ...(["targetSize", "maxParams", "parameters"] as const).map((name) => [name, "size.parameters"] as const),
  ...(["learningRate", "lr"] as const).map((name) => [name, "rates.lora"] as const),
  ...(["batchSize", "microBatchSize"] as const).map((name) => [name, "batch"] as const),
  ...(["maxLength", "maxSeqLength", "sequenceLength", "contextLength"] as const).map((name) => [name, "seq"] as const),
  ...(["maxSteps", "numSteps", "iterations"] as const).map((name) => [name, "steps"] as const),
  ["gradientAccumulationSteps", "accumulate"],
  ["gradientCheckpointing", "recompute"],
  ["dataset", "rows"],
];

/**
 * The value that an option has in a run: as given, the preset's, or the default. A value that depends on the steps of
 * the pruning stage needs `steps`.
 */
export function valueOf(options: object, path: OptionPath, steps?: number): unknown {
  const { default: own, paper } = entryOf(path), given = valueAt(options, path);
  if (given !== undefined) return given;
  const value = valueAt(options, "preset") === "paper" && paper !== undefined ? paper : own;
  if (typeof value !== "function") return value;
  return steps === undefined ? undefined : value(steps);
}

/**
 * Refuses options that exclude each other, or whose conditions in the table do not hold. `what` replaces the error's
 * first line. Throws `CompressoError("usage")`.
 */
export function checkTogether(
  options: object,
  { paths = OPTION_PATHS, what }: { readonly paths?: readonly OptionPath[]; readonly what?: string } = {},
): void {
  const isGiven = (path: string): boolean => meets(valueAt(options, path), GIVEN);
  for (const path of paths.filter(isGiven)) {
    const { when = {}, excludes = [] } = entryOf(path);
    const excluded = excludes.find((one) => one !== path && isGiven(one));
    if (excluded !== undefined) {
      refuse("usage", "cannot use these options together", {
        rule: `either ${option(path)} or ${option(excluded)}`,
        value: "both were given",
        option: path,
      });
    }
    for (const [other, values] of Object.entries(when)) {
      const value = isOptionPath(other) ? valueOf(options, other) : undefined;
      if (meets(value, values)) continue;
      const isMethod = typeof values === "function";
      const needed = values === GIVEN || isMethod ? option(other) : option(other, String(values[0]));
      refuse("usage", what ?? `cannot use ${option(path)}`, {
        rule: isMethod
          ? `${option(path)} is for ${methodsNamed(methodsOf({ when }))}`
          : `${option(path)} goes with ${needed}`,
        value: isMethod
          ? `method ${methodNamed(value).name}`
          : meets(value, GIVEN)
          ? option(other, String(value))
          : `no ${option(other)}`,
        fix: isMethod ? "leave it out, or choose another method" : `leave it out, or give ${needed}`,
        option: path,
      });
    }
  }
}

/** Whether the value of an option, or a member of its list, is one of these. */
function meets(value: unknown, values: Condition): boolean {
  if (values === GIVEN) return value !== undefined && value !== false;
  if (typeof values === "function") return values(methodNamed(value));
  return (Array.isArray(value) ? value : [value]).some((one) => values.includes(one));
}

/** The method of a value. An unknown name counts as the default here; another check refuses it. */
function methodNamed(value: unknown): Method {
  return methodOf(isMethodName(value) || isOwnMethod(value) ? value : OPTION_TABLE.method.default);
}

/**
 * What a preset sets for so many steps of the pruning stage. Options that are given take precedence.
 *
 * `paper` has the published settings of Compresso (arXiv 2310.05015 and its code):
 *
 * - Units: heads, FFN columns and hidden dims.
 * - Masks: log α starts from a constant and is kept within ±log 100. Hard concrete has β = 2/3 and its full noise. Kept
 *   units get a sigmoid in the end. λ is updated by Adam, and there is no projection.
 * - Data: rows are padded and not joined. LoRA learns from all labels.
 * - LoRA: rank 8 on q and v, at a rate of 5e-5, in the last stage 4e-4.
 * - Steps: eight epochs, then three of the last stage, each a seventh of `steps`. The first epoch prunes nothing, and
 *   the sixth begins at the target.
 *
 * The settings were made for some 50,000 steps. With few steps, the expected sparsity stays far below the schedule; the
 * hard sparsity still meets its target, by cutting at the end. Differences from the published code:
 *
 * - The schedule is cubic as in the paper; the public scripts use `schedule: "linear"`.
 * - `batch` and `seq` keep their defaults; the published code has `batch: 1, seq: 1024`.
 * - LoRA's rate has this toolkit's curve (see `Rates`). The published rate falls linearly from 5e-5 to 0 over the eight
 *   epochs; a schedule of your own can set that.
 * - z of an FFN column multiplies the product of gate and up once. The published code multiplies both, the gate before
 *   its SiLU.
 */
export function presetOptions(preset: Preset, steps: number): Partial<RunOptions> {
  checkNames({ preset }, namesOf(["preset"]), { whose: "presetOptions" });
  return atPaths(OPTION_PATHS.map((path) => {
    const { paper } = entryOf(path);
    return [path, typeof paper === "function" ? paper(steps) : paper];
  }));
}

/** Defaults of an object of options, such as all rates, for so many steps of the pruning stage. */
export function defaultsOf(part: string, steps: number): Readonly<Record<string, unknown>> {
  return atPaths(
    OPTION_PATHS.filter((path) => path.startsWith(`${part}.`)).map((path) => {
      const { default: own } = entryOf(path);
      return [path.slice(part.length + 1), typeof own === "function" ? own(steps) : own];
    }),
  );
}
