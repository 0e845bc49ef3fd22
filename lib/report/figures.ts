// The figures of a report: titles, captions, what is drawn, and the same values as tables.
import type { Axis } from "./axes.ts";
import { keptRecords, layerSparsity, mean, smoothed, sparsityOf, stageStarts } from "./derived.ts";
import { expertsFigure } from "./experts.ts";
import { heatMap } from "./heat_map.ts";
import { drawChart } from "./chart.ts";
import type { PanelMark, Point, Series, SeriesStyle } from "./panel.ts";
import type { ReportRun } from "./read_run.ts";
import { short } from "./svg.ts";
import { everyNth, type Table } from "./table.ts";
import { keepsLayers } from "./vocabulary.ts";
import { type LayerSpec, mixerMasks } from "../spec/decoder.ts";
import type { StepRecord } from "../run/contract.ts";
import type { MaskSummary } from "../run/mask_summary.ts";
import { namesOneShot } from "../run/methods/all.ts";

/** A figure with what says the same in words and numbers. */
export interface Figure {
  /** Unique on the page. */
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  /** The figure as SVG, so many pixels wide. */
  readonly draw: (width: number) => string;
  readonly table: Table;
}

/** A run as the curves show it. */
interface Curves {
  readonly name: string;
  /** Its place among the runs, for colors. */
  readonly index: number;
  readonly run: ReportRun;
  readonly records: readonly StepRecord[];
}

/** One number of every record as a line. */
interface StepLine {
  readonly name: string;
  readonly valuesOf: (curves: Curves) => readonly number[];
  /** How the table shows it; absent: it is not in the table. */
  readonly show?: (value: number) => string;
  readonly style?: Omit<SeriesStyle, "color">;
  /** In a figure of several runs: whether the legend has this line under the run's name. */
  readonly isMain?: boolean;
}

/** A figure of lines over the steps. */
interface StepFigure {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  /** For readers who cannot see it; default: the caption. */
  readonly description?: string;
  readonly y: Axis;
  readonly lines: readonly StepLine[];
  readonly height?: number;
}

const TABLE_ROWS = 60;
/** Columns of a map over the steps: as many as a reader can distinguish in a wide figure. */
const TIME_COLUMNS = 120;

/** All figures that the runs have data for, in order. */
export function figuresOf(runs: readonly ReportRun[]): Figure[] {
  const curves = runs.map((run, index): Curves => ({ name: run.name, index, run, records: keptRecords(run.records) }));
  const hasSteps = curves.some(({ records }) => records.length > 0);
  const steps = (figure: StepFigure): Figure[] => hasSteps ? [stepFigure(curves, figure)] : [];
  const figures: (Figure | null)[] = [
    ...steps(lossFigure(curves)),
    ...steps(sparsityFigure(curves)),
    ...curves.map(({ name, index, run: { summary } }) =>
      summary?.experts
        ? expertsFigure(summary.experts, { id: `experts-${index}`, title: titled("Experts", name, runs) })
        : null
    ),
    ...curves.flatMap((one) => keepsLayers(one.run) ? [] : [maskFigure(one, runs), layersFigure(one, runs)]),
    layerSparsityFigure(runs),
    ...trainingFigures(curves).flatMap(steps),
  ];
  return figures.filter((figure) => figure !== null);
}

function stepFigure(
  curves: readonly Curves[],
  { id, title, caption, description = caption, ...what }: StepFigure,
): Figure {
  const isAlone = curves.length === 1, { y, lines, height } = what;
  const series = lines.flatMap((line, place) =>
    curves.map((one): Series => {
      const { name, valuesOf, style = {}, isMain = false } = line, values = valuesOf(one);
      return {
        name: isAlone ? name : isMain ? one.name : `${one.name}, ${name}`,
        points: one.records.map(({ step }, at): Point => [step, values[at] ?? NaN]),
        style: { ...style, color: isAlone ? place : one.index },
        listed: isAlone || isMain,
      };
    })
  ).filter(({ points }) => points.some(([, value]) => Number.isFinite(value)));
  const x = { label: "step", format: "whole", domain: stepDomain(curves) } as const;
  const panel = { x, y, series, marks: marksOf(curves), ...(height === undefined ? {} : { height }) };
  return {
    id,
    title,
    caption,
    draw: (width) => drawChart({ title, description, panels: [panel], width, embedded: true }),
    table: stepTable(title, curves, lines),
  };
}

