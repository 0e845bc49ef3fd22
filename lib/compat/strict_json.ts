// JSON for headers that are not trusted: duplicate keys, inexact integers and deep nesting are errors.

/** A JSON value as {@link parseStrictJson} gives it; objects are maps, so that no key is special. */
export type StrictJson = null | boolean | number | string | StrictJson[] | ReadonlyMap<string, StrictJson>;

const MAX_DEPTH = 16;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// A string up to its closing quote. Control characters are refused by JSON.parse below.
const STRING = /"[^"\\]*(?:\\.[^"\\]*)*"/ys;
const SPACE = /[ \t\n\r]*/y;

/**
 * Parses JSON that `JSON.parse` would accept too readily: it merges duplicate keys and rounds integers above 2^53.
 * Throws `SyntaxError` with the position in characters.
 */
export function parseStrictJson(text: string): StrictJson {
  let at = 0;
  const value = parseValue(0);
  skipSpace();
  if (at < text.length) fail("nothing after the value");
  return value;

  function parseValue(depth: number): StrictJson {
    if (depth > MAX_DEPTH) fail(`at most ${MAX_DEPTH} levels`);
    skipSpace();
    const first = text[at];
    if (first === "{") return parseObject(depth);
    if (first === "[") return parseArray(depth);
    if (first === '"') return parseString();
    for (const [word, value] of WORDS) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return value;
      }
    }
    const digits = match(NUMBER) ?? fail("a JSON value");
    const number = Number(digits);
    if (!Number.isFinite(number) || (Number.isInteger(number) && !Number.isSafeInteger(number))) {
      fail(`numbers within ±2^53, not ${digits}`, digits.length);
    }
    return number;
  }

  function parseObject(depth: number): StrictJson {
    const map = new Map<string, StrictJson>();
    at++;
    skipSpace();
    if (take("}")) return map;
    do {
      skipSpace();
      const start = at;
      const key = parseString();
      if (map.has(key)) fail(`each key once, but ${JSON.stringify(key)} comes twice`, at - start);
      skipSpace();
      if (!take(":")) fail("':' after a key");
      map.set(key, parseValue(depth + 1));
      skipSpace();
    } while (take(","));
    if (!take("}")) fail("',' or '}'");
    return map;
  }

  function parseArray(depth: number): StrictJson {
    const list: StrictJson[] = [];
    at++;
    skipSpace();
    if (take("]")) return list;
    do {
      list.push(parseValue(depth + 1));
      skipSpace();
    } while (take(","));
    if (!take("]")) fail("',' or ']'");
    return list;
  }

  function parseString(): string {
    const raw = match(STRING) ?? fail("a string");
    try {
      return JSON.parse(raw);
    } catch {
      return fail("a string without control characters and with known escapes", raw.length);
    }
  }

  function match(pattern: RegExp): string | undefined {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  }

  function skipSpace(): void {
    match(SPACE);
  }

  function take(character: string): boolean {
    if (text[at] !== character) return false;
    at++;
    return true;
  }

  function fail(expected: string, back = 0): never {
    throw new SyntaxError(`JSON: expected ${expected}, at character ${at - back}`);
  }
}

const WORDS: readonly (readonly [string, null | boolean])[] = [["null", null], ["true", true], ["false", false]];
