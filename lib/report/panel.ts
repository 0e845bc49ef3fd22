// A panel: two axes, and on them lines, dots, bars and spreads, as SVG elements.
import { type AxesBox, type Axis, drawAxes, type DrawnAxes } from "./axes.ts";
import { colorRound, escape, line, round, seriesClass, text, textWidth, widening } from "./svg.ts";

/** A point of a series; a number that is not finite breaks the line. */
export type Point = readonly [x: number, y: number];

/** How a series is drawn. */
export interface SeriesStyle {
  /** Its color, counted from 0; default: its place among the series. There are eight: from the ninth on they come again, with wider lines and larger dots. */
  readonly color?: number;
  /** Default "solid"; "none" draws dots alone; "bars" draws bars from the horizontal axis, those of several series side by side. */
  readonly line?: "solid" | "dashed" | "dotted" | "none" | "bars";
  /** Width of the line in pixels among the first eight colors; default 2. */
  readonly width?: number;
  /** From 0 to 1; default 1. */
  readonly opacity?: number;
  /** Whether every point has a dot; default: where the line is "none". */
  readonly dots?: boolean;
}

/** A line of a chart, its dots or its bars. */
export interface Series {
  /** What the legend calls it. */
  readonly name: string;
  /** In the order in which they are joined. */
  readonly points: readonly Point[];
  /** How it is drawn; default: a solid line. */
  readonly style?: SeriesStyle;
  /** Whether the legend has it; default true. */
  readonly listed?: boolean;
  /** Whether a page's script shows its values; default true. */
  readonly shown?: boolean;
  /** Text at the right end of the line. */
  readonly endLabel?: string;
  /** Where an interval of each point begins and ends along y; NaN for none. */
  readonly intervals?: readonly (readonly [low: number, high: number])[];
  /** Of values in a row: their mean, and half of the whisker's length, null for none. */
  readonly spread?: { readonly mean: number; readonly sd: number | null };
}

/** A vertical line at a value of x. */
export interface PanelMark {
  /** The value. */
  readonly x: number;
  /** Text at the line. */
  readonly label: string;
}

/** What a panel shows. */
export interface PanelContent {
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly Series[];
  readonly marks?: readonly PanelMark[];
}

/** The drawing, and its scales as attributes, by which a page's script reads values. */
export interface DrawnPanel {
  readonly body: readonly string[];
  readonly attributes: string;
}

const DASHES = { solid: "", dashed: "6 4", dotted: "2 3" } as const;
/** Points that a line has at most for each pixel of the panel's width; more would not show. */
const POINTS_PER_PIXEL = 1.5;
/** Room above the field for the labels of marks. */
export const MARK_ROOM = 14;

/** Draws axes, grid, marks and series. Series without finite points leave their axes empty. */
export function drawPanel(
  { x, y, series, marks = [] }: PanelContent,
  box: Omit<AxesBox, "ends" | "above">,
): DrawnPanel {
  const all = series.flatMap(({ points }) => points.filter(isShown));
  const places = marks.map((mark) => mark.x).filter(Number.isFinite);
  const whiskers = series.flatMap(({ spread }) => spread ? endsOf(spread, x) : []).filter(Number.isFinite);
  const intervals = series.flatMap((one) => one.intervals ?? []).flat().filter(Number.isFinite);
  const axes = drawAxes(
    {
      ...{ x, y, ys: [...all.map(([, value]) => value), ...intervals] },
      // Lines decide where their axis ends, and rows hold all that is drawn.
      xs: [...all.map(([value]) => value), ...(y.rows ? [...whiskers, ...places] : [])],
    },
    {
      ...box,
      above: marks.length > 0 ? MARK_ROOM : 0,
      ends: Math.max(0, ...series.map(({ endLabel }) => endLabel === undefined ? 0 : textWidth(endLabel, 11))),
    },
  );
  const { toX, toY, left, right, top, bottom, attributes } = axes, body = [...axes.body];
  for (const { x: value, label } of marks) {
    const at = toX(value), isRight = at > (left + right) / 2;
    if (!(at >= left - 0.5 && at <= right + 0.5)) continue;
    body.push(line([at, top - 12], [at, bottom], { kind: "mark", dash: "3 3" }));
    body.push(text(at + (isRight ? -4 : 4), top - 4, label, { anchor: isRight ? "end" : "start", size: 11 }));
  }
  const bars = series.filter(({ style }) => style?.line === "bars");
  series.forEach((one, index) => {
    const { name, points, style = {}, shown = true, spread } = one, { color = index } = style;
    const parts = style.line === "bars"
      ? drawBars(points, { axes, color, place: bars.indexOf(one), count: bars.length })
      : spread
      ? drawSpread(points, spread, { axes, x })
      : drawLine(thinned(points, Math.max(200, POINTS_PER_PIXEL * box.width)), {
        style: { ...style, color },
        place: ([px, py]) => [toX(px), toY(py)],
      });
    const bounds = drawIntervals(one, axes);
    body.push(group([...parts, ...bounds], { ...style, color, ...(shown ? { name } : {}) }));
  });
  const ends = series.flatMap(({ points, endLabel }) => {
    const last = points.findLast(isShown);
    return endLabel === undefined || !last ? [] : [{ label: endLabel, x: toX(last[0]) + 6, y: toY(last[1]) }];
  });
  for (const { label, x, y } of spreadDown(ends, { top, bottom })) {
    body.push(text(x, y + 4, label, { tone: "soft", size: 11 }));
  }
  return { body, attributes };
}

