// Options of a cell: options of a prune run, each with one flat name, so that a grid or a command line can set any of
// them.
import { PROJECTIONS } from "../spec/decoder.ts";
import { CompressoError, option, refuse } from "../core/errors.ts";
import { UNIT_KINDS } from "../units/kinds/all.ts";
import { layersOf } from "../units/rules.ts";
import { kindOfMethod } from "../run/methods/all.ts";
import { alarmSettings } from "../run/monitors/alarm_setting.ts";
import { accepts, meantBy } from "../core/value_rule.ts";
import { atPaths, ruleOf } from "../run/options/check.ts";
import type { RunOptions, Target } from "../run/options/options.ts";
import {
  entryOf,
  isOptionPath,
  type NameOf,
  nameOf,
  type OPTION_TABLE,
  type OptionPath,
  pathsIn,
  type WrittenValue,
} from "../run/options/table.ts";
import type { OptionType } from "../run/options/table/entry.ts";
import { isScript } from "../schedule/open.ts";
import { LORA_RATES } from "../schedule/definition.ts";

/**
 * Paths of the options that experiments have.
 *
 * @internal
 */
type CellPath = {
  [P in OptionPath]: typeof OPTION_TABLE[P] extends { readonly name: null } ? never
    : typeof OPTION_TABLE[P] extends { readonly scope: readonly (infer S)[] } ? "experiment" extends S ? P : never
    : typeof OPTION_TABLE[P] extends { readonly of: string } ? never
    : P;
}[OptionPath];

/**
 * Value of an option in an experiment: lists of words may be one text with commas between, too.
 *
 * @internal
 */
type CellValue<P extends OptionPath> = typeof OPTION_TABLE[P] extends { readonly type: "words" }
  ? string | WrittenValue<P>
  : typeof OPTION_TABLE[P] extends { readonly type: "alarms" } ? string | readonly string[]
  : WrittenValue<P>;

/**
 * Options of one cell, see docs/reference/options.md. `sparsity` and `steps` are required. `data`, `calibration` and
 * `valData` are names of the experiment's data sets. What is absent has the default of a prune run, but without `calibration` there is
 * none. An experiment in JSON cannot say `trust`; an override can, see `ExperimentOverrides.set`.
 */
export type CellOptions =
  & { readonly [P in CellPath as Extract<NameOf<P>, string>]?: CellValue<P> | undefined }
  & {
    /** Name of one of the experiment's models. */
    readonly model?: string | undefined;
    /**
     * False: LoRA is not trained. Stages that would train only LoRA get 0 steps. Settings of LoRA's shape and rates are
     * ignored. Default true.
     */
    readonly lora?: boolean | undefined;
  };

/** Name of an option of a cell. */
export type CellOptionName = keyof CellOptions;

/** Options that no run has by itself. */
const OWN = { model: "it is a name", lora: "it is true or false" } as const;

/** Paths by name, in the order of the table. */
const PATHS: ReadonlyMap<string, OptionPath> = new Map(
  pathsIn("experiment").map((path) => [nameOf(path) ?? path, path]),
);

/** Names of all options, in the order in which they are shown. */
export const CELL_OPTION_NAMES: readonly CellOptionName[] = [...Object.keys(OWN), ...PATHS.keys()].filter(isCellOption);

/** Whether a text is the name of an option. */
export function isCellOption(name: string): name is CellOptionName {
  return Object.hasOwn(OWN, name) || PATHS.has(name);
}

/** What an option's value is; undefined if no run has it. */
export function typeOfOption(name: string): OptionType | undefined {
  const path = PATHS.get(name);
  return path && entryOf(path).type;
}

/** How an experiment names an option of a run: "rates.lora" is loraRate. */
export function spellCell(path: string, value?: string): string {
  // Exports and evaluations have the options of these parts of a run by themselves.
  const known = [path, `export.${path}`, `evaluate.${path}`].find(isOptionPath) ?? path;
  const other = isOptionPath(known) ? entryOf(known).elsewhere : undefined;
  if (other !== undefined) return other;
  if (path === "set" && value !== undefined) return `set ${value}`;
  if (path === "prompt" && value === "null") return "prompt: false";
  const name = isOptionPath(path) ? nameOf(path) ?? path : path;
  return value === undefined ? name : `${name}: ${value}`;
}

/** Throws `CompressoError("usage")` for an option that does not exist, or a value that it cannot have; `where` is named. */
export function checkOption(name: string, value: unknown, where: string): void {
  if (!isCellOption(name)) {
    refuse("usage", `cannot use the option '${name}' in ${where}`, {
      rule: `options are ${CELL_OPTION_NAMES.join(", ")}`,
      value: name,
    });
  }
  const wrong = refusalOf(name, value), path = PATHS.get(name);
  if (wrong === null) return;
  const meant = path === undefined ? null : meantBy(entryOf(path), value);
  refuse("usage", `cannot use this ${name} in ${where}`, {
    rule: wrong,
    value: JSON.stringify(value) ?? String(value),
    fix: meant === null ? "correct the value, or leave it out for the default" : `did you mean ${meant}?`,
    option: path,
  });
}

