// The charts of an experiment: measures, losses and the share cut of each layer.
import { type ChartPanel, drawChart } from "../report/chart.ts";
import type { Series } from "../report/panel.ts";
import { digestOf } from "../core/digest.ts";
import { areTied } from "./grid.ts";
import type { ExperimentReport, Group } from "./types.ts";

/** A chart and its file. */
export interface DrawnChart {
  readonly file: string;
  /** What it shows, in a few words. */
  readonly title: string;
  readonly svg: string;
}

/** Most lines of a chart: more colors cannot be distinguished. */
const MOST_LINES = 8;
/** Sparsities closer than this share one line of uniform layers. */
const SAME_SHARE = 0.005;
/** Steps over which a loss is averaged. */
const SMOOTH = 5;

/** Draws the charts that have something to show. */
export function charts(report: ExperimentReport): DrawnChart[] {
  const groups = report.groups.filter(({ cells }) => cells.length > 0);
  if (groups.length === 0) return [];
  return [...measureChart(report, groups), ...lossCharts(report, groups), ...layerCharts(report, groups)];
}

/** A short name of a group: its values along the axes. */
export function groupLabel({ at }: Pick<Group, "at">, axes: readonly string[]): string {
  const named = axes.filter((axis) => axis !== "seed");
  return named.map((axis) => `${axis} ${at[axis]}`).join(", ") || "all";
}

function measureChart(report: ExperimentReport, groups: readonly Group[]): DrawnChart[] {
  // Means of tasks stand for the single ones.
  const shown = report.names.filter(({ isMeasure, isPart = false }) => isMeasure && !isPart);
  const dense = Object.entries(report.dense);
  const panels = shown.map(({ name, kind }): ChartPanel => {
    const own = dense.length === 1 ? dense[0]?.[1].find((value) => value.name === name) : undefined;
    const series = groups.flatMap((group) => {
      const spread = group.numbers[name];
      return spread ? [{ name: groupLabel(group, report.axes), spread }] : [];
    }).map(({ name, spread }, row): Series => ({
      name,
      points: spread.values.map((value) => [value, row] as const),
      spread,
    }));
    return {
      title: `${name} (${kind === "perplexity" ? "perplexity, less is better" : "accuracy, more is better"})`,
      x: { label: "", format: kind === "accuracy" ? "share" : "plain" },
      y: { label: "", rows: series.map(({ name }) => name) },
      series,
      ...(own && Number.isFinite(own.value) ? { marks: [{ x: own.value, label: "unpruned" }] } : {}),
    };
  });
  if (panels.every(({ series }) => series.length === 0)) return [];
  const title = `${report.name}: what was measured`;
  const description = "Dots are seeds, bars their means, whiskers one sample standard deviation to each side.";
  return [{ file: "measures.svg", title: "what was measured", svg: drawChart({ title, description, panels }) }];
}

function lossCharts(report: ExperimentReport, groups: readonly Group[]): DrawnChart[] {
  return inParts(report, groups).flatMap(({ suffix, name, part }) => {
    const series = part.map((group): Series => ({
      name: groupLabel(group, report.axes),
      points: meanLoss(group.cells.map((cell) => report.losses[cell] ?? [])),
    })).filter(({ points }) => points.length > 0);
    if (series.length === 0) return [];
    return [{
      file: `loss${suffix}.svg`,
      title: `loss${name}`,
      svg: drawChart({
        title: `${report.name}: loss${name}`,
        description: `Mean over the seeds, averaged over ${SMOOTH} steps.`,
        panels: [{ x: { label: "step", format: "whole" }, y: { label: "loss, nats a token" }, series }],
      }),
    }];
  });
}