function lossFigure(curves: readonly Curves[]): StepFigure {
  const spanOf = ({ records }: Curves): number => Math.max(4, records.length / 25);
  const lossesOf = ({ records }: Curves): number[] => records.map(({ loss }) => loss);
  const heldOutOf = ({ records }: Curves): number[] => records.map(({ heldout }) => heldout ?? NaN);
  const isMeasured = curves.some(({ records }) => records.some(({ heldout }) => heldout !== undefined));
  const spans = [...new Set(curves.map((one) => Math.round(spanOf(one))))];
  return {
    id: "loss",
    title: "Loss",
    caption:
      `Training loss: mean cross-entropy of the labels of each step's batch (thin), and its exponential mean over about ${
        spans.join(" or ")
      } steps.`,
    description: "Mean cross-entropy of the labels of each step's batch.",
    y: { label: "loss, nats" },
    lines: [
      { name: "loss", valuesOf: lossesOf, show: short, style: { width: 1, opacity: 0.45 } },
      { name: "smoothed", valuesOf: (one) => smoothed(lossesOf(one), spanOf(one)), show: short, isMain: true },
      ...isMeasured ? [{ name: "held-out rows", valuesOf: heldOutOf, show: short }] : [],
    ],
  };
}

function sparsityFigure(curves: readonly Curves[]): StepFigure {
  const isAlone = curves.length === 1;
  // A one-shot method has cut before the first step.
  const hardAt = ({ run, records }: Curves): StepRecord | undefined =>
    records.findLast(({ stage }) => stage === "prune") ??
      (namesOneShot(run.options?.["method"]) ? records[0] : undefined);
  return {
    id: "sparsity",
    title: "Sparsity",
    caption: `${
      sharesOf(curves)
    }: what the schedule asks for (dashed), what the masks are expected to cut (solid), and what was cut once they were hard (dot).`,
    description: "Target and expected sparsity of the pruning stage, and the hard one at its end.",
    y: { label: "sparsity", format: "share", zero: true },
    lines: [
      {
        name: "expected",
        valuesOf: ({ records }) => records.map(({ expected }) => expected ?? NaN),
        show: percent,
        style: isAlone ? { width: 4, opacity: 0.6 } : {},
        isMain: true,
      },
      {
        name: "target",
        valuesOf: ({ records }) => records.map(({ target }) => target ?? NaN),
        show: percent,
        style: { line: "dashed", width: 1.5 },
      },
      {
        name: "hard",
        valuesOf(one): number[] {
          const last = hardAt(one), hard = one.run.summary?.sparsity.hard ?? NaN;
          return one.records.map((record) => record === last ? hard : NaN);
        },
        style: { line: "none" },
      },
    ],
  };
}

/** In words, what the runs' sparsity is a share of. */
function sharesOf(curves: readonly Curves[]): string {
  const known = curves.map(({ name, run }) => ({ name, of: sparsityOf(run) }));
  const ofModel = known.filter(({ of }) => of === "model").map(({ name }) => name);
  if (known.some(({ of }) => of === null)) {
    return "Share that is cut of the layers' linear weights or, where hidden dims are cut to a size, of the whole model";
  }
  if (ofModel.length === known.length) return "Share of the whole model that is cut";
  const linear = "Share of the layers' linear weights that is cut";
  return ofModel.length === 0 ? linear : `${linear}, and of the whole model in ${ofModel.join(", ")}`;
}

