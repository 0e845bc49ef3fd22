// Two axes with grid, ticks and labels, and the scales between values and pixels. d3-scale places the ticks.
import { scaleLinear } from "../core/packages.ts";
import { escape, isPoint, line, text, textWidth, verticalText } from "./svg.ts";

/** An axis. */
export interface Axis {
  /** What it counts, with its unit. */
  readonly label: string;
  /** First and last value; default: those of the points. */
  readonly domain?: readonly [number, number];
  /** Whether 0 belongs to the axis whatever the points are. Default false. */
  readonly zero?: boolean;
  /** "share" shows 0.2 as 20 %; "whole" has no ticks between whole numbers. Default "plain". */
  readonly format?: AxisFormat;
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

/** From a value to its pixel. */
export type Scale = ReturnType<typeof scaleLinear<number, number>>;

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
  const toY = scaleOf(y, ys, { nice: y.domain === undefined });
  const rows = ticksOf(toY, { format: y.format, count: Math.max(2, Math.min(6, box.height / 45)) });
  const left = box.x + 30 + (box.labels ?? Math.max(24, ...rows.map(({ label }) => textWidth(label, TICK_SIZE))));
  const right = box.x + box.width - 12 - (box.ends ?? 0), top = box.y + 10 + (box.above ?? 0);
  const bottom = box.y + box.height - 38;
  const toX = scaleOf(x, xs, { nice: false }).range([left, right]);
  toY.range([bottom, top]);
  const body: string[] = [];
  for (const { value, label } of rows) {
    body.push(line([left, toY(value)], [right, toY(value)], { kind: "grid" }));
    body.push(text(left - 6, toY(value) + 4, label, { anchor: "end", tone: "soft", size: TICK_SIZE }));
  }
  body.push(line([left, bottom], [right, bottom], { kind: "axis" }));
  let taken = -Infinity;
  for (const { value, label } of ticksOf(toX, { format: x.format, count: Math.max(2, Math.min(8, box.width / 80)) })) {
    body.push(line([toX(value), bottom], [toX(value), bottom + 4], { kind: "axis" }));
    // The last label must not stand out of the box.
    const width = textWidth(label, TICK_SIZE), start = Math.min(toX(value) - width / 2, box.x + box.width - width);
    if (start < taken + 4) continue;
    taken = start + width;
    body.push(text(start + width / 2, bottom + 16, label, { anchor: "middle", tone: "soft", size: TICK_SIZE }));
  }
  body.push(text((left + right) / 2, bottom + 32, x.label, { anchor: "middle", tone: "soft", size: TICK_SIZE }));
  if (y.label !== "") body.push(verticalText(box.x + 10, (top + bottom) / 2, y.label));
  const scaleText = ({ format = "plain", label }: Axis, scale: Scale): string =>
    escape([...scale.domain(), ...scale.range(), format, label].join(" "));
  return {
    ...{ body, toX, toY, left, right, top, bottom },
    attributes: ` data-x="${scaleText(x, toX)}" data-y="${scaleText(y, toY)}"`,
  };
}

/** The scale of an axis that holds the values. */
export function scaleOf(
  { domain, zero = false, format }: Omit<Axis, "label">,
  values: readonly number[],
  { nice }: { readonly nice: boolean },
): Scale {
  let [least, most] = domain ?? rangeOf(values);
  if (!(most >= least)) [least, most] = [0, 1];
  if (zero) [least, most] = [Math.min(0, least), Math.max(0, most)];
  if (isPoint(least, most)) {
    const low = least - (Math.abs(least) || 1) / 2, high = most + (Math.abs(most) || 1) / 2;
    // A share cannot lie beyond 0 and 1.
    const [floor, ceiling] = format === "share" ? [Math.min(0, least), Math.max(1, most)] : [-Infinity, Infinity];
    [least, most] = [zero ? least : Math.max(floor, low), Math.min(ceiling, high)];
  }
  const made = scaleLinear<number, number>().domain([least, most]);
  return nice ? made.nice(6) : made;
}

/** Least and largest value. Spread would overflow the stack at a hundred thousand values. */
function rangeOf(values: readonly number[]): readonly [number, number] {
  return values.reduce<readonly [number, number]>(
    ([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity],
  );
}

/** About `count` ticks of a scale, with as many digits as tell two of them apart. */
export function ticksOf(
  scale: Scale,
  { format = "plain", count }: { readonly format?: AxisFormat | undefined; readonly count: number },
): Tick[] {
  const [first = 0, last = 1] = scale.domain(), factor = format === "share" ? 100 : 1;
  const digits = scaleLinear<number, number>().domain([factor * first, factor * last]).tickFormat(count);
  return scale.ticks(count).filter((value) => format !== "whole" || Number.isInteger(value)).map((value) => ({
    value,
    label: format === "share"
      ? `${digits(100 * value)} %`
      : format === "whole"
      ? value.toLocaleString("en")
      : digits(value),
  }));
}
