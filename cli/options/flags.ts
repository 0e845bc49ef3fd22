// Flags of verbs, declared as rows: what a value is, its help and its default. Types, parsers and help follow from a row.
// Rows that several verbs have are written once: here, in sampling.ts, or in the table of a run's options.
import { type Command, type CommandUnknownOpts, Option } from "../packages.ts";
import { type CompressoError, refusal, spelled } from "../../lib/core/errors.ts";
import { accepts, meantBy, ruleText, type ValueOf } from "../../lib/core/value_rule.ts";
import { methodsNamed } from "../../lib/run/options/check.ts";
import { alarmSettings } from "../../lib/run/monitors/alarm_setting.ts";
import type { MonitorOptions } from "../../lib/run/monitors/alarm.ts";
import { OPTION_TABLE } from "../../lib/run/options/table.ts";
import { methodsOf, type OptionEntry } from "../../lib/run/options/table/entry.ts";
import { type HelpPlace, placeOption } from "../terminal/help.ts";
import { flagNamed, spellFlag } from "./spelling.ts";

/** A flag, whose name is the key of its row: `maxTokens` is `--max-tokens`. Rows of a run's options are flags, too. */
export interface FlagRow extends Omit<OptionEntry, "name" | "of" | "scope" | "work"> {
  /** Value if the flag is not given. Default: undefined. */
  readonly initially?: unknown;
  /** Whether the flag may stand without a value, which is then true. */
  readonly isOptional?: true;
  /** Reads the value, with the one of an earlier flag of that name. Default: by type. */
  readonly parse?: (text: string, before: never) => unknown;
}

/** Flags by name. */
export type FlagTable = Readonly<Record<string, FlagRow>>;

/** Value of a flag. */
type FlagValue<R> =
  | (R extends { readonly parse: (text: string, before: never) => infer T } ? T
    : R extends { readonly type: "alarms" } ? MonitorOptions
    : R extends { readonly type: "switch"; readonly default: true } ? boolean
    : R extends { readonly type: "switch" } ? true
    : R extends { readonly type: string } ? ValueOf<R>
    : never)
  | (R extends { readonly isOptional: true } ? true : never)
  | (R extends { readonly off: string } ? boolean : never);

/** Values of flags as a verb gets them. */
export type FlagValues<T extends FlagTable> =
  & { readonly [N in keyof T as T[N] extends { readonly initially: unknown } ? N : never]: FlagValue<T[N]> }
  & {
    readonly [N in keyof T as T[N] extends { readonly initially: unknown } ? never : N]?: FlagValue<T[N]> | undefined;
  };

/** `--json` of a verb that prints one object. */
export const JSON_FLAG = { type: "switch", help: "print one JSON object" } as const;

const { baseDtype, memoryLimit, tuning } = OPTION_TABLE;

/** Flags of the verbs that use a GPU for long. */
export const GPU_FLAGS = { memoryLimit, tuning } as const;

/** Flags of the verbs that run a model as it is. */
export const MODEL_FLAGS = { baseDtype, ...GPU_FLAGS } as const;

/** `--adapter` of these. */
export const ADAPTER_FLAG = {
  type: "value",
  placeholder: "path",
  help: "LoRA to add to the model, without merging: a folder in PEFT's format, its .safetensors file, or hf:owner/name",
} as const;

/** Adds flags to a verb. */
export function addFlags<A extends unknown[], O extends Record<string, unknown>, T extends FlagTable>(
  command: Command<A, O>,
  rows: T,
): Command<A, O & FlagValues<T>> {
  const added: CommandUnknownOpts = command;
  for (const [name, row] of Object.entries(rows)) for (const flag of optionsOf(name, row)) added.addOption(flag);
  return command as Command<A, O & FlagValues<T>>;
}

/** Placeholders of values by type. */
const PLACEHOLDERS: Readonly<Record<string, string>> = {
  count: "count",
  number: "number",
  parameters: "count",
  bytes: "bytes",
  word: "name",
  words: "list",
  names: "list",
  list: "list",
  layers: "layers",
};

