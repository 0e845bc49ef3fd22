// A chart of dots in rows, one panel for each number: every value, the mean and its spread.
import { escape, heading, line, round, seriesClass, short, svgFigure, text, textWidth, wrapText } from "./svg.ts";
import { scaleOf, ticksOf } from "./axes.ts";

/** What stands in one row of a panel. */
export interface DotRow {
  readonly label: string;
  /** Single values. */
  readonly values: readonly number[];
  readonly mean: number;
  /** Half of the whisker's length; null for none. */
  readonly spread: number | null;
}

/** One number of all rows. */
export interface DotPanel {
  readonly title: string;
  readonly rows: readonly DotRow[];
  /** A dashed line through all rows, such as the value of the unpruned model. */
  readonly reference?: { readonly label: string; readonly value: number } | undefined;
  /** "share" shows 0.2 as 20 %. Default "plain". */
  readonly format?: "plain" | "share";
}

/** What a chart shows. */
export interface DotChart {
  readonly title: string;
  /** A sentence below the title. */
  readonly description: string;
  readonly panels: readonly DotPanel[];
}

const WIDTH = 760, MARGIN = 16, ROW = 20, LINE = 14, AXIS = 34, SPACE = 18;
/** Characters of a line of a row's label at most, of which it has two; the whole stands in the description. */
const MOST_LABEL = 42;

/**
 * Draws the panels one below the other: an SVG document that needs no other file. A small dot is one value, a bar the mean, a whisker the
 * spread about it.
 *
 * @example
 * ```ts
 * import { dotChart } from "./dot_chart.ts";
 * const rows = [{ label: "rank 2", values: [20.1, 20.9], mean: 20.5, spread: 0.57 }];
 * const svg = dotChart({ title: "Rank", description: "Two seeds.", panels: [{ title: "perplexity", rows }] });
 * if (!svg.startsWith("<svg ")) throw new Error("no SVG");
 * ```
 */
export function dotChart({ title, description, panels }: DotChart): string {
  const { body: lines, bottom } = heading(title, { x: MARGIN, y: MARGIN, width: WIDTH - 2 * MARGIN });
  const body: string[] = [...lines];
  let y = bottom;
  for (const part of wrapText(description, WIDTH - 2 * MARGIN)) {
    body.push(text(MARGIN, y + 12, part, { tone: "soft" }));
    y += 17;
  }
  const labels = panels.flatMap(({ rows }) => rows.map(({ label }) => labelLines(label)));
  const left = MARGIN + Math.max(60, ...labels.flat().map((part) => textWidth(part))) + 10;
  const row = ROW + LINE * (Math.max(1, ...labels.map(({ length }) => length)) - 1);
  for (const panel of panels) {
    y += SPACE;
    body.push(...drawPanel(panel, { y, row, left, right: WIDTH - MARGIN - 24 }));
    y += topOf(panel) + row * panel.rows.length + AXIS;
  }
  const means = panels.map(({ title: name, rows }) =>
    `${name}: ${rows.map(({ label, mean }) => `${label} ${short(mean)}`).join(", ")}`
  );
  return svgFigure(body, {
    title,
    description: `${description} ${means.join("; ")}.`,
    width: WIDTH,
    height: Math.ceil(y + 4),
  });
}

/** Pixels from a panel's upper edge to its first row: the title, and the reference's label. */
function topOf({ reference }: DotPanel): number {
  return reference ? 32 : 18;
}

function drawPanel(
  panel: DotPanel,
  { y, row, left, right }: {
    readonly y: number;
    /** Height of a row. */
    readonly row: number;
    readonly left: number;
    readonly right: number;
  },
): string[] {
  const { title, rows, reference, format = "plain" } = panel;
  // A share cannot lie beyond 0 and 1, whatever a whisker says.
  const within = (value: number): number => format === "share" ? Math.min(1, Math.max(0, value)) : value;
  const ends = rows.flatMap(({ values, mean, spread }) => [
    ...values,
    within(mean - (spread ?? 0)),
    within(mean + (spread ?? 0)),
  ]);
  const all = [...ends, ...(reference ? [reference.value] : [])].filter(Number.isFinite);
  const toX = scaleOf({ format }, all, { nice: true }).range([left, right]);
  const top = y + topOf(panel), bottom = top + row * rows.length + 4;
  const body: string[] = [text(MARGIN, y + 10, title, { weight: 600 })];
  for (const { value, label } of ticksOf(toX, { format, count: 6 })) {
    body.push(line([toX(value), top], [toX(value), bottom], { kind: "grid" }));
    body.push(text(toX(value), bottom + 15, label, { anchor: "middle", tone: "soft", size: 11 }));
  }
  body.push(line([left, bottom], [right, bottom], { kind: "axis" }));
  if (reference && Number.isFinite(reference.value)) {
    const at = toX(reference.value), isRight = at > (left + right) / 2;
    body.push(line([at, top - 6], [at, bottom], { kind: "mark", dash: "3 3" }));
    body.push(
      text(at + (isRight ? -4 : 4), top - 1, reference.label, { anchor: isRight ? "end" : "start", size: 11 }),
    );
  }
  rows.forEach(({ label, values, mean, spread }, index) => {
    const center = top + row * (index + 0.5) + 2, lines = labelLines(label);
    lines.forEach((part, line) => {
      const below = LINE * (line - (lines.length - 1) / 2);
      body.push(text(left - 10, round(center + 4 + below), part, { anchor: "end" }));
    });
    if (!Number.isFinite(mean)) return;
    const parts = values.filter(Number.isFinite).map((value) =>
      `<circle cx="${round(toX(value))}" cy="${round(center)}" r="3" fill="currentColor" opacity="0.55"/>`
    );
    if (spread !== null) {
      parts.push(
        `<path d="M${round(toX(within(mean - spread)))} ${round(center)}H${
          round(toX(within(mean + spread)))
        }" stroke="currentColor" stroke-width="1.5"/>`,
      );
    }
    parts.push(
      `<path d="M${round(toX(mean))} ${round(center - 6)}V${
        round(center + 6)
      }" stroke="currentColor" stroke-width="3"/>`,
    );
    body.push(`<g class="${seriesClass(index)}" data-name="${escape(label)}">${parts.join("")}</g>`);
  });
  return body;
}

/** A label in one line or two, the second one cut where it is longer. */
function labelLines(label: string): string[] {
  if (label.length <= MOST_LABEL) return [label];
  const space = label.lastIndexOf(" ", MOST_LABEL), end = space > 0 ? space : MOST_LABEL;
  const rest = label.slice(end).trimStart();
  return [label.slice(0, end), rest.length > MOST_LABEL ? `${rest.slice(0, MOST_LABEL - 1)}…` : rest];
}
