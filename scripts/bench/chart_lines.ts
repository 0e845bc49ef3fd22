// Draws panels of points with fitted curves on logarithmic axes, as SVG text.
import {
  bodyTop,
  colorOf,
  legend,
  line,
  logTicks,
  MARGIN,
  round,
  si,
  svgDocument,
  text,
  textWidth,
  WIDTH,
} from "./chart.ts";

/** Points of one series and the curve through them. */
export interface Line {
  /** One of the chart's series. */
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly curve: (x: number) => number;
}

/** One pair of axes. */
export interface Panel {
  readonly title: string;
  /** A line below the title, for example the fit. */
  readonly note: string;
  readonly xLabel: string;
  readonly lines: readonly Line[];
}

/** Panels that share their series. */
export interface LineChart {
  readonly title: string;
  readonly subtitle: string;
  /** Unit of y, which gets SI prefixes. */
  readonly unit: string;
  readonly series: readonly string[];
  readonly panels: readonly Panel[];
}

const COLUMNS = 2, HEIGHT = 300, SPACE = 24, STEPS = 48;

/** Draws panels two in a row: points as dots, curves as dashed lines. */
export function lineChart({ title, subtitle, unit, series, panels }: LineChart): string {
  const begin = bodyTop(subtitle), names = legend(series, begin);
  const shown = series.length > 1 ? names : { body: [], height: 0 };
  const width = (WIDTH - 2 * MARGIN - SPACE) / COLUMNS;
  const body = panels.flatMap((panel, index) => {
    const x = MARGIN + (index % COLUMNS) * (width + SPACE);
    const y = begin + shown.height + 6 + Math.floor(index / COLUMNS) * (HEIGHT + SPACE);
    return drawPanel(panel, { x, y, width, unit, series });
  });
  const rows = Math.ceil(panels.length / COLUMNS);
  const description = `${subtitle}. ${panels.map(({ title: name, note }) => `${name}: ${note}`).join("; ")}.`;
  return svgDocument([...shown.body, ...body], {
    title,
    subtitle,
    description,
    height: begin + shown.height + 6 + rows * (HEIGHT + SPACE) - SPACE + MARGIN,
  });
}

function drawPanel(
  { title, note, xLabel, lines }: Panel,
  { x, y, width, unit, series }: {
    readonly x: number;
    readonly y: number;
    readonly width: number;
    readonly unit: string;
    readonly series: readonly string[];
  },
): string[] {
  const all = lines.flatMap(({ points }) => points);
  const xs = [...new Set(all.map(([value]) => value))].sort((a, b) => a - b), ys = all.map(([, value]) => value);
  const [xMin, xMax] = [xs[0] ?? 1, xs.at(-1) ?? 1];
  const [yMin, yMax] = [Math.min(...ys) * 0.8, Math.max(...ys) * 1.25];
  const left = x + 58, right = x + width - 10, top = y + 44, bottom = y + HEIGHT - 40;
  const toX = (value: number): number =>
    left + 8 + (right - left - 16) * Math.log(value / xMin) / Math.log(xMax / xMin);
  const toY = (value: number): number => bottom - (bottom - top) * Math.log(value / yMin) / Math.log(yMax / yMin);
  const body = [text(x, y + 12, title, { weight: 600 }), text(x, y + 30, note, { tone: "soft", size: 11 })];
  for (const tick of logTicks([yMin, yMax], 6)) {
    body.push(line([left, toY(tick)], [right, toY(tick)], { kind: "grid" }));
    body.push(text(left - 6, toY(tick) + 4, si(tick, unit), { anchor: "end", tone: "soft" }));
  }
  body.push(line([left, bottom], [right, bottom], { kind: "axis" }));
  let free = -Infinity;
  for (const value of xs) {
    const label = String(value), half = textWidth(label) / 2;
    body.push(line([toX(value), bottom], [toX(value), bottom + 4], { kind: "axis" }));
    if (toX(value) - half < free) continue;
    free = toX(value) + half + 4;
    body.push(text(toX(value), bottom + 17, label, { anchor: "middle", tone: "soft" }));
  }
  body.push(text((left + right) / 2, bottom + 34, xLabel, { anchor: "middle", tone: "soft" }));
  for (const { name, points, curve } of lines) {
    const color = colorOf(series.indexOf(name));
    const path = Array.from({ length: STEPS + 1 }, (_, i) => xMin * (xMax / xMin) ** (i / STEPS))
      .map((value) => [toX(value), curve(value)] as const)
      .filter(([, value]) => value >= yMin && value <= yMax)
      .map(([at, value]) => `${round(at)},${round(toY(value))}`);
    body.push(
      `<polyline points="${path.join(" ")}" fill="none" stroke="${color}" stroke-width="1.5" stroke-dasharray="5 3"/>`,
    );
    for (const [px, py] of points) {
      body.push(`<circle cx="${round(toX(px))}" cy="${round(toY(py))}" r="3.5" fill="${color}"/>`);
    }
  }
  return body;
}