/** The options of commander for a row. `path` is that of the option in errors. */
export function optionsOf(
  name: string,
  row: FlagRow,
  { path = name, ...place }: HelpPlace & { readonly path?: string } = {},
): Option[] {
  const { type, default: own, paper, help, off = help, auto, initially } = row, flag = flagNamed(name);
  const made = (flags: string, text: string): Option => placeOption(new Option(flags, spelled(text, spellFlag)), place);
  const negated = flag.replace("--", "--no-");
  if (type === "switch") {
    if (auto !== undefined) return [made(flag, help), autoFlag(made(`${flag}=auto`, auto), name)];
    if (own !== true) return [made(flag, help)];
    const without = made(negated, off);
    return paper === undefined ? [without] : [made(flag, `${help} (default; paper: off)`), without];
  }
  const word = row.placeholder ?? PLACEHOLDERS[type] ?? "value";
  const option = made(`${flag} ${row.isOptional ? `[${word}]` : `<${word}>`}`, `${help}${extraOf(row)}`);
  const parse: (text: string, before: never) => unknown = row.parse ?? parserOf(row, { flag, path });
  option.argParser(parse as (text: string, before: unknown) => unknown);
  if (initially !== undefined) option.default(initially);
  return row.off === undefined ? [option] : [option, made(negated, row.off)];
}

/** Gives a switch the value "auto" by a second flag: a flag with an optional value would take the next word, which may be the model. */
function autoFlag(flag: Option, name: string): Option {
  flag.attributeName = () => name;
  return flag.argParser(() => "auto");
}

/** Words, default, preset and takers, in brackets. */
function extraOf(row: FlagRow): string {
  const { words, when, type, help, initially, flagDefault } = row, paper = paperText(row);
  const standard = initially === undefined ? flagDefault ?? defaultText(row) : null;
  const notes = [
    ...(type === "word" && words && !words.every((word) => help.includes(word)) ? [`one of ${words.join(", ")}`] : []),
    ...(standard === null ? [] : [`default: ${standard}`]),
    ...(paper === null ? [] : [`paper: ${paper}`]),
    ...(when && "method" in when ? [`for ${methodsNamed(methodsOf({ when }))}`] : []),
  ];
  return notes.length === 0 ? "" : ` (${notes.join("; ")})`;
}

/** The default of an option in words; null for none. */
export function defaultText(
  { default: own, defaultText }: Pick<OptionEntry, "default" | "defaultText">,
): string | null {
  if (defaultText !== undefined) return defaultText;
  return own === undefined || own === null || typeof own === "function" ? null : shownValue(own);
}

/** The value of the preset `paper` in words; null for none. */
export function paperText({ paper, default: own }: Pick<OptionEntry, "default" | "paper">): string | null {
  if (paper === undefined || paper === null || String(paper) === String(own)) return null;
  if (typeof paper !== "function") return shownValue(paper);
  return `${Math.round(7 * paper(7000) / 7000)}/7 of the steps`;
}

function shownValue(value: number | string | boolean | readonly string[]): string {
  if (typeof value === "boolean") return value ? "on" : "off";
  if (typeof value !== "number") return String(value);
  return value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : String(Number(value.toPrecision(4)));
}

/** Parser of a value; completion reads its words. */
type Parse = ((text: string, before: never) => unknown) & {
  readonly words?: readonly string[];
  readonly isList?: boolean;
};

/** Whole numbers without a bound of their own are smaller than this. */
const MOST_COUNT = 2 ** 31 - 1;

/** Parses the text of a flag. `path` is that of the option. Throws `CompressoError("usage")` with what may have been meant. */
export function parserOf(
  row: Pick<FlagRow, Exclude<keyof FlagRow, "help">>,
  { flag, path }: { readonly flag: string; readonly path: string },
): Parse {
  const { type, words = [] } = row;
  if (type === "alarms") {
    return (text: string, before?: MonitorOptions) => alarmSettings(text, { option: flag, before: before ?? {} });
  }
  const read = READERS[type] ?? ((text: string) => text);
  // Programs may give other names than users.
  const rule = type === "names" ? { ...row, type: "words" } : type === "count" ? { most: MOST_COUNT, ...row } : row;
  const parse = (text: string): unknown => {
    const value = read(text, words);
    if (accepts(rule, value)) return value;
    const isLarge = type === "count" && Number(value) > MOST_COUNT, meant = meantBy(row, text) ?? meantBy(row, value);
    const fix = meant === null ? undefined : `did you mean ${meant}?`;
    throw wrong(flag, text, ruleText(isLarge ? rule : row), { fix, path });
  };
  return Object.assign(parse, words.length === 0 ? {} : { words, isList: type !== "word" });
}