function isShown([x, y]: Point): boolean {
  return Number.isFinite(x) && Number.isFinite(y);
}

const END_LABEL_HEIGHT = 13;

/** Labels moved so far that none covers another; where there are more than fit, every second, third, … one is kept. */
function spreadDown<T extends { readonly y: number }>(
  labels: readonly T[],
  { top, bottom }: { readonly top: number; readonly bottom: number },
): T[] {
  const every = Math.max(1, Math.ceil(labels.length * END_LABEL_HEIGHT / Math.max(END_LABEL_HEIGHT, bottom - top)));
  const kept = labels.toSorted((a, b) => a.y - b.y).filter((_, index) => index % every === 0);
  const places = kept.map(({ y }) => y);
  // Down from the top, then up from the bottom.
  for (let at = 1; at < places.length; at++) {
    places[at] = Math.max(places[at] ?? 0, (places[at - 1] ?? 0) + END_LABEL_HEIGHT);
  }
  let most = bottom;
  for (let at = places.length - 1; at >= 0; at--) {
    places[at] = Math.min(places[at] ?? 0, most);
    most = (places[at] ?? 0) - END_LABEL_HEIGHT;
  }
  return kept.map((label, index) => ({ ...label, y: places[index] ?? label.y }));
}

/** What stands for a series in a legend: a short line, a bar or a dot. */
export function seriesSample(
  { style = {} }: Pick<Series, "style">,
  { index, x, y }: { readonly index: number; readonly x: number; readonly y: number },
): string {
  const { color = index } = style, isDot = style.line === "none", end: Point = [x + 20, y];
  const parts = style.line === "bars"
    ? [barPath(`M${x} ${y}h20`, { color, width: 8 })]
    : drawLine(isDot ? [[x + 10, y]] : [[x, y], end], { style: { ...style, color }, place: (point) => point });
  return group(parts, { ...style, color });
}

/** The parts of a series in its color; `name` is for a page's script. */
function group(
  parts: readonly string[],
  { color, opacity = 1, name }: Pick<SeriesStyle, "opacity"> & { readonly color: number; readonly name?: string },
): string {
  const shade = opacity === 1 ? "" : ` opacity="${opacity}"`;
  const named = name === undefined ? "" : ` data-name="${escape(name)}"`;
  return `<g class="${seriesClass(color)}"${named}${shade}>${parts.join("")}</g>`;
}

function drawLine(points: readonly Point[], { style, place }: {
  readonly style: SeriesStyle & { readonly color: number };
  readonly place: (point: Point) => Point;
}): string[] {
  const { color, line: kind = "solid", dots = kind === "none" } = style;
  // Dashes and opacity have a meaning of their own in charts, so that width tells series of one color apart.
  const turn = colorRound(color), width = (style.width ?? 2) * widening(color);
  const placed = points.map((point) => isShown(point) ? place(point) : null);
  const body: string[] = [];
  if (kind !== "none" && kind !== "bars") {
    const path = linePath(placed);
    const dash = DASHES[kind] === "" ? "" : ` stroke-dasharray="${DASHES[kind]}"`;
    if (path !== "") {
      body.push(
        `<path d="${path}" fill="none" stroke="currentColor" stroke-width="${width}" stroke-linejoin="round"${dash}/>`,
      );
    }
  }
  placed.forEach((point, at) => {
    // A point alone would not show.
    const isAlone = !placed[at - 1] && !placed[at + 1];
    if (!point || (!dots && !isAlone)) return;
    body.push(
      `<circle cx="${round(point[0])}" cy="${round(point[1])}" r="${
        dots ? 3.5 + 2 * turn : Math.max(2, width)
      }" fill="currentColor"/>`,
    );
  });
  return body;
}

