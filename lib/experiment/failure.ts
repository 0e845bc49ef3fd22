// Records of failed cells: the error, with options as experiments name them, and how often the cell was tried.
import { CompressoError, option, respelled, spelled, type SpellOption } from "../core/errors.ts";
import type { Alarm } from "../run/monitors/alarm.ts";
import { alarmSettings, alarmText } from "../run/monitors/alarm_setting.ts";
import { AlarmError } from "../run/monitors/judge.ts";
import { type CellOptions, spellCell } from "./options.ts";
import type { CellFailure, CellState, PlannedCell } from "./types.ts";

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

/** Why a cell's last try failed; null if it did not. */
export function messageOfState(state: CellState): string | null {
  if (state.kind === "failed") return state.what;
  return "failure" in state ? state.failure?.message ?? null : null;
}

function messageOf(error: unknown, options: CellOptions): string {
  if (!(error instanceof CompressoError)) return error instanceof Error ? error.message : String(error);
  const fix = error instanceof AlarmError ? { fix: spelled(fixOf(error.alarm, options), spellCell) } : {};
  return error.with({ spell: spellCell, ...fix }).message;
}

/** Spells the options of a measure as the definition names them. */
export const spellMeasure: SpellOption = (path, value) =>
  path === "skipBroken" ? "skipBroken of the measure" : spellCell(path, value);

/** The fix of an alarm: what to change in the experiment, and how the cell then runs. */
function fixOf({ monitor, change: plain, options }: Alarm, { onAlarm = [] }: CellOptions): string {
  const change = respelled(plain, options, option),
    redo = option("redo"),
    changed = `${change}, and run it again (${redo})`;
  // A run cannot continue with NaN.
  if (monitor === "nan") return changed;
  // The others stay as the cell has them.
  const own = alarmSettings(onAlarm, { option: "onAlarm" });
  const setting = alarmText({ ...own, [monitor]: { ...own[monitor], action: "warn" } });
  const asItIs =
    `let it continue as it is: the option onAlarm "${setting}" for this run in the definition, or for all runs (${
      option("set", `onAlarm=${setting}`)
    }), and ${redo}, which also repeats finished runs in which ${monitor} raised an alarm`;
  // A cell has no option for the memory of other programs.
  return monitor === "memory" ? `${change}, and the same command continues; or ${asItIs}` : `${changed}; or ${asItIs}`;
}
