// Labels that tell values apart, in tables, `--only` and names of measures. Owns what is added where two would have the same; refuses a value's
// plain label.
import { shownOption } from "./options.ts";

/** A label for each of several values; the same for equal ones alone. */
export type Labels = (value: unknown) => string;

/**
 * Labels of values, plain where only one has it. Else paths show more of their end, as little as tells them apart, and what is no path gets a
 * number.
 */
export function labelsOf(values: readonly unknown[], plain: Labels = shownOption): Labels {
  const groups = new Map<string, Map<string, unknown>>();
  for (const value of values) {
    const label = plain(value), group = groups.get(label) ?? new Map<string, unknown>();
    groups.set(label, group.set(keyOf(value), value));
  }
  const labels = new Map<string, string>(), taken = new Set(groups.keys());
  for (const [label, group] of groups) {
    taken.delete(label);
    const told = apart([...group.values()], { label, taken });
    for (const [index, key] of [...group.keys()].entries()) labels.set(key, told[index] ?? label);
    for (const one of told) taken.add(one);
  }
  return (value) => labels.get(keyOf(value)) ?? plain(value);
}

/** One label for each value, none of them taken. */
function apart(
  values: readonly unknown[],
  { label, taken }: { readonly label: string; readonly taken: ReadonlySet<string> },
): string[] {
  const ends = values.map((value) => endsOf(value, label)), most = Math.max(...ends.map(({ length }) => length));
  for (let level = 0; level < most; level++) {
    const told = ends.map((list) => list[Math.min(level, list.length - 1)] ?? label);
    if (new Set(told).size === told.length && !told.some((one) => taken.has(one))) return told;
  }
  let number = 1;
  return values.map((_, index) => {
    if (index === 0) return label;
    do number++; while (taken.has(`${label} ${number}`));
    return `${label} ${number}`;
  });
}

/** What may stand for a value, the shortest first. */
function endsOf(value: unknown, label: string): string[] {
  // A backslash that the plain label has is part of a name, and no folder's.
  const parts = typeof value === "string" ? value.split(label.includes("\\") ? "/" : /[/\\]/) : [];
  if (parts.length < 2) return [label];
  return parts.flatMap((_, index) => {
    const end = parts.slice(-index - 1).join("/");
    return [end.replace(/\.\w+$/, ""), end];
  });
}

/** Equal values have equal keys. */
function keyOf(value: unknown): string {
  return JSON.stringify(value) ?? "";
}
