// A panel of lines over two axes, as SVG elements; d3-shape makes paths.
import { pathLine } from "../core/packages.ts";
import { type AxesBox, type Axis, drawAxes } from "./axes.ts";
import { colorRound, escape, line, round, seriesClass, text, widening } from "./svg.ts";

/** A point of a series; a number that is not finite breaks the line. */
export type Point = readonly [x: number, y: number];

/** How a series is drawn. */
export interface SeriesStyle {
  /** Its color, counted from 0; default: its place among the series. There are eight: from the ninth on they come again, with wider lines and larger dots. */
  readonly color?: number;
  /** Default "solid"; "none" draws dots alone. */
  readonly line?: "solid" | "dashed" | "dotted" | "none";
  /** Width of the line in pixels among the first eight colors; default 2. */
  readonly width?: number;
  /** From 0 to 1; default 1. */
  readonly opacity?: number;
  /** Whether every point has a dot; default: where the line is "none". */
  readonly dots?: boolean;
}

/** A line of a chart. */
export interface LineSeries {
  /** What the legend calls it. */
  readonly name: string;
  /** In the order in which they are joined. */
  readonly points: readonly Point[];
  /** How it is drawn; default: a solid line. */
  readonly style?: SeriesStyle;
  /** Whether the legend has it; default true. */
  readonly listed?: boolean;
  /** Text at the right end of the line; see {@link AxesBox.ends}. */
  readonly endLabel?: string;
}

/** A vertical line at a value of x. */
export interface PanelMark {
  /** The value. */
  readonly x: number;
  /** What stands beside the line. */
  readonly label: string;
}

/** What a panel shows. */
export interface PanelContent {
  readonly x: Axis;
  readonly y: Axis;
  readonly series: readonly LineSeries[];
  readonly marks?: readonly PanelMark[];
}

/** What is drawn, and its scales as attributes that a page's script can read values with. */
export interface DrawnPanel {
  readonly body: readonly string[];
  readonly attributes: string;
}

const DASHES = { solid: "", dashed: "6 4", dotted: "2 3", none: "" } as const;
/** Points that a line has at most for each pixel of the panel's width; more would not show. */
const POINTS_PER_PIXEL = 1.5;

/** Draws axes, grid, marks and lines. Series without finite points leave their axes empty. */
export function linePanel({ x, y, series, marks = [] }: PanelContent, box: AxesBox): DrawnPanel {
  const all = series.flatMap(({ points }) => points.filter(isShown));
  const axes = drawAxes(
    { x, y, xs: all.map(([value]) => value), ys: all.map(([, value]) => value) },
    { ...box, above: marks.length > 0 ? 14 : 0 },
  );
  const { toX, toY, left, right, top, bottom, attributes } = axes, body = [...axes.body];
  for (const { x: value, label } of marks) {
    const at = toX(value), isRight = at > (left + right) / 2;
    if (!(at >= left - 0.5 && at <= right + 0.5)) continue;
    body.push(line([at, top - 12], [at, bottom], { kind: "mark", dash: "3 3" }));
    body.push(text(at + (isRight ? -4 : 4), top - 4, label, { anchor: isRight ? "end" : "start", size: 11 }));
  }
  series.forEach(({ name, points, style = {} }, index) => {
    body.push(
      ...drawSeries(thinned(points, Math.max(200, POINTS_PER_PIXEL * box.width)), {
        style,
        index,
        name,
        place: ([px, py]) => [toX(px), toY(py)],
      }),
    );
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

/** What stands for a series in a legend: a short line or a dot. */
export function seriesSample(
  { style = {} }: Pick<LineSeries, "style">,
  { index, x, y }: { readonly index: number; readonly x: number; readonly y: number },
): string {
  const points: readonly Point[] = style.line === "none" ? [[x + 10, y]] : [[x, y], [x + 20, y]];
  return drawSeries(points, { style, index, place: (point) => point }).join("");
}

function drawSeries(points: readonly Point[], { style, index, name, place }: {
  readonly style: SeriesStyle;
  readonly index: number;
  /** Told to a page's script; a sample in a legend has none. */
  readonly name?: string;
  readonly place: (point: Point) => Point;
}): string[] {
  const { color = index, line: kind = "solid", opacity = 1, dots = kind === "none" } = style;
  // Dashes and opacity have a meaning of their own in charts, so that width tells series of one color apart.
  const turn = colorRound(color), width = (style.width ?? 2) * widening(color);
  const placed = points.map((point) => isShown(point) ? place(point) : null);
  const body: string[] = [];
  if (kind !== "none") {
    const path = pathLine<Point | null>().defined((point) => point !== null)
      .x((point) => round(point?.[0] ?? NaN)).y((point) => round(point?.[1] ?? NaN))(placed);
    const dash = DASHES[kind] === "" ? "" : ` stroke-dasharray="${DASHES[kind]}"`;
    if (path !== null) {
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
  const shade = opacity === 1 ? "" : ` opacity="${opacity}"`;
  const named = name === undefined ? "" : ` data-name="${escape(name)}"`;
  return [`<g class="${seriesClass(color)}"${named}${shade}>${body.join("")}</g>`];
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
        // One of those that follow each other breaks the line.
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