/** Readers of values by type, whose results `accepts` checks. */
const READERS: Readonly<Record<string, (text: string, words: readonly string[]) => unknown>> = {
  count: (text) => /^\s*[+-]?\d+\s*$/.test(text) ? Number(text) : NaN,
  number: (text) => text.trim() === "" ? NaN : Number(text),
  parameters: (text) => scaled(text, { units: "kmbt", base: 1000, suffix: "" }),
  bytes: (text) => scaled(text, { units: "kmgt", base: 1024, suffix: "(?:i?b)?" }),
  word: (text, words) => known(text, words),
  words: (text, words) => split(text).filter((part) => part !== "").map((part) => known(part, words)),
  names: (text, words) => split(text).filter((part) => part !== "").map((part) => known(part, words)),
  list: split,
  layers: (text) => split(text).map((part) => /^-?\d+$/.test(part) ? Number(part) : NaN),
  // An empty path, as of a variable that is not set, would mean the root of the file system.
  text: (text) => text.trim() === "" ? "" : text,
};

function known(text: string, words: readonly string[]): string {
  return words.find((one) => one === text.trim().toLowerCase()) ?? text.trim();
}

function split(text: string): string[] {
  return text.split(",").map((part) => part.trim());
}

/** A number with a unit: 800M or 5.4B. */
function scaled(
  text: string,
  { units, base, suffix }: { readonly units: string; readonly base: number; readonly suffix: string },
): number {
  const [, digits, unit = ""] = new RegExp(`^(\\d+(?:\\.\\d+)?)\\s*([${units}]?)${suffix}$`, "i").exec(text.trim()) ??
    [];
  if (digits === undefined) return NaN;
  const value = Number(digits) * base ** `_${units}`.indexOf(unit.toLowerCase() || "_");
  // Parts of a byte are cut off. 5.4 · 1000³ need not be whole.
  return base === 1024 ? Math.floor(value) : Math.round(value);
}

/** Comma-separated whole numbers from `least` on, each once. */
export function wholeNumbers(flag: string, least: number): (text: string) => readonly number[] {
  return (text) => {
    const parts = text.split(",").map((part) => /^\s*\+?\d+\s*$/.test(part) ? Number(part) : NaN);
    if (parts.every((part) => part >= least) && new Set(parts).size === parts.length) return parts;
    throw wrong(flag, text, `comma-separated whole numbers from ${least} on, each once`);
  };
}

/**
 * The value of a flag that the verb requires, unless `or` is given in its place. Commander's own check would come before
 * its suggestion for a mistyped flag.
 */
export function required<T>(value: T | undefined, flag: string, { or }: { readonly or?: string } = {}): T {
  if (value !== undefined && value !== "") return value;
  throw refusal("usage", `cannot start without ${flag}`, {
    rule: `${or === undefined ? flag : `${flag} or ${or}`} is required`,
    value: value === undefined ? "not given" : "an empty text",
    option: pathOf(flag),
  });
}

/** The error of a value that a flag cannot have. */
export function wrong(
  flag: string,
  text: string,
  rule: string,
  { fix, path = pathOf(flag) }: { readonly fix?: string | undefined; readonly path?: string } = {},
): CompressoError {
  const what = `cannot use ${flag} ${text.trim() === "" ? `'${text}'` : text}`;
  return refusal("usage", what, { rule: `${flag} is ${rule}`, value: text, fix, option: path });
}

/** Name of a flag's value: "--limit-rows" is `limitRows`. */
function pathOf(flag: string): string {
  return flag.replace(/^--/, "").replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
