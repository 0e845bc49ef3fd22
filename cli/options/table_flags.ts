// Flags of the options of pruning, from their table.
import type { CommandUnknownOpts } from "../packages.ts";
import { atPaths, PRUNE_PATHS } from "../../lib/run/options/check.ts";
import {
  entryOf,
  groupOf,
  type NameOf,
  nameOf,
  OPTION_PATHS,
  type OptionPath,
  type WrittenValue,
} from "../../lib/run/options/table.ts";
import type { MonitorOptions } from "../../lib/run/monitors/alarm.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { optionsOf } from "./flags.ts";

/** Options of the table as the command line gives them; options that were not given are absent. */
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
    const entry = entryOf(path), group = groupOf(path);
    const place = inOneGroup
      ? {}
      : { group: group[0]?.toUpperCase() + group.slice(1), isEveryday: entry.everyday ?? false };
    // Without the preset its values say nothing.
    const { paper, ...plain } = entry, preset = paper === undefined || !paths.includes("preset") ? {} : { paper };
    const row = { ...plain, ...preset, help: help[path] ?? entry.help };
    for (const flag of optionsOf(nameOf(path) ?? path, row, { path, ...place })) command.addOption(flag);
  }
  return command;
}

/** The options of `prune` that the flags give, as an object. Prompt, calibration and evaluation text are read from files elsewhere. */
export function pruneOptionsOf(flags: TableFlags): Partial<RunOptions> {
  const others: readonly OptionPath[] = ["prompt", "calibration", "evaluate.text"];
  return atPaths(
    PRUNE_PATHS.filter((path) => nameOf(path) !== null && !others.includes(path))
      .map((path) => [path, valueOfFlag(flags, path)] as const),
  );
}

/** The value of an option's flag; undefined if the flag was not given. */
export function valueOfFlag(flags: TableFlags, path: OptionPath): unknown {
  const given: Readonly<Record<string, unknown>> = flags;
  return given[nameOf(path) ?? path];
}
