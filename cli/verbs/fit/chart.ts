// The picture of a plan: what each choice loses over the bytes of its file.
import { choiceText } from "../../../lib/fit/choice.ts";
import type { FitRow } from "../../../lib/fit/make.ts";
import type { FitPlan } from "../../../lib/fit/plan.ts";
import { drawChart } from "../../../lib/report/chart.ts";
import type { Point } from "../../../lib/report/panel.ts";

/** The choices of a plan as SVG: a dot each, by the levers that they use, and a line along the best ones. */
export function fitChart({ rows, workshop: { shape: { bytes } } }: FitPlan): string {
  const budget = bytes === null ? null : bytes / 1e6;
  // The axis reaches the budget, from a little below it at least.
  const smallest = Math.min(0.98 * (budget ?? 0), ...rows.map((row) => row.bytes / 1e6));
  const [best] = rows, point = (row: FitRow): Point => [row.bytes / 1e6, row.lost];
  const groups = Map.groupBy(rows, ({ choice: { cut, vocabulary, types } }) =>
    [
      ...cut ? [cut.lever] : [],
      ...vocabulary === null ? [] : ["vocabulary"],
      ...types ? ["types"] : [],
    ].join(", ") || "as it is");
  const dots = [...groups].map(([name, own]) => ({ name, points: own.map(point), style: { line: "none" } as const }));
  const edge = { line: "dotted", dots: false, color: dots.length } as const;
  return drawChart({
    title: "What each choice loses",
    description: best ? `Least is lost by: ${choiceText(best.choice)}.` : "",
    panels: [{
      x: { label: "file, million bytes", ...budget === null ? {} : { domain: [smallest, budget] } },
      y: { label: "lost, bits per byte" },
      series: [...dots, { name: "no other is smaller and better", points: frontier(rows).map(point), style: edge }],
      marks: budget === null ? [] : [{ x: budget, label: "budget" }],
    }],
  });
}

/** The rows from small to large for which no other has both fewer bytes and less that is lost. */
export function frontier<Row extends Pick<FitRow, "bytes" | "lost">>(rows: readonly Row[]): readonly Row[] {
  const found: Row[] = [];
  for (const row of rows.toSorted((a, b) => a.bytes - b.bytes || a.lost - b.lost)) {
    if (row.lost < (found.at(-1)?.lost ?? Infinity)) found.push(row);
  }
  return found;
}
