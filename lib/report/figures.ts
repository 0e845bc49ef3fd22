// Which figures a report has of its runs: loss, sparsity, λ, masks, layers. Owns titles, captions and the tables behind them; refuses geometry.
import { keptRecords, layerSparsity, mean, smoothed, sparsityOf, stageStarts } from "./facts.ts";
import { heatMap } from "./heat_map.ts";
import { layerBars } from "./layer_bars.ts";
import { lineChart } from "./line_chart.ts";
import type { LineSeries, PanelMark, Point } from "./line_panel.ts";
import type { ReportRun } from "./read_run.ts";
import { short } from "./svg.ts";
import { everyNth, type Table } from "./table.ts";
import { namesOneShot } from "../run/methods/names.ts";
import type { StepRecord } from "../run/contract.ts";

/** A figure with what says the same in words and numbers. */
export interface Figure {
  /** Unique on the page. */
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly svg: string;
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

const TABLE_ROWS = 60, TIME_COLUMNS = 120;

/** All figures that the runs have data for, in order. */
export function figuresOf(runs: readonly ReportRun[]): Figure[] {
  const curves = runs.map((run, index): Curves => ({ name: run.name, index, run, records: keptRecords(run.records) }));
  const figures: (Figure | null)[] = curves.some(({ records }) => records.length > 0)
    ? [lossFigure(curves), sparsityFigure(curves), lambdaFigure(curves)]
    : [];
  for (const one of curves) figures.push(maskFigure(one, runs), layersFigure(one, runs));
  figures.push(uniformFigure(runs));
  return figures.filter((figure) => figure !== null);
}

function lossFigure(curves: readonly Curves[]): Figure {
  const isAlone = curves.length === 1;
  const spans = curves.map(({ records }) => Math.max(4, records.length / 25));
  const smooth = curves.map(({ records }, index) => smoothed(records.map(({ loss }) => loss), spans[index] ?? 4));
  const raw = curves.map(({ name, index, records }): LineSeries => ({
    name: isAlone ? "loss" : `${name}, each step`,
    points: records.map(({ step, loss }): Point => [step, loss]),
    style: { color: index, width: 1, opacity: 0.45 },
    listed: isAlone,
  }));
  const mean = curves.map(({ name, index, records }): LineSeries => ({
    name: isAlone ? "smoothed" : name,
    points: records.map(({ step }, at): Point => [step, smooth[index]?.[at] ?? NaN]),
    style: { color: isAlone ? 1 : index },
  }));
  return {
    id: "loss",
    title: "Loss",
    caption: `Mean cross-entropy of the labels of each step's batch (thin), and its exponential mean over about ${
      [...new Set(spans.map((span) => Math.round(span)))].join(" or ")
    } steps.`,
    svg: lineChart({
      title: "Loss",
      description: "Mean cross-entropy of the labels of each step's batch.",
      x: { label: "step", format: "whole" },
      y: { label: "loss, nats" },
      series: [...raw, ...mean],
      marks: marksOf(curves),
      embedded: true,
    }),
    table: stepTable("Loss and its smoothed curve", curves, [
      ["loss", ({ loss }) => short(loss)],
      ["smoothed", (_, { index }, at) => short(smooth[index]?.[at] ?? NaN)],
    ]),
  };
}

function sparsityFigure(curves: readonly Curves[]): Figure {
  const isAlone = curves.length === 1;
  const called = (name: string, what: string): string => isAlone ? what : `${name}, ${what}`;
  const series = curves.flatMap(({ name, index, run, records }): LineSeries[] => {
    const pruning = records.filter(({ stage }) => stage === "prune");
    // A one-shot method has cut before the first step.
    const last = pruning.at(-1) ?? (namesOneShot(run.options?.["method"]) ? records[0] : undefined);
    const hard = run.summary?.sparsity.hard;
    return [
      {
        name: isAlone ? "expected" : name,
        points: pruning.map(({ step, expected }): Point => [step, expected ?? NaN]),
        style: { color: index, width: isAlone ? 4 : 2, ...(isAlone ? { opacity: 0.6 } : {}) },
      },
      {
        name: called(name, "target"),
        points: pruning.map(({ step, target }): Point => [step, target ?? NaN]),
        style: { color: isAlone ? 1 : index, line: "dashed", width: 1.5 },
        listed: isAlone,
      },
      ...(hard === undefined || !last ? [] : [{
        name: called(name, "hard"),
        points: [[last.step, hard]] as const,
        style: { color: isAlone ? 2 : index, line: "none" as const },
        listed: isAlone,
      }]),
    ];
  });
  return {
    id: "sparsity",
    title: "Sparsity",
    caption: `${
      sharesOf(curves)
    }: what the schedule asked for (dashed), what the masks are expected to cut (solid), and what was cut once they were hard (dot).`,
    svg: lineChart({
      title: "Sparsity",
      description: "Target and expected sparsity of the pruning stage, and the hard one at its end.",
      x: { label: "step", format: "whole", domain: stepDomain(curves) },
      y: { label: "sparsity", format: "share" },
      series,
      marks: marksOf(curves),
      embedded: true,
    }),
    table: stepTable("Target and expected sparsity", curves, [
      ["target", ({ target }) => target === null ? "–" : `${(100 * target).toFixed(2)} %`],
      ["expected", ({ expected }) => expected === null ? "–" : `${(100 * expected).toFixed(2)} %`],
    ]),
  };
}

/** In words, what the runs' sparsity is a share of. */
function sharesOf(curves: readonly Curves[]): string {
  const told = curves.map(({ name, run }) => ({ name, of: sparsityOf(run) }));
  const ofModel = told.filter(({ of }) => of === "model").map(({ name }) => name);
  if (told.some(({ of }) => of === null)) {
    return "Share that is cut of the layers' linear weights or, where hidden dims are cut to a size, of the whole model";
  }
  if (ofModel.length === told.length) return "Share of the whole model that is cut";
  const linear = "Share of the layers' linear weights that is cut";
  return ofModel.length === 0 ? linear : `${linear}, and of the whole model in ${ofModel.join(", ")}`;
}

function lambdaFigure(curves: readonly Curves[]): Figure {
  const isAlone = curves.length === 1;
  const series = curves.flatMap(({ name, index, records }): LineSeries[] => [
    {
      name: isAlone ? "λ1" : name,
      points: records.map(({ step, lambda1 }): Point => [step, lambda1]),
      style: { color: index },
    },
    {
      name: isAlone ? "λ2" : `${name}, λ2`,
      points: records.map(({ step, lambda2 }): Point => [step, lambda2]),
      style: { color: isAlone ? 1 : index, line: "dashed" },
      listed: isAlone,
    },
  ]);
  return {
    id: "lambda",
    title: "Multipliers λ",
    caption: "λ1 (solid) weighs the gap between expected sparsity and target, λ2 (dashed) its square.",
    svg: lineChart({
      title: "Multipliers λ",
      description: "λ1 weighs the gap between expected sparsity and target, λ2 its square.",
      x: { label: "step", format: "whole" },
      y: { label: "λ" },
      series,
      marks: marksOf(curves),
      height: 220,
      embedded: true,
    }),
    table: stepTable("Multipliers", curves, [
      ["λ1", ({ lambda1 }) => short(lambda1)],
      ["λ2", ({ lambda2 }) => short(lambda2)],
    ]),
  };
}

/** Final masks: layer by head, layer by FFN columns, hidden dims. */
function maskFigure({ name, index, run: { summary } }: Curves, runs: readonly ReportRun[]): Figure | null {
  if (!summary?.masks || !summary.before) return null;
  const { masks, before } = summary, title = titled("Masks", name, runs);
  const hidden = mean(masks.hidden), layerNames = before.layers.map((_, layer) => String(layer));
  const heads = masks.heads.map((z) => `${z.filter((value) => value !== 0).length} of ${z.length}`);
  const ffn = before.layers.map((layer, at) => `${summary.layers[at]?.ffn ?? 0} of ${layer.ffn}`);
  return {
    id: `masks-${index}`,
    title,
    caption:
      "A row for each layer. Heads by their mask z, FFN columns and hidden dims by the share that is kept of neighbours taken together; what was cut is faint.",
    svg: heatMap({
      title,
      description: `Kept heads, FFN columns and hidden dims by layer. ${
        heads.map((kept, at) => `Layer ${at}: heads ${kept}, FFN columns ${ffn[at] ?? ""}`).join("; ")
      }. Hidden dims: ${summary.hidden} of ${before.hidden}.`,
      rowLabels: [...layerNames, ...(hidden < 1 ? ["hidden"] : [])],
      blocks: [
        {
          label: "heads",
          rows: [...masks.heads, ...(hidden < 1 ? [[]] : [])],
          notes: heads.map((kept, at) => `layer ${at}: ${kept} heads kept`),
        },
        {
          label: "FFN columns",
          rows: [...masks.ffn, ...(hidden < 1 ? [masks.hidden] : [])],
          notes: [
            ...ffn.map((kept, at) => `layer ${at}: ${kept} FFN columns kept`),
            ...(hidden < 1 ? [`${summary.hidden} of ${before.hidden} hidden dims kept`] : []),
          ],
        },
      ],
      scale: ["cut", "kept"],
      embedded: true,
    }),
    table: {
      caption: `Kept by layer; hidden dims: ${summary.hidden} of ${before.hidden}`,
      head: ["layer", "heads", "KV heads", "FFN columns"],
      rows: layerNames.map((layer, at) => [
        layer,
        heads[at] ?? "",
        `${summary.layers[at]?.kvHeads ?? 0} of ${before.layers[at]?.kvHeads ?? 0}`,
        ffn[at] ?? "",
      ]),
    },
  };
}

/** How the layers' densities came about, step by step. */
function layersFigure({ name, index, records }: Curves, runs: readonly ReportRun[]): Figure | null {
  const read = records.flatMap(({ step, layers }) => layers && layers.length > 0 ? [{ step, layers }] : []);
  const { items } = everyNth(read, TIME_COLUMNS), first = items[0], last = items.at(-1);
  if (!first || !last) return null;
  const title = titled("Layers as the masks learn", name, runs);
  const rowsOf = (kind: "heads" | "ffn"): number[][] =>
    first.layers.map((_, layer) => items.map(({ layers }) => 1 - (layers[layer]?.[kind] ?? 0)));
  const ends = [`step ${first.step}`, `step ${last.step}`] as const;
  const keptAt = (share: number | undefined): string => `${short(100 * (1 - (share ?? 0)))} %`;
  return {
    id: `layers-${index}`,
    title,
    caption:
      "Expected share of each layer's heads and FFN columns that is kept, from the first step on the left to the last on the right.",
    svg: heatMap({
      title,
      description: `Kept shares over the steps. At ${ends[1]}: ${
        last.layers.map(({ heads, ffn }, layer) => `layer ${layer} heads ${keptAt(heads)}, FFN ${keptAt(ffn)}`).join(
          "; ",
        )
      }.`,
      rowLabels: first.layers.map((_, layer) => String(layer)),
      blocks: [
        { label: "heads over the steps", rows: rowsOf("heads"), ends },
        { label: "FFN columns over the steps", rows: rowsOf("ffn"), ends },
      ],
      scale: ["cut", "kept"],
      embedded: true,
    }),
    table: {
      caption: `Kept shares at ${ends[1]}`,
      head: ["layer", "heads", "FFN columns"],
      rows: last.layers.map(({ heads, ffn }, layer) => [String(layer), keptAt(heads), keptAt(ffn)]),
    },
  };
}

function uniformFigure(runs: readonly ReportRun[]): Figure | null {
  const shown = runs.flatMap(({ name, summary }) => {
    const sparsity = summary ? layerSparsity(summary) : null;
    return sparsity ? [{ name, values: sparsity.layers, uniform: sparsity.uniform }] : [];
  });
  if (shown.length === 0) return null;
  const layers = Math.max(...shown.map(({ values }) => values.length));
  return {
    id: "uniform",
    title: "Sparsity of each layer",
    caption:
      "Share of each layer's linear weights that was cut, beside the share that every layer would have, were it spread evenly (dashed).",
    svg: layerBars({
      title: "Sparsity of each layer",
      description: shown.map(({ name, values, uniform }) =>
        `${name}: ${values.map((value, layer) => `layer ${layer} ${short(100 * value)} %`).join(", ")}; uniform ${
          short(100 * uniform)
        } %`
      ).join(". "),
      label: "sparsity",
      runs: shown,
      embedded: true,
    }),
    table: {
      caption: "Sparsity by layer",
      head: ["layer", ...shown.map(({ name }) => name)],
      rows: [
        ...Array.from({ length: layers }, (_, layer) => [
          String(layer),
          ...shown.map(({ values }) => values[layer] === undefined ? "–" : `${(100 * values[layer]).toFixed(2)} %`),
        ]),
        ["uniform", ...shown.map(({ uniform }) => `${(100 * uniform).toFixed(2)} %`)],
      ],
    },
  };
}

type Column = readonly [name: string, value: (record: StepRecord, curves: Curves, at: number) => string];

/** Every nth step of all runs. */
function stepTable(caption: string, curves: readonly Curves[], columns: readonly Column[]): Table {
  const isAlone = curves.length === 1;
  const longest = Math.max(...curves.map(({ records }) => records.length));
  const rows = curves.flatMap((one) => {
    const { items } = everyNth([...one.records.entries()], Math.max(5, Math.floor(TABLE_ROWS / curves.length)));
    return items.map(([at, record]) => [
      isAlone ? String(record.step) : `${one.name}, ${record.step}`,
      record.stage,
      ...columns.map(([, value]) => value(record, one, at)),
    ]);
  });
  return {
    caption: longest > TABLE_ROWS / curves.length ? `${caption}, some steps; records.jsonl has all` : caption,
    head: [isAlone ? "step" : "run, step", "stage", ...columns.map(([name]) => name)],
    rows,
  };
}

function titled(what: string, name: string, runs: readonly ReportRun[]): string {
  return runs.length === 1 ? what : `${what}: ${name}`;
}

/** Where the stages begin, where that is the same for all runs. */
function marksOf(curves: readonly Curves[]): PanelMark[] {
  const marks = curves.map(({ records }) => stageStarts(records).map(({ x, stage }) => ({ x, label: stage })));
  const [first = []] = marks;
  return marks.every((one) => JSON.stringify(one) === JSON.stringify(first)) ? first : [];
}

/** All steps, so that charts of one stage stand below those of all. */
function stepDomain(curves: readonly Curves[]): readonly [number, number] {
  const steps = curves.flatMap(({ records }) => [records[0]?.step ?? 1, records.at(-1)?.step ?? 1]);
  return [Math.min(...steps), Math.max(...steps)];
}
