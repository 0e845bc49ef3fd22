// A bar for each layer and run, and each run's mean as a line. Owns the geometry; refuses what is compared.
import { scaleLinear } from "../core/packages.ts";
import { legend } from "./line_chart.ts";
import {
  colorRound,
  escape,
  line,
  round,
  seriesClass,
  short,
  svgFigure,
  text,
  textWidth,
  verticalText,
  widening,
} from "./svg.ts";

/** The layers of one run. */
export interface LayerBars {
  readonly name: string;
  /** A share for each layer. */
  readonly values: readonly number[];
  /** What every layer would have, were all alike. */
  readonly uniform: number;
}

const LEFT = 60, RIGHT = 12, HEIGHT = 230;

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
  const top = names.height + 12,
    bottom = top + HEIGHT,
    layers = Math.max(1, ...runs.map(({ values }) => values.length));
  const most = Math.max(1e-6, ...runs.flatMap(({ values, uniform }) => [...values, uniform]));
  const toY = scaleLinear<number, number>().domain([0, most]).nice(5).range([bottom, top]);
  const slot = (width - LEFT - RIGHT) / layers, bar = slot * 0.8 / Math.max(1, runs.length), body = [...names.body];
  for (const tick of toY.ticks(5)) {
    body.push(line([LEFT, toY(tick)], [width - RIGHT, toY(tick)], { kind: tick === 0 ? "axis" : "grid" }));
    body.push(text(LEFT - 6, toY(tick) + 4, `${short(100 * tick)} %`, { anchor: "end", tone: "soft", size: 11 }));
  }
  const every = Math.ceil((textWidth(String(layers - 1), 11) + 6) / slot);
  for (let layer = 0; layer < layers; layer += every) {
    body.push(
      text(LEFT + (layer + 0.5) * slot, bottom + 16, String(layer), { anchor: "middle", tone: "soft", size: 11 }),
    );
  }
  body.push(text((LEFT + width - RIGHT) / 2, bottom + 32, "layer", { anchor: "middle", tone: "soft", size: 11 }));
  body.push(verticalText(10, (top + bottom) / 2, label));
  runs.forEach(({ values, uniform, name }, index) => {
    const thick = Math.max(1, bar - 1);
    // From the end down, so that no gap lies there.
    const path = values.map((value, layer) => {
      const x = LEFT + layer * slot + slot * 0.1 + index * bar + thick / 2;
      return `M${round(x)} ${round(toY(value))}V${round(bottom)}`;
    }).join("");
    const at = round(toY(uniform));
    body.push(
      `<g class="${seriesClass(index)}">${barPath(path, { color: index, width: thick })}<path d="M${LEFT} ${at}H${
        width - RIGHT
      }" stroke="currentColor" stroke-width="${2 * widening(index)}" stroke-dasharray="6 4"/></g>`,
    );
    if (runs.length > 1) return;
    // Each bar says its value where the pointer rests on it.
    values.forEach((value, layer) => {
      const note = escape(`${name}, layer ${layer}: ${short(100 * value)} %`);
      body.push(
        `<rect x="${round(LEFT + layer * slot)}" y="${top}" width="${
          round(slot)
        }" height="${HEIGHT}" fill="transparent"><title>${note}</title></rect>`,
      );
    });
  });
  return svgFigure(body, { title, description, width, height: bottom + 40, embedded });
}

/** Bars along a path. Where colors come again they are cut into pieces, longer ones each time: bars have but one width. */
function barPath(path: string, { color, width }: { readonly color: number; readonly width: number }): string {
  const turn = colorRound(color), pieces = turn === 0 ? "" : ` stroke-dasharray="${3 * turn} 2"`;
  return `<path d="${path}" fill="none" stroke="currentColor" stroke-width="${
    round(width)
  }" stroke-opacity="0.75"${pieces}/>`;
}
