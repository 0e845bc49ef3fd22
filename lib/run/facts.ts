// Facts by which runs are told apart, compared in words. Owns the comparison alone.
import { isObject } from "../io/tokenizer_compat.ts";

/** What differs, a line each: `rank: 8 then, 4 now`; of facts with members on both sides, those of them that differ, by `lora.rank`. */
export function differencesOf(
  then: Readonly<Record<string, unknown>>,
  now: Readonly<Record<string, unknown>>,
  within = "",
): string[] {
  return [...new Set([...Object.keys(then), ...Object.keys(now)])].flatMap((key) => {
    const name = within + key, before = then[key], after = now[key];
    if (isObject(before) && isObject(after)) return differencesOf(before, after, `${name}.`);
    return JSON.stringify(before) === JSON.stringify(after)
      ? []
      : [`${name}: ${shown(before)} then, ${shown(after)} now`];
  });
}

function shown(value: unknown): string {
  if (value === null) return "none";
  return typeof value === "string" ? value : JSON.stringify(value) ?? "not given";
}