function layerCharts(report: ExperimentReport, groups: readonly Group[]): DrawnChart[] {
  return inParts(report, groups).flatMap(({ suffix, name, part }) => {
    const series = part.map((group, color): Series => ({
      name: groupLabel(group, report.axes),
      points: group.layers.map((cut, layer) => [layer, cut] as const),
      style: { dots: true, color },
    }));
    const runs = part.flatMap(({ cells }, color) =>
      cells.length < 2 ? [] : report.cells.filter(({ cell }) => cells.includes(cell)).map((run): Series => ({
        name: run.cell,
        points: run.layers.map((cut, layer) => [layer, cut] as const),
        style: { color, width: 0.75, opacity: 0.5 },
        listed: false,
      }))
    );
    const most = Math.max(0, ...part.map(({ layers }) => layers.length - 1));
    const flat = uniformShares(part).map((share): Series => ({
      name: `uniform, ${(100 * share).toFixed(1)} %`,
      points: [[0, share], [most, share]],
      style: { line: "dashed", color: 6, width: 1.5 },
    }));
    return [{
      file: `layers${suffix}.svg`,
      title: `share cut of each layer${name}`,
      svg: drawChart({
        title: `${report.name}: share cut of each layer${name}`,
        description:
          "Share of a layer's linear weights that is cut, mean over the seeds; thin: each run; dashed: uniform layers.",
        panels: [{
          x: { label: "layer", format: "whole" },
          y: { label: "share cut", format: "share" },
          series: [...runs, ...series, ...flat],
        }],
      }),
    }];
  });
}

/** The hard sparsities of groups; nearly equal ones are one, their mean. */
function uniformShares(groups: readonly Group[]): number[] {
  const sorted = groups.flatMap(({ numbers }) => numbers["hard sparsity"]?.mean ?? []).sort((a, b) => a - b);
  const near: number[][] = [];
  for (const share of sorted) {
    const last = near.at(-1);
    if (last?.[0] !== undefined && share - last[0] < SAME_SHARE) last.push(share);
    else near.push([share]);
  }
  return near.map((shares) => shares.reduce((sum, share) => sum + share, 0) / shares.length);
}

/** Letters of a value that a file's name holds; file systems allow 255 in all. */
const MOST_SUFFIX = 100;

/**
 * Groups in charts of at most so many lines: where there are more, one chart for each value of all axes but the first, and several where these
 * still are too many.
 */
function inParts(
  { axes }: ExperimentReport,
  groups: readonly Group[],
): { readonly suffix: string; readonly name: string; readonly part: readonly Group[] }[] {
  if (groups.length <= MOST_LINES) return [{ suffix: "", name: "", part: groups }];
  const [first, ...rest] = axes.filter((axis) => axis !== "seed"), places = groups.map(({ at }) => at);
  // An axis tied to the first splits nothing.
  const others = rest.filter((axis) => first !== undefined && !areTied(places, first, axis));
  const key = ({ at }: Group): string => others.map((axis) => `${axis} ${at[axis]}`).join(", ");
  const keys = [...new Set(groups.map(key))];
  const plain = (one: string): string => {
    const text = one.replaceAll(/[^\w.]+/g, "-");
    if (text.length > MOST_SUFFIX) return `-${text.slice(0, MOST_SUFFIX)}-${digestOf([one])}`;
    return text === "" ? "" : `-${text}`;
  };
  return keys.flatMap((one, index) => {
    // Values that differ in signs alone would have one file.
    const isShared = keys.some((other, place) => place !== index && plain(other) === plain(one));
    const suffix = `${plain(one)}${isShared ? `-chart${index + 1}` : ""}`, name = one === "" ? "" : `, ${one}`;
    const part = groups.filter((group) => key(group) === one), count = Math.ceil(part.length / MOST_LINES);
    if (count <= 1) return [{ suffix, name, part }];
    const size = Math.ceil(part.length / count);
    return Array.from({ length: count }, (_, index) => ({
      suffix: `${suffix}-${index + 1}`,
      name: `${name}, part ${index + 1} of ${count}`,
      part: part.slice(index * size, (index + 1) * size),
    }));
  });
}

/** The mean of several losses, averaged over the steps before; as long as the shortest. */
function meanLoss(losses: readonly (readonly number[])[]): (readonly [number, number])[] {
  const length = Math.min(...losses.map((list) => list.length));
  const means = Array.from(
    { length: Number.isFinite(length) ? length : 0 },
    (_, step) => losses.reduce((sum, list) => sum + (list[step] ?? NaN), 0) / losses.length,
  );
  return means.map((_, step) => {
    const window = means.slice(Math.max(0, step + 1 - SMOOTH), step + 1);
    return [step + 1, window.reduce((sum, loss) => sum + loss, 0) / window.length] as const;
  });
}
