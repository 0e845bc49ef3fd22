// The report of an experiment as Markdown.
import { formatCount } from "../report/numbers.ts";
import { type DrawnChart, groupLabel } from "./charts.ts";
import { UNEVENNESS } from "./run_numbers.ts";
import type { Difference, Spread } from "./statistics.ts";
import type { Contrast, ExperimentReport, Group, NumberName, ReportCell, Value } from "./types.ts";

/** Numbers of a run that get a column if they say something. */
const RUN_TABLE = [
  "loss, last 8 steps",
  "loss, worst 5 steps",
  "roughness of the loss",
  "gap to the schedule",
  "undecided units",
  "fractional masks",
  UNEVENNESS,
] as const;

/** Numbers on the data of a run, which have a column where runs differ in them. */
const DATA_TABLE = ["labels seen", "rows cut", "prompt, tokens a row"] as const;

/** The whole document. */
export function markdown(report: ExperimentReport, charts: readonly DrawnChart[]): string {
  const { name, question, protocol, unfinished, cells } = report;
  const parts: string[] = [`# ${name}`];
  if (question) parts.push(question);
  parts.push(protocol.map((line) => `- ${literal(line)}`).join("\n"));
  if (cells.length === 0) parts.push("No cell is finished yet.");
  else {
    const measures = report.names.filter(({ isMeasure }) => isMeasure), single = measures.filter(isPart);
    const size = report.names.filter(({ name }) => name === "hard sparsity" || name === "parameters");
    const whole = [...measures.filter((name) => !isPart(name)), ...size];
    parts.push("## What was measured", measureTable(report, whole), spreadNote(report));
    if (single.length > 0) parts.push("Task by task:", measureTable(report, single));
    parts.push(...contrastPart(report));
    parts.push("## How the runs went", runTable(report), RUN_NOTE);
    parts.push("### Alarms", ...alarmPart(report));
    parts.push("## Layers", layerTable(report), layerNote(report));
  }
  for (const { file, title } of charts) parts.push(`![${literal(title)}](${file})`);
  if (unfinished.length > 0) {
    const lines = unfinished.map(({ cell, state }) => `- ${literal(cell)}: ${literal(state)}`);
    parts.push("## Not finished", lines.join("\n"));
  }
  return parts.join("\n\n") + "\n";
}

/** A number as its kind is shown. */
function shownNumber(value: number, kind: NumberName["kind"]): string {
  if (!Number.isFinite(value)) return "–";
  if (kind === "accuracy") return `${(100 * value).toFixed(1)} %`;
  if (kind === "share") return percent(value);
  if (kind === "count") return formatCount(Math.round(value));
  if (kind === "seconds") return String(Math.round(value));
  if (kind === "loss") return value.toFixed(3);
  return value.toFixed(value < 100 ? 2 : 1);
}

function isPart({ isPart = false }: NumberName): boolean {
  return isPart;
}

function measureTable(report: ExperimentReport, shown: readonly NumberName[]): string {
  const { axes, groups, dense } = report;
  const named = axes.filter((axis) => axis !== "seed");
  const head = [...(named.length > 0 ? named : ["runs"]), "n", ...shown.map(({ name }) => name)];
  const denseRows = Object.entries(dense).filter(([, values]) => values.length > 0).map(([model, values]) => [
    `unpruned${Object.keys(dense).length > 1 ? ` ${model}` : ""}`,
    ...named.slice(1).map(() => ""),
    "",
    ...shown.map(({ name, kind }) => {
      const value = values.find((one) => one.name === name);
      return value ? shownNumber(value.value, kind) : "";
    }),
  ]);
  const rows = groups.map((group) => [
    ...(named.length > 0 ? named.map((axis) => group.at[axis] ?? "") : ["all"]),
    countOf(group, report),
    ...shown.map(({ name, kind }) => cellOf(group, { name, kind })),
  ]);
  return table(head, [...denseRows, ...rows], named.length || 1);
}

/** A spread, with the number of runs where it is less than the group's. */
function cellOf(group: Group, { name, kind }: Pick<NumberName, "name" | "kind">): string {
  const spread = group.numbers[name];
  if (!spread) return "–";
  const fewer = spread.n < group.cells.length ? ` (n = ${spread.n})` : "";
  return `${shownSpread(spread, kind)}${fewer}`;
}

function shownSpread({ mean, sd }: Pick<Spread, "mean" | "sd">, kind: NumberName["kind"]): string {
  const value = shownNumber(mean, kind);
  if (sd === null || kind === "count") return value;
  // As many digits as the mean has. Numbers near 0, such as gaps, get one significant digit.
  if (kind === "share" && Math.abs(mean) >= 0.001) return `${(100 * mean).toFixed(1)} ± ${(100 * sd).toFixed(1)} %`;
  return `${value.replace(/ %$/, "")} ± ${shownNumber(sd, kind)}`;
}

