// How an error about a key of config.json reads.
import { type CompressoError, refusal } from "../../core/errors.ts";

/** The error for a key of config.json. */
export function keyError(
  path: string,
  parts: { readonly key: string; readonly rule: string; readonly value: string; readonly fix?: string | undefined },
): CompressoError {
  const {
    key,
    rule,
    value,
    fix =
      "correct it, or fetch the file again; `compresso inspect` and docs/guide/models.md say which families are supported",
  } = parts;
  return refusal("input", `cannot use ${path}`, {
    rule: rule.startsWith(key) ? rule : `${key}: ${rule}`,
    value: `${key} = ${value}`,
    fix,
  });
}

/** The value at a path of keys in parsed JSON, undefined if there is none. */
export function valueAt(json: unknown, keys: readonly PropertyKey[]): unknown {
  return keys.reduce<unknown>(
    (value, key) => typeof value === "object" && value !== null ? Reflect.get(value, key) : undefined,
    json,
  );
}
