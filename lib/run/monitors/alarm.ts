// Monitors of a run: their names, actions, options and defaults, and what an alarm says.
import { type CompressoError, type NamedOption, refusal } from "../../core/errors.ts";

/** What an alarm does: report only; stop the run; or roll back to the last good state and continue with halved rates. */
export const ALARM_ACTIONS = ["warn", "stop", "rollback"] as const satisfies readonly AlarmAction[];
/** Name of an action. */
export type AlarmAction = "warn" | "stop" | "rollback";

/** A monitor: the actions that it may have, the first by default, and the default threshold. */
interface MonitorEntry {
  readonly actions: readonly AlarmAction[];
  /** null for none: such a monitor cannot be off either. */
  readonly threshold: number | null;
}

/**
 * Name of a monitor, of what is watched during a run:
 *
 * - `collapse`: masks that become all zero or all one.
 * - `dead-layer`: layers that add nothing any more.
 * - `oscillation`: units that open and close repeatedly.
 * - `divergence`: a loss that grows.
 * - `nan`: numbers that are not finite.
 * - `constraint`: a sparsity target that is not met.
 * - `memory`: GPU memory that runs out.
 */
export type MonitorName = "collapse" | "dead-layer" | "oscillation" | "divergence" | "nan" | "constraint" | "memory";

/** The monitors, one entry each. */
const MONITORS = {
  collapse: { actions: ["rollback", "warn", "stop"], threshold: 0.95 },
  "dead-layer": { actions: ["warn", "stop", "rollback"], threshold: 0.98 },
  oscillation: { actions: ["rollback", "warn", "stop"], threshold: 0.25 },
  divergence: { actions: ["rollback", "warn", "stop"], threshold: 0.5 },
  nan: { actions: ["rollback", "stop"], threshold: null },
  constraint: { actions: ["warn", "stop", "rollback"], threshold: 0.01 },
  memory: { actions: ["warn", "stop"], threshold: 0.95 },
} as const satisfies Readonly<Record<MonitorName, MonitorEntry>>;

/** The monitors. */
export const MONITOR_NAMES: readonly MonitorName[] = Object.keys(MONITORS).filter(isMonitorName);

/** What a monitor has seen. */
export interface Alarm {
  /** The monitor. */
  readonly monitor: MonitorName;
  /** Step of the whole run at which it was seen, from 1. */
  readonly step: number;
  /** What the run did about it. */
  readonly action: AlarmAction;
  /** Step that the run went back to; null if it did not. */
  readonly restored: number | null;
  /** What was seen: the value and its threshold. */
  readonly message: string;
  /** What to change. Options are spelled as in programs. */
  readonly change: string;
  /** The options that `change` names, in their order in it. */
  readonly options: readonly NamedOption[];
}

/** How one monitor is set. */
export interface MonitorSetting {
  /** What its alarm does; "off" disables the monitor, which `nan` does not allow. */
  readonly action?: AlarmAction | "off";
  /** Value from which it raises an alarm. Its meaning depends on the monitor, see {@link MonitorOptions}. */
  readonly threshold?: number;
}

/**
 * Settings of the monitors. A missing setting has its default.
 *
 * A monitor set to roll back only warns where rolling back would change nothing:
 *
 * - masks that are already hard, or that stay open;
 * - masks that hold a target above 0.8, or a target that needs more than 0.8 of one kind.
 *
 * A base model that overflows stops the run instead.
 */
