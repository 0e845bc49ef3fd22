// Names and files that were perhaps meant.
import { type CompressoError, refusal } from "../core/errors.ts";
import { nearest } from "../core/nearest.ts";
import { type HubName, hubText } from "./name.ts";
import { visible } from "./visible.ts";

/** Most names that a fix offers. */
const MOST_NEAR = 3;

/** The error of a file that a repository does not have. */
export function noSuchFile(name: HubName, files: Iterable<string>): CompressoError {
  const all = [...files];
  return refusal("input", `cannot read ${hubText(name)}`, {
    rule: "the file is in the repository",
    value: `no ${name.file ?? "such file"}`,
    fix: visible(meant(nearOf(name.file ?? "", all), (file) => hubText(name, { file })) ?? listed(name, all)),
  });
}

/** What a repository holds, for a fix. */
function listed(name: HubName, files: readonly string[]): string {
  if (files.length === 0) return `look for its files at ${hubText(name, { file: null })}`;
  const shown = files.slice(0, 8).join(", ");
  return `name one of its files: ${shown}${files.length > 8 ? `, … (${files.length} in all)` : ""}`;
}

/** The candidates nearest to a word. */
export function nearOf(word: string, candidates: readonly string[]): string[] {
  const left = new Set(candidates), found: string[] = [];
  while (found.length < MOST_NEAR) {
    const next = nearest(word, [...left]);
    if (next === null) break;
    found.push(next);
    left.delete(next);
  }
  return found;
}

/** A fix that offers the names that were perhaps meant; null for none. */
export function meant(near: readonly string[], show: (name: string) => string): string | null {
  return near.length === 0 ? null : visible(`did you mean ${near.map(show).join(", ")}?`);
}
