// Dates as Python's strftime writes them, in English and local time.

/** Writes a date by a format such as `%d %b %Y`; `%-d` leaves the leading zero out, and a letter that is not known stays as it is. */
export function strftime(date: Date, format: string): string {
  const named = (options: Intl.DateTimeFormatOptions): string => new Intl.DateTimeFormat("en-US", options).format(date);
  const two = (value: number): string => String(value).padStart(2, "0");
  const parts: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    y: () => two(date.getFullYear() % 100),
    m: () => two(date.getMonth() + 1),
    B: () => named({ month: "long" }),
    b: () => named({ month: "short" }),
    d: () => two(date.getDate()),
    e: () => String(date.getDate()).padStart(2, " "),
    A: () => named({ weekday: "long" }),
    a: () => named({ weekday: "short" }),
    j: () => String(dayOfYear(date)).padStart(3, "0"),
    H: () => two(date.getHours()),
    I: () => two(date.getHours() % 12 || 12),
    M: () => two(date.getMinutes()),
    S: () => two(date.getSeconds()),
    p: () => date.getHours() < 12 ? "AM" : "PM",
    w: () => String(date.getDay()),
    u: () => String(date.getDay() || 7),
    f: () => String(1000 * date.getMilliseconds()).padStart(6, "0"),
    // A time without a zone, as transformers hands templates one.
    z: () => "",
    Z: () => "",
    "%": () => "%",
  };
  return withoutShorthands(format).replaceAll(/%(-?)([A-Za-z%])/g, (whole, dash: string, letter: string) => {
    const part = parts[letter]?.() ?? whole;
    return dash === "" ? part : part.replace(/^[0 ]+(?=\d)/, "");
  });
}

/** Letters that stand for several others. */
const SHORTHANDS: Readonly<Record<string, string>> = {
  c: "%a %b %e %H:%M:%S %Y",
  x: "%m/%d/%y",
  D: "%m/%d/%y",
  X: "%H:%M:%S",
  T: "%H:%M:%S",
  R: "%H:%M",
  F: "%Y-%m-%d",
  h: "%b",
};

function withoutShorthands(format: string): string {
  return format.replaceAll(/%([%A-Za-z])/g, (whole, letter: string) => SHORTHANDS[letter] ?? whole);
}

function dayOfYear(date: Date): number {
  const noon = (month: number, day: number): number => new Date(date.getFullYear(), month, day, 12).getTime();
  return 1 + Math.round((noon(date.getMonth(), date.getDate()) - noon(0, 1)) / 86_400_000);
}
