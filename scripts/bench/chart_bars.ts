// Draws horizontal bars, grouped or stacked, as SVG text.
import {
  bodyTop,
  colorOf,
  inkOn,
  legend,
  line,
  linearTicks,
  MARGIN,
  rect,
  short,
  svgDocument,
  text,
  textWidth,
  WIDTH,
} from "./chart.ts";

/** Bars of several series for each label. */
export interface BarChart {
  readonly title: string;
  readonly subtitle: string;
  /** Of the values, for the axis. */
  readonly unit: string;
  readonly series: readonly string[];
  /** One value a series; null where there is none. */
  readonly rows: readonly { readonly label: string; readonly values: readonly (number | null)[] }[];
  /** A line across all bars, for example a peak. */
  readonly limit?: { readonly value: number; readonly label: string };
}

const BAR = 13, GAP = 10;

/** Draws grouped bars with a value at the end of each. */
export function barChart({ title, subtitle, unit, series, rows, limit }: BarChart): string {
  const begin = bodyTop(subtitle), names = legend(series, begin);
  const shown = series.length > 1 ? names : { body: [], height: 0 };
  const top = begin + shown.height + (limit ? 18 : 4);
  const left = MARGIN + Math.max(...rows.map(({ label }) => textWidth(label))) + 8;
  const right = WIDTH - MARGIN - 52;
  const largest = Math.max(limit?.value ?? 0, ...rows.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const ticks = linearTicks(largest, 6), end = ticks.at(-1) ?? 1;
  const x = (value: number): number => left + (right - left) * value / end;
  const body: string[] = [];
  let y = top;
  for (const { label, values } of rows) {
    const count = values.filter((value) => value !== null).length;
    body.push(text(left - 8, y + count * BAR / 2 + 4, label, { anchor: "end" }));
    values.forEach((value, index) => {
      if (value === null) return;
      body.push(rect([left, y + 1], [x(value) - left, BAR - 2], { fill: colorOf(index) }));
      body.push(text(x(value) + 5, y + BAR - 3, short(value), { size: 11, tone: "soft", halo: true }));
      y += BAR;
    });
    y += GAP;
  }
  const bottom = y - GAP + 4;
  const grid = ticks.flatMap((tick) => [
    line([x(tick), top - 4], [x(tick), bottom], { kind: tick === 0 ? "axis" : "grid" }),
    text(x(tick), bottom + 15, short(tick), { anchor: "middle", tone: "soft" }),
  ]);
  const marks = limit
    ? [
      line([x(limit.value), top - 4], [x(limit.value), bottom], { kind: "mark", dash: "4 3" }),
      text(x(limit.value), top - 9, limit.label, { anchor: "end", size: 11 }),
    ]
    : [];
  const axis = text((left + right) / 2, bottom + 33, unit, { anchor: "middle", tone: "soft" });
  const description = `${subtitle}. ${
    rows.map(({ label, values }) => {
      const parts = values.flatMap((value, i) => value === null ? [] : [`${series[i] ?? ""} ${short(value)}`.trim()]);
      return `${label}: ${parts.join(", ")} ${unit}`;
    }).join("; ")
  }.`;
  return svgDocument([...shown.body, ...grid, ...marks, ...body, axis], {
    title,
    subtitle,
    description,
    height: Math.ceil(bottom + 33 + MARGIN),
  });
}

/** Bars cut into the shares of their sum. */
export interface StackedChart {
  readonly title: string;
  readonly subtitle: string;
  readonly parts: readonly string[];
  /** One value a part, and what stands for the sum at the end. */
  readonly rows: readonly { readonly label: string; readonly total: string; readonly values: readonly number[] }[];
}

const THICK = 30;

/** Draws bars of equal length, cut by share, with the per cent in every part that has room. */
export function stackedChart({ title, subtitle, parts, rows }: StackedChart): string {
  const begin = bodyTop(subtitle), names = legend(parts, begin);
  const top = begin + names.height + 6;
  const left = MARGIN + Math.max(...rows.map(({ label }) => textWidth(label))) + 8;
  const right = WIDTH - MARGIN - Math.max(...rows.map(({ total }) => textWidth(total))) - 8;
  const body: string[] = [];
  const sentences: string[] = [];
  rows.forEach(({ label, total, values }, row) => {
    const y = top + row * (THICK + GAP);
    const sum = values.reduce((all, value) => all + value, 0);
    body.push(text(left - 8, y + THICK / 2 + 4, label, { anchor: "end" }));
    let x = left;
    values.forEach((value, index) => {
      const width = (right - left) * value / sum, share = `${(100 * value / sum).toFixed(value / sum < 0.1 ? 1 : 0)} %`;
      body.push(rect([x, y], [width, THICK], { fill: colorOf(index) }));
      if (width > textWidth(share) + 6) {
        body.push(
          `<text x="${(x + width / 2).toFixed(1)}" y="${y + THICK / 2 + 4}" text-anchor="middle" fill="${
            inkOn(colorOf(index))
          }" font-weight="600">${share}</text>`,
        );
      }
      x += width;
    });
    body.push(text(right + 8, y + THICK / 2 + 4, total));
    const shares = values.map((value, index) => `${parts[index]} ${(100 * value / sum).toFixed(1)} %`);
    sentences.push(`${label}, ${total}: ${shares.join(", ")}`);
  });
  return svgDocument([...names.body, ...body], {
    title,
    subtitle,
    description: `${subtitle}. ${sentences.join("; ")}.`,
    height: top + rows.length * (THICK + GAP) - GAP + MARGIN,
  });
}
