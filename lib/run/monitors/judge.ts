// Turns findings into alarms with their actions, or into the error that ends the run.
import { CompressoError, option, plainText, respelled } from "../../core/errors.ts";
import type { RunState } from "../contract.ts";
import type { Alarm, AlarmAction, Finding, ResolvedMonitors } from "./alarm.ts";

/** The decision about a step. */
export interface Verdict {
  readonly step: number;
  readonly alarms: readonly Alarm[];
  /** The strongest action among them; null without alarms. */
  readonly action: AlarmAction | null;
}

/** State of a run when it is judged. */
export interface JudgeInput {
  readonly settings: ResolvedMonitors;
  readonly step: number;
  /** Rollbacks so far. */
  readonly halvings: number;
  /** Step of its last good state. */
  readonly goodStep: number;
}

/** Decides what to do. A run that has no rollbacks left stops. If one alarm stops the run, no other rolls it back. */
export function judge(
  found: readonly Finding[],
  { settings, step, halvings, goodStep }: JudgeInput,
): Verdict {
  const isSpent = halvings >= settings.rollbacks;
  const wanted = found.map(({ monitor, instead }): AlarmAction => {
    const action = settings[monitor]?.action ?? "warn";
    if (action !== "rollback") return action;
    return instead ?? (isSpent ? "stop" : "rollback");
  });
  const action = (["stop", "rollback", "warn"] as const).find((one) => wanted.includes(one)) ?? null;
  const alarms = found.map(({ monitor, message, change }, index): Alarm => {
    const own = wanted[index] ?? "warn", taken = own === "rollback" && action === "stop" ? "stop" : own;
    const isLast = taken === "stop" && settings[monitor]?.action === "rollback" && halvings > 0;
    const { text, options } = plainText(change), seen = isLast ? `${message}; ${wentBefore(halvings)}` : message;
    return {
      monitor,
      step,
      action: taken,
      restored: taken === "rollback" ? goodStep : null,
      message: plainText(seen).text,
      change: text,
      options,
    };
  });
  return { step, alarms, action };
}

/** How often rates were halved, for the message: new rates must be lower than the last ones that failed. */
function wentBefore(halvings: number): string {
  const [times, halved] = halvings === 1
    ? ["once", "and its rates were halved"]
    : [`${halvings} times`, "and its rates were halved each time"];
  return `the run went back ${times} before, ${halved}`;
}

/**
 * The error of an alarm that stops the run. Its fix is worded for the verb `prune`; a program finds the alarm in
 * `alarm`.
 */
export class AlarmError extends CompressoError {
  /** The alarm. */
  readonly alarm: Alarm;

  /** Creates the error of an alarm. */
  constructor(alarm: Alarm, options?: ErrorOptions) {
    super(alarm.monitor === "memory" ? "gpu" : "numeric", {
      what: `cannot continue after step ${alarm.step}`,
      rule: `the monitor '${alarm.monitor}' raises no alarm`,
      value: alarm.message,
      fix: fixOf(alarm),
    }, options);
    this.alarm = alarm;
  }
}

/** The error of a verdict that stops the run. */
export function stopError({ alarms }: Verdict, options?: ErrorOptions): CompressoError {
  const alarm = alarms.find(({ action }) => action === "stop");
  if (!alarm) throw new Error("no alarm stops the run");
  return new AlarmError(alarm, options);
}

/** The state to save when a verdict stops the run, with its alarms. They belong to a later step, which has no record. */
export function stoppedAt(state: RunState, { alarms }: Verdict): RunState {
  return { ...state, position: { ...state.position, stopped: alarms } };
}

/** What to change, and how to continue without changes. A resumed run keeps all options except those of the monitors. */
function fixOf({ monitor, change: plain, options }: Alarm): string {
  const change = respelled(plain, options, option);
  const asItIs = `continue as it is (${option("resume")}, with ${option("monitors", `${monitor}=warn`)})`;
  // A run cannot continue from NaN, and the memory of other programs is no option of the run.
  if (monitor === "nan") return `${change}; for that start over (${option("export.replace")})`;
  if (monitor === "memory") return `${change}, and continue (${option("resume")}); or ${asItIs}`;
  return `${change}; if that changes only rates or the schedule, continue (${option("resume")}, with ${
    option("mayDiffer", "rates,schedule")
  }), else start over (${option("export.replace")}), or ${asItIs}`;
}
