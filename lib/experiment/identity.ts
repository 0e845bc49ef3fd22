// The identity of a cell, as one JSON object: two cells with the same identity have the same result.
import { COLLABORATIVE_PROMPT } from "../data/prompts/encode.ts";
import { DEFAULT_SCHEDULE, isScheduleName } from "../schedule/builtin.ts";
import { isObject } from "../core/guards.ts";
import { differencesOf } from "../core/identity.ts";
import { decidingOptions } from "../run/identity.ts";
import { MONITOR_NAMES, type MonitorName } from "../run/monitors/alarm.ts";
import type { ResolvedOptions } from "../run/options/options.ts";
import { digestOf } from "../core/digest.ts";
import { openSchedule } from "../schedule/host.ts";
import { readScript, scriptUrl } from "../schedule/source.ts";
import type { CellOptions } from "./options.ts";
import type { CellIdentity } from "./types.ts";

/** What is known of a cell before it runs. */
export interface CellFacts {
  readonly options: CellOptions;
  /** As the run has them, with all defaults. */
  readonly resolved: ResolvedOptions;
  /** Digests of weights, rows and the schedule's script. */
  readonly weights: string;
  readonly data: string;
  /** null where there are no calibration rows. */
  readonly calibration: string | null;
  readonly schedule: string;
}

/** The identity of a cell: the options that decide its result, with all defaults, and digests of what it reads. */
export function identityOfCell(
  { options, resolved, weights, data, calibration, schedule }: CellFacts,
): CellIdentity {
  const { monitors, prompt } = resolved;
  const { calibration: _isGiven, ...facts } = decidingOptions(resolved);
  return {
    ...facts,
    monitors: JSON.parse(JSON.stringify(monitors)),
    ...(calibration === null ? {} : { calibration }),
    prompt: promptName(prompt),
    schedule,
    weights,
    data,
    baseDtype: options.baseDtype ?? "f16",
  };
}

/** A short name of a prompt's text. */
export function promptName(prompt: string | null): string {
  if (prompt === null) return "none";
  return prompt === COLLABORATIVE_PROMPT ? "collaborative" : `text ${digestOf([prompt])}`;
}

/**
 * A short name of a schedule: that of a built-in one, or a hash of a script. A script with `trust`, which may import other modules, is imported to get the
 * identity that its run has. Throws `CompressoError("input")` for a script that cannot be read, or with `trust` not be imported.
 */
export async function scheduleName(
  schedule: string | undefined,
  { trust = false }: { readonly trust?: boolean | undefined } = {},
): Promise<string> {
  if (schedule === undefined) return DEFAULT_SCHEDULE;
  if (isScheduleName(schedule)) return schedule;
  if (trust) {
    await using opened = await openSchedule(schedule, { trust });
    return opened.identity;
  }
  return `script ${digestOf([(await readScript(scriptUrl(schedule), { name: schedule })).text])}`;
}

/** Whether a schedule is the path of a script, and neither a name nor a URL. */
export function isScriptPath(schedule: string): boolean {
  return !isScheduleName(schedule) && !/^[a-z][a-z\d+.-]+:/i.test(schedule);
}

/**
 * What differs, in words; null where nothing does. Of a run that has ended, the monitors that `raised` an alarm are known: actions of the others had no
 * effect.
 */
export function differences(
  then: CellIdentity,
  now: CellIdentity,
  { raised = null }: { readonly raised?: readonly MonitorName[] | null } = {},
): string | null {
  const monitors = isObject(now["monitors"]) ? now["monitors"] : {};
  const idle = MONITOR_NAMES.filter((name) => raised && !raised.includes(name)).map((name) =>
    // One that is off now would have raised none either, whatever its threshold was.
    monitors[name] === null ? `monitors.${name}` : `monitors.${name}.action`
  );
  return differencesOf(then, now, { idle }).join("; ") || null;
}
