// Results of one or several models, as JSON and as tables.
import { refuse } from "../../../lib/core/errors.ts";
import {
  compareItems,
  comparePairs,
  comparePerplexity,
  gapsOf,
  type PairedDifference,
  type PerplexityRatio,
} from "../../../lib/eval/compare.ts";
import type { FidelityResult } from "../../../lib/eval/fidelity.ts";
import { metricsOf, type TaskScore } from "../../../lib/eval/metrics.ts";
import type { Measurement } from "./work.ts";
import { formatShare } from "../../terminal/output.ts";

/** Results of a model. */
export type Measured = Measurement & { readonly model: string };

/** A model against the first. */
export interface Differences {
  readonly model: string;
  readonly values: object;
  /** By the name of a line of the table. */
  readonly lines: ReadonlyMap<string, string>;
}

/** What `--json` prints of one model. */
export function valuesOf(measured: Measurement): object {
  switch (measured.kind) {
    case "rows":
      return {
        ...(measured.choices ? { accuracy: measured.choices.accuracy, correct: measured.choices.correct } : {}),
        ...(measured.answers ? { exact_match: measured.answers.exactMatch } : {}),
        n: measured.n,
      };
    case "tasks":
      return {
        tasks: measured.result.tasks,
        ...(measured.result.isolation ? { isolation: measured.result.isolation } : {}),
      };
    case "text": {
      return oneOrAll(measured.windows.map(({ perplexity, tokens, nll, bitsPerByte, windows, window, stride }) => ({
        ...{ perplexity, tokens, nll, bitsPerByte, windows, window },
        ...(stride === null ? {} : { stride }),
      })));
    }
    case "fidelity": {
      return oneOrAll(
        measured.windows.map(({ digest: _digest, dense, ...one }) => ({
          ...one,
          against: { model: measured.against, ...dense },
        })),
      );
    }
  }
}

/** What `--json` has of several sizes of windows; the values alone where there is one. */
function oneOrAll(windows: readonly object[]): object {
  const [only, ...more] = windows;
  return more.length === 0 && only ? only : { perplexities: windows };
}

/** Lines about one model, or a table with a column for each. */
export function measurementTable(measured: readonly Measured[]): string[] {
  const [first] = measured;
  if (!first) return [];
  if (measured.length === 1 && first.kind === "rows") {
    const { choices, answers, n } = first;
    return [
      ...(choices ? [`accuracy ${formatShare(choices.accuracy)} (${choices.correct} of ${n})`] : []),
      ...(answers ? [`exact match ${formatShare(answers.exactMatch)} (${countOf(answers.exact)} of ${n})`] : []),
    ];
  }
  if (measured.length === 1 && first.kind === "text") {
    return first.windows.map(({ perplexity, tokens, bitsPerByte, windows, window, stride }) =>
      `perplexity ${perplexity.toFixed(4)} over ${tokens} tokens (${windows} windows of ${window}${
        stride === null ? "" : `, each ${stride} further`
      })${bitsPerByte === null ? "" : `, ${bitsPerByte.toFixed(4)} bits per byte`}`
    );
  }
  if (first.kind === "fidelity") return fidelityTable(measured);
  const columns = measured.map(cells), names = [...columns[0]?.keys() ?? []];
  const truncated = measured.flatMap(truncation);
  return [
    ...aligned([
      ["", ...(measured.length === 1 ? [] : measured.map(({ model }) => model))],
      ...names.map((name) => [name, ...columns.map((column) => column.get(name) ?? "")]),
    ]),
    ...truncated,
  ];
}

/** Lines with the differences from the first model. */
export function differenceTable({ model }: Measured, others: readonly Differences[]): string[] {
  const names = [...others[0]?.lines.keys() ?? []];
  return [
    "",
    `compared with ${model}, with 95 % confidence intervals of the paired differences:`,
    ...aligned([
      ["", ...others.map((other) => other.model)],
      ...names.map((name) => [name, ...others.map(({ lines }) => lines.get(name) ?? "")]),
    ]),
  ];
}

/** A model against the first on the same work. */
export function differences(first: Measured, other: Measured): Differences {
  const lines = new Map<string, string>();
  const head = { model: other.model, against: first.model };
  if (first.kind === "rows" && other.kind === "rows") {
    const accuracy = first.choices && other.choices && comparePairs(first.choices.right, other.choices.right);
    const exact = first.answers && other.answers && comparePairs(first.answers.exact, other.answers.exact);
    if (accuracy) lines.set("accuracy", shares(accuracy));
    if (exact) lines.set("exact match", shares(exact));
    const values = { ...head, accuracy, ...(exact ? { exact_match: exact } : {}) };
    return { model: other.model, values, lines };
  }
  if (first.kind === "text" && other.kind === "text") {
    const perplexities = first.windows.map((one, index) => {
      const second = other.windows[index];
      const ratio = second ? comparePerplexity(one, second) : null;
      const name = windowName(one);
      lines.set(name, ratio ? times(ratio) : "other tokens");
      return { window: one.window, ...(one.stride === null ? {} : { stride: one.stride }), ratio: null, ...ratio };
    });
    return { model: other.model, values: { ...head, perplexities }, lines };
  }
  if (first.kind === "tasks" && other.kind === "tasks") {
    const tasks = Object.fromEntries(
      Object.entries(first.result.items).map(([name, items]) => {
        const gaps = compareItems(items, other.result.items[name] ?? []);
        for (const { name: metric, gap } of gapsOf(gaps)) lines.set(`${name} ${metric}`, shares(gap));
        return [name, gaps];
      }),
    );
    return { model: other.model, values: { ...head, tasks }, lines };
  }
  refuse("mismatch", "cannot compare two models", {
    rule: "both were measured alike",
    value: `${first.kind} and ${other.kind}`,
  });
}

