// What a cell is, as facts that decide its result: two cells with the same facts end alike. Owns the facts and their comparison; refuses to
// store them.
import type { DecoderSpec } from "../spec/decoder.ts";
import { COLLABORATIVE_PROMPT } from "../data/prompts/encode.ts";
import { DEFAULT_SCHEDULE, isScheduleName } from "../schedule/builtin.ts";
import { differencesOf } from "../core/identity.ts";
import { decidingOptions } from "../run/identity.ts";
import { MONITOR_NAMES, type MonitorName } from "../run/monitors/alarm.ts";
import type { PruneOptions } from "../run/options/options.ts";
import { digestOf } from "../core/digest.ts";
import { openSchedule } from "../schedule/host.ts";
import { readScript, scriptUrl } from "../schedule/source.ts";
import type { CellOptions } from "./options.ts";
import type { CellIdentity } from "./types.ts";
import { resolveOptions } from "../run/options/resolve.ts";

/** What is known of a cell before it runs. */
export interface CellFacts {
  readonly options: CellOptions;
  /** As the run takes them. */
  readonly prune: Omit<PruneOptions, "rows">;
  readonly spec: DecoderSpec;
  /** Digests of weights, rows and the schedule's script. */
  readonly weights: string;
  readonly data: string;
  /** null where there are no calibration rows. */
  readonly calibration: string | null;
  readonly schedule: string;
}

/**
 * The facts, with all defaults filled in, so that a default that changes is noticed. Whether layers are computed anew changes no bit and is
 * none. Throws `CompressoError("usage")` for options that cannot work.
 */
export function identityOfCell(
  { options, prune, spec, weights, data, calibration, schedule }: CellFacts,
): CellIdentity {
  const resolved = resolveOptions({ ...prune, rows: [] }, spec);
  const { calibration: _isGiven, ...facts } = decidingOptions(resolved), { monitors, prompt } = resolved;
  return {
    ...Object.fromEntries(Object.entries({ ...facts, monitors }).flatMap(([name, value]) => flat(name, value))),
    ...(calibration === null ? {} : { calibration }),
    prompt: promptName(prompt),
    schedule,
    weights,
    data,
    baseDtype: options.baseDtype ?? "f16",
  };
}

/** A prompt's text in a few letters. */
export function promptName(prompt: string | null): string {
  if (prompt === null) return "none";
  return prompt === COLLABORATIVE_PROMPT ? "collaborative" : `text ${digestOf([prompt])}`;
}

/**
 * A schedule in a few letters: its name, or a hash of its script; of one with `trust`, which may import others, the identity that its run has, for
 * which it is imported. Throws `CompressoError("input")` for a script that cannot be read, or with `trust` not be imported.
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
  return `${SCRIPT}${digestOf([(await readScript(scriptUrl(schedule), { name: schedule })).text])}`;
}

/** How the fact of a schedule that is a script begins. */
const SCRIPT = "script ";

/** Whether a schedule is the path of a script, and neither a name nor a URL. */
export function isScriptPath(schedule: string): boolean {
  return !isScheduleName(schedule) && !/^[a-z][a-z\d+.-]+:/i.test(schedule);
}

/** A monitor that is off, among the facts. */
const OFF = "null";

/**
 * What differs, in words; null where nothing does. Of a run that has ended it is known which monitors `raised` an alarm: what the others would
 * have done then has decided nothing. Nor has the shape of LoRA where it was never trained, but for a run that has not ended, whose checkpoint has it.
 */
export function differences(
  then: CellIdentity,
  now: CellIdentity,
  { raised = null, hasEnded = raised !== null }: {
    readonly raised?: readonly MonitorName[] | null;
    readonly hasEnded?: boolean;
  } = {},
): string | null {
  const idle = MONITOR_NAMES.filter((name) => raised && !raised.includes(name)).flatMap((name) => {
    const whole = `monitors.${name}`, action = `${whole}.action`;
    // One that is off now would have raised none either, whatever its threshold was.
    return now[whole] === OFF ? [whole, action, `${whole}.threshold`] : [action];
  });
  const ofLora = hasEnded && isWithoutLora(then) && isWithoutLora(now)
    ? [...Object.keys({ ...then, ...now }).filter((name) => name.startsWith("lora.")), ...LORA_RATES]
    : [];
  return differencesOf(then, now, { idle: [...idle, ...ofLora] }).join("; ") || null;
}

/** Rates that only LoRA's steps have. */
const LORA_RATES = ["rates.clipNorm", "rates.weightDecay"] as const;

/** Whether LoRA stays at its beginning, where it adds nothing, as with `lora: false`; a script may go by the norm of its gradients all the same. */
function isWithoutLora(facts: CellIdentity): boolean {
  return !facts["schedule"]?.startsWith(SCRIPT) &&
    ["rates.lora", "rates.postfinetune", "prefinetune", "postfinetune"].every((name) => facts[name] === "0");
}

/** An object's parts each by a name of its own. */
function flat(name: string, value: unknown): [string, string][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return [[name, JSON.stringify(value) ?? ""]];
  return Object.entries(value).flatMap(([part, inner]) => flat(`${name}.${part}`, inner));
}