function countOf(group: Group, report: ExperimentReport): string {
  const { cells, wanted } = group, halved = halvedOf(report, group).length;
  const count = cells.length === wanted ? String(wanted) : `${cells.length} of ${wanted}`;
  return halved === 0 ? count : `${count}, ${halved} halved`;
}

/** Finished runs, of all groups or one, that an alarm rolled back, so that they continued with halved rates. */
function halvedOf({ cells }: ExperimentReport, group?: Pick<Group, "cells">): ReportCell[] {
  return cells.filter(({ cell, alarms }) =>
    (group?.cells.includes(cell) ?? true) && alarms.some(({ action }) => action === "rollback")
  );
}

/** The note on n and ±. */
export function spreadNote(report: ExperimentReport): string {
  const { names, dense, groups } = report;
  // Of a mean over tasks n says little: each task weighs the same.
  const known = new Map(Object.values(dense).flat().map((value) => [value.name, value] as const));
  const errors = names.filter(({ kind }) => kind === "accuracy").flatMap(({ name }) =>
    groups.flatMap(({ numbers }) => {
      const mean = numbers[name]?.mean, value = known.get(name);
      // If all answers are right, or all wrong, the formula gives 0, which is not true.
      if (mean === undefined || !(mean > 0 && mean < 1) || !value) return [];
      // The standard error of the dense model, which is nearly the same.
      const ofMean = value.tasks === undefined ? null : value.stderr ?? NaN;
      return [100 * (ofMean ?? Math.sqrt(mean * (1 - mean) / value.n))].filter(Number.isFinite);
    })
  );
  const questions = errors.length === 0
    ? ""
    : ` The questions are the same for all runs, and few: their choice alone gives an accuracy a standard error of ${
      range(errors)
    } points, which ± does not contain.`;
  const single = groups.every(({ cells }) => cells.length <= 1)
    ? " Here every group has at most one run, so the spread is unknown."
    : "";
  const halved = halvedOf(report).length === 0
    ? ""
    : " Halved: runs that an alarm set back and that continued with halved rates, so they do not differ by their seed only; see Alarms.";
  return `n is the number of finished runs, which differ by their seed only; ± is the sample standard deviation over them, absent for one run.${halved}${
    adapterNote(report)
  }${single}${tokenNote(report)}${questions}${truncationNote(report)}`;
}

/** Which tasks have questions that are not measured whole, by model where there are several. */
function truncationNote({ truncations, dense }: ExperimentReport): string {
  const isAlone = Object.keys(dense).length <= 1;
  return truncations.map(({ model, task, truncated, n }) =>
    ` ${truncated} of ${n} questions of ${literal(task)} did not fit the context${
      isAlone ? "" : ` of ${literal(model)}`
    } and lost their beginning.`
  ).join("");
}

/** The tokens of each perplexity, by model where tokenizers differ. */
function tokenNote({ dense }: ExperimentReport): string {
  const values = Object.entries(dense).flatMap(([model, own]) =>
    own.filter(({ kind }) => kind === "perplexity").map(({ name, n, rows, tokens }) => ({
      model,
      name,
      count: shownNumber(n, "count") + leftNote(rows),
      tokens,
    }))
  );
  let isOther = false;
  const over = [...Map.groupBy(values, ({ name }) => name)].map(([name, own]) => {
    const counts = new Set(own.map(({ count }) => count));
    const others = new Set(own.flatMap(({ tokens }) => tokens ?? [])).size > 1;
    isOther ||= others;
    const shown = counts.size === 1 && !others
      ? [...counts]
      : own.map(({ model, count }) => `${count} by ${literal(model)}`);
    return `${literal(name)} (${shown.join(", ")})`;
  });
  if (over.length === 0) return "";
  const less = over.some((one) => one.includes(" prompt ("))
    ? "; rows that are cut to fit have fewer after a prompt"
    : "";
  return ` Perplexities are over so many tokens: ${over.join(", ")}${less}.${
    isOther
      ? " Models by whose tokenizers or templates the tokens differ are not compared by perplexity, nor by loss."
      : ""
  }`;
}

/** Rows that were cut or left out. */
function leftNote(rows: Value["rows"]): string {
  const said = [[rows?.truncated, "rows cut"], [rows?.skipped, "left out"], [rows?.broken, "broken"]] as const;
  return said.map(([count = 0, what]) => count > 0 ? `, ${count} ${what}` : "").join("");
}

