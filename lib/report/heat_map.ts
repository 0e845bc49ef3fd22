// Shares between 0 and 1 as rows of shaded cells, blocks side by side.
import { escape, round, svgFigure, text, textWidth } from "./svg.ts";

/** A block of cells; its rows are those of the map. */
export interface HeatBlock {
  /** What its cells are. */
  readonly label: string;
  /** A value from 0 to 1 for each cell; null for none there. Rows may differ in length. */
  readonly rows: readonly (readonly (number | null)[])[];
  /** Text of each row, shown while the pointer rests on it. */
  readonly notes?: readonly string[];
  /** Labels below the first and the last column. */
  readonly ends?: readonly [string, string];
}

/** What a map shows. */
export interface HeatMap {
  readonly title: string;
  readonly description: string;
  readonly rowLabels: readonly string[];
  readonly blocks: readonly HeatBlock[];
  /** What 0 and 1 mean, for the legend. */
  readonly scale: readonly [none: string, whole: string];
  readonly width?: number;
  readonly embedded?: boolean;
}

/** Shades of the scale; more could not be distinguished. */
const SHADES = 20, LEAST_ROW = 7, MOST_ROW = 22, GAP = 28, LEGEND = 120;

/** Draws the map. */
export function heatMap(
  { title, description, rowLabels, blocks, scale, width = 760, embedded = false }: HeatMap,
): string {
  const rowHeight = Math.max(LEAST_ROW, Math.min(MOST_ROW, Math.floor(420 / Math.max(1, rowLabels.length))));
  const left = 8 + Math.max(0, ...rowLabels.map((label) => textWidth(label, 11)));
  const counts = blocks.map(({ rows }) => Math.max(1, ...rows.map(({ length }) => length)));
  const room = width - left - 8 - GAP * (blocks.length - 1), all = counts.reduce((sum, count) => sum + count, 0);
  const top = 48, bottom = top + rowLabels.length * rowHeight, body: string[] = [];
  body.push(...legend(scale, { x: left, y: 4 }));
  const every = Math.ceil(13 / rowHeight);
  rowLabels.forEach((label, row) => {
    if (row % every !== 0) return;
    body.push(text(left - 6, top + (row + 0.5) * rowHeight + 4, label, { anchor: "end", tone: "soft", size: 11 }));
  });
  let x = left;
  blocks.forEach((block, index) => {
    // Blocks share a third of the room equally, so that a few heads stay visible next to many columns.
    const share = 1 / 3 / blocks.length + 2 / 3 * (counts[index] ?? 1) / all;
    const cell = Math.min(34, room * share / (counts[index] ?? 1));
    body.push(...drawBlock(block, { x, top, cell, rowHeight }));
    x += cell * (counts[index] ?? 1) + GAP;
  });
  const hasEnds = blocks.some(({ ends }) => ends !== undefined);
  return svgFigure(body, { title, description, width, height: Math.ceil(bottom + (hasEnds ? 24 : 8)), embedded });
}

function drawBlock({ label, rows, notes = [], ends }: HeatBlock, { x, top, cell, rowHeight }: {
  readonly x: number;
  readonly top: number;
  readonly cell: number;
  readonly rowHeight: number;
}): string[] {
  // One path of thick strokes a shade: thousands of rectangles would weigh too much.
  const shades = new Map<number, string>();
  const gap = cell > 5 && rowHeight > 5 ? 1 : 0, thick = rowHeight - gap;
  rows.forEach((values, row) => {
    for (let column = 0; column < values.length;) {
      const shade = shadeOf(values[column]);
      let end = column + 1;
      // Cells without a gap between them are drawn as one where their shade is the same.
      while (gap === 0 && end < values.length && shadeOf(values[end]) === shade) end++;
      if (shade !== null) {
        // Whole pixels, so that no light comes through between cells.
        const left = Math.round(x + column * cell), width = Math.round(x + end * cell) - left - gap;
        const at = `M${left} ${round(top + row * rowHeight + thick / 2)}h${Math.max(1, width)}`;
        shades.set(shade, `${shades.get(shade) ?? ""}${at}`);
      }
      column = end;
    }
  });
  const count = Math.max(1, ...rows.map(({ length }) => length)), bottom = top + rows.length * rowHeight;
  const cells = [...shades].sort(([a], [b]) => a - b).map(([shade, path]) =>
    `<path class="heat" d="${path}" stroke="currentColor" stroke-opacity="${
      opacityOf(shade / SHADES)
    }" stroke-width="${thick}"/>`
  );
  const hovers = notes.map((note, row) =>
    `<rect x="${round(x)}" y="${round(top + row * rowHeight)}" width="${round(cell * count)}" height="${
      round(rowHeight)
    }" fill="transparent"><title>${escape(note)}</title></rect>`
  );
  const below = ends
    ? [
      text(x, bottom + 16, ends[0], { tone: "soft", size: 11 }),
      text(x + cell * count, bottom + 16, ends[1], { tone: "soft", size: 11, anchor: "end" }),
    ]
    : [];
  return [text(x, top - 8, label, { size: 11 }), ...cells, ...hovers, ...below];
}

function shadeOf(value: number | null | undefined): number | null {
  if (value === null || value === undefined || !Number.isFinite(value)) return null;
  return value <= 0 ? 0 : Math.max(1, Math.round(SHADES * Math.min(1, value)));
}

/** Nothing is still a faint cell: what was cut differs from what never was. */
function opacityOf(value: number): number {
  return round(100 * (0.07 + 0.93 * value)) / 100;
}

function legend(
  [none, whole]: readonly [string, string],
  { x, y }: { readonly x: number; readonly y: number },
): string[] {
  const from = x + textWidth(none, 11) + 6, step = LEGEND / SHADES;
  const cells = Array.from(
    { length: SHADES + 1 },
    (_, shade) =>
      `<rect class="heat" x="${round(from + shade * step)}" y="${y}" width="${
        round(step)
      }" height="12" fill="currentColor" fill-opacity="${opacityOf(shade / SHADES)}"/>`,
  );
  return [
    text(x, y + 10, none, { size: 11, tone: "soft" }),
    ...cells,
    text(from + LEGEND + step + 6, y + 10, whole, { size: 11, tone: "soft" }),
  ];
}
