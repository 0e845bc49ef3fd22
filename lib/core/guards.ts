// Type guards for parsed JSON, and for what is always there.

/** A JSON object. */
export type Json = Readonly<Record<string, unknown>>;

/** Whether a value is a JSON object. */
export function isObject(value: unknown): value is Json {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** A value of JSON that is a text; else the empty text. `String` would call what an object of a file has in place of `toString`. */
export function asText(value: unknown): string {
  return typeof value === "string" ? value : "";
}

/** A value of JSON that is a number; else NaN. */
export function asNumber(value: unknown): number {
  return typeof value === "number" ? value : NaN;
}

/** A value that is always there. Throws an `Error`, of a fault in this library, if it is not. */
export function existing<T>(value: T | null | undefined, what: string): T {
  if (value === null || value === undefined) throw new Error(`there is no ${what}`);
  return value;
}
