// Checks and defaults that follow from the table of options: names, types, bounds, words, which options go together, presets.
import { checkNames, nearest, type OptionNames, shown } from "../../core/check_options.ts";
import { CompressoError, option } from "../../core/errors.ts";
import { isObject } from "../../core/guards.ts";
import { MONITOR_NAMES } from "../monitors/alarm.ts";
import type { MemoryOptions } from "../contract.ts";
import { METHODS } from "../methods/names.ts";
import { entryOf, isOptionPath, OPTION_PATHS, type OptionEntry, type OptionPath } from "./table.ts";
import type { Preset, PresetOptions, PruneOptions } from "./options.ts";

/** Options whose value is an object with options of its own that no entry lists. */
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

/** Paths of the options of `pruneToFolder`: those of `prune`, but for its checkpoint, and its own. */
export const FOLDER_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) => {
  const { of } = entryOf(path);
  return of === "pruneToFolder" || (of === undefined && !path.startsWith("checkpoint."));
});

/** Paths of the options that memory depends on. */
const MEMORY_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) =>
  ["batch", "accumulate", "seq", "units", "layout", "recompute", "method", "focus", "baseDtype", "vocab.size"].includes(
    path,
  ) ||
  path.startsWith("lora.") || path.startsWith("rules.")
);

/** Refuses options that plans of memory do not have; `whose` is the function that they are given to. Throws `CompressoError("usage")`. */
export function checkMemoryOptions(
  { adapter, ...options }: MemoryOptions,
  { whose }: { readonly whose: string },
): void {
  const { rules, ...others } = namesOf(MEMORY_PATHS, { whose });
  const names: OptionNames = {
    ...others,
    rules: isObject(rules) ? { ...rules, fit: true } : true,
    adapter: { limits: true, isCpu: "switch", subgroupSize: true },
  };
  checkNames({ ...options, adapter }, names, { whose });
  checkValues(options, MEMORY_PATHS);
}

/** The value of an option in an object of options, as it was given; undefined where it is absent. */
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
export function namesOf(paths: readonly OptionPath[], { whose }: { readonly whose: string }): OptionNames {
  return atPaths(paths.map((path) => [path, PARTS[path] ?? kindOf(path, whose)])) as OptionNames;
}

function kindOf(path: OptionPath, whose: string): OptionNames[string] {
  switch (entryOf(path).type) {
    case "count":
    case "number":
    case "parameters":
    case "bytes":
      return "number";
    case "switch":
      return entryOf(path).auto === undefined ? "switch" : true;
    case "text":
      return "text";
    case "words":
    case "names":
    case "layers":
    case "list":
      return "list";
    case "calibration":
      return whose === "prune" ? "list" : true;
    default:
      return true;
  }
}

/** What a value of an option is, in words: "a whole number, at least 1". */
export function ruleOf(path: OptionPath): string {
  const entry = entryOf(path),
    { type, words = [], above, below, most, least = above === undefined ? 0 : undefined } = entry;
  switch (type) {
    case "count":
      if (most !== undefined) return `a whole number from ${least} to ${most}`;
      return `a whole number, at least ${least}${entry.endless ? ", or Infinity" : ""}`;
    case "number": {
      if (least === 0 && most === 1) return "a number from 0 to 1";
      const bounds = [
        ...(above === undefined ? [`at least ${least}`] : [`above ${above}`]),
        ...(below === undefined ? [] : [`below ${below}`]),
        ...(most === undefined ? [] : [`at most ${most}`]),
      ];
      return `a number ${bounds.join(" and ")}`;
    }
    case "parameters":
      return "a number of parameters above 0, such as 5.4B or 113280192";
    case "bytes":
      return "a number of bytes above 0, such as 800M or 6G";
    case "switch":
      return entry.auto === undefined ? "true or false" : 'true, false or "auto"';
    case "word":
      return `one of ${words.join(", ")}`;
    case "words":
    case "names":
      return `some of ${words.join(", ")}, each once`;
    case "layers":
      return "numbers of layers, such as 0, 1, -1";
    case "text":
      return "a text that is not empty";
    case "prompt":
      return "true, false or the path of a text";
    default:
      return "a value of this option";
  }
}

