// What becomes of a cell's error: its record, with a fix that works in an experiment, and how often it came. Owns those words; refuses to decide
// what runs.
import { CompressoError, type ErrorParts } from "../core/errors.ts";
import type { Alarm } from "../run/monitors/alarm.ts";
import { alarmSettings, alarmText } from "../run/monitors/alarm_setting.ts";
import { AlarmError } from "../run/monitors/judge.ts";
import { type CellOptions, isCellOption } from "./options.ts";
import type { CellFailure, CellState, PlannedCell } from "./types.ts";

/** What `prune` calls the leaving out of broken rows. */
const SKIPPED = "prune --skip-broken";

/** What other verbs advise, and in its place what an experiment has: its command goes on by itself, and its texts are told by a definition. */
const ADVICE: readonly (readonly [theirs: string | RegExp, own: string])[] = [
  ["no longer --no-recompute", "recompute: true"],
  [SKIPPED, "skipBroken: true of the data"],
  [/, or go on with the others by --may-differ [\w,]+/, ""],
  ["give the same options, or another --out", "run it anew with --redo, or put back what differs"],
  ["and go on (prune --resume)", "and the same command goes on"],
  ["go on (prune --resume) once", "the same command goes on once"],
  ["start anew (prune --overwrite)", "run it anew (--redo)"],
  ["a run goes on from its last checkpoint by --resume", "the same command goes on from its last checkpoint"],
  [/lower count to (\d+), which are written \(--count \d+ --resume\)/, "lower generate.count of the data to $1"],
  [
    "start anew with another seed (--seed, with --overwrite)",
    "give another generate.seed of the data (the option seed changes no text)",
  ],
];

/** An error as the failure of a cell. */
export function failureOf(error: unknown, { state, options }: Pick<PlannedCell, "state" | "options">): CellFailure {
  return {
    code: error instanceof CompressoError ? error.code : "defect",
    message: messageOf(error, options),
    tries: triesOf(state) + 1,
  };
}

/** How often a cell was tried since it last went well. */
export function triesOf(state: CellState): number {
  if (state.kind === "failed") return state.tries;
  return "failure" in state && state.failure ? state.failure.tries : 0;
}

/** Why a cell's last try failed; null where it did not. */
export function messageOfState(state: CellState): string | null {
  if (state.kind === "failed") return state.what;
  return "failure" in state ? state.failure?.message ?? null : null;
}

function messageOf(error: unknown, options: CellOptions): string {
  if (!(error instanceof CompressoError)) return error instanceof Error ? error.message : String(error);
  const { code, parts } = error;
  if (error instanceof AlarmError) {
    return new CompressoError(code, { ...parts, fix: fixOf(error.alarm, options) }).message;
  }
  return new CompressoError(code, partsInOptions(parts)).message;
}

/** An error's parts with the names of a cell's options in place of those of `prune`. */
export function partsInOptions({ what, rule, fix, ...value }: ErrorParts): ErrorParts {
  return {
    what: inOptions(what),
    ...(rule === undefined ? {} : { rule: inOptions(rule) }),
    ...value,
    ...(fix === undefined ? {} : { fix: inOptions(fix) }),
  };
}

/** An error's parts with what the definition says of a measure in place of options of `prune` and `eval`. */
export function ofMeasure({ fix, ...parts }: ErrorParts): ErrorParts {
  if (fix === undefined) return parts;
  const own = fix.replace(SKIPPED, "skipBroken: true of the measure")
    .replace("by --task-data", "by evaluate.tasks.data, or by --file NAME=PATH where that is @NAME");
  return { ...parts, fix: own };
}

/** Words with the names of a cell's options in place of those of `prune`: `loraRate` for `--lora-rate`. */
function inOptions(text: string): string {
  const known = ADVICE.reduce((words, [theirs, own]) => words.replace(theirs, own), text);
  return known.replaceAll(/--([a-z]+(?:-[a-z]+)*)/g, (word, name: string) => {
    const option = name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
    return isCellOption(option) ? option : word;
  });
}

/** As the verb `prune` words it, but for the ways that a cell has. */
function fixOf({ monitor, change }: Alarm, { onAlarm = [] }: CellOptions): string {
  const advice = inOptions(change), changed = `${advice}, and run it anew (--redo)`;
  // NaN cannot be gone on with.
  if (monitor === "nan") return changed;
  // The others stay as the cell has them.
  const own = alarmSettings(onAlarm, { option: "onAlarm" });
  const setting = alarmText({ ...own, [monitor]: { ...own[monitor], action: "warn" } });
  const goOn =
    `let it go on as it is: the option onAlarm "${setting}" for this run in the definition, or for all runs --set onAlarm=${setting}, and --redo, which also runs finished ones anew where ${monitor} raised an alarm`;
  // Other programs' memory is no option of a cell.
  return monitor === "memory" ? `${advice}, and the same command goes on; or ${goOn}` : `${changed}; or ${goOn}`;
}
