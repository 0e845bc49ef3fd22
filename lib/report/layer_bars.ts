// A bar for each layer and run, and each run's mean as a line.
import { drawAxes } from "./axes.ts";
import { legend } from "./line_chart.ts";
import { colorRound, escape, round, seriesClass, short, svgFigure, widening } from "./svg.ts";

/** The layers of one run. */
export interface LayerBars {
  readonly name: string;
  /** A share for each layer. */
  readonly values: readonly number[];
  /** What every layer would have, were all alike. */
  readonly uniform: number;
}

const HEIGHT = 280;

/** Draws the bars; those of several runs stand side by side. */
export function layerBars({ title, description, label, runs, width = 760, embedded = false }: {
  readonly title: string;
  readonly description: string;
  /** Of the vertical axis. */
  readonly label: string;
  readonly runs: readonly LayerBars[];
  readonly width?: number;
  readonly embedded?: boolean;
}): string {
  const names = legend(
    runs.flatMap(({ name, uniform }, color) => [
      {
        name,
        sample: ({ x, y }) => `<g class="${seriesClass(color)}">${barPath(`M${x} ${y}h20`, { color, width: 8 })}</g>`,
      },
      {
        name: `${runs.length > 1 ? `${name}, ` : ""}uniform: ${short(100 * uniform)} %`,
        style: { color, line: "dashed" as const },
      },
    ]),
    { x: 8, y: 2, width: width - 16 },
  );
  const layers = Math.max(1, ...runs.map(({ values }) => values.length));
  const axes = drawAxes({
    x: { label: "layer", format: "whole", domain: [-0.5, layers - 0.5] },
    y: { label, format: "share", zero: true },
    xs: [],
    ys: runs.flatMap(({ values, uniform }) => [...values, uniform]),
  }, { x: 0, y: names.height, width, height: HEIGHT });
  const { toX, toY, left, right, top, bottom } = axes, body = [...names.body, ...axes.body];
  const slot = toX(1) - toX(0), bar = slot * 0.8 / Math.max(1, runs.length);
  runs.forEach(({ values, uniform, name }, index) => {
    const thick = Math.max(1, bar - 1);
    // From the end down, so that no gap lies there.
    const path = values.map((value, layer) => {
      const x = toX(layer - 0.4) + index * bar + thick / 2;
      return `M${round(x)} ${round(toY(value))}V${round(bottom)}`;
    }).join("");
    const at = round(toY(uniform));
    body.push(
      `<g class="${seriesClass(index)}">${barPath(path, { color: index, width: thick })}<path d="M${
        round(left)
      } ${at}H${round(right)}" stroke="currentColor" stroke-width="${
        2 * widening(index)
      }" stroke-dasharray="6 4"/></g>`,
    );
    if (runs.length > 1) return;
    // Each bar says its value where the pointer rests on it.
    values.forEach((value, layer) => {
      const note = escape(`${name}, layer ${layer}: ${short(100 * value)} %`);
      body.push(
        `<rect x="${round(toX(layer - 0.5))}" y="${top}" width="${round(slot)}" height="${
          bottom - top
        }" fill="transparent"><title>${note}</title></rect>`,
      );
    });
  });
  return svgFigure(body, { title, description, width, height: names.height + HEIGHT, embedded });
}

/** Bars along a path. Where colors come again they are cut into pieces, longer ones each time: bars have but one width. */
function barPath(path: string, { color, width }: { readonly color: number; readonly width: number }): string {
  const turn = colorRound(color), pieces = turn === 0 ? "" : ` stroke-dasharray="${3 * turn} 2"`;
  return `<path d="${path}" fill="none" stroke="currentColor" stroke-width="${
    round(width)
  }" stroke-opacity="0.75"${pieces}/>`;
}