/** The methods that take an option, in words. */
export function methodsNamed(methods: readonly string[]): string {
  return `the method${methods.length === 1 ? "" : "s"} ${methods.join(", ")}`;
}

/** Whether an option may have a value, by its type, words and bounds. */
export function accepts(path: OptionPath, value: unknown): boolean {
  const entry = entryOf(path), { type, words = [] } = entry;
  const isWord = (word: unknown): boolean => words.some((known) => known === word);
  switch (type) {
    case "count":
      return (entry.endless && value === Infinity) || (Number.isInteger(value) && isInBounds(value, entry));
    case "parameters":
    case "bytes":
      return Number.isSafeInteger(value) && Number(value) > 0;
    case "number":
      return isInBounds(value, entry) && (!entry.single || isInBounds(Math.fround(Number(value)), entry));
    case "switch":
      return typeof value === "boolean" || (value === "auto" && entry.auto !== undefined);
    case "word":
      return isWord(value);
    case "words":
      return Array.isArray(value) && value.length > 0 && value.every(isWord) && new Set(value).size === value.length;
    case "layers":
      return Array.isArray(value) && value.every(Number.isInteger);
    case "text":
      return typeof value === "string" && value !== "";
    default:
      return true;
  }
}

function isInBounds(
  value: unknown,
  { above, below, most, least = above === undefined ? 0 : -Infinity }: OptionEntry,
): boolean {
  return typeof value === "number" && Number.isFinite(value) && value >= least && value > (above ?? -Infinity) &&
    value < (below ?? Infinity) && value <= (most ?? Infinity);
}

/** What may have been meant by a value that an option cannot have: 0.3 for a share of 30 or "30%"; null where nothing is near. */
export function meantBy(path: OptionPath, value: unknown): string | null {
  const { type, words, below, most } = entryOf(path);
  if (type === "word" && words !== undefined) return typeof value === "string" ? nearest(value, words) : null;
  if (type !== "number" || (below ?? most) !== 1 || !["string", "number"].includes(typeof value)) return null;
  const [, digits] = typeof value === "string"
    ? /^\s*\+?(\d+(?:\.\d+)?)\s*%?\s*$/.exec(value) ?? []
    : [, String(value)];
  const share = Number(digits) / 100;
  return Number(digits) > 1 && accepts(path, share) ? String(share) : null;
}

/** Throws `CompressoError("usage")` for a value that an option cannot have. */
function checkValue(path: OptionPath, value: unknown): void {
  if (accepts(path, value)) return;
  const { type, single } = entryOf(path), meant = meantBy(path, value);
  const rounded = typeof value === "number" ? Math.fround(value) : NaN;
  const isRounded = type === "number" && single && isInBounds(value, entryOf(path));
  throw new CompressoError("usage", {
    what: `cannot use ${option(path)}`,
    rule: `it is ${ruleOf(path)}`,
    value: isRounded ? `${value}, which is ${rounded} on the GPU` : listed(value),
    fix: meant === null ? "change it, or leave it out for the default" : `did you mean ${meant}?`,
    option: path,
  });
}

function listed(value: unknown): string {
  return Array.isArray(value) && value.length > 0 ? value.map(shown).join(", ") : shown(value);
}

/** Refuses unknown names, wrong types, and values that an option cannot have. Throws `CompressoError("usage")`. */
export function checkOptions(
  options: Pick<PruneOptions, "hooks">,
  paths: readonly OptionPath[],
  { whose }: { readonly whose: string },
): void {
  const { hooks } = options, names = namesOf(paths, { whose });
  // An object of a class may have fields of its own beside the hooks.
  const isPlain = !(hooks instanceof Object) || Object.getPrototypeOf(hooks) === Object.prototype;
  checkNames(options, isPlain ? names : { ...names, hooks: true }, { whose });
  checkValues(options, paths);
}