/** Figures for finding out why a run does not learn as it should. */
function trainingFigures(curves: readonly Curves[]): StepFigure[] {
  const most = curves.reduce(
    (all, { records }) => records.reduce((own, { plannedGpuBytes }) => Math.max(own, plannedGpuBytes), all),
    0,
  );
  const [unit, bytes] = most < 2 ** 30 ? ["MiB", 2 ** 20] as const : ["GiB", 2 ** 30] as const;
  const line = (name: string, of: (record: StepRecord) => number, style?: StepLine["style"]): StepLine => ({
    ...{ name, valuesOf: ({ records }) => records.map(of), show: short },
    ...(style ? { style } : { isMain: true }),
  });
  const figures: readonly Omit<StepFigure, "height">[] = [
    {
      ...{ id: "lambda", title: "Multipliers λ", y: { label: "λ", zero: true } },
      caption: "λ1 (solid) weighs the gap between expected sparsity and target, λ2 (dashed) its square.",
      lines: [line("λ1", ({ lambda1 }) => lambda1), line("λ2", ({ lambda2 }) => lambda2, { line: "dashed" })],
    },
    {
      ...{ id: "gradient", title: "Gradient norm", y: { label: "norm", zero: true } },
      caption: "Global norm of the LoRA gradients of each step, before clipping.",
      lines: [line("gradient norm", ({ gradNorm }) => gradNorm)],
    },
    {
      ...{ id: "rate", title: "Learning rate", y: { label: "rate", zero: true } },
      caption: "Learning rate of LoRA.",
      lines: [line("rate", ({ learningRate }) => learningRate)],
    },
    {
      ...{ id: "speed", title: "Speed", y: { label: "tokens/s", zero: true } },
      caption: "Tokens a second, padding left out.",
      lines: [line("tokens a second", ({ tokensPerSecond }) => tokensPerSecond)],
    },
    {
      ...{ id: "memory", title: "GPU memory", y: { label: unit, zero: true } },
      caption: "GPU memory in use (solid), and the most that was planned for the run (dashed).",
      lines: [
        line("in use", ({ gpuBytes }) => gpuBytes / bytes),
        line("planned", ({ plannedGpuBytes }) => plannedGpuBytes / bytes, { line: "dashed", width: 1.5 }),
      ],
    },
  ];
  return figures.map((figure) => ({ ...figure, height: 220 }));
}

/**
 * The masks of heads and FFN columns by layer, and of hidden dims: final ones of a finished run, else the current ones.
 */
function maskFigure({ name, index, run: { summary, liveMasks } }: Curves, runs: readonly ReportRun[]): Figure | null {
  const masks = summary?.masks ?? liveMasks?.masks;
  if (!masks) return null;
  const rows = summary ? keptOf(masks, summary) : openOf(masks);
  const title = titled("Masks", name, runs), [hiddenKept, hiddenRows] = [rows.hidden, mean(masks.hidden) < 1];
  const layerNames = masks.heads.map((_, layer) => String(layer));
  const map = {
    title,
    description: `${summary ? "Kept" : "Open"} heads, FFN columns and hidden dims by layer. ${
      rows.layers.map(({ heads, ffn }, at) => `Layer ${at}: heads ${heads}, FFN columns ${ffn}`).join("; ")
    }. Hidden dims: ${hiddenKept}.`,
    rowLabels: [...layerNames, ...(hiddenRows ? ["hidden"] : [])],
    blocks: [
      {
        label: "heads",
        rows: [...masks.heads, ...(hiddenRows ? [[]] : [])],
        notes: rows.layers.map(({ heads }, at) => `layer ${at}: ${heads} heads`),
      },
      {
        label: "FFN columns",
        rows: [...masks.ffn, ...(hiddenRows ? [masks.hidden] : [])],
        notes: [
          ...rows.layers.map(({ ffn }, at) => `layer ${at}: ${ffn} FFN columns`),
          ...(hiddenRows ? [`${hiddenKept} hidden dims`] : []),
        ],
      },
    ],
    scale: ["cut", "kept"],
    embedded: true,
  } as const;
  return {
    id: `masks-${index}`,
    title,
    caption: summary
      ? "A row for each layer. Heads by their mask z; FFN columns and hidden dims by the share that is kept of neighbours taken together. What was cut is faint."
      : `After step ${
        liveMasks?.step ?? 0
      }. A row for each layer: how much of each head, and of neighbouring FFN columns and hidden dims, is expected to stay. What goes is faint.`,
    draw: (width) => heatMap({ ...map, width }),
    table: {
      caption: `${summary ? "Kept" : "Expected to stay"} by layer; hidden dims: ${hiddenKept}`,
      head: ["layer", "heads", ...(summary ? ["KV heads"] : []), "FFN columns"],
      rows: rows.layers.map(({ heads, ffn, kvHeads }, at) => [String(at), heads, ...(summary ? [kvHeads] : []), ffn]),
    },
  };
}

