// The preview of a schedule as an SVG: a panel for the sparsity with the targets of layers, and one for each number that the schedule sets.
import { type ChartPanel, drawChart } from "../../../lib/report/chart.ts";
import type { Point, Series as Line } from "../../../lib/report/panel.ts";
import { shortNumber } from "../../terminal/plot.ts";
import { type Preview, previewCharts, type Series } from "./preview.ts";

/** The whole document. */
export function previewSvg(preview: Preview): string {
  const { name, steps, sparsity, simulated, points } = preview, { lines: layers, legend } = layerLines(preview);
  return drawChart({
    title: `${name}, ${steps} steps to ${shortNumber(100 * sparsity)} % sparsity`,
    description: `What the schedule asks for at each step; shown to the schedule: ${simulated}.${
      points.length === 0 ? " The schedule ends the stage before its first step." : ""
    }`,
    panels: previewCharts(preview).map((series): ChartPanel => {
      const isSparsity = series.name.startsWith("sparsity");
      const hasLayers = layers.length > 0 && series.stage === "prune" && isSparsity, { endsBefore } = series;
      const own = { ...lineOf(series, { color: 0 }), ...(hasLayers ? { endLabel: "whole model" } : {}) };
      return {
        title: hasLayers ? `${series.name}; ${legend}` : series.name,
        x: { label: "step", domain: [0, Math.max(1, series.steps - 1)] },
        y: { label: "", zero: true },
        series: hasLayers ? [...layers, own] : [own],
        marks: endsBefore === null ? [] : [{ x: endsBefore, label: `ends before step ${endsBefore}` }],
        height: isSparsity ? 264 : 154,
      };
    }),
  });
}

function lineOf({ name, values }: Series, style: NonNullable<Line["style"]>): Line {
  return { name, points: values.map((value, step): Point => [step, value]), style, listed: false };
}

/** A thin line for all layers with the same targets, each named at its end, and what the lines are in words. */
function layerLines({ points }: Preview): { readonly lines: readonly Line[]; readonly legend: string } {
  const count = points.find(({ layers }) => layers !== null)?.layers?.length ?? 0;
  const all = Array.from({ length: count }, (_, layer) => layer);
  const valuesOf = (layer: number): number[] => points.map(({ layers }) => layers?.[layer] ?? NaN);
  const free = all.filter((layer) => !valuesOf(layer).some(Number.isFinite));
  const alike = Map.groupBy(all.filter((layer) => !free.includes(layer)), (layer) => valuesOf(layer).join());
  const lines = [...alike.values()].map((layers): Line => {
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
