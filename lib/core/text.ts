// Small helpers for texts.

/** A text without the byte order mark that some editors begin a file with. */
export function withoutMark(text: string): string {
  return text.startsWith("\uFEFF") ? text.slice(1) : text;
}

/** A value as a piece of JSON, cut where it is long, for a message. */
export function shownJson(value: unknown): string {
  const text = value === undefined ? "not given" : asJson(value) ?? String(value);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN - 1)}…` : text;
}

/** Characters of a value in a message. */
const MOST_SHOWN = 100;

/** Undefined for what JSON has no text for, such as 1n. */
function asJson(value: unknown): string | undefined {
  try {
    return JSON.stringify(value);
  } catch {
    return undefined;
  }
}
