// How the command line names the options of the library: "rates.lora" is --lora-rate.
import type { SpellOption } from "../../lib/core/errors.ts";
import { entryOf, isOptionPath, nameOf } from "../../lib/run/options/table.ts";

/** Options outside the table whose flags have another name: each flag gives one of several files or models. */
const SINGULAR: ReadonlyMap<string, string> = new Map([["files", "file"], ["models", "model"]]);

/** The flag of an option: "--lora-rate". */
export function flagOf(path: string): string {
  const name = isOptionPath(path) ? nameOf(path) ?? path : SINGULAR.get(path) ?? path;
  const last = name.slice(name.lastIndexOf(".") + 1);
  return `--${last.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** An option as the command line has it, with its value: "--no-packing", "--lora-rate 1e-4". */
export const spellFlag: SpellOption = (path, value) => {
  if (value === undefined) return flagOf(path);
  const isSwitch = isOptionPath(path) && entryOf(path).type === "switch";
  if (isSwitch) return value === "false" ? flagOf(path).replace("--", "--no-") : flagOf(path);
  return `${flagOf(path)} ${value}`;
};
