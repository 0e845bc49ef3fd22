// Draws how the constraint is met: schedule, expected and hard sparsity and λ for three step budgets. Owns the chart; refuses to measure anything else.
//
// deno run -A scripts/controller_plot.ts [docs/controller.svg]
import { openDevice } from "../lib/gpu/device.ts";
import type { DecoderSpec } from "../lib/nn/spec.ts";
import { unitParameters, unitTable } from "../lib/prune/units.ts";
import { defaultRates } from "../lib/run/options.ts";
import {
  bodyTop,
  colorOf,
  legend,
  line,
  linearTicks,
  MARGIN,
  round,
  short,
  svgDocument,
  text,
  WIDTH,
} from "./bench/chart.ts";
import { type ControllerTrace, runController } from "./controller_run.ts";

const BUDGETS = [60, 150, 1000], SPARSITY = 0.3, SPACE = 22, TOP_HEIGHT = 190, LOW_HEIGHT = 90;
const SERIES = ["expected sparsity", "schedule", "hard sparsity at the end", "λ1", "λ2"] as const;
const SPEC: DecoderSpec = {
  vocab: 64,
  hidden: 64,
  headDim: 16,
  layers: Array.from({ length: 6 }, () => ({ heads: 6, kvHeads: 3, ffn: 256 })),
  normEps: 1e-5,
  rope: { base: 1e4, scaling: { kind: "none" } },
  tied: true,
  maxPosition: 64,
  bosId: null,
  eosIds: [],
  padId: null,
};

if (import.meta.main) await main(Deno.args[0] ?? "docs/controller.svg");

async function main(path: string): Promise<void> {
  using device = await openDevice();
  const table = unitTable(SPEC, ["kv", "ffn"]), column = unitParameters(table, table.ffnFirst) / table.total;
  const traces: ControllerTrace[] = [];
  for (const steps of BUDGETS) traces.push(await runController(device, table, { steps, sparsity: SPARSITY }));
  await Deno.writeTextFile(path, chart(traces, column));
  traces.forEach(({ hard }, index) => console.log(`${BUDGETS[index]} steps: hard sparsity ${hard}`));
}

/** The whole chart; `unit` is the share of the smallest unit. */
function chart(traces: readonly ControllerTrace[], unit: number): string {
  const title = "How the constraint is met";
  const subtitle =
    `Mask learner alone under a made-up loss, ${SPEC.layers.length} layers, KV groups and FFN columns, target ${
      percent(SPARSITY)
    }; a column, the smallest unit, is ${percent(unit)}`;
  const begin = bodyTop(subtitle), names = legend(SERIES, begin), top = begin + names.height + 14;
  const width = (WIDTH - 2 * MARGIN - 2 * SPACE) / BUDGETS.length;
  const lambdas = traces.flatMap(({ lambda1, lambda2 }) => [...lambda1, ...lambda2]);
  const most = Math.max(...lambdas.map(Math.abs), 1e-6);
  const notes = traces.map((trace, index) => noteOf(trace, BUDGETS[index] ?? 1));
  const body = traces.flatMap((trace, index) =>
    panel(trace, { x: MARGIN + index * (width + SPACE), y: top, width, most, note: notes[index] ?? "" })
  );
  return svgDocument([...names.body, ...body], {
    title,
    subtitle,
    description: `Expected sparsity lies on the cubic schedule throughout. ${
      notes.map((note, index) => `${BUDGETS[index]} steps: ${note}`).join("; ")
    }.`,
    height: top + 44 + TOP_HEIGHT + SPACE + LOW_HEIGHT + 44,
  });
}

function noteOf({ target, expected, hard }: ControllerTrace, steps: number): string {
  const warm = Math.ceil(defaultRates(steps).warmup * steps);
  const gap = Math.max(...expected.slice(warm).map((value, step) => Math.abs(value - (target[warm + step] ?? NaN))));
  return `gap at most ${gap < 5e-6 ? "0.001 %" : percent(gap)} once warm, hard ${exact(hard)}`;
}

function panel(
  { target, expected, lambda1, lambda2, hard }: ControllerTrace,
  { x, y, width, most, note }: {
    readonly x: number;
    readonly y: number;
    readonly width: number;
    readonly most: number;
    readonly note: string;
  },
): string[] {
  const steps = target.length, left = x + 40, right = x + width - 8;
  const high = y + 44, middle = high + TOP_HEIGHT, low = middle + SPACE, bottom = low + LOW_HEIGHT;
  const toX = (step: number): number => left + (right - left) * step / steps;
  const largest = 0.36, toY = (value: number): number => middle - TOP_HEIGHT * value / largest;
  const toLow = (value: number): number => bottom - LOW_HEIGHT * value / (1.1 * most);
  const body = [text(x, y + 12, `${steps} steps`, { weight: 600 }), text(x, y + 30, note, { tone: "soft", size: 11 })];
  for (const tick of [0, 0.1, 0.2, 0.3]) {
    body.push(line([left, toY(tick)], [right, toY(tick)], { kind: tick === 0 ? "axis" : "grid" }));
    body.push(text(left - 6, toY(tick) + 4, percent(tick), { anchor: "end", tone: "soft", size: 11 }));
  }
  for (const tick of linearTicks(most, 2).filter((value) => value <= 1.1 * most)) {
    body.push(line([left, toLow(tick)], [right, toLow(tick)], { kind: tick === 0 ? "axis" : "grid" }));
    body.push(text(left - 6, toLow(tick) + 4, short(tick), { anchor: "end", tone: "soft", size: 11 }));
  }
  for (const step of [0, steps / 2, steps]) {
    body.push(line([toX(step), bottom], [toX(step), bottom + 4], { kind: "axis" }));
    const anchor = step === 0 ? "start" : step === steps ? "end" : "middle";
    body.push(text(toX(step), bottom + 17, String(step), { anchor, tone: "soft", size: 11 }));
  }
  body.push(text((left + right) / 2, bottom + 34, "step", { anchor: "middle", tone: "soft", size: 11 }));
  const curve = (values: readonly number[], to: (value: number) => number, style: string): string =>
    `<polyline points="${
      sampled(values).map(([step, value]) => `${round(toX(step))},${round(to(value))}`).join(" ")
    }" fill="none" ${style}/>`;
  body.push(
    curve(expected, toY, `stroke="${colorOf(0)}" stroke-width="5" stroke-linecap="round"`),
    curve(target, toY, `stroke="${colorOf(1)}" stroke-width="1.5" stroke-dasharray="4 3"`),
    curve(lambda1, toLow, `stroke="${colorOf(3)}" stroke-width="1.5"`),
    curve(lambda2, toLow, `stroke="${colorOf(4)}" stroke-width="1.5"`),
    `<circle cx="${round(toX(steps))}" cy="${round(toY(hard))}" r="5" fill="${colorOf(2)}"/>`,
    text(toX(steps) - 4, toY(hard) - 11, exact(hard), { anchor: "end", halo: true }),
  );
  return body;
}

/** At most some 150 points of a curve, the last one among them; steps count from 1. */
function sampled(values: readonly number[]): (readonly [number, number])[] {
  const every = Math.max(1, Math.floor(values.length / 150));
  return [...values.entries()].filter(([step]) => step % every === 0 || step === values.length - 1)
    .map(([step, value]) => [step + 1, value] as const);
}

/** As many digits as show the smallest unit. */
function exact(share: number): string {
  return `${(100 * share).toFixed(3)} %`;
}

function percent(share: number): string {
  return `${short(100 * share)} %`;
}
