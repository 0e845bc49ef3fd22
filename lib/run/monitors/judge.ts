// What follows from findings: alarms with their actions, or the error that ends the run.
import { CompressoError, option } from "../../core/errors.ts";
import type { RunState } from "../contract.ts";
import type { Alarm, AlarmAction, Finding, ResolvedMonitors } from "./alarm.ts";

/** What is decided about a step. */
export interface Verdict {
  readonly step: number;
  readonly alarms: readonly Alarm[];
  /** The strongest action among them; null without alarms. */
  readonly action: AlarmAction | null;
}

/** Where a run stands when it is judged. */
export interface JudgeInput {
  readonly settings: ResolvedMonitors;
  readonly step: number;
  /** How often the run went back so far. */
  readonly halvings: number;
  /** Step of its last good state. */
  readonly goodStep: number;
}

/** Decides. A run that may not go back once more stops, and one that stops does not go back. */
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
    return {
      monitor,
      step,
      action: taken,
      restored: taken === "rollback" ? goodStep : null,
      message: isLast ? `${message}; ${wentBefore(halvings)}` : message,
      change,
    };
  });
  return { step, alarms, action };
}

/** Rates that are lowered have to be lower than those that failed last. */
function wentBefore(halvings: number): string {
  const [times, halved] = halvings === 1
    ? ["once", "and its rates were halved"]
    : [`${halvings} times`, "and its rates were halved each time"];
  return `the run went back ${times} before, ${halved}`;
}

/** The error of an alarm that stops the run; the fix is that of the verb `prune`, and who runs it otherwise finds the alarm beside it. */
export class AlarmError extends CompressoError {
  /** The alarm. */
  readonly alarm: Alarm;

  /** Words the alarm as an error. */
  constructor(alarm: Alarm, options?: ErrorOptions) {
    super(alarm.monitor === "memory" ? "gpu" : "numeric", {
      what: `cannot go on after step ${alarm.step}`,
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

/** A state to go on from, to be saved where a verdict stops the run, with its alarms: they are of a later step, of which no record may be. */
export function stoppedAt(state: RunState, { alarms }: Verdict): RunState {
  return { ...state, position: { ...state.position, stopped: alarms } };
}

/** What to change and how, and how to go on without: a resumed run keeps its options but for those of the monitors. */
function fixOf({ monitor, change }: Alarm): string {
  const asItIs = `continue as it is (${option("resume")}, with ${option("monitors", `${monitor}=warn`)})`;
  // NaN cannot be gone on with, and other programs' memory is no option of the run.
  if (monitor === "nan") return `${change}; for that start anew (${option("export.replace")})`;
  if (monitor === "memory") return `${change}, and continue (${option("resume")}); or ${asItIs}`;
  return `${change}; where that is rates or the schedule alone, continue (${option("resume")}, with ${
    option("mayDiffer", "rates,schedule")
  }), else start anew (${option("export.replace")}), or ${asItIs}`;
}
