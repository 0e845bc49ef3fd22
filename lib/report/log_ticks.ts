// The ticks of a logarithmic axis: powers of ten first, others where there is room, all in one notation. Owns which are taken and what stands
// at them; refuses to place them.
import { si } from "./svg.ts";
import { tickFormat } from "./tick_format.ts";

/** A tick and what stands at it. */
export interface Tick {
  readonly value: number;
  readonly label: string;
  /** Whether its label stays where there is no room for all. */
  readonly isFirst: boolean;
}

/** Leading digits of the ticks of a decade, from the most to the fewest. */
const DIGITS: readonly (readonly number[])[] = [[1, 2, 5], [1, 3], [1]];
/** Within these bounds numbers are written in full. */
const LEAST = 1e-5, MOST = 1e6;

/** Of all ticks that an axis could have, in order, at most `most`; `count` is how many were asked for. */
export function logTicks(
  all: readonly number[],
  { most, count, format }: {
    readonly most: number;
    readonly count: number;
    readonly format: "plain" | "share" | "si" | "whole";
  },
): Tick[] {
  const values = chosen(all, most), label = labelsFor(values, { count, format });
  return values.map((value) => ({ value, label: label(value), isFirst: digitOf(value) === 1 }));
}

function chosen(all: readonly number[], most: number): readonly number[] {
  if (all.length <= most) return all;
  for (const digits of isLinear(all) ? [] : DIGITS) {
    const some = all.filter((value) => digits.includes(digitOf(value)));
    // A part of a decade may have too few of them to read a scale from.
    if (some.length >= 2 && some.length <= most) return some;
  }
  const every = Math.ceil(all.length / most), start = Math.max(0, all.findIndex((value) => digitOf(value) === 1));
  return all.filter((_, index) => (index - start) % every === 0);
}

function labelsFor(
  values: readonly number[],
  { count, format }: { readonly count: number; readonly format: "plain" | "share" | "si" | "whole" },
): (value: number) => string {
  if (format === "si") return (value) => si(value, "");
  if (format === "whole") return (value) => value.toLocaleString("en");
  if (isLinear(values)) return tickFormat([values[0] ?? 0, values.at(-1) ?? 1], { count, format });
  const [factor, unit] = format === "share" ? [100, " %"] : [1, ""];
  // Products of shares have digits that rounding has made.
  const shown = (value: number): number => Number((factor * value).toPrecision(3));
  const isShort = values.every((value) => shown(value) >= LEAST && shown(value) <= MOST);
  return (value) =>
    (isShort
      ? shown(value).toLocaleString("en", { maximumSignificantDigits: 3 })
      : shown(value).toExponential().replace("e+", "e")) + unit;
}

/** Whether values lie so close that they are those of a linear axis: some have several digits. */
function isLinear(values: readonly number[]): boolean {
  return values.some((value) => !Number.isInteger(digitOf(value)));
}

/** Digits before the exponent, such as 5 of 0.05. */
function digitOf(value: number): number {
  return Number(value.toExponential().split("e")[0]);
}