/** What is left of each layer, in words. */
interface MaskRows {
  readonly layers: readonly { readonly heads: string; readonly kvHeads: string; readonly ffn: string }[];
  readonly hidden: string;
}

/** Counts of a finished run's masks. */
function keptOf(
  masks: MaskSummary,
  { before, layers, hidden }: {
    readonly before: { readonly layers: readonly LayerSpec[]; readonly hidden: number };
    readonly layers: readonly LayerSpec[];
    readonly hidden: number;
  },
): MaskRows {
  return {
    layers: before.layers.map((layer, at) => ({
      heads: `${masks.heads[at]?.filter((z) => z !== 0).length ?? 0} of ${mixerMasks(layer)}`,
      kvHeads: `${layers[at]?.kvHeads ?? 0} of ${layer.kvHeads}`,
      ffn: `${layers[at]?.ffn ?? 0} of ${layer.ffn}`,
    })),
    hidden: `${hidden} of ${before.hidden}`,
  };
}

/** Shares of masks that are still learned. */
function openOf({ heads, ffn, hidden }: MaskSummary): MaskRows {
  const share = (values: readonly number[] = []): string => `${short(100 * mean(values))} %`;
  return {
    layers: heads.map((own, at) => ({ heads: share(own), kvHeads: "", ffn: share(ffn[at]) })),
    hidden: share(hidden),
  };
}

/** The layers' densities, step by step. */
function layersFigure({ name, index, records }: Curves, runs: readonly ReportRun[]): Figure | null {
  const read = records.flatMap(({ step, layers }) => layers && layers.length > 0 ? [{ step, layers }] : []);
  const first = read[0], last = read.at(-1);
  if (!first || !last) return null;
  const title = titled("Layers as the masks learn", name, runs),
    ends = [`step ${first.step}`, `step ${last.step}`] as const;
  const keptAt = (share: number | undefined): string => `${short(100 * (1 - (share ?? 0)))} %`;
  return {
    id: `layers-${index}`,
    title,
    caption: "Expected share of each layer's heads and FFN columns that is kept, from the first step to the last.",
    draw(width): string {
      const { items } = everyNth(read, Math.min(TIME_COLUMNS, width / 6));
      const rowsOf = (kind: "heads" | "ffn"): number[][] =>
        first.layers.map((_, layer) => items.map(({ layers }) => 1 - (layers[layer]?.[kind] ?? 0)));
      return heatMap({
        title,
        description: `Kept shares over the steps. At ${ends[1]}: ${
          last.layers.map(({ heads, ffn }, layer) => `layer ${layer} heads ${keptAt(heads)}, FFN ${keptAt(ffn)}`).join(
            "; ",
          )
        }.`,
        rowLabels: first.layers.map((_, layer) => String(layer)),
        blocks: [{ label: "heads", rows: rowsOf("heads"), ends }, { label: "FFN columns", rows: rowsOf("ffn"), ends }],
        scale: ["cut", "kept"],
        width,
        embedded: true,
      });
    },
    table: {
      caption: `Kept shares at ${ends[1]}`,
      head: ["layer", "heads", "FFN columns"],
      rows: last.layers.map(({ heads, ffn }, layer) => [String(layer), keptAt(heads), keptAt(ffn)]),
    },
  };
}

