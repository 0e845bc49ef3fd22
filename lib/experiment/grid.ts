// The cells of an experiment: every combination of its grids, in order, with names and the axes along which they differ.
import { digestOf } from "../core/digest.ts";
import { option, refuse } from "../core/errors.ts";
import { alarmSettings, alarmText, monitorOf } from "../run/monitors/alarm_setting.ts";
import { PROJECTIONS } from "../spec/decoder.ts";
import { UNIT_KINDS } from "../units/kinds/all.ts";
import { OPTION_TABLE } from "../run/options/table.ts";
import { gridsOf } from "./definition.ts";
import { type Labels, labelsOf } from "./unique_labels.ts";
import {
  CELL_OPTION_NAMES,
  type CellOptionName,
  type CellOptions,
  isCellOption,
  shownOption,
  takesValue,
  wordList,
} from "./options.ts";
import type { Cell, ExperimentDefinition, Filter, Grid } from "./types.ts";

/** Letters of a cell's name; file systems allow 255 of a folder's. */
const MOST_NAME = 200;

/** Options that differ between the cells, in the order of the definition; the seed is last. */
export function axesOf(definition: Pick<ExperimentDefinition, "grid" | "base">): CellOptionName[] {
  const cells = combinations(definition);
  const named = [...new Set(gridsOf(definition).flatMap((grid) => Object.keys(grid)))];
  const differing = CELL_OPTION_NAMES.filter((name) =>
    named.includes(name) && new Set(cells.map((cell) => JSON.stringify(cell[name]))).size > 1
  );
  const order = (name: CellOptionName): number => name === "seed" ? named.length : named.indexOf(name);
  return differing.sort((a, b) => order(a) - order(b));
}

/**
 * All cells. Those of one model stand together, and the first seed of every combination comes first: a sitting that ends early has covered most
 * combinations.
 */
export function cellsOf(definition: Pick<ExperimentDefinition, "grid" | "base">): Cell[] {
  const axes = axesOf(definition), taken = new Map<string, string>();
  const cells = combinations(definition).map((options): Cell => {
    const parts = axes.map((axis) => `${axis}=${shownOption(options[axis], axis)}`);
    const plain = (parts.join(",").replace(/[^\w=,.+-]/g, "_") || "only").slice(0, MOST_NAME);
    const key = JSON.stringify(axes.map((axis) => options[axis]));
    // Some file systems ignore case.
    const folded = plain.toLowerCase(), isFree = plain.length < MOST_NAME && (taken.get(folded) ?? key) === key;
    if (isFree) taken.set(folded, key);
    return { name: isFree ? plain : `${plain},${digestOf([key]).slice(0, 6)}`, options };
  });
  const unique = [...new Map(cells.map((cell) => [cell.name, cell])).values()];
  const seeds = [...new Set(unique.map(({ options }) => options.seed))];
  const models = [...new Set(unique.map(modelKey))];
  return unique
    .map((cell, index) => ({
      cell,
      order: [models.indexOf(modelKey(cell)), seeds.indexOf(cell.options.seed), index] as const,
    }))
    .sort(({ order: a }, { order: b }) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2])
    .map(({ cell }) => cell);
}

/** Labels of an option's values in cells. */
export function labelsOfOption(name: CellOptionName, cells: readonly Cell[]): Labels {
  return labelsOf(cells.map(({ options }) => options[name]), (value) => shownOption(value, name));
}

/**
 * The cells that a filter chooses. Throws `CompressoError("usage")` for an option or value of no cell, and if no cell
 * remains.
 */
