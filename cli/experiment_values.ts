// Values of the options that change an experiment: NAME=PATH, KEY=VALUE and lists of them. Owns their form; refuses to know the names.
import { CompressoError } from "../lib/errors.ts";

type Parse = (text: string) => ReadonlyMap<string, readonly string[]>;

/** A path by name; one alone has the name `alone`, where there is one. */
export function namedPaths(option: string, alone: string | null): Parse {
  return (text) => {
    const [, name, path] = /^([\w.-]+)=(.+)$/.exec(text) ?? [];
    if (name !== undefined && path !== undefined) return new Map([[name, [path]]]);
    if (alone !== null && text !== "") return new Map([[alone, [text]]]);
    throw wrong(option, text, alone === null ? "NAME=PATH" : "PATH or NAME=PATH");
  };
}

/** One key with one value or several, commas between: `seed=1,2,3`. */
export function settings(option: string): Parse {
  return (text) => {
    const [, name, values] = /^(\w+)=(.+)$/.exec(text) ?? [];
    if (name === undefined || values === undefined) {
      throw wrong(option, text, "KEY=VALUE, such as rank=4 or seed=1,2,3");
    }
    return new Map([[name, list(values)]]);
  };
}

/** Keys with their values: `method=taylor,flap,sparsity=0.2` is two keys, the first with two values. */
export function selection(option: string): Parse {
  return (text) => {
    const found = new Map<string, string[]>();
    let name = "";
    for (const part of list(text)) {
      const [, key, value] = /^(\w+)=(.+)$/.exec(part) ?? [];
      if (key !== undefined) name = key;
      if (name === "" || part === "") throw wrong(option, text, "KEY=VALUE,…, such as method=taylor,flap,sparsity=0.2");
      found.set(name, [...found.get(name) ?? [], value ?? part]);
    }
    return found;
  };
}

/** Parts between commas; those within brackets belong together. */
function list(text: string): string[] {
  return text.startsWith("[") ? [text] : text.split(",").map((part) => part.trim());
}

function wrong(option: string, text: string, rule: string): CompressoError {
  return new CompressoError("usage", {
    what: `cannot use ${option} ${text}`,
    rule: `${option} is ${rule}`,
    value: text,
  });
}
