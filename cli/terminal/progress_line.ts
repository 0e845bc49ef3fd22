// One line of progress that fits the terminal: a label, a bar, the percentage, the time left, then details as far as there is room.
import { duration } from "../../lib/report/numbers.ts";
import { stringWidth } from "../packages.ts";

/** What a line says. */
export interface LineParts {
  /** What is going on: "prune 8/60". */
  readonly label: string;
  /** Part that is done, from 0 to 1; null if it is not known. */
  readonly share: number | null;
  /** Seconds that are left; null if no estimate can be trusted yet. */
  readonly left: number | null;
  /** Seconds since it began, shown where the share is not known. */
  readonly elapsed?: number | null;
  /** Most important first; each in its long and its short form. */
  readonly details?: readonly (readonly [long: string, short: string])[];
}

/** Widths of the bar, in cells, in the order in which they are tried. */
const WITH_DETAILS = [20, 12, 8], ALONE = [20, 12, 8, 4, 0];

/**
 * The line, at most `columns` cells wide. Percentage and time left always stay whole. First the bar gets shorter, then
 * details get shorter and disappear (the last one first), then the label is cut.
 */
export function progressLine(parts: LineParts, columns: number): string {
  const { label, details = [] } = parts;
  for (const line of candidates(parts)) if (stringWidth(line) <= columns) return line;
  const rest = middle({ ...parts, details }, { bar: 0, isCompact: true });
  const room = columns - stringWidth(rest) - 2;
  return room < 2 ? clipped(rest || label, columns) : `${clipped(label, room)}  ${rest}`;
}

/** Lines from the fullest to the barest. */
function* candidates(parts: LineParts): Generator<string, void, undefined> {
  const { label, details = [] } = parts;
  const line = (how: MiddleStyle, more: readonly string[]): string =>
    [label, middle(parts, how), ...more].filter((part) => part !== "").join("  ");
  for (let count = details.length; count > 0; count--) {
    for (const form of [0, 1] as const) {
      const more = details.slice(0, count).map((detail) => detail[form]);
      for (const bar of WITH_DETAILS) yield line({ bar, isCompact: false }, more);
    }
  }
  for (const isCompact of [false, true]) for (const bar of ALONE) yield line({ bar, isCompact }, []);
}

interface MiddleStyle {
  readonly bar: number;
  readonly isCompact: boolean;
}

function middle({ share, left, elapsed = null }: LineParts, { bar, isCompact }: MiddleStyle): string {
  const spell = isCompact ? compactDuration : duration;
  return [
    ...(share === null || bar === 0 ? [] : [barOf(share, bar)]),
    ...(share === null ? [] : [`${Math.floor(100 * share)} %`]),
    ...(left === null ? [] : [`${spell(left)} left`]),
    ...(share === null && elapsed !== null ? [spell(elapsed)] : []),
  ].join("  ");
}

function barOf(share: number, cells: number): string {
  const filled = Math.min(cells, Math.floor(share * cells));
  return "█".repeat(filled) + "░".repeat(cells - filled);
}

/** A text cut to so many cells, with "…" where something is missing. */
function clipped(text: string, cells: number): string {
  if (stringWidth(text) <= cells) return text;
  let kept = "";
  for (const char of text) {
    if (stringWidth(kept + char) > cells - 1) break;
    kept += char;
  }
  return `${kept}…`;
}

/** Seconds as text of at most 6 characters in the first hundred hours: 8s, 2m05s, 3h20m. */
function compactDuration(seconds: number): string {
  return duration(seconds).replace("min", "m").replaceAll(" ", "");
}
