// A schedule's preview as an SVG. Owns its look on light and dark grounds; refuses the simulation.
import { shortNumber } from "./plot.ts";
import { type Preview, previewSeries, type Series } from "./schedule_preview.ts";

const WIDTH = 760, LEFT = 70, RIGHT = 30, TOP = 78, GAP = 56, BOTTOM = 24;
const STYLE = `text { font: 12px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif }
.ground { fill: #ffffff } .ink { fill: #1b1f24 } .soft { fill: #59636e } .grid { stroke: #d8dee4 } .axis { stroke: #8c959f }
.line { stroke: #0072b2; stroke-width: 2; fill: none } .layer { stroke: #d55e00; stroke-width: 1; stroke-opacity: 0.45; fill: none }
.end { stroke: #d55e00; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .ink { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #2a313a } .axis { stroke: #656c76 }
.line { stroke: #56b4e9 } .layer { stroke: #e69f00 } .end { stroke: #e69f00 }
}`;

/** The whole document: a panel for the sparsity, with the layers' targets, and one for each number that the schedule sets. */
export function previewSvg(preview: Preview): string {
  const { name, steps, sparsity, simulated, points, endsBefore } = preview;
  const body: string[] = [], layers = layerSeries(preview);
  let y = TOP;
  for (const [index, series] of previewSeries(preview).entries()) {
    const height = index === 0 ? 220 : 90, isSparsity = index === 0;
    const label = isSparsity && layers.length > 0
      ? `${series.name}; thin lines: targets of the ${layers.length} layers`
      : series.name;
    body.push(...panel({ ...series, name: label }, { y, height, steps, endsBefore, layers: isSparsity ? layers : [] }));
    y += height + GAP;
  }
  if (points.length === 0) {
    body.push(text(LEFT, y, "the schedule ends the stage before its first step", "soft"));
    y += 20;
  }
  const title = `${name}, ${steps} steps to ${shortNumber(100 * sparsity)} % sparsity`, height = y - GAP / 2 + BOTTOM;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-labelledby="title desc">
<title id="title">${escape(title)}</title>
<desc id="desc">What the schedule asks for at each step of the pruning stage, shown a simulated run.</desc>
<style>
${STYLE}
</style>
<rect class="ground" width="${WIDTH}" height="${height}"/>
<text class="ink" x="20" y="28" style="font-size: 16px; font-weight: 600">${escape(title)}</text>
${text(20, 47, `shown to the schedule: ${simulated}`, "soft")}
${body.join("\n")}
</svg>
`;
}

interface PanelOptions {
  /** Upper edge. */
  readonly y: number;
  readonly height: number;
  /** What the axis stands for. */
  readonly steps: number;
  readonly endsBefore: number | null;
  readonly layers: readonly Series[];
}

function panel({ name, values }: Series, { y, height, steps, endsBefore, layers }: PanelOptions): string[] {
  const all = [...values, ...layers.flatMap((layer) => layer.values)].filter(Number.isFinite);
  const least = Math.min(0, ...all), step = niceStep((Math.max(...all) - least) / (height > 150 ? 5 : 2));
  const ticks = Math.max(1, Math.ceil((Math.max(...all) - least) / step - 1e-9)), most = least + ticks * step;
  const xOf = (step: number): number => LEFT + (WIDTH - LEFT - RIGHT) * (steps > 1 ? step / (steps - 1) : 0);
  const yOf = (value: number): number => y + height * (1 - (value - least) / (most - least));
  const body = [text(LEFT, y - 10, name, "ink")];
  for (let tick = 0; tick <= ticks; tick++) {
    const value = least + tick * step;
    body.push(
      `<line class="${tick === 0 ? "axis" : "grid"}" x1="${LEFT}" y1="${round(yOf(value))}" x2="${WIDTH - RIGHT}" y2="${
        round(yOf(value))
      }"/>`,
      text(LEFT - 8, yOf(value) + 4, shortNumber(value), "soft", "end"),
    );
  }
  for (const part of [0, 0.5, 1]) {
    const at = Math.round(part * (steps - 1));
    body.push(text(xOf(at), y + height + 18, part === 0 ? `step ${at}` : String(at), "soft", "middle"));
  }
  for (const layer of layers) body.push(`<path class="layer" d="${path(layer.values, { xOf, yOf })}"/>`);
  body.push(`<path class="line" d="${path(values, { xOf, yOf })}"/>`);
  if (endsBefore !== null) {
    const x = round(xOf(endsBefore)), anchor = endsBefore > steps / 2 ? "end" : "start";
    body.push(
      `<line class="end" x1="${x}" y1="${y}" x2="${x}" y2="${y + height}"/>`,
      text(x + (anchor === "end" ? -6 : 6), y + 14, `ends before step ${endsBefore}`, "soft", anchor),
    );
  }
  return body;
}

/** The next of 1, 2, 2.5, 5, 10 times a power of ten. */
function niceStep(step: number): number {
  if (!(step > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(step));
  return power * ([1, 2, 2.5, 5].find((factor) => factor * power >= step * (1 - 1e-9)) ?? 10);
}

/** A line through the finite values; one where others lie between begins anew. */
function path(
  values: readonly number[],
  { xOf, yOf }: { readonly xOf: (step: number) => number; readonly yOf: (value: number) => number },
): string {
  const parts = values.map((value, step) => {
    if (!Number.isFinite(value)) return "";
    return `${Number.isFinite(values[step - 1] ?? NaN) ? "L" : "M"}${round(xOf(step))} ${round(yOf(value))}`;
  });
  // A point alone would not show.
  return values.length === 1 ? `${parts[0]} h4` : parts.filter(Boolean).join(" ");
}

function layerSeries({ points }: Preview): readonly Series[] {
  const count = points.find(({ layers }) => layers !== null)?.layers?.length ?? 0;
  return Array.from({ length: count }, (_, layer) => ({
    name: `layer ${layer}`,
    values: points.map(({ layers }) => layers?.[layer] ?? NaN),
  }));
}

function text(x: number, y: number, content: string, tone: "ink" | "soft", anchor = "start"): string {
  return `<text class="${tone}" x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${escape(content)}</text>`;
}

function round(value: number): number {
  return Number(value.toFixed(1));
}

function escape(content: string): string {
  return content.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
