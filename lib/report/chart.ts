// A chart as one SVG document: title, description and legend above panels.
import { FOOT, labelRoom, rowHeight } from "./axes.ts";
import { drawPanel, MARK_ROOM, type PanelContent, type Series, seriesSample } from "./panel.ts";
import { heading, short, svgFigure, text, textWidth, wrapText } from "./svg.ts";

/** A panel of a chart. */
export interface ChartPanel extends PanelContent {
  /** A line above it. */
  readonly title?: string;
  /** Pixels of the axes with their labels; default 320, or what its rows need. */
  readonly height?: number;
}

/** What a chart shows. */
export interface Chart {
  /** Headline, and name for screen readers. */
  readonly title: string;
  /** A sentence below the title; screen readers also get the values of every series in short. */
  readonly description?: string;
  /** One below the other. */
  readonly panels: readonly ChartPanel[];
  /** Pixels; default 760. */
  readonly width?: number;
  /** Whether the chart is part of a page that has the figures' style and its own headline; default false. */
  readonly embedded?: boolean;
}

const MARGIN = 16;

/**
 * Draws panels one below the other, as an SVG document that needs no other file and is legible on light and dark
 * grounds. The series of all panels share a legend; rows have their names at the axis instead.
 *
 * @example
 * ```ts
 * import { drawChart } from "./chart.ts";
 * const svg = drawChart({
 *   title: "Quality over size",
 *   panels: [{
 *     x: { label: "sparsity", format: "share" },
 *     y: { label: "perplexity" },
 *     series: [{ name: "Compresso", points: [[0, 20.5], [0.1, 25], [0.2, 39.2]], style: { dots: true } }],
 *   }],
 * });
 * if (!svg.startsWith("<svg ")) throw new Error("no SVG");
 * ```
 */
export function drawChart({ title, description = "", panels, width = 760, embedded = false }: Chart): string {
  const inner = width - 2 * MARGIN, x = embedded ? 0 : MARGIN, body: string[] = [];
  let y = embedded ? 0 : MARGIN;
  const below = (lines: readonly string[], style: Parameters<typeof text>[3]): void => {
    for (const line of lines) {
      body.push(text(x, y + 12, line, style));
      y += 17;
    }
  };
  if (!embedded) {
    const { body: lines, bottom } = heading(title, { x, y, width: inner });
    body.push(...lines);
    y = bottom;
    if (description !== "") below(wrapText(description, inner), { tone: "soft" });
  }
  const names = legend(panels.flatMap(({ y, series }) => y.rows ? [] : series), { x, y: y + 4, width: inner });
  body.push(...names.body);
  y += names.height + 4;
  const labels = Math.max(...panels.map((panel) => {
    const ys = panel.series.flatMap(({ points }) => points.map(([, value]) => value)).filter(Number.isFinite);
    return labelRoom(panel.y, ys, heightOf(panel));
  }));
  const attributes: string[] = [];
  for (const panel of panels) {
    if (panel.title !== undefined) {
      y += 14;
      below(wrapText(panel.title, inner), { weight: 600 });
    }
    const height = heightOf(panel), drawn = drawPanel(panel, { x, y, width: width - 2 * x, height, labels });
    body.push(...drawn.body);
    attributes.push(drawn.attributes);
    y += height;
  }
  return svgFigure(body, {
    title,
    description: `${description} ${panels.map(inShort).join(" ")}`.trim(),
    width,
    height: Math.ceil(y + (embedded ? 0 : 8)),
    embedded,
    // A page's script reads the values of charts with one panel.
    attributes: attributes.length === 1 ? attributes.join("") : "",
  });
}

function heightOf({ y: { rows }, marks = [], height = 320 }: ChartPanel): number {
  return rows ? 10 + (marks.length > 0 ? MARK_ROOM : 0) + rowHeight(rows) * rows.length + FOOT : height;
}

/** The values of a panel in words. */
function inShort({ title, x, y, series }: ChartPanel): string {
  if (y.rows) {
    return `${title}: ${series.map(({ name, spread }) => `${name} ${short(spread?.mean ?? NaN)}`).join(", ")}.`;
  }
  const listed = series.filter(({ listed = true }) => listed).map(({ name, points }) => `${name}: ${rangeOf(points)}`);
  return `${title ?? y.label} over ${x.label}.${listed.length === 0 ? "" : ` ${listed.join("; ")}.`}`;
}

/** Pixels of a sample with the space after it, and from one line of a name to the next. */
const SAMPLE = 26, NAME_LINE = 15;

/**
 * The legend: samples and names of the series, in as many rows as needed; nothing for a single series. A name wider
 * than the chart has several lines.
 */
export function legend(
  series: readonly Pick<Series, "name" | "style" | "listed">[],
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
    body.push(seriesSample(one, { index, x, y: y + 7 }));
    body.push(...lines.map((line, row) => text(x + SAMPLE, y + 11 + NAME_LINE * row, line)));
    below = Math.max(below, NAME_LINE * (lines.length - 1));
    x += needed;
  }
  return { body, height: y + below - top + 22 };
}

function rangeOf(points: Series["points"]): string {
  const shown = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  const first = shown[0], last = shown.at(-1);
  if (!first || !last) return "no values";
  if (shown.length === 1) return `${short(first[1])} at ${short(first[0])}`;
  return `from ${short(first[1])} at ${short(first[0])} to ${short(last[1])} at ${short(last[0])}`;
}