export interface MonitorOptions {
  /**
   * Share from which masks count as collapsed; default 0.95. It is compared with two shares:
   *
   * - the share that is cut of the prunable units of a kind, where these are half of the kind or more;
   * - the share of the target that is missed.
   *
   * Where the target is above 0.8, or needs more than 0.8 of a kind even with all other kinds cut, three quarters of
   * the rest may be cut as well. Default action: roll back.
   */
  readonly collapse?: MonitorSetting;
  /**
   * Share of a layer's heads and of its FFN columns from which a layer counts as dead; default 0.98. Default action:
   * warn.
   */
  readonly "dead-layer"?: MonitorSetting;
  /**
   * Share of the units of a kind that reverse three times or more within thirteen looks; default 0.25. Kinds with fewer
   * than nine prunable units are skipped where there is a larger kind; otherwise all units are counted together.
   * Default action: roll back.
   */
  readonly oscillation?: MonitorSetting;
  /**
   * How far the mean of the last four losses may rise, as a share of the distance from its lowest value so far to the
   * loss of a uniform guess, ln(vocabulary). Before the fourth step the mean is over fewer losses. The distance counts
   * as at least two nats. Default 0.5. Default action: roll back.
   */
  readonly divergence?: MonitorSetting;
  /** Numbers that are not finite. It has no threshold and cannot be "warn" or "off". Default action: roll back. */
  readonly nan?: MonitorSetting;
  /**
   * Gap between expected sparsity and target after the warm-up, absolute; default 0.01. Where frozen units or targets
   * of single layers override the target of the whole, the gap is checked at the end of the stage only. A schedule that
   * ends at another sparsity or size than requested is reported too. Default action: warn.
   */
  readonly constraint?: MonitorSetting;
  /**
   * Share of the memory limit in use from which to raise an alarm, once more is in use than planned; default 0.95. It
   * cannot roll back. Default action: warn. At every setting, an allocation that fails ends the run with
   * `CompressoError("gpu")`, which says what would fit.
   */
  readonly memory?: MonitorSetting;
  /** Most rollbacks of a run; the next one stops it instead. Default 3. */
  readonly rollbacks?: number;
}

/** A monitor with its defaults filled in. */
export interface ResolvedMonitor {
  /** What its alarm does. */
  readonly action: AlarmAction;
  /** Value from which it raises an alarm. */
  readonly threshold: number;
}

/** Monitors with every default filled in; null for a disabled monitor. */
export type ResolvedMonitors =
  & { readonly [name in MonitorName]: ResolvedMonitor | null }
  & { readonly rollbacks: number };

const ROLLBACKS = 3;

/**
 * Fills in defaults.
 *
 * @throws CompressoError("usage") for unknown monitors and actions, and thresholds outside (0, 1].
 */
export function resolveMonitors(options: MonitorOptions = {}): ResolvedMonitors {
  const { rollbacks = ROLLBACKS, ...settings } = options;
  const stranger = Object.keys(settings).find((key) => !isMonitorName(key));
  if (stranger !== undefined) throw misset(stranger, `monitors are ${MONITOR_NAMES.join(", ")}`, stranger);
  if (!Number.isInteger(rollbacks) || rollbacks < 0) {
    throw misset("rollbacks", "their number is whole, 0 or more", String(rollbacks));
  }
  const resolved = MONITOR_NAMES.map((name) => [name, resolvedMonitor(name, settings[name])] as const);
  return { ...Object.fromEntries(resolved) as { [name in MonitorName]: ResolvedMonitor | null }, rollbacks };
}

function resolvedMonitor(name: MonitorName, setting: MonitorSetting = {}): ResolvedMonitor | null {
  const { actions, threshold: own }: MonitorEntry = MONITORS[name];
  const { action = actions[0] ?? "warn", threshold = own ?? 0 } = setting;
  if (action === "off" && own !== null) {
    if (setting.threshold === undefined) return null;
    throw misset(name, "a monitor that is off has no threshold", String(threshold));
  }
  const found = actions.find((one) => one === action), others = own === null ? "" : " or off";
  if (!found) throw misset(name, `its action is ${actions.join(" or ")}${others}`, String(action));
  if (own === null && threshold !== 0) throw misset(name, "it has no threshold", String(threshold));
  if (own !== null && !(threshold > 0 && threshold <= 1)) {
    throw misset(name, "its threshold lies in (0, 1]", String(threshold));
  }
  return { action: found, threshold };
}

/** Whether a text names a monitor. */
export function isMonitorName(text: string): text is MonitorName {
  return Object.hasOwn(MONITORS, text);
}

function misset(name: string, rule: string, value: string): CompressoError {
  const fix = "correct the setting, or leave it out for the default";
  return refusal("usage", `cannot set the monitor '${name}'`, { rule, value, fix });
}

/** What a monitor has found, before its consequence is decided. Its texts mark options, see `option`. */
export interface Finding extends Pick<Alarm, "monitor" | "message" | "change"> {
  /** Identifies a finding among those of its monitor. An alarm repeats only after its finding was absent. */
  readonly key: string;
  /** What is done instead of rolling back, where that cannot help. */
  readonly instead?: "warn" | "stop";
}

/** A share as a percentage, with one decimal. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
