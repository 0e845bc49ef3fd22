// `--config FILE`: options of a run from a file of JSON or YAML, or from the run.json of an earlier run.
import type { CommandUnknownOpts } from "../packages.ts";
import { refusal, refuse } from "../../lib/core/errors.ts";
import { isObject, type Json } from "../../lib/core/guards.ts";
import { nearest } from "../../lib/core/nearest.ts";
import { accepts, ruleText } from "../../lib/core/value_rule.ts";
import { COLLABORATIVE_PROMPT } from "../../lib/data/prompts/encode.ts";
import { scheduleName } from "../../lib/experiment/identity.ts";
import { calibrationDefault } from "../../lib/run/calibration.ts";
import { isSame, optionsOfRun } from "../../lib/run/options/again.ts";
import { valueAt } from "../../lib/run/options/check.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { entryOf, nameOf, type OptionPath } from "../../lib/run/options/table.ts";
import type { RunSummary } from "../../lib/run/result.ts";
import { parseSummary } from "../../lib/run/run_json.ts";
import { isScheduleName } from "../../lib/schedule/builtin.ts";
import { readText } from "../terminal/read_text.ts";
import { parserOf } from "./flags.ts";
import { flagOf } from "./spelling.ts";
import { FLAG_PATHS, type TableFlags } from "./table_flags.ts";

/** Options that only the command line has: they concern the folder that is there, the terminal, or trust in code. */
const TYPED: readonly OptionPath[] = [
  ...["config", "resume", "mayDiffer", "export.replace", "json", "trustSchedule"] as const,
];

/** What a file says. */
interface Config {
  readonly values: ReadonlyMap<OptionPath, unknown>;
  /** Options that a run had and that run.json does not hold. */
  readonly lacks: readonly OptionPath[];
}

/** A verb that takes a file. */
export interface ConfiguredVerb {
  /** Its options. */
  readonly paths: readonly OptionPath[];
  /** Values that it gives other options. */
  readonly fixed: { readonly [path in OptionPath]?: unknown };
}

/** Adds the options of the file of --config. Options of the command line take precedence. */
export async function withConfig(
  flags: TableFlags,
  command: CommandUnknownOpts,
  { paths, fixed }: ConfiguredVerb = { paths: FLAG_PATHS, fixed: {} },
): Promise<TableFlags> {
  if (flags.config === undefined) return flags;
  const { values, lacks } = await readConfig(flags.config);
  const others = [...values].filter(([path, value]) => !paths.includes(path) && !isSame(fixed[path], value));
  if (others.length > 0) {
    refuse("usage", `cannot use ${flags.config}`, {
      rule: `it has only options of ${command.name()}`,
      value: others.map(([path, value]) => `${path} ${JSON.stringify(value)}`).join(", "),
      option: others[0]?.[0],
    });
  }
  const isTyped = (path: OptionPath): boolean => command.getOptionValueSource(nameOf(path) ?? path) === "cli";
  const typed = FLAG_PATHS.filter(isTyped), lacking = lacks.find((path) => !isTyped(path));
  if (lacking !== undefined) {
    refuse("usage", `cannot repeat the run of ${flags.config}`, {
      rule: "a file that the run read is given again: run.json does not name it",
      value: `no ${flagOf(lacking)}`,
      fix: `add ${flagOf(lacking)} FILE`,
      option: lacking,
    });
  }
  // A target of the command line replaces that of the file, and what belongs to it.
  const replaced = new Set<string>([...typed, ...typed.flatMap((path) => entryOf(path).excludes ?? [])]);
  const kept = [...values].filter(([path]) =>
    paths.includes(path) && !replaced.has(path) &&
    !Object.keys(entryOf(path).when ?? {}).some((other) => isExcluded(other, typed))
  );
  return { ...flags, ...Object.fromEntries(kept.map(([path, value]) => [nameOf(path) ?? path, value])) };
}

function isExcluded(path: string, typed: readonly OptionPath[]): boolean {
  return typed.some((one) => one !== path && (entryOf(one).excludes ?? []).includes(path));
}

async function readConfig(file: string): Promise<Config> {
  const text = await readText(file), isYaml = /\.ya?ml$/i.test(file);
  const whole = isYaml ? (await import("./yaml.ts")).parseYaml(text, file) : parseJson(text, file);
  if (!isObject(whole)) {
    refuse("input", `cannot use ${file}`, {
      rule: 'it is an object of options, such as {"sparsity": 0.3}, or the run.json of a run',
      value: JSON.stringify(whole).slice(0, 80),
    });
  }
  if (!isYaml && isObject(whole["options"]) && isObject(whole["versions"])) {
    return ofRun(parseSummary(text, { path: file }));
  }
  return { values: ofObject(whole, file), lacks: [] };
}

function parseJson(text: string, file: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    const value = error instanceof Error ? error.message : String(error);
    const fix = "name a file of YAML .yaml or .yml";
    refuse("input", `cannot read ${file}`, { rule: "it is JSON", value, fix, cause: error });
  }
}