function cells(measured: Measured): Map<string, string> {
  switch (measured.kind) {
    case "rows":
      return new Map([
        ...(measured.choices
          ? [["accuracy", `${formatShare(measured.choices.accuracy)} of ${measured.n}`] as const]
          : []),
        ...(measured.answers
          ? [["exact match", `${formatShare(measured.answers.exactMatch)} of ${measured.n}`] as const]
          : []),
      ]);
    case "text":
      return new Map(measured.windows.flatMap((one) => [
        [windowName(one), one.perplexity.toFixed(4)] as const,
        [windowName(one, "bits per byte"), bitsShown(one.bitsPerByte)] as const,
      ]));
    case "fidelity":
      return new Map(measured.windows.flatMap((one) => fidelityCells(one, measured.windows.length > 1)));
    case "tasks":
      return new Map(
        Object.entries(measured.result.tasks).flatMap(([task, score]) => [
          ...metricsOf(score).map(({ name, value, stderr }, index) =>
            [
              `${task} ${name}`,
              withError(value, stderr) + (index === 0 ? ` of ${score.n}${intervalOf(score)}` : ""),
            ] as const
          ),
          ...(score.exact_match === undefined || score.strict_match === undefined
            ? []
            : [[`${task} strict_match`, formatShare(score.strict_match)] as const]),
        ]),
      );
  }
}

function countOf(values: readonly boolean[]): number {
  return values.filter(Boolean).length;
}

function truncation(measured: Measured): string[] {
  if (measured.kind !== "tasks") return [];
  return Object.entries(measured.result.tasks).filter(([, { truncated }]) => truncated > 0).map((
    [name, { truncated, n }],
  ) => `${measured.model}: ${truncated} of ${n} questions of ${name} did not fit the context and lost their beginning`);
}

function windowName(
  { window, stride }: { readonly window: number; readonly stride: number | null },
  what = "perplexity",
): string {
  return `${what} ${window}${stride === null ? "" : `/${stride}`}`;
}

/** A share and its standard error, such as 61.5 ± 1.1 %. */
function withError(share: number, stderr: number): string {
  return `${(100 * share).toFixed(1)} ± ${Number.isNaN(stderr) ? "?" : (100 * stderr).toFixed(1)} %`;
}

/** The confidence interval of a share of written answers, such as " (95 %: 4.1 … 38.2)". */
function intervalOf(score: TaskScore): string {
  if (score.acc !== undefined) return "";
  return ` (95 %: ${(100 * score.low).toFixed(1)} … ${(100 * score.high).toFixed(1)})`;
}

function shares({ difference, low, high }: PairedDifference): string {
  const signed = (value: number): string => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;
  return Number.isNaN(low) ? signed(difference) : `${signed(difference)} (${signed(low)} … ${signed(high)})`;
}

function times({ ratio, low, high }: PerplexityRatio): string {
  const text = `× ${ratio.toFixed(4)}`;
  return Number.isNaN(low) ? text : `${text} (${low.toFixed(4)} … ${high.toFixed(4)})`;
}

/** A column for the dense model, and one for each of the others. */
function fidelityTable(measured: readonly Measured[]): string[] {
  const [first] = measured;
  if (first?.kind !== "fidelity") return [];
  const columns = measured.map(cells), isMany = first.windows.length > 1;
  const dense = new Map(first.windows.flatMap(({ window, dense }) => [
    [named("perplexity", { window, isMany }), dense.perplexity.toFixed(4)] as const,
    [named("bits per byte", { window, isMany }), bitsShown(dense.bitsPerByte)] as const,
  ]));
  const names = [...new Set(columns.flatMap((column) => [...column.keys()]))];
  return [
    ...aligned([
      ["", ...measured.map(({ model }) => model), `dense: ${first.against}`],
      ...names.map((name) => [name, ...columns.map((column) => column.get(name) ?? ""), dense.get(name) ?? ""]),
    ]),
    ...first.windows.map(({ tokens, windows, window }) =>
      `over ${tokens} tokens: the second half of each of ${windows} windows of ${window}`
    ),
  ];
}

function fidelityCells(
  { window, kl, klError, klMedian, kl99, top1, dropped, ratio, perplexity, bitsPerByte }: FidelityResult,
  isMany: boolean,
): (readonly [string, string])[] {
  const rows = [
    ["first choice kept", `${(100 * top1).toFixed(1)} %`],
    ["mean KL", `${kl.toFixed(4)}${Number.isNaN(klError) ? "" : ` ± ${klError.toFixed(4)}`} nats`],
    ["median KL", klMedian.toFixed(4)],
    ["99th percentile of KL", kl99.toFixed(4)],
    ["perplexity", `${perplexity.toFixed(4)} ${times(ratio)}`],
    ["bits per byte", bitsShown(bitsPerByte)],
    ...(dropped > 0 ? [["dense share of cut tokens", `${(100 * dropped).toFixed(2)} %`] as const] : []),
  ] as const;
  return rows.map(([name, text]) => [named(name, { window, isMany }), text]);
}

/** Name of a line of the table, with the window where there are several. */
function named(name: string, { window, isMany }: { readonly window: number; readonly isMany: boolean }): string {
  return isMany ? `${name}, windows of ${window}` : name;
}

function bitsShown(bits: number | null): string {
  return bits === null ? "" : bits.toFixed(4);
}

function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = rows.reduce<number[]>(
    (most, row) => row.map((cell, column) => Math.max(most[column] ?? 0, cell.length)),
    [],
  );
  return rows.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd())
    .filter((line) => line !== "");
}
