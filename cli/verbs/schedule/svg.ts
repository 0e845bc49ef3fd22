// A schedule's preview as an SVG. Owns which panels it has; refuses the simulation and geometry.
import { linePanel, type LineSeries, type Point } from "../../../lib/report/line_panel.ts";
import { heading, svgFigure, text, wrapText } from "../../../lib/report/svg.ts";
import { shortNumber } from "../../terminal/plot.ts";
import { type Preview, previewCharts, type Series } from "./preview.ts";

const WIDTH = 760, MARGIN = 20, LABELS = 44;

/** The whole document: a panel for the sparsity, with the layers' targets, and one for each number that the schedule sets in a stage. */
export function previewSvg(preview: Preview): string {
  const { name, steps, sparsity, simulated, points } = preview;
  const body: string[] = [], layers = layerSeries(preview);
  const title = `${name}, ${steps} steps to ${shortNumber(100 * sparsity)} % sparsity`;
  const { body: lines, bottom } = heading(title, { x: MARGIN, y: 14, width: WIDTH - 2 * MARGIN });
  const shown = wrapText(`shown to the schedule: ${simulated}`, WIDTH - 2 * MARGIN);
  body.push(...lines, ...shown.map((line, at) => text(MARGIN, bottom + 9 + 17 * at, line, { tone: "soft" })));
  let y = bottom + 7 + 17 * shown.length;
  for (const series of previewCharts(preview)) {
    const isSparsity = series.name.startsWith("sparsity"),
      height = isSparsity ? 280 : 170,
      hasLayers = isSparsity && layers.length > 0;
    body.push(
      text(
        MARGIN,
        y + 12,
        hasLayers ? `${series.name}; thin lines: targets of the ${layers.length} layers` : series.name,
      ),
    );
    const panel = linePanel({
      x: { label: "step", domain: [0, Math.max(1, series.steps - 1)] },
      y: { label: "", zero: true },
      series: [
        ...(hasLayers ? layers.map((one) => lineOf(one, { color: 1, width: 1, opacity: 0.45 })) : []),
        lineOf(series, { color: 0 }),
      ],
      marks: series.endsBefore === null
        ? []
        : [{ x: series.endsBefore, label: `ends before step ${series.endsBefore}` }],
    }, { x: MARGIN, y: y + 16, width: WIDTH - 2 * MARGIN, height: height - 16, labels: LABELS });
    body.push(...panel.body);
    y += height;
  }
  if (points.length === 0) {
    body.push(text(MARGIN, y + 12, "the schedule ends the stage before its first step", { tone: "soft" }));
    y += 20;
  }
  return svgFigure(body, {
    title,
    description: "What the schedule asks for at each step, shown a simulated run.",
    width: WIDTH,
    height: y + MARGIN,
  });
}

function lineOf({ name, values }: Series, style: NonNullable<LineSeries["style"]>): LineSeries {
  return { name, points: values.map((value, step): Point => [step, value]), style };
}

function layerSeries({ points }: Preview): readonly Series[] {
  const count = points.find(({ layers }) => layers !== null)?.layers?.length ?? 0;
  return Array.from({ length: count }, (_, layer) => ({
    name: `layer ${layer}`,
    values: points.map(({ layers }) => layers?.[layer] ?? NaN),
  }));
}
