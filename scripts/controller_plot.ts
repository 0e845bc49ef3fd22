// Plots how the sparsity constraint is met: schedule, expected and hard sparsity and λ for three numbers of steps.
//
// deno run -A scripts/controller_plot.ts [docs/images/controller.svg]
import { openDevice } from "../lib/gpu/device.ts";
import type { DecoderSpec } from "../lib/spec/decoder.ts";
import { unitParameters, unitTable } from "../lib/units/table.ts";
import { defaultRates } from "../lib/run/options/rates.ts";
import { legend } from "../lib/report/chart.ts";
import { drawPanel, type Point, type Series } from "../lib/report/panel.ts";
import { short, svgFigure, text, wrapText } from "../lib/report/svg.ts";
import { type ControllerTrace, runController } from "./controller_run.ts";

const BUDGETS = [60, 150, 1000], SPARSITY = 0.3, WIDTH = 880, MARGIN = 20, SPACE = 16;
const LOOKS = 20;
const TOP_HEIGHT = 250, LOW_HEIGHT = 160, LABELS = 34;
/** How each series is drawn, also in the legend. */
const SERIES = {
  expected: { name: "expected sparsity", style: { color: 0, width: 5, opacity: 0.6 } },
  target: { name: "schedule", style: { color: 1, width: 1.5, line: "dashed" } },
  hard: { name: "hard sparsity, cut at that step", style: { color: 2, line: "none" } },
  lambda1: { name: "λ1", style: { color: 3, width: 1.5 } },
  lambda2: { name: "λ2", style: { color: 5, width: 1.5 } },
} as const satisfies Readonly<Record<string, Pick<Series, "name" | "style">>>;
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

if (import.meta.main) await main(Deno.args[0] ?? "docs/images/controller.svg");

async function main(path: string): Promise<void> {
  using device = await openDevice();
  const table = unitTable(SPEC, ["kv", "ffn"]), column = unitParameters(table, table.ranges.ffn.first) / table.total;
  const traces: ControllerTrace[] = [];
  for (const steps of BUDGETS) {
    traces.push(await runController(device, table, { steps, sparsity: SPARSITY, looks: LOOKS }));
  }
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
  const lines = wrapText(subtitle, WIDTH - 2 * MARGIN), begin = 40 + 17 * lines.length;
  const names = legend(Object.values(SERIES), { x: MARGIN, y: begin, width: WIDTH - 2 * MARGIN });
  const top = begin + names.height + 8, width = (WIDTH - 2 * MARGIN - 2 * SPACE) / BUDGETS.length;
  const lambdas = traces.flatMap(({ lambda1, lambda2 }) => [...lambda1, ...lambda2]);
  const most = 1.1 * lambdas.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-6);
  const notes = traces.map((trace, index) => noteOf(trace, BUDGETS[index] ?? 1));
  const body = [
    text(MARGIN, 30, title, { size: 16, weight: 600 }),
    ...lines.map((line, row) => text(MARGIN, 49 + 17 * row, line, { tone: "soft" })),
    ...names.body,
    ...traces.flatMap((trace, index) =>
      panels(trace, { x: MARGIN + index * (width + SPACE), y: top, width, most, note: notes[index] ?? "" })
    ),
  ];
  return svgFigure(body, {
    title,
    description: `Expected sparsity lies on the cubic schedule throughout. ${
      notes.map((note, index) => `${BUDGETS[index]} steps: ${note}`).join("; ")
    }.`,
    width: WIDTH,
    height: top + 36 + TOP_HEIGHT + LOW_HEIGHT + 12,
  });
}

function noteOf({ target, expected, hard }: ControllerTrace, steps: number): string {
  const warm = Math.ceil(defaultRates(steps).warmup * steps);
  const gap = Math.max(...expected.slice(warm).map((value, step) => Math.abs(value - (target[warm + step] ?? NaN))));
  return `gap at most ${gap < 5e-6 ? "0.001 %" : percent(gap)} once warm, hard ${exact(hard)}`;
}

/** Sparsity above, multipliers below. */
function panels(
  { target, expected, lambda1, lambda2, looked }: ControllerTrace,
  { x, y, width, most, note }: {
    readonly x: number;
    readonly y: number;
    readonly width: number;
    readonly most: number;
    readonly note: string;
  },
): string[] {
  const steps = target.length, axis = { label: "step", format: "whole", domain: [0, steps] } as const;
  const curve = (values: readonly number[]): Point[] => values.map((value, step): Point => [step + 1, value]);
  const high = drawPanel({
    x: { ...axis, label: "" },
    y: { label: "", domain: [0, 0.36], format: "share" },
    series: [
      { ...SERIES.expected, points: curve(expected) },
      { ...SERIES.target, points: curve(target) },
      { ...SERIES.hard, points: looked },
    ],
  }, { x, y: y + 36, width, height: TOP_HEIGHT, labels: LABELS });
  const low = drawPanel({
    x: axis,
    y: { label: "", domain: [Math.min(0, ...lambda1, ...lambda2), most] },
    series: [{ ...SERIES.lambda1, points: curve(lambda1) }, { ...SERIES.lambda2, points: curve(lambda2) }],
  }, { x, y: y + 36 + TOP_HEIGHT - 16, width, height: LOW_HEIGHT, labels: LABELS });
  return [
    text(x, y + 12, `${steps} steps`, { weight: 600 }),
    text(x, y + 30, note, { tone: "soft", size: 11 }),
    ...high.body,
    ...low.body,
  ];
}

/** As many digits as show the smallest unit. */
function exact(share: number): string {
  return `${(100 * share).toFixed(3)} %`;
}

function percent(share: number): string {
  return `${short(100 * share)} %`;
}
