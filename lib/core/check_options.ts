// Checks option objects: unknown names, wrong types.
import { CompressoError } from "./errors.ts";

/** An object without its undefined parts. */
export function withoutUndefined<T extends object>(parts: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/** What an option is: an object with options of its own, a switch, which is true or false, a number, a text, a list, or true, of which nothing is checked but its name. */
type OptionKind = true | Plain | OptionNames;

/** Options whose values JavaScript would take as something else: "no" as true, null as 0, "10" + 1 as "101". */
type Plain = "switch" | "number" | "text" | "list";

/** What an option of this type is. */
type KindOf<T> = [T] extends [boolean] ? "switch"
  : [T] extends [number] ? "number"
  : [string, T] extends [T, string] ? "text"
  : [T] extends [readonly unknown[]] ? true | "list"
  : true | OptionNames;

/** Names of all options of a type, each with what it is. */
export type NamesOf<T> = { readonly [name in keyof Required<T>]: KindOf<Exclude<T[name], undefined>> };

/** Names that an object of options may have, each with what it is. */
export interface OptionNames {
  readonly [name: string]: OptionKind;
}

/**
 * Refuses unknown options, which would otherwise be ignored without a word: Deno runs programs without checking their types. Undefined counts as
 * absent.
 *
 * @throws CompressoError("usage") with the known names and the name that was probably meant. `whose` are the options, such as "prune".
 */
export function checkNames(options: object, names: OptionNames, { whose }: { readonly whose: string }): void {
  checkPart(options, names, { whose, all: names, path: "" });
}

interface Place {
  readonly whose: string;
  readonly all: OptionNames;
  /** Path of the part: empty, or names with a dot after each. */
  readonly path: string;
}

function checkPart(part: unknown, names: OptionNames, place: Place): void {
  const { whose, all, path } = place, known = Object.keys(names);
  const where = path === "" ? `options of ${whose}` : `options within ${path.slice(0, -1)}`;
  if (typeof part !== "object" || part === null || Array.isArray(part)) {
    throw new CompressoError("usage", {
      what: path === "" ? `cannot read the ${where}` : `cannot use the option '${path.slice(0, -1)}'`,
      rule: `it is an object with some of ${known.join(", ")}`,
      value: shown(part),
      fix: "give an object, or leave it out",
    });
  }
  for (const [name, value] of Object.entries(part)) {
    if (value === undefined) continue;
    const inner = Object.hasOwn(names, name) ? names[name] : undefined;
    if (inner === undefined) {
      const meant = likeliest(name, known.map((one) => path + one), pathsOf(all));
      throw new CompressoError("usage", {
        what: `cannot use the option '${path}${name}'`,
        rule: `${where} are ${known.join(", ")}`,
        value: `${name}: ${shown(value)}`,
        fix: meant === null ? "rename it, or leave it out" : `did you mean ${meant}?`,
      });
    }
    if (typeof inner === "object") checkPart(value, inner, { ...place, path: `${path}${name}.` });
    if (typeof inner === "string") checkPlain(value, inner, path + name);
  }
}

/** What each is in JavaScript, the rule, and how a value is fixed. */
const PLAIN: Readonly<Record<Plain, readonly [type: string, rule: string, fix: string]>> = {
  switch: ["boolean", "it is true or false", "give one of the two, or leave it out"],
  number: ["number", "it is a number", "give one, or leave it out"],
  text: ["string", "it is a text", "give one, or leave it out"],
  list: ["list", "it is a list", "give one, or leave it out"],
};

function checkPlain(value: unknown, kind: Plain, name: string): void {
  const [type, rule, fix] = PLAIN[kind], own: string = Array.isArray(value) ? "list" : typeof value;
  if (own === type) return;
  const present = typeof value === "string" ? `the text "${shown(value)}"` : shown(value);
  throw new CompressoError("usage", { what: `cannot use the option '${name}'`, rule, value: present, fix });
}

/** All names with their paths, such as `rules.minimum.heads`. */
function pathsOf(names: OptionNames, path = ""): string[] {
  return Object.entries(names).flatMap(([name, inner]) => [
    path + name,
    ...typeof inner === "object" ? pathsOf(inner, `${path}${name}.`) : [],
  ]);
}

/** The name that was probably meant: an equal name in this part or another, else a similar one. */
function likeliest(name: string, beside: readonly string[], all: readonly string[]): string | null {
  const plain = name.toLowerCase(),
    leaf = (path: string): string => path.slice(path.lastIndexOf(".") + 1).toLowerCase();
  const like = (paths: readonly string[]): string | undefined => {
    const part = paths.find((path) =>
      leaf(path).length > 2 && (plain.startsWith(leaf(path)) || plain.endsWith(leaf(path)))
    );
    const near = nearest(plain, paths.map(leaf));
    const holds = (has: (name: string) => boolean): string | undefined =>
      plain.length > 3 ? paths.find((path) => has(leaf(path))) : undefined;
    return holds((name) => name.startsWith(plain)) ?? part ?? paths.find((path) => leaf(path) === near) ??
      holds((name) => name.endsWith(plain));
  };
  const same = (paths: readonly string[]): string | undefined => paths.find((path) => leaf(path) === plain);
  return same(beside) ?? same(all) ?? like(beside) ?? like(all) ?? null;
}

/** Refuses what is none of these words. Throws `CompressoError("usage")` with them and the likeliest meant. */
export function checkWord(value: unknown, known: readonly string[], { what }: { readonly what: string }): void {
  if (known.some((word) => word === value)) return;
  const meant = typeof value === "string" ? nearest(value, known) : null;
  throw new CompressoError("usage", {
    what,
    rule: `it is ${known.join(" or ")}`,
    value: shown(value),
    fix: meant === null ? "take one of these, or leave it out" : `did you mean ${meant}?`,
  });
}

/** Letters of a value that a message shows. */
const MOST_SHOWN = 60;

/** A value in a few words. */
export function shown(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : `a list of ${value.length}`;
  if (typeof value === "function") return "a function";
  if (typeof value === "object" && value !== null) return "an object";
  const text = String(value);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text;
}

/** The candidate that begins with `word`, or that with the fewest edits to it; null where all are far. */
export function nearest(word: string, candidates: readonly string[]): string | null {
  const plain = (text: string): string => text.toLowerCase().replaceAll(/[-\s]/g, "_");
  const begun = word.length > 2 ? candidates.find((candidate) => candidate.startsWith(plain(word))) : undefined;
  if (begun !== undefined) return begun;
  const ranked = candidates
    .map((candidate) => ({ candidate, edits: distance(plain(word), candidate) }))
    .sort((a, b) => a.edits - b.edits);
  const best = ranked[0];
  return best && best.edits <= Math.max(2, Math.floor(best.candidate.length / 3)) ? best.candidate : null;
}

/** Levenshtein's distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
