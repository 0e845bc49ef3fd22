// Dates as Python's strftime writes them, in English and local time. A time has no zone, as transformers hands templates
// one.

const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"] as const;
const MONTHS = [
  ...["January", "February", "March", "April", "May", "June", "July", "August"] as const,
  ...["September", "October", "November", "December"] as const,
];

/** Letters that stand for a format. */
const LONGER: Readonly<Record<string, string>> = {
  c: "%a %b %e %H:%M:%S %Y",
  x: "%m/%d/%y",
  D: "%m/%d/%y",
  X: "%H:%M:%S",
  T: "%H:%M:%S",
  R: "%H:%M",
  F: "%Y-%m-%d",
  h: "%b",
};

/** Days since the first of January of its year. */
function dayOfYear(date: Date): number {
  return Math.round(
    (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0)) / 864e5,
  );
}

/** The Thursday of a date's week: ISO 8601 counts a week to the year of its Thursday. */
function thursday(date: Date): Date {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate() - (date.getDay() + 6) % 7 + 3);
}

/** What a letter stands for; a number has digits and, in place of zeros, perhaps a space. */
const LETTERS: Readonly<
  Record<string, (date: Date) => string | readonly [value: number, digits: number, pad?: string]>
> = {
  A: (date) => DAYS[date.getDay()] ?? "",
  a: (date) => (DAYS[date.getDay()] ?? "").slice(0, 3),
  B: (date) => MONTHS[date.getMonth()] ?? "",
  b: (date) => (MONTHS[date.getMonth()] ?? "").slice(0, 3),
  d: (date) => [date.getDate(), 2],
  e: (date) => [date.getDate(), 2, " "],
  f: (date) => [1000 * date.getMilliseconds(), 6],
  G: (date) => [thursday(date).getFullYear(), 4],
  H: (date) => [date.getHours(), 2],
  I: (date) => [date.getHours() % 12 || 12, 2],
  j: (date) => [dayOfYear(date) + 1, 3],
  M: (date) => [date.getMinutes(), 2],
  m: (date) => [date.getMonth() + 1, 2],
  p: (date) => date.getHours() < 12 ? "AM" : "PM",
  S: (date) => [date.getSeconds(), 2],
  U: (date) => [Math.floor((dayOfYear(date) + 7 - date.getDay()) / 7), 2],
  u: (date) => [date.getDay() || 7, 1],
  V: (date) => [Math.floor(dayOfYear(thursday(date)) / 7) + 1, 2],
  W: (date) => [Math.floor((dayOfYear(date) + 7 - (date.getDay() + 6) % 7) / 7), 2],
  w: (date) => [date.getDay(), 1],
  Y: (date) => [date.getFullYear(), 4],
  y: (date) => [date.getFullYear() % 100, 2],
  Z: () => "",
  z: () => "",
  "%": () => "%",
};

/** Writes a date by a format such as `%d %b %Y`; `%-d` leaves the leading zero out, and a letter that is not known stays as it is. */
export function strftime(date: Date, format: string): string {
  const known = format.replaceAll(/%([A-Za-z%])/g, (whole, letter: string) => LONGER[letter] ?? whole);
  return known.replaceAll(/%(-?)([A-Za-z%])/g, (whole, plain: string, letter: string) => {
    const found = LETTERS[letter]?.(date) ?? whole;
    if (typeof found === "string") return found;
    const [value, digits, pad = "0"] = found;
    return plain ? String(value) : String(value).padStart(digits, pad);
  });
}
