// Stop strings in a text that arrives in parts.
import { option, refuse } from "../core/errors.ts";
import { shown } from "../core/check_options.ts";

/** Passes a text on up to the first stop string. */
export interface StopFilter {
  /** Takes a piece; returns the new text that surely stands before any stop string. Empty once stopped. */
  push(text: string): string;
  /** The text that was held back, for a text that ends without a stop string. */
  end(): string;
  /** Whether a stop string was met. */
  readonly stopped: boolean;
}

/**
 * A filter for stop strings. It holds back a stop string and all text after it, also if a stop string is spread over pieces. The stop
 * string that is complete first counts; of several that end at the same place, the longest.
 *
 * @throws CompressoError("usage") for an empty stop string, and for what is not a list of them.
 */
export function createStopFilter(stops: readonly string[]): StopFilter {
  checkStops(stops);
  let held = "", stopped = false;
  return {
    push(text): string {
      if (stopped) return "";
      held += text;
      const found = firstStop(held, stops);
      stopped = found !== null;
      const sure = found ?? held.length - openLength(held, stops);
      const given = held.slice(0, sure);
      held = stopped ? "" : held.slice(sure);
      return given;
    },
    end(): string {
      const rest = held;
      held = "";
      return rest;
    },
    get stopped(): boolean {
      return stopped;
    },
  };
}

/** Throws `CompressoError("usage")` for stop strings that cannot be used. */
export function checkStops(stops: readonly string[]): void {
  checkList(stops);
  if (!stops.includes("")) return;
  refuse("usage", `cannot use ${option("stop")}`, { rule: "a stop string has at least one character", value: '""' });
}

/** A text alone would be taken for the list of its letters. */
function checkList(stops: unknown): void {
  if (Array.isArray(stops) && stops.every((stop) => typeof stop === "string")) return;
  const isText = typeof stops === "string";
  refuse("usage", `cannot use ${option("stop")}`, {
    rule: "stop strings are a list of texts",
    value: isText ? JSON.stringify(stops) : shown(stops),
    fix: isText && stops !== "" ? `give a list: [${JSON.stringify(stops)}]` : undefined,
  });
}

/** Where the stop string begins that is complete first, or null. */
function firstStop(text: string, stops: readonly string[]): number | null {
  let start: number | null = null, end = Infinity;
  for (const stop of stops) {
    const at = text.indexOf(stop);
    if (at < 0 || at + stop.length > end) continue;
    if (at + stop.length === end && start !== null && at >= start) continue;
    [start, end] = [at, at + stop.length];
  }
  return start;
}

/** Characters at the end of the text that may be the beginning of a stop string. */
function openLength(text: string, stops: readonly string[]): number {
  const longest = Math.max(0, ...stops.map((stop) => stop.length - 1));
  for (let length = Math.min(text.length, longest); length > 0; length--) {
    const end = text.slice(-length);
    if (stops.some((stop) => stop.length > length && stop.startsWith(end))) return length;
  }
  return 0;
}
