// A chart of lines as one SVG document: title, legend and description around a panel.
import type { Axis } from "./axes.ts";
import { linePanel, type LineSeries, type PanelMark, seriesSample } from "./line_panel.ts";
import { heading, short, svgFigure, text, textWidth, wrapText } from "./svg.ts";

/** What a chart shows. */
export interface LineChart {
  /** Headline, and name for screen readers. */
  readonly title: string;
  /** A sentence below the title; screen readers also get the range of every series. */
  readonly description?: string;
  /** Horizontal axis. */
  readonly x: Axis;
  /** Vertical axis. */
  readonly y: Axis;
  /** The lines, in the order of the legend. */
  readonly series: readonly LineSeries[];
  /** Vertical lines with a label. */
  readonly marks?: readonly PanelMark[];
  /** Pixels; default 760. */
  readonly width?: number;
  /** Pixels of the axes with their labels; title and legend come on top. Default 320. */
  readonly height?: number;
  /** Whether the chart is part of a page that has the figures' style and its own headline; default false. */
  readonly embedded?: boolean;
}

const MARGIN = 16;

/**
 * Draws lines over two axes: an SVG document that needs no other file, legible on light and dark grounds. Points that are not finite break
 * their line.
 *
 * @example
 * ```ts
 * import { lineChart } from "./line_chart.ts";
 * const svg = lineChart({
 *   title: "Quality over size",
 *   x: { label: "sparsity", format: "share" },
 *   y: { label: "perplexity" },
 *   series: [{ name: "Compresso", points: [[0, 20.5], [0.1, 25], [0.2, 39.2]], style: { dots: true } }],
 * });
 * if (!svg.startsWith("<svg ")) throw new Error("no SVG");
 * ```
 */
export function lineChart(chart: LineChart): string {
  const { title, description = "", series, width = 760, height = 320, embedded = false } = chart;
  const body: string[] = [], inner = width - 2 * MARGIN;
  let y = embedded ? 0 : MARGIN;
  if (!embedded) {
    const { body: lines, bottom } = heading(title, { x: MARGIN, y, width: inner });
    body.push(...lines);
    y = bottom;
    for (const line of description === "" ? [] : wrapText(description, inner)) {
      body.push(text(MARGIN, y + 12, line, { tone: "soft" }));
      y += 17;
    }
  }
  const names = legend(series, { x: embedded ? 0 : MARGIN, y: y + 4, width: inner });
  body.push(...names.body);
  y += names.height + 4;
  const panel = linePanel(chart, { x: embedded ? 0 : MARGIN, y, width: embedded ? width : inner, height });
  const ranges = series.filter(({ listed = true }) => listed).map(({ name, points }) => `${name}: ${rangeOf(points)}`)
    .join("; ");
  return svgFigure([...body, ...panel.body], {
    title,
    description: `${description} ${chart.y.label} over ${chart.x.label}. ${ranges}.`.trim(),
    width,
    height: Math.ceil(y + height + (embedded ? 0 : 8)),
    embedded,
    attributes: panel.attributes,
  });
}

/** What a legend has a line for. */
export interface LegendEntry extends Pick<LineSeries, "name" | "style" | "listed"> {
  /** Draws what stands for it, from a point on 20 pixels wide; default: its line or dot. */
  readonly sample?: (at: { readonly x: number; readonly y: number }) => string;
}

/** Pixels of a sample with the space behind it, and from one line of a name to the next. */
const SAMPLE = 26, NAME_LINE = 15;

/** Samples of the series beside their names, in as many rows as they need; nothing for one series alone. A name that is wider than all has several lines. */
export function legend(
  series: readonly LegendEntry[],
  { x: left, y: top, width }: { readonly x: number; readonly y: number; readonly width: number },
): { readonly body: readonly string[]; readonly height: number } {
  const listed = [...series.entries()].filter(([, one]) => one.listed ?? true);
  if (listed.length < 2) return { body: [], height: 0 };
  const body: string[] = [];
  let x = left, y = top, below = 0;
  for (const [index, one] of listed) {
    const lines = wrapText(one.name, width - SAMPLE);
    const needed = SAMPLE + Math.max(...lines.map((line) => textWidth(line))) + 14;
    if (x > left && x + needed > left + width) [x, y, below] = [left, y + below + 18, 0];
    const at = { x, y: y + 7 };
    body.push(one.sample?.(at) ?? seriesSample(one, { index, ...at }));
    body.push(...lines.map((line, row) => text(x + SAMPLE, y + 11 + NAME_LINE * row, line)));
    below = Math.max(below, NAME_LINE * (lines.length - 1));
    x += needed;
  }
  return { body, height: y + below - top + 22 };
}

function rangeOf(points: LineSeries["points"]): string {
  const shown = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  const first = shown[0], last = shown.at(-1);
  if (!first || !last) return "no values";
  if (shown.length === 1) return `${short(first[1])} at ${short(first[0])}`;
  return `from ${short(first[1])} at ${short(first[0])} to ${short(last[1])} at ${short(last[0])}`;
}