/** The adapters of the finished runs, and groups whose runs had different ones. */
function adapterNote({ cells, groups, axes }: ExperimentReport): string {
  const adaptersOf = (own: readonly ReportCell[]): string[] => [...new Set(own.map(({ adapter }) => adapter))];
  const all = adaptersOf(cells);
  if (all.length === 0) return "";
  if (all.length === 1) return ` All ran on ${literal(all[0] ?? "")}.`;
  const counted = all.map((one) => `${literal(one)} (${cells.filter(({ adapter }) => adapter === one).length})`);
  const mixed = groups.filter((group) => adaptersOf(cells.filter(({ cell }) => group.cells.includes(cell))).length > 1);
  return ` They ran on ${counted.join(" and ")}${
    mixed.length === 0
      ? ""
      : `, and those of ${
        mixed.map((group) => literal(groupLabel(group, axes))).join("; ")
      } not all on the same, which is another difference than the seed`
  }.`;
}

function contrastPart(report: ExperimentReport): string[] {
  const { contrasts, names } = report, measures = names.filter((name) => name.isMeasure && !isPart(name));
  const shown = [...measures, ...names.filter(({ name }) => name === "loss, last 8 steps")];
  const found = contrasts.filter(({ numbers }) => Object.keys(numbers).length > 0);
  if (found.length === 0) return [];
  const rows = found.map((contrast) => {
    const most = Object.values(contrast.numbers).reduce((a, b) => b.n > a.n ? b : a), pairs = most.n;
    return [
      `${contrast.axis}: ${contrast.to} in place of ${contrast.from}`,
      pairsOf(most),
      ...shown.map(({ name, kind }) => differenceCell(contrast, { name, kind, pairs })),
    ];
  });
  return [
    "## Differences",
    table(["change", "pairs", ...shown.map(({ name }) => name)], rows, 1),
    `Mean difference over all pairs of runs that differ in nothing else and have the same seed, ± its standard error over the seeds, each with the mean of its pairs (absent for one seed).${
      unevenNote(found)
    } Interactions between options are hidden by this mean, but not by the table above. With few seeds a mean must lie far from 0 to be significant: beyond 12.7 standard errors with 2 seeds, 4.3 with 3, 2.6 with 6 (95 %).`,
  ];
}

/** The note for seeds with different settings: an unfinished grid, or grids with seeds of their own. */
function unevenNote(contrasts: readonly Contrast[]): string {
  const differences = contrasts.flatMap(({ numbers }) => Object.values(numbers));
  const isLeft = differences.some(({ leftOut }) => leftOut > 0);
  const isApart = differences.some(({ seeds, stderr }) => seeds > 1 && stderr === null);
  return `${
    isLeft
      ? " Pairs whose setting not all of these seeds have are left out: differences between settings are no spread of seeds."
      : ""
  }${isApart ? " Several seeds without a standard error have no setting in common." : ""}`;
}

/** Pairs of runs, their seeds where these are fewer, and how many more there are. */
function pairsOf({ n, seeds, leftOut }: Pick<Difference, "n" | "seeds" | "leftOut">): string {
  const more = leftOut > 0 ? `; ${leftOut} left out` : "";
  return `${n === seeds ? String(n) : `${n}, of ${seeds} ${seeds === 1 ? "seed" : "seeds"}`}${more}`;
}

function differenceCell(
  { numbers }: Contrast,
  { name, kind, pairs }: Pick<NumberName, "name" | "kind"> & { readonly pairs: number },
): string {
  const difference = numbers[name];
  if (!difference) return "–";
  const { mean, stderr, n } = difference, sign = mean < 0 ? "−" : "+", fewer = n < pairs ? ` (n = ${n})` : "";
  const points = (value: number): string =>
    kind === "accuracy" || kind === "share" ? (100 * value).toFixed(1) : shownNumber(value, kind);
  const unit = kind === "accuracy" || kind === "share" ? " points" : "";
  return `${sign}${points(Math.abs(mean))}${stderr === null ? "" : ` ± ${points(stderr)}`}${unit}${fewer}`;
}

function runTable(report: ExperimentReport): string {
  const { names, groups, cells } = report;
  const differing = DATA_TABLE.filter((name) => new Set(cells.map(({ numbers }) => numbers[name])).size > 1);
  const shown = [...RUN_TABLE, ...differing].flatMap((name) => names.filter((one) => one.name === name));
  const rows = groups.filter(({ cells }) => cells.length > 0).map((group) => [
    groupLabel(group, report.axes),
    countOf({ ...group, wanted: group.cells.length }, report),
    ...shown.map(({ name, kind }) => cellOf(group, { name, kind })),
  ]);
  return table(["runs", "n", ...shown.map(({ name }) => name)], rows, 1);
}

