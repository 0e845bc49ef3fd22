// Labels of values in tables, filters and names of measures: short, and different for different values.
import { shownOption } from "./options.ts";

/** Gives each of several values its label; equal values have equal labels. */
export type Labels = (value: unknown) => string;

/**
 * Labels of values: the plain one where it is unique. Otherwise paths show as much more of their end as makes them differ, and other values get a number.
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
    const distinct = apart([...group.values()], { label, taken });
    for (const [index, key] of [...group.keys()].entries()) labels.set(key, distinct[index] ?? label);
    for (const one of distinct) taken.add(one);
  }
  return (value) => labels.get(keyOf(value)) ?? plain(value);
}

/** One label for each value; labels that are taken are not used. */
function apart(
  values: readonly unknown[],
  { label, taken }: { readonly label: string; readonly taken: ReadonlySet<string> },
): string[] {
  const ends = values.map((value) => endsOf(value, label)), most = Math.max(...ends.map(({ length }) => length));
  for (let level = 0; level < most; level++) {
    const distinct = ends.map((list) => list[Math.min(level, list.length - 1)] ?? label);
    if (new Set(distinct).size === distinct.length && !distinct.some((one) => taken.has(one))) return distinct;
  }
  let number = 1;
  return values.map((_, index) => {
    if (index === 0) return label;
    do number++; while (taken.has(`${label} ${number}`));
    return `${label} ${number}`;
  });
}

/** Possible labels of a value, shortest first. */
function endsOf(value: unknown, label: string): string[] {
  // A backslash in the plain label is part of a name.
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
