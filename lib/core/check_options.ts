// Checks objects of options by a table of their names: unknown names, wrong types, values out of bounds.
import { option, refuse } from "./errors.ts";
import { nearest } from "./nearest.ts";
import { accepts, isInBounds, meantBy, ruleText, type ValueRule } from "./value_rule.ts";

/** An object without its undefined parts. */
export function withoutUndefined<T extends object>(parts: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(parts).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}

/**
 * What an option is: a rule for its value; an object with further options; or a plain type, whose values JavaScript
 * would take as something else ("no" as true, null as 0). `true`: only the name is checked.
 */
type OptionKind = true | Plain | ValueRule | OptionNames;

type Plain = "switch" | "number" | "text" | "list";

/** What an option of this type is. */
type KindOf<T> = [T] extends [boolean] ? "switch"
  : [T] extends [number] ? "number" | ValueRule
  : [string, T] extends [T, string] ? "text"
  : [T] extends [readonly unknown[]] ? true | "list"
  : true | OptionNames;

/** Names of all options of a type, each with what it is. */
export type NamesOf<T> = { readonly [name in keyof Required<T>]: KindOf<Exclude<T[name], undefined>> };

/** Names that an object of options may have, each with what it is. */
export interface OptionNames {
  readonly [name: string]: OptionKind;
}

/** A whole number of at least `least` and at most `most`. */
export function count(least: number, most?: number): ValueRule {
  return { type: "count", least, ...(most === undefined ? {} : { most }) };
}

/**
 * Refuses unknown options, which would otherwise be ignored without a word, and values that an option cannot have: Deno
 * runs programs without checking their types. Undefined counts as absent.
 *
 * @throws CompressoError("usage") with the path of the option, and what was probably meant. `whose` are the options,
 * such as "prune".
 */
export function checkNames(
  options: object,
  names: OptionNames,
  { whose, others = {} }: {
    readonly whose: string;
    /** Names that others have for these options, with the path of each. Default: none. */
    readonly others?: Readonly<Record<string, string>>;
  },
): void {
  checkPart(options, names, { whose, all: names, path: "", others });
}

interface Place {
  readonly whose: string;
  readonly all: OptionNames;
  /** Path of the part: empty, or names with a dot after each. */
  readonly path: string;
  /** Paths of options by names that others have for them. */
  readonly others: Readonly<Record<string, string>>;
}

function checkPart(part: unknown, names: OptionNames, place: Place): void {
  const { whose, all, path } = place, known = Object.keys(names), own = path.slice(0, -1);
  const where = path === "" ? `options of ${whose}` : `options within ${own}`;
  if (typeof part !== "object" || part === null || Array.isArray(part)) {
    refuse("usage", path === "" ? `cannot read the ${where}` : `cannot use the option '${own}'`, {
      rule: `it is an object with some of ${known.join(", ")}`,
      value: shown(part),
      option: own || undefined,
    });
  }
  for (const [name, value] of Object.entries(part)) {
    if (value === undefined) continue;
    const kind = Object.hasOwn(names, name) ? names[name] : undefined;
    if (kind === undefined) {
      const foreign = Object.hasOwn(place.others, name) ? place.others[name] : undefined;
      const meant = foreign ?? likeliest(name, known.map((one) => path + one), pathsOf(all));
      refuse("usage", `cannot use the option '${path}${name}'`, {
        rule: `${where} are ${known.join(", ")}`,
        value: `${name}: ${shown(value)}`,
        fix: meant === null ? "rename it, or leave it out" : `did you mean ${meant}?`,
        option: path + name,
      });
    }
    if (typeof kind === "string") checkPlain(value, kind, path + name);
    else if (isRule(kind)) checkValue(kind, value, path + name);
    else if (kind !== true) checkPart(value, kind, { ...place, path: `${path}${name}.` });
  }
}

function isRule(kind: OptionKind): kind is ValueRule {
  return typeof kind === "object" && typeof kind["type"] === "string";
}

/** What each is in JavaScript, and the rule. */
const PLAIN: Readonly<Record<Plain, readonly [type: string, rule: string]>> = {
  switch: ["boolean", "it is true or false"],
  number: ["number", "it is a number"],
  text: ["string", "it is a text"],
  list: ["list", "it is a list"],
};

function checkPlain(value: unknown, kind: Plain, path: string): void {
  const [type, rule] = PLAIN[kind], own: string = Array.isArray(value) ? "list" : typeof value;
  if (own === type) return;
  refuse("usage", `cannot use the option '${path}'`, { rule, value: quoted(value), option: path });
}

/** Refuses a value that the rule of an option does not allow. Throws `CompressoError("usage")`. */
export function checkValue(rule: ValueRule, value: unknown, path: string): void {
  if (accepts(rule, value)) return;
  const isRounded = rule.type === "number" && rule.single === true && isInBounds(value, rule);
  const meant = meantBy(rule, value);
  refuse("usage", `cannot use ${option(path)}`, {
    rule: `it is ${ruleText(rule)}`,
    value: isRounded
      ? `${value}, which is ${Math.fround(Number(value))} on the GPU`
      : /word|text/.test(rule.type) && typeof value === "string"
      ? shown(value)
      : quoted(value),
    fix: meant === null ? undefined : `did you mean ${meant}?`,
    option: path,
  });
}

/** A value in a few words; a text where no text is expected is called one. */
function quoted(value: unknown): string {
  if (Array.isArray(value) && value.length > 0) return value.map(shown).join(", ");
  return typeof value === "string" ? `the text "${shown(value)}"` : shown(value);
}

/** All names with their paths, such as `rules.minimum.heads`. */
function pathsOf(names: OptionNames, path = ""): string[] {
  return Object.entries(names).flatMap(([name, inner]) => [
    path + name,
    ...typeof inner === "object" && !isRule(inner) ? pathsOf(inner, `${path}${name}.`) : [],
  ]);
}

/** The name that was probably meant: an equal name in this part or another, else a similar one. */
function likeliest(name: string, near: readonly string[], all: readonly string[]): string | null {
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
  return same(near) ?? same(all) ?? like(near) ?? like(all) ?? null;
}

/** Refuses a value that is not one of these words. Throws `CompressoError("usage")` with them and the likeliest meant. */
export function checkWord(value: unknown, known: readonly string[], { what }: { readonly what: string }): void {
  if (known.some((word) => word === value)) return;
  const meant = typeof value === "string" ? nearest(value, known) : null;
  const fix = meant === null ? undefined : `did you mean ${meant}?`;
  refuse("usage", what, { rule: `it is ${known.join(" or ")}`, value: shown(value), fix });
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