const RUN_NOTE =
  "Losses are those of training, in nats a token, on data that may differ between runs. The worst of 5 steps in a row and the roughness (standard deviation of the change from one step to the next) count from the pruning stage on. The gap is the largest one between expected sparsity and schedule in the last tenth of the pruning stage. A unit is undecided where its mask is open with a chance between 5 and 95 % at the end of that stage, a range of log α whose width the noise decides; its mask is fractional where it lies between 0.05 and 0.95 without noise, a range whose width β decides (both of learned masks only). Labels seen are those of all steps; the last stage of learned masks may learn from only a part of them (`focus`).";

/** The alarms, and the groups in which runs continued with halved rates. */
function alarmPart(report: ExperimentReport): string[] {
  const { cells, groups, axes } = report, parts: string[] = [];
  const rows = cells.flatMap(({ cell, alarms }) =>
    alarms.map(({ step, monitor, action, restored, message }) => [
      cell,
      String(step),
      monitor,
      restored === null ? ACTION_WORDS[action] : `went back to step ${restored}, halved rates`,
      message,
    ])
  );
  const halved = groups.flatMap((group) => {
    const count = halvedOf(report, group).length;
    return count === 0
      ? []
      : [`- ${literal(groupLabel(group, axes))}: ${count} of ${group.cells.length} runs continued with halved rates`];
  });
  if (halved.length > 0) parts.push(`${halved.join("\n")}\n\n${HALVED_NOTE}`);
  if (rows.length > 0) parts.push(table(["run", "step", "monitor", "what it did", "what it saw"], rows, 5));
  else parts.push("No alarm came up.");
  return parts;
}

const ACTION_WORDS = { warn: "warned", stop: "stopped the run", rollback: "went back" } as const;

const HALVED_NOTE =
  "A run that goes back to an earlier step continues with half of its rates, each time again. Means and differences above include these runs as they ended.";

function layerTable({ groups, axes, contrasts }: ExperimentReport): string {
  const rows = groups.filter(({ layers }) => layers.length > 0).map((group) => {
    const { layers, layerSpread } = group, least = Math.min(...layers), most = Math.max(...layers);
    const spread = group.numbers[UNEVENNESS];
    return [
      groupLabel(group, axes),
      `${percent(least)} (layer ${layers.indexOf(least)})`,
      `${percent(most)} (layer ${layers.indexOf(most)})`,
      spread ? shownSpread(spread, "share") : "–",
      layerSpread === null ? "–" : percent(layerSpread),
    ];
  });
  const own = table(
    ["runs", "least cut", "most cut", "distance from uniform", "distance between two seeds"],
    rows,
    1,
  );
  const changes = contrasts.flatMap((contrast) => {
    const { axis, from, to, layerDistance } = contrast;
    if (!layerDistance) return [];
    const { mean, stderr: sd, n: pairs } = layerDistance;
    return [[
      `${axis}: ${to} in place of ${from}`,
      pairsOf(layerDistance),
      shownSpread({ mean, sd }, "share"),
      differenceCell(contrast, { name: UNEVENNESS, kind: "share", pairs }),
    ]];
  });
  if (changes.length === 0) return own;
  const head = ["change", "pairs", "distance of the layers", "further from uniform"];
  return `${own}\n\n${table(head, changes, 1)}`;
}

function layerNote({ axes }: ExperimentReport): string {
  return axes.includes("layout") ? `${LAYER_NOTE} ${UNIFORM_NOTE}` : LAYER_NOTE;
}

const LAYER_NOTE =
  "Share of a layer's linear weights that is cut, mean over the seeds. Distances are means over the layers of the absolute difference: from uniform layers (weighted by their parameters), between two seeds of the same options, and between two runs that differ in one option (± the standard error over the seeds). An option moves the layers where its distance is clearly larger than that between two seeds; the scatter of such distances was not measured.";

const UNIFORM_NOTE =
  "Pairs of uniform layouts are left out of distances between two runs: their layers are always cut alike.";

/** A table of plain texts. */
function table(head: readonly string[], rows: readonly (readonly string[])[], texts: number): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => literal(cell).replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = `| ${head.map((_, index) => index < texts ? "---" : "--:").join(" | ")} |`;
  return [line(head), rule, ...rows.map(line)].join("\n");
}

/** Untrusted text on one line, with Markdown escaped; `_` only outside of words. Bars of tables are escaped by the table. */
function literal(text: string): string {
  return text.replaceAll(/[\r\n]+/g, " ").replaceAll(/[\\`*[\]<>!&~]|(?<![^\W_])_|_(?![^\W_])/g, "\\$&");
}

function percent(share: number): string {
  // Rounding errors count as 0.
  const value = Math.abs(share) < 1e-12 ? 0 : 100 * share;
  return `${value !== 0 && Math.abs(value) < 0.1 ? value.toExponential(0) : value.toFixed(1)} %`;
}

function range(values: readonly number[]): string {
  const least = Math.min(...values).toFixed(1), most = Math.max(...values).toFixed(1);
  return least === most ? least : `${least} to ${most}`;
}