/** The options of a file that a user wrote: by their names, or nested by their paths. */
function ofObject(whole: Json, file: string): Map<OptionPath, unknown> {
  const values = new Map<OptionPath, unknown>(), strangers: string[] = [];
  const read = (part: Json, above: string): void => {
    for (const [name, value] of Object.entries(part)) {
      const key = `${above}${name}`, path = pathOf(key);
      if (path !== null) {
        if (value === null) continue;
        if (values.has(path)) twice(key, file);
        values.set(path, valueIn(key, value, path));
      } else if (isObject(value) && FLAG_PATHS.some((one) => one.startsWith(`${key}.`))) read(value, `${key}.`);
      else strangers.push(key);
    }
  };
  read(whole, "");
  if (strangers.length > 0) throw unknown(strangers, file);
  return values;
}

/** The option of a key; null for none. */
function pathOf(key: string): OptionPath | null {
  const path = FLAG_PATHS.find((one) => one === key || nameOf(one) === key) ?? null;
  if (path === null || !TYPED.includes(path)) return path;
  return refuse("usage", `cannot take ${key} from a file`, {
    rule: `${TYPED.map(flagOf).join(", ")} are given on the command line`,
    value: key,
    option: path,
  });
}

function twice(key: string, file: string): never {
  refuse("usage", `cannot use ${file}`, { rule: "each option stands once, by its name or its path", value: key });
}

function unknown(strangers: readonly string[], file: string): Error {
  const known = FLAG_PATHS.filter((path) => !TYPED.includes(path)).flatMap((path) => [path, nameOf(path) ?? path]);
  const meant = strangers.flatMap((key) => nearest(key, known) ?? []);
  return refusal("usage", `cannot use ${file}`, {
    rule: "its keys are options of a run, by name (loraRate) or nested by path (rates, lora)",
    value: strangers.join(", "),
    fix: meant.length > 0 ? `did you mean ${meant.join(", ")}?` : undefined,
    option: strangers[0],
  });
}

/** Reads a value: a text as the command line takes it, or a value of JSON. */
function valueIn(key: string, value: unknown, path: OptionPath): unknown {
  const row = entryOf(path), { type } = row;
  if (typeof value === "string" && type !== "switch") {
    return (parserOf(row, { flag: key, path }) as (text: string) => unknown)(value);
  }
  if (isOfType(path, value)) return value;
  throw refusal("usage", `cannot use ${key} ${JSON.stringify(value)}`, {
    rule: `${key} is ${ruleText(row)}`,
    value: JSON.stringify(value),
    option: path,
  });
}

function isOfType(path: OptionPath, value: unknown): boolean {
  const row = entryOf(path), { type, off } = row;
  if (type === "prompt") return typeof value === "boolean";
  if (value === false && off !== undefined && type !== "switch") return true;
  if (type === "alarms") return isObject(value);
  if (type === "value" || type === "calibration") return false;
  if (type === "switch") return typeof value === "boolean";
  if (type === "list") return Array.isArray(value) && value.every((one) => typeof one === "string" && one !== "");
  return accepts(type === "names" ? { ...row, type: "words" } : row, value);
}

/** The options of an earlier run that differ from their defaults. */
async function ofRun({ options, inputs }: RunSummary): Promise<Config> {
  const given = optionsOfRun(options), { prompt } = given;
  const { calibration, schedule, vocabulary, baseDtype, data = "", files = "{}" } = inputs;
  const usual = calibrationDefault(resolveOptions(given), { resume: false, areThere: false });
  const isNamed = calibration === "own" || calibration === "none";
  const all = {
    ...given,
    prompt: prompt === "none" ? false : undefined,
    calibration: isNamed && calibration !== usual ? calibration : undefined,
    schedule: schedule !== undefined && isScheduleName(schedule) ? schedule : undefined,
    baseDtype: baseDtype === entryOf("baseDtype").default ? undefined : baseDtype,
    ...textOptions(data.slice(data.indexOf(" ") + 1)),
    export: textOptions(files),
  };
  const values = FLAG_PATHS.map((path) => [path, valueOf(all, path)] as const);
  const isOwn = schedule !== undefined && !isScheduleName(schedule) && schedule !== await scheduleName(undefined);
  const lacks: [OptionPath, boolean][] = [
    ["prompt", prompt !== undefined && prompt !== "none" && prompt !== COLLABORATIVE_PROMPT],
    ["calibration", options.calibration && !isNamed],
    ["schedule", isOwn],
    ["vocabData", vocabulary !== undefined],
  ];
  return {
    values: new Map(values.filter(([, value]) => value !== undefined)),
    lacks: lacks.filter(([, isLacking]) => isLacking).map(([path]) => path),
  };
}

/** The rows' options stand by their names on the command line. */
function valueOf(all: object, path: OptionPath): unknown {
  return valueAt(all, path) ?? valueAt(all, nameOf(path) ?? path);
}

/** Options that run.json holds as a text of JSON. */
function textOptions(text: string): Json {
  const value: unknown = text.startsWith("{") ? JSON.parse(text) : {};
  return isObject(value) ? value : {};
}
