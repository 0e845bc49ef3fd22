// How the command line names the options of the library: "rates.lora" is --lora-rate.
import type { SpellOption } from "../../lib/core/errors.ts";
import { entryOf, isOptionPath, nameOf } from "../../lib/run/options/table.ts";

/** Options outside the table whose flags have another name. A flag gives one of several files or models. */
const OTHERS: ReadonlyMap<string, string> = new Map([
  ["files", "file"],
  ["models", "model"],
  ["replace", "overwrite"],
]);

/** The flag of an option: "--lora-rate". */
export function flagOf(path: string): string {
  const name = isOptionPath(path) ? nameOf(path) ?? path : OTHERS.get(path) ?? path;
  return flagNamed(name.slice(name.lastIndexOf(".") + 1));
}

/** The flag of a name in camel case: "--max-tokens". */
export function flagNamed(name: string): string {
  return `--${name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** An option as the command line has it, with its value: "--no-packing", "--lora-rate 1e-4". */
export const spellFlag: SpellOption = (path, value) => {
  if (value === undefined) return flagOf(path);
  const isSwitch = isOptionPath(path) && entryOf(path).type === "switch";
  if (isSwitch) {
    if (value === "auto") return `${flagOf(path)}=auto`;
    const { default: isOn } = entryOf(path), off = flagOf(path).replace("--", "--no-");
    // A switch that is on has a flag that turns it off.
    return value === "false" ? off : isOn === true ? `no ${off}` : flagOf(path);
  }
  if (path === "prompt" && value === "null") return "--no-prompt";
  return `${flagOf(path)} ${value}`;
};
