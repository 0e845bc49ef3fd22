// Flags of the options of pruning, from their table: declaration with help and group, parsing, and how an error names them.
import { type CommandUnknownOpts, Option } from "../packages.ts";
import { CompressoError, spelled } from "../../lib/core/errors.ts";
import { accepts, meantBy } from "../../lib/core/value_rule.ts";
import { atPaths, methodsNamed, PRUNE_PATHS, ruleOf } from "../../lib/run/options/check.ts";
import {
  entryOf,
  groupOf,
  type NameOf,
  nameOf,
  OPTION_PATHS,
  type OptionPath,
  type WrittenValue,
} from "../../lib/run/options/table.ts";
import { methodsOf } from "../../lib/run/options/table/entry.ts";
import { alarmSettings } from "../../lib/run/monitors/alarm_setting.ts";
import type { MonitorOptions } from "../../lib/run/monitors/alarm.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { flagOf, spellFlag } from "./spelling.ts";
import { placeOption } from "../terminal/help.ts";
import { byteCount, layerList, outputPath, parameterCount, type Parse, someOf, wordList } from "./values.ts";

/** Options of the table as the command line has them: what is not given is absent. */
export type TableFlags = {
  readonly [P in OptionPath as NameOf<P> extends string ? NameOf<P> : never]?:
    | (P extends "monitors" ? MonitorOptions : P extends "tuning" ? string | boolean : WrittenValue<P>)
    | undefined;
};

/** Paths of all options that have a flag. */
export const FLAG_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) => nameOf(path) !== null);

/** Adds flags to a verb, all of the table where no paths are named. `help` replaces lines of help. */
export function addTableFlags<C extends CommandUnknownOpts>(
  command: C,
  { paths = FLAG_PATHS, help = {}, inOneGroup = false }: {
    readonly paths?: readonly OptionPath[];
    /** Whether the help lists them without headings, and all of them at once. Default false. */
    readonly inOneGroup?: boolean;
    readonly help?: { readonly [path in OptionPath]?: string };
  } = {},
): C {
  for (const path of FLAG_PATHS.filter((one) => paths.includes(one))) {
    for (const flag of flagsOf(path, { help: help[path], inOneGroup })) command.addOption(flag);
  }
  return command;
}

/** Placeholders of values by type. */
const PLACEHOLDERS = {
  count: "count",
  number: "number",
  parameters: "count",
  bytes: "bytes",
  word: "name",
  words: "list",
  names: "list",
  list: "list",
  layers: "layers",
} as const;

function flagsOf(
  path: OptionPath,
  { help = entryOf(path).help, inOneGroup }: { readonly help: string | undefined; readonly inOneGroup: boolean },
): Option[] {
  const { type, placeholder, everyday, default: own, paper, off = help, auto } = entryOf(path),
    flag = flagOf(path);
  const group = groupOf(path);
  const place = inOneGroup ? {} : { group: group[0]?.toUpperCase() + group.slice(1), isEveryday: everyday ?? false };
  const made = (flags: string, text: string): Option => placeOption(new Option(flags, spelled(text, spellFlag)), place);
  const negated = flag.replace("--", "--no-");
  if (type === "switch") {
    if (auto !== undefined) return [made(flag, help), autoFlag(made(`${flag}=auto`, auto), nameOf(path) ?? path)];
    if (own !== true) return [made(flag, help)];
    const without = made(negated, off);
    return paper === undefined ? [without] : [made(flag, `${help} (default; paper: off)`), without];
  }
  const word = placeholder ?? Object.entries(PLACEHOLDERS).find(([name]) => name === type)?.[1] ?? "value";
  const option = made(`${flag} <${word}>`, `${help}${extraOf(path)}`);
  if (type === "alarms") {
    option.argParser((text: string, before: MonitorOptions | undefined) =>
      alarmSettings(text, { option: flag, before: before ?? {} })
    );
  } else option.argParser(parserOf(path));
  if (path === "prompt") return [option, made(negated, "leave the collaborative prompt out")];
  if (path === "tuning") return [option, made(negated, "run kernels with their defaults; results are the same bits")];
  return [option];
}

