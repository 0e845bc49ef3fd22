// Every option of pruning, once: the rows of table/ in one. Flags and their help, options of experiments, checks of
// names and bounds, presets, the identity that a checkpoint compares and docs/reference/options.md follow from it.
import type { ValueOf } from "../../core/value_rule.ts";
import type { Objective } from "../../nn/train/objective.ts";
import type { LoraConfig } from "../../spec/lora.ts";
import type { MinimumWidths, UnitRules } from "../../units/rules.ts";
import type { Rates } from "../contract.ts";
import type { Evaluation } from "../evaluation.ts";
import type { CheckpointOptions, RunOptions, VocabularyOptions } from "./options.ts";
import { ADVANCED_OPTIONS } from "./table/advanced.ts";
import { DATA_OPTIONS } from "./table/data.ts";
import type { OptionEntry, OptionTable, Scope } from "./table/entry.ts";
import { FILES_OPTIONS } from "./table/files.ts";
import { METHOD_OPTIONS } from "./table/method.ts";
import { PROGRAM_OPTIONS } from "./table/program.ts";
import { TARGET_OPTIONS } from "./table/target.ts";
import { TRAINING_OPTIONS } from "./table/training.ts";

/** The rows by heading, in the order in which help and reference list them. */
export const OPTION_GROUPS = {
  target: TARGET_OPTIONS,
  data: DATA_OPTIONS,
  method: METHOD_OPTIONS,
  training: TRAINING_OPTIONS,
  files: FILES_OPTIONS,
  advanced: ADVANCED_OPTIONS,
} as const satisfies Readonly<Record<string, OptionTable>>;

/** The table, in the same order. */
export const OPTION_TABLE = {
  ...TARGET_OPTIONS,
  ...DATA_OPTIONS,
  ...METHOD_OPTIONS,
  ...TRAINING_OPTIONS,
  ...FILES_OPTIONS,
  ...ADVANCED_OPTIONS,
  ...PROGRAM_OPTIONS,
} as const satisfies { readonly [path in PrunePath]: OptionEntry } & OptionTable;

/** Paths within an object of options. */
type Within<P extends string, T> = `${P}.${Extract<keyof T, string>}`;

/** Paths of all options of `prune`. */
export type PrunePath =
  | Exclude<keyof RunOptions, "objective" | "lora" | "rates" | "rules" | "checkpoint" | "evaluate" | "vocab">
  | "sparsity"
  | Within<"vocab", VocabularyOptions>
  | Within<"objective", Objective>
  | Within<"lora", LoraConfig>
  | Within<"rates", Rates>
  | Exclude<Within<"rules", Omit<UnitRules, "rest" | "fit">>, "rules.minimum">
  | Within<"rules.minimum", MinimumWidths>
  | Within<"checkpoint", CheckpointOptions>
  | Within<"evaluate", Evaluation>
  | "size.parameters"
  | "size.bytes"
  | "size.file.format"
  | "size.file.dtype"
  | "size.name";

/** Path of an option in its object. */
export type OptionPath = keyof typeof OPTION_TABLE;

/** All paths, in the order of the table. */
export const OPTION_PATHS: readonly OptionPath[] = Object.keys(OPTION_TABLE).filter(isOptionPath);

/** Whether a text is the path of an option. */
export function isOptionPath(text: string): text is OptionPath {
  return Object.hasOwn(OPTION_TABLE, text);
}

/** The entry of an option. */
export function entryOf(path: OptionPath): OptionEntry {
  return OPTION_TABLE[path];
}

/** The heading under which help and reference list an option that has a flag. */
export function groupOf(path: OptionPath): string {
  return Object.entries(OPTION_GROUPS).find(([, rows]) => path in rows)?.[0] ?? "advanced";
}

/** Whether an option exists in a scope. */
export function isIn(scope: Scope, path: OptionPath): boolean {
  const { of, scope: own } = entryOf(path),
    usual: readonly Scope[] = of === undefined ? ["experiment", "sweep"] : ["sweep"];
  return (own ?? usual).includes(scope) && nameOf(path) !== null;
}

/** Paths of the options in a scope. */
export function pathsIn(scope: Scope): readonly OptionPath[] {
  return OPTION_PATHS.filter((path) => isIn(scope, path));
}

/** Paths of the resolved options that decide a run's bits; a resumed run compares them. */
export const DECIDING_PATHS: readonly OptionPath[] = OPTION_PATHS.filter((path) => {
  const { of, mayChange } = entryOf(path);
  return of === undefined && !mayChange && path !== "rows" && path !== "vocab.rows";
});

/**
 * Name of an option on the command line and in experiments; null if only programs have it.
 *
 * @internal
 */
export type NameOf<P extends OptionPath> = typeof OPTION_TABLE[P] extends { readonly name: infer N } ? N : P;

/** Value of an option as it is written on the command line, parsed, and in experiments. */
export type WrittenValue<P extends OptionPath> = ValueOf<typeof OPTION_TABLE[P]>;

/** Name of an option on the command line and in experiments, in camel case; null if only programs have it. */
export function nameOf(path: OptionPath): string | null {
  const { name } = entryOf(path);
  return name === undefined ? path : name;
}
