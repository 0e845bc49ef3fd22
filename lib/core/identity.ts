// What a run or an evaluation was made from, and how two of them differ.
import { isObject } from "./guards.ts";

/** Facts that decide a result, by name. */
export type RunIdentity = Readonly<Record<string, string | number | boolean | null>>;

/**
 * What differs, a line each: `rank: 8 then, 4 now`; of facts with members on both sides, those of them that differ, by `lora.rank`. Those that are
 * `idle` decide nothing, nor does the order of `units`.
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
    return compared(name, before) === compared(name, after)
      ? []
      : [`${name}: ${shown(before)} then, ${shown(after)} now`];
  });
}

/**
 * Older runs kept kinds of units in the order in which they were given: a list, in checkpoints with commas between. Protected layers are kept so, in
 * cells as JSON.
 */
function compared(name: string, fact: unknown): string | undefined {
  if (name === "rules.protect") {
    const layers: unknown = typeof fact === "string" ? JSON.parse(fact) : fact;
    return JSON.stringify(Array.isArray(layers) ? [...new Set(layers)].sort((a, b) => a - b) : layers);
  }
  const kinds = name === "units" && typeof fact === "string" ? fact.split(",") : fact;
  return JSON.stringify(name === "units" && Array.isArray(kinds) ? kinds.toSorted() : fact);
}

function shown(value: unknown): string {
  if (value === null) return "none";
  return typeof value === "string" ? value : JSON.stringify(value) ?? "not given";
}
