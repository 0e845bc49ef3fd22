// Alarms of a run on the command line: the option that sets what they do, and how they are shown. Owns those words; refuses to watch.
import { CompressoError } from "../lib/errors.ts";
import {
  type Alarm,
  ALARM_ACTIONS,
  MONITOR_NAMES,
  type MonitorOptions,
  type MonitorSetting,
  resolveMonitors,
} from "../lib/run/monitors/alarm.ts";

const ACTIONS = [...ALARM_ACTIONS, "off"] as const;

/** The option; it may be given for each monitor. */
export const ON_ALARM_OPTION = [
  "--on-alarm <name=action>",
  `what an alarm does (${
    ACTIONS.join(", ")
  }), such as divergence=stop, or with a threshold constraint=warn:0.02; may be repeated (${MONITOR_NAMES.join(", ")})`,
  collectAlarms,
] as const;

/** Adds one value of the option to those before. Throws `CompressoError("usage")`. */
export function collectAlarms(text: string, before: MonitorOptions = {}): MonitorOptions {
  const [, name, action, number] = /^([\w-]+)=([a-z]+)(?::([\d.e+-]+))?$/i.exec(text.trim()) ?? [];
  const monitor = MONITOR_NAMES.find((one) => one === name), found = ACTIONS.find((one) => one === action);
  if (!monitor || !found || number !== undefined && !Number.isFinite(Number(number))) {
    throw new CompressoError("usage", {
      what: `cannot use --on-alarm ${text}`,
      rule: `--on-alarm is NAME=ACTION or NAME=ACTION:THRESHOLD, NAME one of ${
        MONITOR_NAMES.join(", ")
      }, ACTION one of ${ACTIONS.join(", ")}`,
      value: text,
    });
  }
  const setting: MonitorSetting = { action: found, ...(number === undefined ? {} : { threshold: Number(number) }) };
  const all = { ...before, [monitor]: setting };
  resolveMonitors(all);
  return all;
}

/** An alarm as one line. */
export function alarmLine({ monitor, step, action, restored, message, change }: Alarm): string {
  const done = restored === null
    ? action === "stop" ? "; stopping" : ""
    : `; went back to step ${restored} with halved rates`;
  return `step ${step}, ${monitor}: ${message}${done}; to mend it: ${change}`;
}