/** Whether an option may have a value. */
export function takesValue(name: CellOptionName, value: unknown): boolean {
  return refusalOf(name, value) === null;
}

/** The rule that a value of an option breaks; null for a value that it may have. */
function refusalOf(name: CellOptionName, value: unknown): string | null {
  if (name === "lora") return typeof value === "boolean" ? null : OWN.lora;
  const path = PATHS.get(name), isText = typeof value === "string" && value !== "";
  if (path === undefined) return isText ? null : OWN.model;
  switch (entryOf(path).type) {
    case "words":
      return accepts(entryOf(path), typeof value === "string" ? splitWords(value) : value)
        ? null
        : `it is ${ruleOf(path)}`;
    case "alarms":
      return alarmRefusal(value);
    case "prompt":
      return typeof value === "boolean" || isText ? null : `it is ${ruleOf(path)}`;
    case "calibration":
    case "value":
      return isText ? null : "it is a text that is not empty";
    default:
      return accepts(entryOf(path), value) ? null : `it is ${ruleOf(path)}`;
  }
}

function alarmRefusal(value: unknown): string | null {
  const texts = Array.isArray(value) && value.length > 0 ? value : [value];
  if (!texts.every((text) => typeof text === "string")) {
    return "it is a setting such as divergence=warn, or a list of them";
  }
  try {
    alarmSettings(texts, { option: "onAlarm" });
    return null;
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    return error.parts.rule ?? error.message;
  }
}

/**
 * The options as `prune` takes them, without rows. `layers` is the number of the model's layers, from whose end negative ones of `protect`
 * count. Throws `CompressoError("usage")` if sparsity or steps are missing.
 */
export function pruneOptions(
  cell: CellOptions,
  { prompt, layers }: { readonly prompt: string | null; readonly layers: number },
): Omit<RunOptions, "rows"> & Target {
  const { sparsity, steps, method, lora = true } = cell, { prefinetune = 0, postfinetune = 0 } = cell;
  if (sparsity === undefined || steps === undefined) {
    refuse("usage", "cannot run a cell of the experiment", {
      rule: "base or grid give its sparsity and its steps",
      value: sparsity === undefined ? "no sparsity" : "no steps",
      fix: `add ${option(sparsity === undefined ? "sparsity" : "steps")} to base or grid`,
    });
  }
  const cutsAtOnce = method !== undefined && kindOfMethod(method) === "one-shot";
  const trains = !cutsAtOnce || (lora && prefinetune + steps + postfinetune > 0);
  // Base options may be set although some cells of the grid train nothing.
  const idle: readonly string[] = [
    ...(lora ? [] : [...PATHS.values()].filter((path) => entryOf(path).work === "lora")),
    ...(trains ? [] : LORA_RATES.map((rate) => `rates.${rate}`)),
  ];
  // A cell may set `trust` although it has no script.
  const values: Readonly<Record<string, unknown>> = {
    ...cell,
    trust: isScript(cell.schedule) && cell.trust || undefined,
  };
  const given = [...PATHS].filter(([, path]) => entryOf(path).of === undefined && !idle.includes(path))
    .map(([name, path]) => [path, values[name]] as const);
  return atPaths([
    ...given,
    ["prompt", prompt],
    ["units", wordList(cell.units, UNIT_KINDS)],
    ["lora.targets", lora ? wordList(cell.loraTargets, PROJECTIONS) : undefined],
    ["rules.protect", cell.protect && layersOf(cell.protect, layers)],
    ["monitors", cell.onAlarm === undefined ? undefined : alarmSettings(cell.onAlarm, { option: "onAlarm" })],
    // Its rows are read when the cell runs.
    ["calibration", cell.calibration === undefined ? undefined : []],
    ["valRows", cell.valData === undefined ? undefined : []],
    ...(lora ? [] : [
      ["rates.lora", 0] as const,
      ["steps", cutsAtOnce ? 0 : steps] as const,
      ["prefinetune", 0] as const,
      ["postfinetune", 0] as const,
    ]),
  ]) as Omit<RunOptions, "rows"> & Target;
}

/** An option's value as tables and folders show it. `option` says whether a text is a path, which on Windows has backslashes. */
export function shownOption(value: unknown, option?: CellOptionName): string {
  if (value === undefined) return "default";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return value.length === 0 ? "none" : value.join("+");
  const text = String(value), folders = option === "schedule" || option === "prompt" ? /^.*[/\\]/ : /^.*\//;
  return folders.test(text) ? text.replace(folders, "").replace(/\.\w+$/, "") : text.replaceAll(",", "+");
}

/** The words of a list, in the order of `known`. */
export function wordList<const T extends string>(
  value: string | readonly T[] | undefined,
  known: readonly T[],
): T[] | undefined {
  if (value === undefined) return undefined;
  const list: readonly string[] = typeof value === "string" ? splitWords(value) : value;
  return known.filter((word) => list.includes(word));
}

function splitWords(text: string): string[] {
  return text.split(",").map((word) => word.trim());
}
