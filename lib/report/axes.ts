// Two axes with grid, ticks and labels, and the scales between values and pixels.
import { linearScale, niceDomain, type Scale, tickFormat, tickValues } from "./scale.ts";
import { escape, isPoint, line, text, textWidth, verticalText } from "./svg.ts";

/** An axis. */
export interface Axis {
  /** What it counts, with its unit. */
  readonly label: string;
  /** First and last value; default: those of the points. */
  readonly domain?: readonly [number, number];
  /** Whether the axis always contains 0. Default false. */
  readonly zero?: boolean;
  /** "share" shows 0.2 as 20 %; "whole" has no ticks between whole numbers. Default "plain". */
  readonly format?: AxisFormat;
  /** Of a vertical axis: names of rows 0, 1, … from the top down, in place of numbers. */
  readonly rows?: readonly string[];
}

/** How the numbers at ticks are written. */
export type AxisFormat = "plain" | "share" | "whole";

/** Where axes lie: their outer edges, labels within. */
export interface AxesBox {
  /** Room for the labels of the vertical axis, where panels are to be in line; default: what they need. */
  readonly labels?: number;
  /** Room for texts at the right ends of lines. */
  readonly ends?: number;
  /** Room for texts above. */
  readonly above?: number;
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** Axes as they are drawn. */
export interface DrawnAxes {
  readonly body: readonly string[];
  readonly toX: Scale;
  readonly toY: Scale;
  /** Edges of the field between the axes, in pixels. */
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  /** The scales as attributes, with which a page's script reads values. */
  readonly attributes: string;
}

/** A tick and what stands at it. */
export interface Tick {
  readonly value: number;
  readonly label: string;
}

const TICK_SIZE = 11;
/** Pixels between lines of a row's name, and most characters of a line. A name has two lines at most. */
const NAME_LINE = 14, MOST_NAME = 42;
/** Pixels below the field between the axes. */
export const FOOT = 38;

/** Draws both axes; `xs` and `ys` are the values that they must hold, where an axis has no domain. */
export function drawAxes(
  { x, y, xs, ys }: {
    readonly x: Axis;
    readonly y: Axis;
    readonly xs: readonly number[];
    readonly ys: readonly number[];
  },
  box: AxesBox,
): DrawnAxes {
  const { domain, ticks: rows } = verticalTicks(y, ys, box.height), hasRows = y.rows !== undefined;
  const left = box.x + (hasRows ? 10 : 30) + (box.labels ?? labelRoom(y, ys, box.height));
  const right = box.x + box.width - 12 - (box.ends ?? 0), top = box.y + 10 + (box.above ?? 0);
  const bottom = box.y + box.height - FOOT;
  const toX = linearScale(domainOf(x, xs, { nice: hasRows }), [left, right]);
  const toY = linearScale(domain, hasRows ? [top, bottom] : [bottom, top]);
  const body: string[] = [], soft = { tone: "soft", size: TICK_SIZE } as const;
  for (const { value, label } of rows) {
    if (!hasRows) body.push(line([left, toY(value)], [right, toY(value)], { kind: "grid" }));
    const lines = hasRows ? nameLines(label) : [label];
    lines.forEach((part, index) => {
      const at = toY(value) + 4 + NAME_LINE * (index - (lines.length - 1) / 2);
      body.push(text(left - (hasRows ? 10 : 6), at, part, { anchor: "end", ...(hasRows ? {} : soft) }));
    });
  }
  body.push(line([left, bottom], [right, bottom], { kind: "axis" }));
  let taken = -Infinity;
  for (
    const { value, label } of ticksOf(toX.domain, { format: x.format, count: Math.max(2, Math.min(8, box.width / 80)) })
  ) {
    if (hasRows) body.push(line([toX(value), top], [toX(value), bottom], { kind: "grid" }));
    body.push(line([toX(value), bottom], [toX(value), bottom + 4], { kind: "axis" }));
    // The last label must not stand out of the box.
    const width = textWidth(label, TICK_SIZE), start = Math.min(toX(value) - width / 2, box.x + box.width - width);
    if (start < taken + 4) continue;
    taken = start + width;
    body.push(text(start + width / 2, bottom + 16, label, { anchor: "middle", ...soft }));
  }
  body.push(text((left + right) / 2, bottom + 32, x.label, { anchor: "middle", ...soft }));
  if (y.label !== "") body.push(verticalText(box.x + 10, (top + bottom) / 2, y.label));
  const scaleText = ({ format = "plain", label }: Axis, scale: Scale): string =>
    escape([...scale.domain, ...scale.range, format, label].join(" "));
  return {
    ...{ body, toX, toY, left, right, top, bottom },
    attributes: ` data-x="${scaleText(x, toX)}" data-y="${scaleText(y, toY)}"`,
  };
}

/** Room that the labels of a vertical axis need. */
export function labelRoom(y: Axis, ys: readonly number[], height: number): number {
  if (y.rows) return Math.max(60, ...y.rows.flatMap(nameLines).map((part) => textWidth(part)));
  return Math.max(24, ...verticalTicks(y, ys, height).ticks.map(({ label }) => textWidth(label, TICK_SIZE)));
}

/** Pixels that each of some rows needs for its name. */
export function rowHeight(rows: readonly string[]): number {
  return 20 + NAME_LINE * (Math.max(1, ...rows.map((name) => nameLines(name).length)) - 1);
}

function verticalTicks(
  y: Axis,
  ys: readonly number[],
  height: number,
): { readonly domain: Scale["domain"]; readonly ticks: readonly Tick[] } {
  if (y.rows) {
    return { domain: [-0.5, y.rows.length - 0.5], ticks: y.rows.map((label, value) => ({ label, value })) };
  }
  const domain = domainOf(y, ys, { nice: y.domain === undefined });
  return { domain, ticks: ticksOf(domain, { format: y.format, count: Math.max(2, Math.min(6, height / 45)) }) };
}

/** A name in one line or two, the second one cut where it is longer. */
function nameLines(name: string): string[] {
  if (name.length <= MOST_NAME) return [name];
  const space = name.lastIndexOf(" ", MOST_NAME), end = space > 0 ? space : MOST_NAME;
  const rest = name.slice(end).trimStart();
  return [name.slice(0, end), rest.length > MOST_NAME ? `${rest.slice(0, MOST_NAME - 1)}…` : rest];
}

/** The domain of an axis that holds the values. */
export function domainOf(
  { domain, zero = false, format }: Omit<Axis, "label">,
  values: readonly number[],
  { nice }: { readonly nice: boolean },
): Scale["domain"] {
  let [least, most] = domain ?? rangeOf(values);
  if (!(most >= least)) [least, most] = [0, 1];
  if (zero) [least, most] = [Math.min(0, least), Math.max(0, most)];
  if (isPoint(least, most)) {
    const low = least - (Math.abs(least) || 1) / 2, high = most + (Math.abs(most) || 1) / 2;
    // A share cannot lie beyond 0 and 1.
    const [floor, ceiling] = format === "share" ? [Math.min(0, least), Math.max(1, most)] : [-Infinity, Infinity];
    [least, most] = [zero ? least : Math.max(floor, low), Math.min(ceiling, high)];
  }
  return nice ? niceDomain([least, most], 6) : [least, most];
}

/** Least and largest value. Spread would overflow the stack at a hundred thousand values. */
function rangeOf(values: readonly number[]): readonly [number, number] {
  return values.reduce<readonly [number, number]>(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
}

/** About `count` ticks of a domain, with as many digits as tell two of them apart. */
export function ticksOf(
  [first, last]: Scale["domain"],
  { format = "plain", count }: { readonly format?: AxisFormat | undefined; readonly count: number },
): Tick[] {
  const factor = format === "share" ? 100 : 1, digits = tickFormat([factor * first, factor * last], count);
  const values = tickValues([first, last], count).filter((value) => format !== "whole" || Number.isInteger(value));
  return values.map((value) => ({
    value,
    label: format === "share"
      ? `${digits(100 * value)} %`
      : format === "whole"
      ? value.toLocaleString("en")
      : digits(value),
  }));
}
