// What a run or an evaluation was made from, and how two of them differ.
import { isObject } from "./guards.ts";

/** A value of JSON. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json };

/** Facts that decide a result, by name. */
export type RunIdentity = Readonly<Record<string, Json>>;

/**
 * One line for each difference: `rank: 8 then, 4 now`. If both values are objects, their members are compared and named
 * as `lora.rank`. Facts in `idle` are ignored.
 */
export function differencesOf(
  then: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
  { within = "", idle = [] }: { readonly within?: string; readonly idle?: readonly string[] } = {},
): string[] {
  return [...new Set([...Object.keys(then), ...Object.keys(now)])].flatMap((key) => {
    const name = within + key, before = then[key], after = now[key];
    if (idle.includes(name)) return [];
    if (isObject(before) && isObject(after)) return differencesOf(before, after, { within: `${name}.`, idle });
    return JSON.stringify(before) === JSON.stringify(after)
      ? []
      : [`${name}: ${shown(before)} then, ${shown(after)} now`];
  });
}

function shown(value: unknown): string {
  if (value === null) return "none";
  return typeof value === "string" ? value : JSON.stringify(value) ?? "not given";
}
