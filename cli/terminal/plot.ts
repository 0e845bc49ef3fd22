// Charts of block characters.
import { terminalColumns } from "./style.ts";

/** Width of the axis labels with their tick. */
const LABEL = 12;
const BLOCKS = " ▁▂▃▄▅▆▇█";

/** Columns that the terminal has, at most 120; 80 where there is no terminal. */
export function plotColumns(): number {
  return Math.min(120, Math.max(40, terminalColumns()));
}

/** A number in a label, at most 9 characters. */
export function shortNumber(value: number): string {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.001 && size < 100_000 ? String(Number(value.toPrecision(4))) : value.toExponential(1);
}

/**
 * Lines of one chart: the name, `rows` of bars from 0 or the least value up to the largest, and steps below. `count` is the number of steps
 * that the axis stands for; the values may be fewer, where a stage ends early.
 */
export function plotRows(
  { name, values }: { readonly name: string; readonly values: readonly number[] },
  { rows, columns, count }: { readonly rows: number; readonly columns: number; readonly count: number },
): string[] {
  const finite = values.filter(Number.isFinite), width = Math.max(10, columns - LABEL);
  // As arguments of Math.max the values of a long run would overflow the stack.
  const most = finite.reduce((a, b) => Math.max(a, b), -Infinity), least = finite.reduce((a, b) => Math.min(a, b), 0);
  const span = most - least;
  // Eighths of a row that the bar of each column fills; the last step of a column speaks for it.
  const heights = Array.from({ length: width }, (_, column) => {
    const value = values[Math.ceil((column + 1) * count / width) - 1];
    if (value === undefined || !Number.isFinite(value)) return 0;
    return span === 0 ? 0 : Math.max(value > least ? 1 : 0, Math.round((value - least) / span * rows * 8));
  });
  const lines = [name];
  for (let row = rows - 1; row >= 0; row--) {
    const label = row === rows - 1 ? shortNumber(most) : row === 0 ? shortNumber(least) : "";
    const bars = heights.map((height) => BLOCKS[Math.min(8, Math.max(0, height - row * 8))] ?? " ").join("");
    lines.push(`${label.padStart(LABEL - 2)} ${label === "" ? "│" : "┤"}${bars.trimEnd()}`);
  }
  const end = `step ${count - 1}`;
  lines.push(`${" ".repeat(LABEL - 1)}└${"─".repeat(width)}`);
  lines.push(`${" ".repeat(LABEL)}0${end.padStart(width - 1)}`);
  return lines;
}
