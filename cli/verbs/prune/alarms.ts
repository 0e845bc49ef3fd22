// Alarms of a run on the command line: the option that sets what they do, and how they are shown. Owns those words; refuses to watch.
import { type Alarm, MONITOR_ACTIONS, MONITOR_NAMES, type MonitorOptions } from "../../../lib/run/monitors/alarm.ts";
import { alarmSettings, SETTING_ACTIONS } from "../../../lib/run/monitors/alarm_setting.ts";

/** The option; it may be given for each monitor. */
export const ON_ALARM_OPTION = [
  "--on-alarm <name=action>",
  `what an alarm does (${
    SETTING_ACTIONS.join(", ")
  }), such as divergence=stop, or with a threshold constraint=warn:0.02; several with commas between, or repeated (${
    MONITOR_NAMES.map((name) => `${name}: ${MONITOR_ACTIONS[name][0]}`).join(", ")
  }; nan cannot warn or be off, memory not roll back)`,
  collectAlarms,
] as const;

/** Adds one value of the option to those before. Throws `CompressoError("usage")`. */
export function collectAlarms(text: string, before: MonitorOptions = {}): MonitorOptions {
  return alarmSettings(text, { option: "--on-alarm", before });
}

/** An alarm as one line. */
export function alarmLine({ monitor, step, action, restored, message, change }: Alarm): string {
  const done = restored === null
    ? action === "stop" ? "; stopping" : ""
    : `; went back to step ${restored} with halved rates`;
  return `step ${step}, ${monitor}: ${message}${done}; to fix it: ${change}`;
}
