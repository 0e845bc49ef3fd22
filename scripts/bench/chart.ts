// Shared parts of the benchmarks' charts: title and subtitle, colors of bars, ticks, legend.
import { round, svgFigure, text, textWidth } from "../../lib/report/svg.ts";

export { line, round, short, si, text, textWidth } from "../../lib/report/svg.ts";

/** A color of a series, readable on light and dark grounds; Okabe & Ito (2008), safe for the color-blind. */
export const COLORS = [
  "#0072b2",
  "#56b4e9",
  "#d55e00",
  "#e69f00",
  "#009e73",
  "#cc79a7",
  "#8c7a00",
  "#7f7f7f",
  "#5d3a9b",
] as const;

/** The color of series `index`. */
export function colorOf(index: number): string {
  return COLORS[index % COLORS.length] ?? COLORS[0];
}

/** Ink for text on a color: the one of black and white that stands out more. */
export function inkOn(color: string): string {
  const linear = [1, 3, 5].map((at) => Number.parseInt(color.slice(at, at + 2), 16) / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  // Relative luminance of WCAG 2; above this black has the larger contrast.
  const luminance = 0.2126 * (linear[0] ?? 0) + 0.7152 * (linear[1] ?? 0) + 0.0722 * (linear[2] ?? 0);
  return luminance > 0.179 ? "#000000" : "#ffffff";
}

/** Width of the document; all charts are as wide. */
export const WIDTH = 880;
/** Distance of everything from the edge. */
export const MARGIN = 20;

/** Lines of a subtitle: cut at semicolons where it is too long for one, and at commas where a part still is. */
function wrapped(subtitle: string): string[] {
  const fits = (line: string): boolean => textWidth(line) <= WIDTH - 2 * MARGIN;
  const parts = subtitle.split(/(?<=; )/).flatMap((part) => fits(part) ? [part] : part.split(/(?<=, )/));
  const lines: string[] = [];
  for (const part of parts) {
    const last = lines.at(-1);
    if (last !== undefined && fits(last + part)) lines[lines.length - 1] = last + part;
    else lines.push(part);
  }
  return lines.map((line) => line.trimEnd());
}

/** Where the body of a document may begin, below its title and subtitle. */
export function bodyTop(subtitle: string): number {
  return 46 + 18 * wrapped(subtitle).length;
}

/** A whole SVG document. `description` says for screen readers what the chart shows. */
export function svgDocument(
  body: readonly string[],
  { title, subtitle, description, height }: {
    readonly title: string;
    readonly subtitle: string;
    readonly description: string;
    readonly height: number;
  },
): string {
  const lines = wrapped(subtitle).map((line, row) => text(MARGIN, 49 + 18 * row, line, { tone: "soft" }));
  return svgFigure([text(MARGIN, 30, title, { size: 16, weight: 600 }), ...lines, ...body], {
    title,
    description,
    width: WIDTH,
    height,
  });
}

/** A filled rectangle. */
export function rect(
  [x, y]: readonly [number, number],
  [width, height]: readonly [number, number],
  { fill }: { readonly fill: string },
): string {
  return `<rect x="${round(x)}" y="${round(y)}" width="${round(Math.max(0, width))}" height="${
    round(height)
  }" fill="${fill}"/>`;
}

/** Names beside their colors, in as many lines as they need; `height` is that of all lines. */
export function legend(
  names: readonly string[],
  y: number,
): { readonly body: readonly string[]; readonly height: number } {
  const body: string[] = [];
  let x = MARGIN, row = 0;
  names.forEach((name, index) => {
    const width = 18 + textWidth(name) + 16;
    if (x > MARGIN && x + width > WIDTH - MARGIN) {
      x = MARGIN;
      row++;
    }
    body.push(rect([x, y + row * 20], [12, 12], { fill: colorOf(index) }), text(x + 18, y + row * 20 + 10, name));
    x += width;
  });
  return { body, height: (row + 1) * 20 + 6 };
}

/** Round numbers from 0 to at least `largest`, about `count` of them. */
export function linearTicks(largest: number, count: number): number[] {
  const raw = largest / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999) ?? 10) * power;
  return Array.from({ length: Math.ceil(largest / step * 0.999) + 1 }, (_, index) => index * step);
}

/** Round numbers within [smallest, largest] for a logarithmic axis, at most `most` of them. */
export function logTicks([smallest, largest]: readonly [number, number], most: number): number[] {
  const ticksOf = (factors: readonly number[], everyDecade: number): number[] => {
    const ticks: number[] = [];
    const first = Math.floor(Math.log10(smallest)), last = Math.ceil(Math.log10(largest));
    for (let decade = first; decade <= last; decade++) {
      if ((decade - first) % everyDecade !== 0) continue;
      for (const factor of factors) ticks.push(factor * 10 ** decade);
    }
    return ticks.filter((tick) => tick >= smallest * 0.999 && tick <= largest * 1.001);
  };
  const choices = [
    ticksOf([1, 1.5, 2, 3, 4, 5, 6, 8], 1),
    ticksOf([1, 2, 3, 5], 1),
    ticksOf([1, 2, 5], 1),
    ticksOf([1, 3], 1),
    ticksOf([1], 1),
    ticksOf([1], 2),
  ];
  return choices.find((ticks) => ticks.length <= most) ?? ticksOf([1], 3);
}
