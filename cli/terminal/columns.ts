// Texts that grow in columns on a terminal: wrapping, the width of characters, and redrawing of the last rows.
import { stringWidth } from "../packages.ts";

/** Columns under way. */
export interface Columns {
  /** Appends a text to a column. */
  push(column: number, text: string): void;
  /** Rows of a column so far. */
  rows(column: number): number;
  /** Says that nothing is pushed to a column before all others are as long. */
  pause(column: number): void;
  /** Ends the last rows; nothing may be pushed afterwards. */
  end(): void;
}

/** Where columns are drawn. */
export interface ColumnsTarget {
  /** Cells of a row of the terminal. */
  readonly width: number;
  readonly write: (text: string) => void;
}

const BETWEEN = " │ ";

/** Cells that one of several columns gets. */
export function columnWidth(width: number, count: number): number {
  // The last cell stays free: a row that fills the terminal would wrap.
  return Math.floor((width - 1 - BETWEEN.length * (count - 1)) / count);
}

/**
 * Columns of text. Rows that every column has filled are final; later rows are redrawn. Push to the column with the fewest rows, so that few
 * rows are redrawn.
 */
export function createColumns(count: number, { width, write }: ColumnsTarget): Columns {
  const cells = columnWidth(width, count);
  const texts = Array.from({ length: count }, () => createRows(cells));
  const paused = new Set<number>();
  /** Rows that are final, and rows below them that were drawn. */
  let done = 0, drawn = 0;

  const line = (row: number): string => texts.map(({ rows }) => padded(rows[row] ?? "", cells)).join(BETWEEN).trimEnd();
  const draw = (): void => {
    const end = Math.max(...texts.map(({ rows }) => rows.length));
    const up = drawn > 1 ? `\x1b[${drawn - 1}A` : "";
    const lines = Array.from({ length: end - done }, (_, index) => line(done + index));
    write(`\r${up}\x1b[J${lines.join("\n")}`);
    const final = Math.min(end, ...texts.map(({ rows }, index) => paused.has(index) ? end : rows.length)) - 1;
    drawn = end - final;
    done = final;
  };
  return {
    push(column, text): void {
      texts[column]?.append(text);
      draw();
    },
    rows: (column) => texts[column]?.rows.length ?? 0,
    pause: (column) => void paused.add(column),
    end: () => write("\n"),
  };
}

/** A text in rows; only the last one changes. */
interface Rows {
  readonly rows: readonly string[];
  append(text: string): void;
}

/** Rows of at most so many cells, broken at spaces where there are any. */
function createRows(cells: number): Rows {
  const rows = [""];
  let used = 0;
  const start = (row: string): void => {
    rows.push(row);
    used = stringWidth(row);
  };
  return {
    rows,
    append(text): void {
      for (const char of plain(text)) {
        const row = rows.at(-1) ?? "", width = stringWidth(char);
        if (char === "\n") start("");
        else if (used + width <= cells) {
          rows[rows.length - 1] = row + char;
          used += width;
        } else {
          const space = row.lastIndexOf(" ");
          if (char === " ") start("");
          else if (space <= 0) start(char);
          else {
            rows[rows.length - 1] = row.slice(0, space);
            start(row.slice(space + 1) + char);
          }
        }
      }
    },
  };
}

/** Without what would move the cursor, or change the direction of writing. */
function plain(text: string): string {
  return text.replaceAll("\t", "  ").replace(/(?!\n)[\p{Cc}\u202a-\u202e\u2066-\u2069]/gu, "");
}

function padded(text: string, cells: number): string {
  return text + " ".repeat(Math.max(0, cells - stringWidth(text)));
}
