// Settings of monitors as texts: NAME=ACTION or NAME=ACTION:THRESHOLD.
import { CompressoError } from "../../core/errors.ts";
import {
  ALARM_ACTIONS,
  MONITOR_NAMES,
  type MonitorName,
  type MonitorOptions,
  type MonitorSetting,
  resolveMonitors,
} from "./alarm.ts";

/** Actions that a text may name. */
export const SETTING_ACTIONS = [...ALARM_ACTIONS, "off"] as const;

/** The form of a text, for those who give a wrong one. */
export const ALARM_SETTING_FORM = `NAME=ACTION or NAME=ACTION:THRESHOLD, NAME one of ${
  MONITOR_NAMES.join(", ")
}, ACTION one of ${SETTING_ACTIONS.join(", ")}`;

/**
 * Settings of monitors from texts such as `divergence=stop` and `constraint=warn:0.02`, several with commas between or as a list; the last one
 * of a monitor counts, and those of `before` hold for the others. Throws `CompressoError("usage")` that names `option` for other texts, and for
 * actions and thresholds that the monitor cannot have.
 */
export function alarmSettings(
  texts: string | readonly string[],
  { option, before = {} }: { readonly option: string; readonly before?: MonitorOptions },
): MonitorOptions {
  const list = typeof texts === "string" ? [texts] : texts;
  const settings = list.flatMap((text) => text.split(",")).map((text) => oneSetting(text.trim(), option));
  const all: MonitorOptions = { ...before, ...Object.fromEntries(settings) };
  resolveMonitors(all);
  return all;
}

/** The one text of settings that say the same. */
export function alarmText(settings: MonitorOptions): string {
  return MONITOR_NAMES.flatMap((name) => {
    const { action, threshold } = settings[name] ?? {};
    return action === undefined ? [] : [`${name}=${action}${threshold === undefined ? "" : `:${threshold}`}`];
  }).join(",");
}

/** The monitor that a text sets; null where it is none of such a form. */
export function monitorOf(text: string): MonitorName | null {
  const [, name, action] = /^([\w-]+)=([a-z]+)(?![\w-])/i.exec(text) ?? [];
  return SETTING_ACTIONS.some((one) => one === action) ? MONITOR_NAMES.find((one) => one === name) ?? null : null;
}

function oneSetting(text: string, option: string): readonly [MonitorName, MonitorSetting] {
  const [, name, action, number] = /^([\w-]+)=([a-z]+)(?::([\d.e+-]+))?$/i.exec(text) ?? [];
  const monitor = MONITOR_NAMES.find((one) => one === name), found = SETTING_ACTIONS.find((one) => one === action);
  if (!monitor || !found || number !== undefined && !Number.isFinite(Number(number))) {
    throw new CompressoError("usage", {
      what: `cannot use ${option} ${text}`,
      rule: `${option} is ${ALARM_SETTING_FORM}`,
      value: text,
      fix: "try divergence=stop",
    });
  }
  return [monitor, { action: found, ...(number === undefined ? {} : { threshold: Number(number) }) }];
}