export function chooseCells(cells: readonly Cell[], filter: Filter): Cell[] {
  const fail = (name: string, rule: string, value: string): never => {
    const fix = `plan the experiment without ${option("only")} to see its runs`;
    refuse("usage", `cannot choose cells by ${name}`, { rule, value, fix });
  };
  const chosen = [...filter].reduce((left, [name, values]) => {
    if (!isCellOption(name)) return fail(name, `options are ${CELL_OPTION_NAMES.join(", ")}`, name);
    const label = labelsOfOption(name, cells);
    const known = [...new Set(cells.map(({ options }) => label(options[name])))];
    const wanted = values.map((value) => {
      const own = known.includes(value) ? value : labelIn(name, value);
      if (known.includes(own)) return own;
      const named = cells.filter((cell) => isNamed(cell, name, value)).map(({ options }) => label(options[name]));
      const [first, another] = new Set(named);
      if (first !== undefined && another === undefined) return first;
      return fail(name, `in this experiment it is one of ${known.join(", ")}`, own);
    });
    return left.filter(({ options }) => wanted.includes(label(options[name])));
  }, [...cells]);
  if (chosen.length > 0 || filter.size === 0) return chosen;
  const all = [...filter].map(([name, values]) => `${name}=${values.join(",")}`);
  return fail([...filter.keys()].join(" and "), "at least one run has all of them", all.join(" and "));
}

/** Whether a cell's name holds an option's value in this form: names are made before paths are resolved. */
function isNamed({ name }: Cell, option: CellOptionName, value: string): boolean {
  return `,${name},`.includes(`,${option}=${value},`);
}

function modelKey({ options }: Cell): string {
  return JSON.stringify([options.model, options.baseDtype]);
}

function combinations({ grid, base = {} }: Pick<ExperimentDefinition, "grid" | "base">): CellOptions[] {
  // Where some grids set seeds, the default seed of the others is written out, so that equal runs are one.
  const isSeeded = gridsOf({ grid }).some(({ seed }) => seed !== undefined);
  return gridsOf({ grid }).flatMap((part) =>
    product(Object.entries(part)).map((values): CellOptions => {
      const { units, loraTargets, onAlarm, ...rest } = {
        ...(isSeeded ? { seed: OPTION_TABLE.seed.default } : {}),
        ...base,
        ...values,
      };
      // Lists of words get one form and order, so that equal lists give equal cells.
      return {
        ...rest,
        ...(units === undefined ? {} : { units: wordList(units, UNIT_KINDS)?.join(",") }),
        ...(loraTargets === undefined ? {} : { loraTargets: wordList(loraTargets, PROJECTIONS)?.join(",") }),
        ...(onAlarm === undefined ? {} : { onAlarm: alarmText(alarmSettings(onAlarm, { option: "onAlarm" })) }),
      };
    })
  );
}

/** The label of a value that a filter gives as text: lists of words in any order, settings of alarms, numbers, true and false. */
function labelIn(option: CellOptionName, value: string): string {
  if ((value === "true" || value === "false") && takesValue(option, true)) return shownOption(value === "true");
  if (value.trim() !== "" && takesValue(option, Number(value))) return shownOption(Number(value));
  const plain = value.replaceAll("+", ",");
  if (option === "onAlarm" && monitorOf(value) !== null) {
    return shownOption(alarmText(alarmSettings(plain, { option })));
  }
  const known: readonly string[] = option === "units" ? UNIT_KINDS : option === "loraTargets" ? PROJECTIONS : [];
  const words = plain.split(",");
  return words.every((word) => known.includes(word)) ? shownOption(wordList(plain, known)?.join(",")) : value;
}

/** Every combination of the values; the last name changes first. */
function product(entries: readonly (readonly [string, Grid[CellOptionName]])[]): CellOptions[] {
  const [first, ...rest] = entries;
  if (!first) return [{}];
  const [name, values = []] = first, others = product(rest);
  return values.flatMap((value) => others.map((other): CellOptions => ({ [name]: value, ...other })));
}

/** Whether two axes always change together, as rank and alpha may, so that they are one. Axes that change with the seed stay apart. */
export function areTied(places: readonly Place[], a: string, b: string): boolean {
  return a !== "seed" && b !== "seed" && goTogether(places, a, b);
}

/** Values of a cell along the axes, as shown. */
type Place = Readonly<Record<string, string | undefined>>;

/** Whether each value of one axis comes with exactly one value of the other, and vice versa. */
export function goTogether(places: readonly Place[], a: string, b: string): boolean {
  const pairs = new Set(places.map((at) => JSON.stringify([at[a], at[b]])));
  const count = (axis: string): number => new Set(places.map((at) => at[axis])).size;
  return pairs.size === count(a) && pairs.size === count(b);
}
