// Small helpers for texts.

/** A text without the byte order mark that some editors begin a file with. */
export function withoutMark(text: string): string {
  return text.startsWith("\uFEFF") ? text.slice(1) : text;
}

/** A text of others for a line of ours: control characters and marks that change the direction of writing are spaces. */
export function oneLine(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]+/g, " ");
}

/** A value as a piece of JSON, cut where it is long, for a message. */
export function shownJson(value: unknown): string {
  const text = value === undefined ? "not given" : asJson(value);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN - 1)}…` : text;
}

/** Characters of a value in a message. */
const MOST_SHOWN = 100;

/** A value as JSON, or what it is where JSON has no text for it, such as 1n, or too long a one. */
function asJson(value: unknown): string {
  if (typeof value !== "object" || value === null) {
    return typeof value === "bigint" ? String(value) : JSON.stringify(value) ?? String(value);
  }
  try {
    return JSON.stringify(value);
  } catch {
    return Array.isArray(value) ? "a list" : "an object";
  }
}
