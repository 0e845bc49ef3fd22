// Values of the options that change an experiment: NAME=PATH, KEY=VALUE and lists of them.
import { type CompressoError, refusal, refuse } from "../../../lib/core/errors.ts";
import { monitorOf } from "../../../lib/run/monitors/alarm_setting.ts";

type Parse = (text: string) => ReadonlyMap<string, readonly string[]>;

/** A path by name; one alone has the name `alone`, where there is one. */
export function namedPaths(option: string, alone: string | null): Parse {
  return (text) => {
    const [, name, path] = /^([\w.-]+(?: [\w.-]+)*)=(.+)$/s.exec(text) ?? [];
    if (name !== undefined && path !== undefined) return new Map([[name, [path]]]);
    if (alone !== null && text !== "") return new Map([[alone, [text]]]);
    throw wrong(option, text, alone === null ? "NAME=PATH" : "PATH or NAME=PATH");
  };
}

/** One key with one value or several, commas between: `seed=1,2,3`. Of alarms it is one value, whose settings have commas between. */
export function settings(option: string): Parse {
  return (text) => {
    const [, name, values] = /^(\w+)=(.+)$/.exec(text) ?? [];
    if (name === undefined || values === undefined) {
      throw wrong(option, text, "KEY=VALUE, such as rank=4 or seed=1,2,3");
    }
    if (name !== "onAlarm") return new Map([[name, list(values)]]);
    return new Map([[name, [alarmValue(values, { option, fix: "several values stand in the definition's grid" })]]]);
  };
}

/**
 * Keys with their values: `method=taylor,flap,sparsity=0.2` is two keys, the first with two values. Of alarms it is one value here too:
 * `onAlarm=nan=stop,memory=warn`.
 */
export function selection(option: string): Parse {
  return (text) => {
    const found = new Map<string, string[]>();
    let name = "";
    for (const part of list(text)) {
      const [, key, value] = /^(\w+)=(.+)$/.exec(part) ?? [], before = found.get(name) ?? [];
      if (name === "onAlarm" && monitorOf(part)) {
        const last = before.at(-1) ?? "";
        found.set(name, monitorOf(last) ? [...before.slice(0, -1), `${last},${part}`] : [...before, part]);
        continue;
      }
      if (key !== undefined) name = key;
      if (name === "" || part === "") throw wrong(option, text, "KEY=VALUE,…, such as method=taylor,flap,sparsity=0.2");
      found.set(name, [...found.get(name) ?? [], value ?? part]);
    }
    for (const value of found.get("onAlarm") ?? []) {
      alarmValue(value, { option, fix: `give ${option} for each value` });
    }
    return found;
  };
}

/** Settings of alarms. Refuses a monitor that is named twice, because the user may have meant two values of the axis. */
function alarmValue(text: string, { option, fix }: { readonly option: string; readonly fix: string }): string {
  const monitors = text.startsWith("[") ? [] : list(text).map(monitorOf);
  const twice = monitors.find((name, index) => name !== null && monitors.indexOf(name) !== index);
  if (!twice) return text;
  refuse("usage", `cannot use ${option} onAlarm=${text}`, {
    rule: "comma-separated settings are one value, with one setting for each monitor",
    value: `${twice} is set more than once`,
    fix,
  });
}

/** Parts between commas; those within brackets belong together. */
function list(text: string): string[] {
  return text.startsWith("[") ? [text] : text.split(",").map((part) => part.trim());
}

function wrong(option: string, text: string, rule: string): CompressoError {
  return refusal("usage", `cannot use ${option} ${text}`, { rule: `${option} is ${rule}`, value: text });
}