/** Gives a switch the value "auto" by a flag of its own: one with an optional value would take the next word, which may be the model. */
function autoFlag(flag: Option, name: string): Option {
  flag.attributeName = () => name;
  return flag.argParser(() => "auto");
}

/** Words, default, preset and takers, in brackets. */
function extraOf(path: OptionPath): string {
  const { words, when, type } = entryOf(path),
    standard = entryOf(path).flagDefault ?? defaultText(path),
    paper = paperText(path);
  const notes = [
    ...(type === "word" && words && !words.every((word) => entryOf(path).help.includes(word))
      ? [`one of ${words.join(", ")}`]
      : []),
    ...(standard === null ? [] : [`default: ${standard}`]),
    ...(paper === null ? [] : [`paper: ${paper}`]),
    ...(when && "method" in when ? [`for ${methodsNamed(methodsOf({ when }))}`] : []),
  ];
  return notes.length === 0 ? "" : ` (${notes.join("; ")})`;
}

/** The default of an option in words; null for none. */
export function defaultText(path: OptionPath): string | null {
  const { default: own, defaultText } = entryOf(path);
  if (defaultText !== undefined) return defaultText;
  return own === undefined || own === null || typeof own === "function" ? null : shownValue(own);
}

/** The value of the preset `paper` in words; null for none. */
export function paperText(path: OptionPath): string | null {
  const { paper, default: own } = entryOf(path);
  if (paper === undefined || paper === null || String(paper) === String(own)) return null;
  if (typeof paper !== "function") return shownValue(paper);
  return `${Math.round(7 * paper(7000) / 7000)}/7 of the steps`;
}

function shownValue(value: number | string | boolean | readonly string[]): string {
  if (typeof value === "boolean") return value ? "on" : "off";
  if (typeof value !== "number") return String(value);
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(Number(value.toPrecision(4)));
}

/** Parses the text of a flag. Throws `CompressoError("usage")` with what may have been meant. */
function parserOf(path: OptionPath): Parse<unknown> {
  const { type, words = [] } = entryOf(path), flag = flagOf(path);
  const word = (text: string): string => words.find((one) => one === text.trim().toLowerCase()) ?? text.trim();
  const parse: Parse<unknown> = ({
    count: (text: string) => /^\s*[+-]?\d+\s*$/.test(text) ? Number(text) : NaN,
    number: (text: string) => text.trim() === "" ? NaN : Number(text),
    word,
    names: someOf(flag, words),
    list: wordList(flag),
    words: (text: string) => text.split(",").filter((part) => part.trim() !== "").map(word),
    parameters: parameterCount(flag),
    bytes: byteCount(flag),
    layers: layerList(flag),
  } as Record<string, Parse<unknown>>)[type] ?? (path === "out" ? outputPath(flag) : (text: string) => text);
  const checked = (text: string): unknown => {
    const value = parse(text);
    if (accepts(entryOf(path), value)) return value;
    const meant = meantBy(entryOf(path), text) ?? meantBy(entryOf(path), value);
    throw new CompressoError("usage", {
      what: `cannot use ${flag} ${text.trim() === "" ? `'${text}'` : text}`,
      rule: `${flag} is ${ruleOf(path)}`,
      value: text,
      ...(meant === null ? {} : { fix: `did you mean ${meant}?` }),
      option: path,
    });
  };
  // For completion.
  return Object.assign(checked, words.length === 0 ? {} : { words, isList: type === "words" || type === "names" });
}

/** Options of `prune` that the flags give, in their object; those that the command line writes otherwise are left to it. */
export function pruneOptionsOf(flags: TableFlags): Partial<RunOptions> {
  const others: readonly OptionPath[] = ["prompt", "calibration", "evaluate.text"];
  return atPaths(
    PRUNE_PATHS.filter((path) => nameOf(path) !== null && !others.includes(path))
      .map((path) => [path, valueOfFlag(flags, path)] as const),
  );
}

/** The value that an option's flag was given; undefined where it was not. */
export function valueOfFlag(flags: TableFlags, path: OptionPath): unknown {
  const given: Readonly<Record<string, unknown>> = flags;
  return given[nameOf(path) ?? path];
}