/** Lines between neighbours, with a gap where there is no point. A point without neighbours is closed, to have an end. */
function linePath(points: readonly (Point | null)[]): string {
  return points.map((point, at) => {
    if (!point) return "";
    const isFirst = !points[at - 1], end = isFirst && !points[at + 1] ? "Z" : "";
    return `${isFirst ? "M" : "L"}${round(point[0])},${round(point[1])}${end}`;
  }).join("");
}

/** Bars at whole values of x, `place`-th of `count` side by side. */
function drawBars(points: readonly Point[], { axes: { toX, toY, bottom }, color, place, count }: {
  readonly axes: DrawnAxes;
  readonly color: number;
  readonly place: number;
  readonly count: number;
}): string[] {
  const bar = (toX(1) - toX(0)) * 0.8 / count, width = Math.max(1, bar - 1);
  // From the end down, so that no gap lies there.
  const path = points.filter(isShown).map(([x, y]) =>
    `M${round(toX(x - 0.4) + place * bar + width / 2)},${round(toY(y))}V${round(bottom)}`
  );
  return [barPath(path.join(""), { color, width })];
}

/**
 * Bars along a path. When a color repeats, they are cut into pieces, longer ones each time: width cannot tell bars
 * apart.
 */
function barPath(path: string, { color, width }: { readonly color: number; readonly width: number }): string {
  const turn = colorRound(color), pieces = turn === 0 ? "" : ` stroke-dasharray="${3 * turn} 2"`;
  return `<path d="${path}" fill="none" stroke="currentColor" stroke-width="${
    round(width)
  }" stroke-opacity="0.75"${pieces}/>`;
}

/** Intervals of points as bars with ends. */
function drawIntervals({ points, intervals = [] }: Series, { toX, toY }: DrawnAxes): string[] {
  return intervals.flatMap(([low, high], index) => {
    const x = round(toX(points[index]?.[0] ?? NaN)), [from, to] = [round(toY(low)), round(toY(high))];
    if (![x, from, to].every(Number.isFinite)) return [];
    const path = `M${x - 4} ${from}H${x + 4}M${x} ${from}V${to}M${x - 4} ${to}H${x + 4}`;
    return [`<path d="${path}" fill="none" stroke="currentColor" stroke-width="1.5"/>`];
  });
}

/** Ends of a whisker. A share cannot lie beyond 0 and 1. */
function endsOf({ mean, sd }: NonNullable<Series["spread"]>, { format }: Axis): [number, number] {
  const within = (value: number): number => format === "share" ? Math.min(1, Math.max(0, value)) : value;
  return [within(mean - (sd ?? 0)), within(mean + (sd ?? 0))];
}

/** Dots of single values in a row, a bar at their mean, and a whisker. */
function drawSpread(
  points: readonly Point[],
  spread: NonNullable<Series["spread"]>,
  { axes: { toX, toY }, x }: { readonly axes: DrawnAxes; readonly x: Axis },
): string[] {
  const shown = points.filter(isShown), row = round(toY(points[0]?.[1] ?? 0)), mean = round(toX(spread.mean));
  if (!Number.isFinite(spread.mean)) return [];
  const [from, to] = endsOf(spread, x);
  return [
    ...shown.map(([value]) =>
      `<circle cx="${round(toX(value))}" cy="${row}" r="3" fill="currentColor" opacity="0.55"/>`
    ),
    ...(spread.sd === null
      ? []
      : [`<path d="M${round(toX(from))} ${row}H${round(toX(to))}" stroke="currentColor" stroke-width="1.5"/>`]),
    `<path d="M${mean} ${row - 6}V${row + 6}" stroke="currentColor" stroke-width="3"/>`,
  ];
}

/**
 * At most about `most` points of a line: of each stretch the first, the least, the largest and the last, so that no peak is lost. Breaks of
 * the line stay.
 */
export function thinned(points: readonly Point[], most: number): readonly Point[] {
  if (points.length <= most) return points;
  const stretch = Math.ceil(points.length / (most / 4)), kept: Point[] = [];
  for (let start = 0; start < points.length; start += stretch) {
    const end = Math.min(points.length, start + stretch) - 1;
    const valueAt = (at: number): number => points[at]?.[1] ?? NaN, chosen = new Set([start, end]);
    let least = -1, largest = -1;
    for (let at = start; at <= end; at++) {
      const value = valueAt(at);
      if (!Number.isFinite(value)) {
        // One of several gaps in a row breaks the line.
        if (at === start || Number.isFinite(valueAt(at - 1))) chosen.add(at);
        continue;
      }
      if (least < 0 || value < valueAt(least)) least = at;
      if (largest < 0 || value > valueAt(largest)) largest = at;
    }
    for (const at of [...chosen, least, largest].sort((a, b) => a - b)) {
      const point = points[at];
      if (point && point !== kept.at(-1)) kept.push(point);
    }
  }
  return kept;
}
