// Monitors of a run: their names, actions, options and defaults, and what an alarm says.
import { CompressoError } from "../../core/errors.ts";

/**
 * What is watched while a run goes on: masks that collapse to all zero or all one, layers that add nothing, units that open and close again and
 * again, a loss that runs away, numbers that are not finite, a constraint that is not met, memory that runs out.
 */
export const MONITOR_NAMES = [
  "collapse",
  "dead-layer",
  "oscillation",
  "divergence",
  "nan",
  "constraint",
  "memory",
] as const satisfies readonly MonitorName[];
/** Name of a monitor. */
export type MonitorName = "collapse" | "dead-layer" | "oscillation" | "divergence" | "nan" | "constraint" | "memory";

/** What an alarm does: nothing but say so; stop the run; go back to its last good state and on from there with halved rates. */
export const ALARM_ACTIONS = ["warn", "stop", "rollback"] as const satisfies readonly AlarmAction[];
/** Name of an action. */
export type AlarmAction = "warn" | "stop" | "rollback";

/** What a monitor has seen. */
export interface Alarm {
  /** The monitor. */
  readonly monitor: MonitorName;
  /** Step of the whole run at which it was seen, from 1. */
  readonly step: number;
  /** What the run did about it. */
  readonly action: AlarmAction;
  /** Step that the run went back to; null where it did not. */
  readonly restored: number | null;
  /** What was seen, the value beside its threshold. */
  readonly message: string;
  /** What to change. Options stand in it by their paths in ⟨ ⟩, for each reader to write as it names them; see `spelled`. */
  readonly change: string;
}

/** How one monitor is set. */
export interface MonitorSetting {
  /** What its alarm does; "off" for no watch, which all but `nan` can be. */
  readonly action?: AlarmAction | "off";
  /** From which value on it raises an alarm; what it is depends on the monitor, see {@link MonitorOptions}. */
  readonly threshold?: number;
}

/**
 * How a run is watched; what is left out has its default. Where going back would change nothing, an alarm that is to roll back only warns: of
 * masks that are hard, that stay open, or that hold a target above 0.8 or one that takes more of a kind; one of a base model that overflows stops the run.
 */
export interface MonitorOptions {
  /**
   * Share that is cut of those of a kind that may be (0.95), where these are half of the kind or more, or share of the target that is missed (the
   * same), from which on masks count as collapsed. Where the target is above 0.8, or takes more than that of a kind whatever else falls, all but a quarter
   * of what it leaves may be cut. Default: roll back.
   */
  readonly collapse?: MonitorSetting;
  /** Share of a layer's heads and of its FFN columns that is cut, from which on it is dead; default 0.98. Default: warn. */
  readonly "dead-layer"?: MonitorSetting;
  /**
   * Share of the units of a kind that turn back three times or more within thirteen looks; default 0.25. Kinds of which fewer than nine may be cut
   * are left out where there is a larger one, and else all units count together. Default: roll back.
   */
  readonly oscillation?: MonitorSetting;
  /**
   * Share of the way from the lowest mean of four losses so far, of the first ones as many as there were, to that of a uniform guess,
   * ln(vocabulary), which counts as two nats at least; default 0.5. Default: roll back.
   */
  readonly divergence?: MonitorSetting;
  /** Numbers that are not finite. It has no threshold, and can neither only warn nor be off. Default: roll back. */
  readonly nan?: MonitorSetting;
  /**
   * Gap between expected sparsity and target after the warm-up, absolute; default 0.01. Where frozen units or targets of single layers go before the
   * target of the whole, it counts at the end of the stage only. Where a schedule ends beside the sparsity or size that was asked for, it is told too. Default: warn.
   */
  readonly constraint?: MonitorSetting;
  /**
   * Share of the memory limit that is in use, once more is in use than was planned; default 0.95. It cannot roll back. Default: warn. Memory that
   * is refused ends the run with `CompressoError("gpu")`, which says what would fit, whatever is set here.
   */
  readonly memory?: MonitorSetting;
  /** How often a run goes back at most; one more time stops it. Default 3. */
  readonly rollbacks?: number;
}

