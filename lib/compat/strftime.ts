// Dates as Python's strftime writes them, in English and local time.
import { timeFormat } from "../core/packages.ts";

/** What d3-time-format writes in another way or not at all. A time has no zone, as transformers hands templates one. */
const OWN: Readonly<Record<string, string>> = {
  c: "%a %b %e %H:%M:%S %Y",
  x: "%m/%d/%y",
  D: "%m/%d/%y",
  X: "%H:%M:%S",
  T: "%H:%M:%S",
  R: "%H:%M",
  F: "%Y-%m-%d",
  h: "%b",
  z: "",
  Z: "",
};

/** Writes a date by a format such as `%d %b %Y`; `%-d` leaves the leading zero out, and a letter that is not known stays as it is. */
export function strftime(date: Date, format: string): string {
  const known = format.replaceAll(/%-?([A-Za-z%])?/g, (whole, letter: string | undefined) => {
    if (letter === undefined || !/[AaBbdefGHIjMmpSUuVWwYy%]/.test(letter)) return OWN[letter ?? ""] ?? `%${whole}`;
    return whole;
  });
  return timeFormat(known)(date);
}