function checkValues(options: object, paths: readonly OptionPath[]): void {
  for (const path of paths) {
    const value = valueAt(options, path);
    if (value !== undefined) checkValue(path, value);
  }
}

/** The value that an option has in a run: as given, as the preset has it, or the default that follows from no other option. */
export function valueOf(options: object, path: OptionPath): unknown {
  const { default: own, paper } = entryOf(path), given = valueAt(options, path);
  if (given !== undefined) return given;
  const value = valueAt(options, "preset") === "paper" && paper !== undefined ? paper : own;
  return typeof value === "function" ? undefined : value;
}

/** Refuses options that exclude each other, need another one, or that the run's method does not take. Throws `CompressoError("usage")`. */
export function checkTogether(
  options: object,
  { paths = OPTION_PATHS, what }: { readonly paths?: readonly OptionPath[]; readonly what?: string } = {},
): void {
  const isGiven = (path: string): boolean => ![undefined, false].includes(valueAt(options, path) as undefined);
  const method = valueOf(options, "method");
  for (const path of paths) {
    if (!isGiven(path)) continue;
    const { methods = METHODS, needs, excludes = [] } = entryOf(path);
    const other = excludes.find((one) => one !== path && isGiven(one));
    if (other !== undefined) {
      throw new CompressoError("usage", {
        what: "cannot use these options together",
        rule: `either ${option(path)} or ${option(other)}`,
        value: "both were given",
        fix: "leave one out",
        option: path,
      });
    }
    if (!methods.some((one) => one === method)) {
      throw new CompressoError("usage", {
        what: what ?? `cannot use ${option(path)}`,
        rule: `${option(path)} is for ${methodsNamed(methods)}`,
        value: `method ${method}`,
        fix: "leave it out, or choose another method",
        option: path,
      });
    }
    if (needs) checkNeeds(options, path, { ...needs, what });
  }
}

function checkNeeds(
  options: object,
  path: OptionPath,
  { path: other, values, what }: NonNullable<OptionEntry["needs"]> & { readonly what: string | undefined },
): void {
  const value = isOptionPath(other) ? valueOf(options, other) : undefined;
  if (values ? values.some((one) => one === value) : value !== undefined && value !== false) return;
  const [wanted] = values ?? [];
  throw new CompressoError("usage", {
    what: what ?? `cannot use ${option(path)}`,
    rule: `${option(path)} goes with ${wanted === undefined ? option(other) : option(other, String(wanted))}`,
    value: value === undefined || value === false ? `no ${option(other)}` : option(other, String(value)),
    fix: `leave it out, or give ${wanted === undefined ? option(other) : option(other, String(wanted))}`,
    option: path,
  });
}

/**
 * What a preset sets for so many steps of the pruning stage; an option that is given beside it wins.
 *
 * `paper` are the published settings of Compresso (arXiv 2310.05015 and its code): heads, FFN columns and hidden dims; log α from a constant and
 * kept within ±log 100; hard concrete with β = 2/3 and its full noise, of which kept units have a sigmoid in the end; λ by Adam, and no projection;
 * rows padded and not joined; LoRA of rank 8 on q and v, learning from all labels, at 5e-5, in the last stage at 4e-4; eight epochs of which the
 * first prunes nothing and the sixth begins at the target, then three of the last stage, each a seventh of `steps`. They were made for some 50,000
 * steps: with few, the expected sparsity stays far behind the schedule. The hard sparsity meets its target all the same, by cutting at the end. The
 * schedule is cubic as in the paper; the public scripts run it linear: `schedule: "linear"`. It leaves `batch` and `seq` as they are, where those have
 * 1 × 1,024 tokens a step: `batch: 1, seq: 1024`. LoRA's rate has this toolkit's curve (see `Rates`): theirs falls in a
 * straight line from 5e-5 to 0 over the eight epochs, which a schedule of your own can set. z of an FFN column multiplies the product of gate and up
 * once; theirs multiplies both, the gate before its SiLU.
 */
export function presetOptions(preset: Preset, steps: number): PresetOptions {
  checkValue("preset", preset);
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