/** A monitor at work. */
export interface ResolvedMonitor {
  /** What its alarm does. */
  readonly action: AlarmAction;
  /** From which value on it raises an alarm. */
  readonly threshold: number;
}

/** Monitors with every default filled in; null for one that is off. */
export type ResolvedMonitors =
  & { readonly [name in MonitorName]: ResolvedMonitor | null }
  & { readonly rollbacks: number };

/** Actions that a monitor may have; the first is its default. */
export const MONITOR_ACTIONS: Readonly<Record<MonitorName, readonly AlarmAction[]>> = {
  collapse: ["rollback", "warn", "stop"],
  "dead-layer": ["warn", "stop", "rollback"],
  oscillation: ["rollback", "warn", "stop"],
  divergence: ["rollback", "warn", "stop"],
  nan: ["rollback", "stop"],
  constraint: ["warn", "stop", "rollback"],
  memory: ["warn", "stop"],
};

const THRESHOLDS: Readonly<Record<MonitorName, number>> = {
  collapse: 0.95,
  "dead-layer": 0.98,
  oscillation: 0.25,
  divergence: 0.5,
  nan: 0,
  constraint: 0.01,
  memory: 0.95,
};
const ROLLBACKS = 3;

/** Fills in defaults. Throws `CompressoError("usage")` for monitors and actions that do not exist, and thresholds out of (0, 1]. */
export function resolveMonitors(options: MonitorOptions = {}): ResolvedMonitors {
  const stranger = Object.keys(options).find((key) =>
    key !== "rollbacks" && !MONITOR_NAMES.some((name) => name === key)
  );
  if (stranger !== undefined) throw refusal(stranger, `monitors are ${MONITOR_NAMES.join(", ")}`, stranger);
  const { rollbacks = ROLLBACKS } = options;
  if (!Number.isInteger(rollbacks) || rollbacks < 0) {
    throw refusal("rollbacks", "their number is whole, 0 or more", String(rollbacks));
  }
  const resolved = (name: MonitorName): ResolvedMonitor | null => {
    const { action = MONITOR_ACTIONS[name][0] ?? "warn", threshold = THRESHOLDS[name] } = options[name] ?? {};
    if (action === "off" && name !== "nan") {
      if (options[name]?.threshold === undefined) return null;
      throw refusal(name, "a monitor that is off has no threshold", String(threshold));
    }
    const allowed = MONITOR_ACTIONS[name], found = allowed.find((one) => one === action);
    const others = name === "nan" ? "" : " or off";
    if (!found) throw refusal(name, `its action is ${allowed.join(" or ")}${others}`, String(action));
    if (name === "nan" && threshold !== THRESHOLDS.nan) {
      throw refusal(name, "it has no threshold", String(threshold));
    }
    if (name !== "nan" && !(threshold > 0 && threshold <= 1)) {
      throw refusal(name, "its threshold lies in (0, 1]", String(threshold));
    }
    return { action: found, threshold };
  };
  return {
    collapse: resolved("collapse"),
    "dead-layer": resolved("dead-layer"),
    oscillation: resolved("oscillation"),
    divergence: resolved("divergence"),
    nan: resolved("nan"),
    constraint: resolved("constraint"),
    memory: resolved("memory"),
    rollbacks,
  };
}

function refusal(name: string, rule: string, value: string): CompressoError {
  const fix = "correct the setting, or leave it out for the default";
  return new CompressoError("usage", { what: `cannot set the monitor '${name}'`, rule, value, fix });
}

/** What a monitor has found, before it is decided what follows. */
export interface Finding extends Pick<Alarm, "monitor" | "message" | "change"> {
  /** Tells findings of one monitor apart: an alarm is raised anew only after its finding was gone. */
  readonly key: string;
  /** What is done in place of going back, where that cannot help. */
  readonly instead?: "warn" | "stop";
}

/** A share as text. */
export function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
