// The preview of a schedule as an SVG: a panel for the sparsity with the targets of layers, and one for each number that the schedule sets.
import { linePanel, type LineSeries, type Point } from "../../../lib/report/line_panel.ts";
import { heading, svgFigure, text, textWidth, wrapText } from "../../../lib/report/svg.ts";
import { shortNumber } from "../../terminal/plot.ts";
import { type Preview, previewCharts, type Series } from "./preview.ts";

const WIDTH = 760, MARGIN = 20, LABELS = 44;

/** The whole document. */
export function previewSvg(preview: Preview): string {
  const { name, steps, sparsity, simulated, points } = preview;
  const body: string[] = [], { lines: layers, legend } = layerLines(preview);
  const title = `${name}, ${steps} steps to ${shortNumber(100 * sparsity)} % sparsity`, inner = WIDTH - 2 * MARGIN;
  const { body: lines, bottom } = heading(title, { x: MARGIN, y: 14, width: inner });
  const shown = wrapText(`shown to the schedule: ${simulated}`, inner);
  body.push(...lines, ...shown.map((line, at) => text(MARGIN, bottom + 9 + 17 * at, line, { tone: "soft" })));
  let y = bottom + 7 + 17 * shown.length;
  for (const series of previewCharts(preview)) {
    const hasLayers = layers.length > 0 && series.stage === "prune" && series.name.startsWith("sparsity");
    const named = wrapText(hasLayers ? `${series.name}; ${legend}` : series.name, inner);
    body.push(...named.map((line, at) => text(MARGIN, y + 12 + 17 * at, line)));
    y += 17 * (named.length - 1);
    const height = series.name.startsWith("sparsity") ? 280 : 170;
    const own = { ...lineOf(series, { color: 0 }), ...(hasLayers ? { endLabel: "whole model" } : {}) };
    const drawn = hasLayers ? [...layers, own] : [own];
    const panel = linePanel({
      x: { label: "step", domain: [0, Math.max(1, series.steps - 1)] },
      y: { label: "", zero: true },
      series: drawn,
      marks: series.endsBefore === null
        ? []
        : [{ x: series.endsBefore, label: `ends before step ${series.endsBefore}` }],
    }, {
      x: MARGIN,
      y: y + 16,
      width: inner,
      height: height - 16,
      labels: LABELS,
      ends: Math.max(0, ...drawn.map(({ endLabel }) => endLabel === undefined ? 0 : textWidth(endLabel, 11))),
    });
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

/** A thin line for all layers with the same targets, each named at its end, and what the lines are in words. */
function layerLines({ points }: Preview): { readonly lines: readonly LineSeries[]; readonly legend: string } {
  const count = points.find(({ layers }) => layers !== null)?.layers?.length ?? 0;
  const all = Array.from({ length: count }, (_, layer) => layer);
  const valuesOf = (layer: number): number[] => points.map(({ layers }) => layers?.[layer] ?? NaN);
  const free = all.filter((layer) => !valuesOf(layer).some(Number.isFinite));
  const alike = Map.groupBy(all.filter((layer) => !free.includes(layer)), (layer) => valuesOf(layer).join());
  const lines = [...alike.values()].map((layers): LineSeries => {
    const name = layerNames(layers);
    return {
      ...lineOf({ name, values: valuesOf(layers[0] ?? 0) }, { color: 1, width: 1, opacity: 0.6 }),
      endLabel: name.length > MOST_LABEL ? `${layers.length} layers` : name,
    };
  });
  const legend = `thin: targets of ${count - free.length} of ${count} layers${
    free.length === 0 ? "" : `; ${layerNames(free)} ${free.length === 1 ? "is" : "are"} free`
  }`;
  return { lines, legend };
}

/** Letters of a name at the end of a line. */
const MOST_LABEL = 22;

/** Layers in words: "layer 3", "layers 0–2, 5". */
function layerNames(layers: readonly number[]): string {
  const starts = layers.filter((layer) => !layers.includes(layer - 1));
  const parts = starts.map((start) => {
    let end = start;
    while (layers.includes(end + 1)) end++;
    return end === start ? `${start}` : end === start + 1 ? `${start}, ${end}` : `${start}–${end}`;
  });
  return `${layers.length === 1 ? "layer" : "layers"} ${parts.join(", ")}`;
}
