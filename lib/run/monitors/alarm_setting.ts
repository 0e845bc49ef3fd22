// Parses settings of monitors from text: NAME=ACTION or NAME=ACTION:THRESHOLD.
import { refuse } from "../../core/errors.ts";
import {
  ALARM_ACTIONS,
  isMonitorName,
  MONITOR_NAMES,
  type MonitorName,
  type MonitorOptions,
  type MonitorSetting,
  resolveMonitors,
} from "./alarm.ts";

/** Actions that a setting may name. */
const SETTING_ACTIONS = [...ALARM_ACTIONS, "off"] as const;

/** The expected form, for error messages. */
const ALARM_SETTING_FORM = `NAME=ACTION or NAME=ACTION:THRESHOLD, NAME one of ${
  MONITOR_NAMES.join(", ")
}, ACTION one of ${SETTING_ACTIONS.join(", ")}`;

/**
 * Parses settings of monitors such as `divergence=stop` and `constraint=warn:0.02`, separated by commas or in a list.
 * The last setting of a monitor counts. Monitors that are not named keep their settings in `before`.
 *
 * @throws CompressoError("usage") that names `option`, for other texts and for actions and thresholds that the monitor
 *   cannot have.
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

/** Canonical text of settings: equal settings give equal texts. */
export function alarmText(settings: MonitorOptions): string {
  return MONITOR_NAMES.flatMap((name) => {
    const { action, threshold } = settings[name] ?? {};
    return action === undefined ? [] : [`${name}=${action}${threshold === undefined ? "" : `:${threshold}`}`];
  }).join(",");
}

/** The monitor that a text sets; null if the text does not have the expected form. */
export function monitorOf(text: string): MonitorName | null {
  const [, name = "", action] = /^([\w-]+)=([a-z]+)(?![\w-])/i.exec(text) ?? [];
  return SETTING_ACTIONS.some((one) => one === action) && isMonitorName(name) ? name : null;
}

function oneSetting(text: string, option: string): readonly [MonitorName, MonitorSetting] {
  const [, name = "", action, number] = /^([\w-]+)=([a-z]+)(?::([\d.e+-]+))?$/i.exec(text) ?? [];
  const found = SETTING_ACTIONS.find((one) => one === action);
  if (!isMonitorName(name) || !found || number !== undefined && !Number.isFinite(Number(number))) {
    refuse("usage", `cannot use ${option} ${text}`, {
      rule: `${option} is ${ALARM_SETTING_FORM}`,
      value: text,
      fix: "try divergence=stop",
    });
  }
  return [name, { action: found, ...(number === undefined ? {} : { threshold: Number(number) }) }];
}
