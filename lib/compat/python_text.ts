// Text as Python treats it: white space, lengths, capitals and literals. Prompts of lm-evaluation-harness are made by Python; a tab, a line
// separator or an emoji must not make another prompt or another length.

/** What `str.isspace` holds for: JavaScript's `\s` lacks U+001C to U+001F and U+0085, and has U+FEFF. */
const SPACE = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const LEADING = new RegExp(`^${SPACE}+`);
const TRAILING = new RegExp(`${SPACE}+$`);

/** `len(text)`: code points. */
export function pythonLength(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** `text.rstrip()`. */
export function trimEnd(text: string): string {
  return text.replace(TRAILING, "");
}

/** `text.lstrip()`. */
export function trimStart(text: string): string {
  return text.replace(LEADING, "");
}

/** `text.strip()`. */
export function trim(text: string): string {
  return trimStart(trimEnd(text));
}

/** `text.capitalize()`: the first letter large, all others small. */
export function capitalize(text: string): string {
  const [first = ""] = text;
  return first.toUpperCase() + text.slice(first.length).toLowerCase();
}

/**
 * The value of a Python literal of lists, dicts, strings, numbers, True, False and None, as `ast.literal_eval` reads it; a tuple gives an
 * array. Throws `SyntaxError` for anything else.
 */
export function parsePythonLiteral(text: string): unknown {
  let at = 0;
  const skip = (): void => {
    while (at < text.length && /\s/.test(text.charAt(at))) at++;
  };
  const fail = (): never => {
    throw new SyntaxError(`no Python literal at character ${at + 1}`);
  };
  const take = (mark: string): boolean => {
    skip();
    if (text.charAt(at) !== mark) return false;
    at++;
    return true;
  };
  const list = (end: string): unknown[] => {
    const items: unknown[] = [];
    while (!take(end)) {
      items.push(value());
      if (!take(",")) {
        if (!take(end)) fail();
        break;
      }
    }
    return items;
  };
  const dict = (): Record<string, unknown> => {
    const entries: [string, unknown][] = [];
    while (!take("}")) {
      const key = value();
      if (!take(":")) fail();
      entries.push([String(key), value()]);
      if (!take(",")) {
        if (!take("}")) fail();
        break;
      }
    }
    return Object.fromEntries(entries);
  };
  const value = (): unknown => {
    skip();
    if (take("[")) return list("]");
    if (take("(")) return list(")");
    if (take("{")) return dict();
    if (/["']/.test(text.charAt(at))) {
      let joined = "";
      // Adjacent strings are one.
      for (skip(); /["']/.test(text.charAt(at)); skip()) joined += string();
      return joined;
    }
    const word = /^(?:True|False|None|[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)/.exec(text.slice(at, at + 64))
      ?.[0];
    if (word === undefined) return fail();
    at += word.length;
    return word === "True" ? true : word === "False" ? false : word === "None" ? null : Number(word);
  };
  const string = (): string => {
    const mark = text.charAt(at++);
    let result = "";
    for (;;) {
      const character = text.charAt(at++);
      if (character === "" || character === "\n") return fail();
      if (character === mark) return result;
      result += character === "\\" ? escape() : character;
    }
  };
  const escape = (): string => {
    const letter = text.charAt(at++);
    const digits = { x: 2, u: 4, U: 8 }[letter];
    if (digits !== undefined) {
      const hex = text.slice(at, at + digits);
      at += digits;
      return /^[\da-fA-F]+$/.test(hex) && hex.length === digits ? String.fromCodePoint(parseInt(hex, 16)) : fail();
    }
    const octal = /^[0-7]{1,3}/.exec(text.slice(at - 1, at + 2))?.[0];
    if (octal !== undefined) {
      at += octal.length - 1;
      return String.fromCharCode(parseInt(octal, 8));
    }
    const plain: Readonly<Record<string, string>> = {
      n: "\n",
      t: "\t",
      r: "\r",
      a: "\x07",
      b: "\b",
      f: "\f",
      v: "\v",
      ...{ "\\": "\\", "'": "'", '"': '"', "\n": "" },
    };
    // An unknown escape stays as it is written.
    return plain[letter] ?? `\\${letter}`;
  };
  const result = value();
  skip();
  if (at < text.length) fail();
  return result;
}