function layerSparsityFigure(runs: readonly ReportRun[]): Figure | null {
  const shown = runs.flatMap((run) => {
    const { name, summary } = run;
    if (!summary || keepsLayers(run)) return [];
    const { layers, uniform } = layerSparsity(summary);
    return [{ name, values: layers, uniform }];
  });
  if (shown.length === 0) return null;
  const layers = Math.max(...shown.map(({ values }) => values.length));
  return {
    id: "uniform",
    title: "Sparsity of each layer",
    caption:
      "Share of each layer's linear weights that was cut, and the share that every layer would have if all were cut alike (dashed).",
    draw: (width) =>
      drawChart({
        title: "Sparsity of each layer",
        description: shown.map(({ name, values, uniform }) =>
          `${name}: ${values.map((value, layer) => `layer ${layer} ${short(100 * value)} %`).join(", ")}; uniform ${
            short(100 * uniform)
          } %.`
        ).join(" "),
        panels: [{
          x: { label: "layer", format: "whole", domain: [-0.5, layers - 0.5] },
          y: { label: "sparsity", format: "share", zero: true },
          series: shown.flatMap(({ name, values, uniform }, color): Series[] => [
            { name, points: values.map((value, layer): Point => [layer, value]), style: { line: "bars", color } },
            {
              name: `${shown.length > 1 ? `${name}, ` : ""}uniform: ${short(100 * uniform)} %`,
              points: [[-0.5, uniform], [layers - 0.5, uniform]],
              style: { line: "dashed", color },
              shown: false,
            },
          ]),
          height: 280,
        }],
        width,
        embedded: true,
      }),
    table: {
      caption: "Sparsity by layer",
      head: ["layer", ...shown.map(({ name }) => name)],
      rows: [
        ...Array.from({ length: layers }, (_, layer) => [
          String(layer),
          ...shown.map(({ values }) => percent(values[layer] ?? NaN)),
        ]),
        ["uniform", ...shown.map(({ uniform }) => percent(uniform))],
      ],
    },
  };
}

/** Every nth step of all runs. */
function stepTable(title: string, curves: readonly Curves[], lines: readonly StepLine[]): Table {
  const isAlone = curves.length === 1, most = Math.max(5, Math.floor(TABLE_ROWS / curves.length));
  const columns = lines.flatMap(({ name, valuesOf, show }) => show ? [{ name, valuesOf, show }] : []);
  const rows = curves.flatMap((one) => {
    const values = columns.map(({ valuesOf }) => valuesOf(one));
    return everyNth([...one.records.entries()], most).items.map(([at, { step, stage }]) => [
      isAlone ? String(step) : `${one.name}, ${step}`,
      stage,
      ...columns.map(({ show }, column) => show(values[column]?.[at] ?? NaN)),
    ]);
  });
  return {
    caption: curves.some(({ records }) => records.length > most)
      ? `${title}, some steps; records.jsonl has all`
      : `${title} of every step`,
    head: [isAlone ? "step" : "run, step", "stage", ...columns.map(({ name }) => name)],
    rows,
  };
}

function titled(what: string, name: string, runs: readonly ReportRun[]): string {
  return runs.length === 1 ? what : `${what}: ${name}`;
}

function percent(share: number): string {
  return Number.isFinite(share) ? `${(100 * share).toFixed(2)} %` : "–";
}

/** Where the stages begin, where that is the same for all runs. */
function marksOf(curves: readonly Curves[]): PanelMark[] {
  const marks = curves.map(({ records }) => stageStarts(records).map(({ x, stage }) => ({ x, label: stage })));
  const [first = []] = marks;
  return marks.every((one) => JSON.stringify(one) === JSON.stringify(first)) ? first : [];
}

/** The range of all steps: charts of one stage have the same axis as charts of all stages. */
function stepDomain(curves: readonly Curves[]): readonly [number, number] {
  const steps = curves.flatMap(({ records }) => [records[0]?.step ?? 1, records.at(-1)?.step ?? 1]);
  return [Math.min(...steps), Math.max(...steps)];
}
