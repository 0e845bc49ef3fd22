// The number that an answer ends with, as lm-evaluation-harness's `gsm8k` finds it and compares it.

/** `flexible-extract`: a number with its signs, or digits. `strict-match`: the number after GSM8K's mark. */
const FLEXIBLE = /(-?[$0-9.,]{2,})|(-?[0-9]+)/g, STRICT = /#### (-?[0-9.,]+)/;
/** What the harness takes where there is no number. */
const NONE = "[invalid]";

/** The last number of an answer, as the filter `flexible-extract` gives it: "$1,200." of "He pays $1,200."; "[invalid]" for none. */
export function lastNumber(text: string): string {
  return [...text.matchAll(FLEXIBLE)].at(-1)?.[0] ?? NONE;
}

/** The first number after `#### `, as the filter `strict-match` gives it; "[invalid]" for none. */
export function markedNumber(text: string): string {
  return STRICT.exec(text)?.[1] ?? NONE;
}

/**
 * Whether a number that {@link lastNumber} or {@link markedNumber} found is that of an accepted answer, which is a number
 * or GSM8K's solution, with the number after `#### `. Commas, `$` and a full stop at the end do not count; "5.0" is not "5".
 */
export function isSameNumber(found: string, accepted: readonly string[]): boolean {
  const own = bare(found);
  return accepted.some((one) => bare(one) === own);
}

/** The harness's `regexes_to_ignore`, in its order, and `ignore_case`. */
function bare(text: string): string {
  const unsigned = text.replaceAll(",", "").replaceAll("$", "");
  return unsigned.replace(/[^]*#### /g, "").replace(/\.(?=\n?$)/g, "").toLowerCase();
}
