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
import type { RunSummary } from "../run/result.ts";
import type { CellOptions } from "./options.ts";
import type { CellIdentity, FileData } from "./types.ts";

/** What is known of a cell before it runs. */
export interface CellFacts {
  readonly options: CellOptions;
  /** As the run has them, with all defaults. */
  readonly resolved: ResolvedOptions;
  /** Digests of weights, rows and the schedule's script. */
  readonly weights: string;
  readonly data: string;
  /** null if there are no calibration rows. */
  readonly calibration: string | null;
  /** null if the last of the rows are held out. */
  readonly heldOut: string | null;
  readonly schedule: string;
}

/** The identity of a cell: the options that decide its result, with all defaults, and digests of what it reads. */
export function identityOfCell(
  { options, resolved, weights, data, calibration, heldOut, schedule }: CellFacts,
): CellIdentity {
  const others: CellIdentity = {
    ...(calibration === null ? {} : { calibration }),
    ...(heldOut === null ? {} : { valRows: heldOut }),
  };
  return { ...factsOf(resolved), ...others, schedule, weights, data, baseDtype: options.baseDtype ?? "f16" };
}

/**
 * The identity of a run of `compresso prune`, by which an experiment can take it as a cell; null if its inputs are not
 * known. A run with calibration texts that its model wrote equals no cell.
 */
export function identityOfRun({ options, inputs }: Pick<RunSummary, "options" | "inputs">): CellIdentity | null {
  const { model: weights, data = "", schedule, baseDtype, calibration, validation } = inputs;
  const [, digest, how] = /^(\w+) (\{.*\})$/s.exec(data) ?? [];
  if (!weights || !schedule || !baseDtype || !digest || !how) return null;
  const { textField, limitRows: limit, skipBroken }: Omit<FileData, "file"> & { readonly limitRows?: number } = JSON
    .parse(how);
  const isCalibrated = calibration !== undefined && calibration !== "none";
  return {
    ...factsOf(options),
    ...(isCalibrated ? { calibration } : {}),
    ...(validation === undefined ? {} : { valRows: validation }),
    schedule,
    weights,
    data: dataIdentity(fileFacts({ textField, limit, skipBroken }), digest),
    baseDtype,
  };
}

/** Facts of a cell that are options. */
function factsOf(
  options: Parameters<typeof decidingOptions>[0] & Pick<ResolvedOptions, "monitors" | "prompt">,
): CellIdentity {
  const { calibration: _isGiven, ...facts } = decidingOptions(options), { monitors, prompt } = options;
  return { ...facts, monitors: JSON.parse(JSON.stringify(monitors)), prompt: promptName(prompt) };
}

/** Which rows of a file are taken, without defaults, in a fixed order: it is stored as text. */
export function fileFacts({ textField, limit, last, skipBroken }: Omit<FileData, "file">): Omit<FileData, "file"> {
  return {
    ...(textField === undefined ? {} : { textField }),
    ...(limit === undefined ? {} : { limit }),
    ...(last === undefined ? {} : { last }),
    ...(skipBroken ? { skipBroken } : {}),
  };
}

/** Identifies the rows of a data file that are used. */
export function dataIdentity(facts: Omit<FileData, "file">, digest: string): string {
  return Object.keys(facts).length === 0 ? digest : JSON.stringify({ ...facts, file: digest });
}

/** A short name of a prompt's text. */
export function promptName(prompt: string | null): string {
  if (prompt === null) return "none";
  return prompt === COLLABORATIVE_PROMPT ? "collaborative" : `text ${digestOf([prompt])}`;
}

/**
 * A short name of a schedule: its built-in name, or a hash of its script. A script with `trust` may import other
 * modules, so it is imported to get the identity that its run has. Throws `CompressoError("input")` for a script that
 * cannot be read or imported.
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
 * The differences in words; null for none. The monitors that `raised` an alarm are known for a finished run: actions of
 * the others had no effect.
 */
export function differences(
  then: CellIdentity,
  now: CellIdentity,
  { raised = null }: { readonly raised?: readonly MonitorName[] | null } = {},
): string | null {
  const monitors = isObject(now["monitors"]) ? now["monitors"] : {};
  const idle = MONITOR_NAMES.filter((name) => raised && !raised.includes(name)).map((name) =>
    // A monitor that is off now would have raised no alarm either, at any threshold.
    monitors[name] === null ? `monitors.${name}` : `monitors.${name}.action`
  );
  return differencesOf(then, now, { idle }).join("; ") || null;
}
