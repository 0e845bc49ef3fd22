// The numbers of a report as tables: what came out, sizes, evaluation, alarms, options.
import { lastPart } from "../files/path.ts";
import { gapsOf, type PairedDifference } from "../eval/compare.ts";
import { metricsOf } from "../eval/metrics.ts";
import { fidelityText } from "../run/fidelity_text.ts";
import type { LossChange, TaskChange } from "../run/quality.ts";
import type { LayerSpec } from "../spec/decoder.ts";
import type { Evaluation, Score } from "./evaluation.ts";
import { lastPruned, lossEnds, ofModel, stepSeconds } from "./derived.ts";
import { ABSENT, duration, formatBytes, grouped, percent } from "./numbers.ts";
import type { ReportRun } from "./read_run.ts";
import { grownFiles, modelInput } from "./sizes.ts";
import { short } from "./svg.ts";
import type { Table } from "./table.ts";
import { keepsLayers, vocabularyRows } from "./vocabulary.ts";

/** Rows about a loss before and after pruning: its name, and what it is in a run. */
function lossRows(
  of: string,
  lossOf: (summary: NonNullable<ReportRun["summary"]>) => LossChange | null,
): (readonly [string, (summary: NonNullable<ReportRun["summary"]>) => string])[] {
  const cell = (value: (loss: LossChange) => string | null) => (summary: NonNullable<ReportRun["summary"]>): string => {
    const loss = lossOf(summary);
    return (loss && value(loss)) ?? ABSENT;
  };
  const change = ({ before, after }: { readonly before: number; readonly after: number }): string =>
    `${short(after)}; before pruning ${short(before)}`;
  return [
    [`fidelity on ${of}`, cell(({ agreement }) => agreement && fidelityText(agreement))],
    [`loss on ${of}`, cell((loss) => `${change(loss)}${rangeOf(loss.difference)}`)],
    [`perplexity on ${of}`, cell(({ perplexity }) => change(perplexity))],
    [`bits per byte of ${of}`, cell(({ bitsPerByte }) => bitsPerByte && change(bitsPerByte))],
  ];
}

/** The difference with its 95 % confidence interval; nothing if there is none. */
function rangeOf({ difference, low, high }: PairedDifference): string {
  const signed = (value: number): string => `${value < 0 ? "−" : "+"}${short(Math.abs(value))}`;
  return Number.isNaN(low) ? "" : ` (${signed(difference)}; 95 %: ${signed(low)} to ${signed(high)})`;
}

function taskCell(task: TaskChange | undefined): string {
  if (!task) return ABSENT;
  const [{ value: before }] = metricsOf(task.before), [{ name, value: after }] = metricsOf(task.after);
  const [{ gap }] = gapsOf(task.difference), percent = (value: number): string => short(100 * value);
  const points = { ...gap, difference: 100 * gap.difference, low: 100 * gap.low, high: 100 * gap.high };
  const of = `${grouped(task.after.n)}${name === "exact_match" ? ", exact match" : ""}`;
  return `${percent(after)} %; before pruning ${percent(before)} % of ${of}${rangeOf(points)}`;
}

/** The results of the runs, a column for each. */
export function resultTable(runs: readonly ReportRun[]): Table {
  const row = (name: string, value: (run: ReportRun) => string): string[] => [name, ...runs.map(value)];
  const summed = (value: (summary: NonNullable<ReportRun["summary"]>) => string) => ({ summary }: ReportRun): string =>
    summary ? value(summary) : ABSENT;
  const last = (value: (record: ReportRun["records"][number]) => string) => ({ records }: ReportRun): string => {
    const record = records.at(-1);
    return record ? value(record) : ABSENT;
  };
  const file = (wanted: string) => ({ origin }: ReportRun): string => {
    const found = origin.find(({ role }) => role === wanted);
    return found ? `${found.name}, ${formatBytes(found.bytes)}` : ABSENT;
  };
  const end = (which: "first" | "last") => (run: ReportRun): string => {
    const found = lossEnds(run)[which];
    return found ? `${short(found.value)} (${found.of})` : ABSENT;
  };
  return withoutEmpty({
    caption: runs.every(({ summary }) => summary)
      ? runs.length === 1 ? "What the run came to" : "What the runs came to"
      : "The numbers so far",
    head: ["measure", ...runs.map(({ name }) => name)],
    rows: [
      row("state", stateOf),
      row("model", file("model")),
      row("data", file("data")),
      row("calibration", file("calibration")),
      row("sparsity, target", (run) => shareOf(run, run.summary?.sparsity.target ?? lastPruned(run)?.target)),
      row("sparsity, expected", (run) => shareOf(run, run.summary?.sparsity.expected ?? lastPruned(run)?.expected)),
      row("sparsity, hard", (run) => shareOf(run, run.summary?.sparsity.hard)),
      ...vocabularyRows().map(([name, value]) => row(name, summed(value))),
      ...lossRows("held-out rows", ({ heldoutLoss }) => heldoutLoss).map(([name, value]) => row(name, summed(value))),
      ...lossRows("the text", ({ evaluation }) => evaluation.text).map(([name, value]) => row(name, summed(value))),
      ...[...new Set(runs.flatMap(({ summary }) => Object.keys(summary?.evaluation.tasks ?? {})))].map((task) =>
        row(`accuracy, ${task}`, summed(({ evaluation }) => taskCell(evaluation.tasks[task])))
      ),
      row("training loss, start", end("first")),
      row("training loss, end", end("last")),
      row(
        "time",
        summed(({ wallSeconds, resumedAfter }) =>
          `${duration(wallSeconds)}${resumedAfter > 0 ? `, since it was resumed after step ${resumedAfter}` : ""}`
        ),
      ),
      row(
        "seconds of steps, by stage",
        summed((summary) => {
          const { finetune, prune, postfinetune } = summary.seconds;
          return stepSeconds(summary) > 0
            ? [finetune, prune, postfinetune].map((value) => Math.round(value)).join(" + ")
            : ABSENT;
        }),
      ),
      row(
        "tokens a second",
        (run) => {
          const { tokensPerSecond } = run.summary ?? run.records.at(-1) ?? { tokensPerSecond: 0 };
          return tokensPerSecond > 0 ? short(tokensPerSecond) : ABSENT;
        },
      ),
      row(
        "GPU memory, peak",
        (run) =>
          run.summary ? formatBytes(run.summary.peakGpuBytes) : last(({ gpuBytes }) => formatBytes(gpuBytes))(run),
      ),
      row("GPU memory, planned", last(({ plannedGpuBytes }) => formatBytes(plannedGpuBytes))),
      row(
        "logits, sliced and masked, differ by",
        summed(({ maskedVsSliced: { maxAbs, range } }) => `${maxAbs.toExponential(1)}, range ${short(range)}`),
      ),
      row("adapter", ({ adapter }) => adapter ?? ABSENT),
      row("versions", summed(({ versions }) => `Compresso ${versions.compresso}, Deno ${versions.deno}`)),
      row(
        "records",
        ({ folder, records, summary }) =>
          folder === null || (summary && records.length === 0) ? ABSENT : `${folder}/records.jsonl`,
      ),
    ],
  });
}

/** Parameters, shapes and bytes before and after; null if no run is finished. */
export function sizeTable(runs: readonly ReportRun[]): Table | null {
  const sized = runs.map((run) => ({ name: run.name, changes: sizeChanges(run) }));
  const measures = [...new Set(sized.flatMap(({ changes }) => [...changes.keys()]))];
  if (measures.length === 0) return null;
  const caption = "Bytes before are those of the model's file, or of the weights in its folder";
  if (runs.length === 1) {
    const [{ changes } = { changes: new Map<string, SizeChange>() }] = sized;
    return {
      caption,
      head: ["measure", "before", "after", "left"],
      rows: [...changes].map(([name, { before, after, left }]) => [name, before, after, left]),
    };
  }
  return {
    caption: `Before → after, and the share that is left. ${caption}`,
    head: ["measure", ...sized.map(({ name }) => name)],
    rows: measures.map((measure) => [
      measure,
      ...sized.map(({ changes }) => {
        const change = changes.get(measure);
        return change ? `${change.before} → ${change.after}, ${change.left}` : ABSENT;
      }),
    ]),
  };
}

/** A number before and after, and the share that is left of it. */
interface SizeChange {
  readonly before: string;
  readonly after: string;
  readonly left: string;
}

/** What became smaller in a finished run, by name. */
function sizeChanges({ summary, origin }: ReportRun): ReadonlyMap<string, SizeChange> {
  if (!summary) return new Map();
  const { parameters, vocabulary, experts, before, layers, hidden, fileBytes } = summary,
    input = modelInput({ origin, before });
  const sum = (list: readonly LayerSpec[], key: "heads" | "kvHeads" | "ffn"): number =>
    list.reduce((total, layer) => total + layer[key], 0);
  const change = (from: number, to: number, show: (value: number) => string): SizeChange => ({
    before: show(from),
    after: show(to),
    left: percent(to / from),
  });
  return new Map([
    ["parameters", change(parameters.before, parameters.after, grouped)],
    ...(vocabulary ? [["vocabulary", change(vocabulary.before, vocabulary.after, grouped)] as const] : []),
    ...(experts ? [["experts", change(experts.before, experts.after, grouped)] as const] : []),
    ["heads", change(sum(before.layers, "heads"), sum(layers, "heads"), grouped)],
    ["KV heads", change(sum(before.layers, "kvHeads"), sum(layers, "kvHeads"), grouped)],
    ["FFN columns", change(sum(before.layers, "ffn"), sum(layers, "ffn"), grouped)],
    ["hidden size", change(before.hidden, hidden, grouped)],
    ...fileBytes.map(({ file, bytes }) =>
      [`bytes of ${lastPart(file)}`, change(input.bytes, bytes, formatBytes)] as const
    ),
  ]);
}

/** For each file that became larger than the model before, the types that would make it smaller. */
export function growthNotes(runs: readonly ReportRun[]): string[] {
  return runs.flatMap(({ name, summary, origin }) =>
    (summary ? grownFiles({ ...summary, origin }) : []).flatMap(({ file, smaller }) => {
      if (smaller.length === 0) return [];
      const types = smaller.map(({ dtype, bytes }) => `${formatBytes(bytes)} as ${dtype}`).join(", ");
      return [
        `${runs.length === 1 ? "" : `${name}: `}${file} is larger than the model before. It would take ${types}.`,
      ];
    })
  );
}

/** Names of measurements. Equal names get their file, then its folder, then a number, until they differ. */
function withDistinctNames(all: readonly Evaluation[]): Evaluation[] {
  const named: readonly ((one: Evaluation, place: number) => string)[] = [
    ({ name }) => name,
    ({ name, file }) => `${lastPart(file)}: ${name}`,
    ({ name, file }) => `${file.split(/[/\\]/).slice(-2).join("/")}: ${name}`,
    ({ name, file }, place) => `${lastPart(file)}: ${name} (${place + 1})`,
  ];
  const shown = new Map<Evaluation, string>();
  for (const alike of Map.groupBy(all, ({ name }) => name).values()) {
    const nameOf = named.find((name) => new Set(alike.map(name)).size === alike.length);
    alike.forEach((one, place) => shown.set(one, nameOf?.(one, place) ?? one.name));
  }
  return all.map((one) => ({ ...one, name: shown.get(one) ?? one.name }));
}

/** Measurements in one table, a column for each file; null without measurements. */
export function evaluationTable(runs: readonly ReportRun[], others: readonly Evaluation[]): Table | null {
  const own = runs.flatMap((run) =>
    run.evaluations.map((one) => ({ ...one, name: runs.length === 1 ? one.name : `${run.name}, ${one.name}` }))
  );
  const columns: readonly Evaluation[] = withDistinctNames([...own, ...others]);
  if (columns.length === 0) return null;
  const keyOf = ({ task, metric }: Score): string => JSON.stringify([task, metric]);
  // The first score where one comes twice.
  const byKey = columns.map(({ scores }) => new Map(scores.toReversed().map((score) => [keyOf(score), score])));
  const keys = [...new Set(columns.flatMap(({ scores }) => scores.map(keyOf)))];
  const isCut = columns.some(({ scores }) => scores.some(({ truncated = 0 }) => truncated > 0));
  return {
    caption: `Measured values; ± is the standard error, the count in brackets${
      isCut ? ", with how many of these questions did not fit the context and lost their beginning" : ""
    }; against another model item by item, with its 95 % interval`,
    head: ["task, metric", ...columns.map(({ name }) => name)],
    rows: keys.map((key) => {
      const found = byKey.map((scores) => scores.get(key));
      const known = found.find((score) => score !== undefined);
      return [
        `${known?.task ?? ""}, ${known?.metric ?? ""}`,
        ...found.map((score) => score ? scoreText(score) : ABSENT),
      ];
    }),
  };
}

/** Such as 0.6150 ± 0.0110 (1,838, 3 without their beginning); −0.0200 (−0.0310 … −0.0090) against dense. */
function scoreText({ value, stderr, count, truncated = 0, change }: Score): string {
  const counts = [
    ...(count === null ? [] : [grouped(count)]),
    ...(truncated > 0 ? [`${grouped(truncated)} without their beginning`] : []),
  ].join(", ");
  const own = `${value.toFixed(4)}${stderr === null ? "" : ` ± ${stderr.toFixed(4)}`}${
    counts === "" ? "" : ` (${counts})`
  }`;
  if (!change) return own;
  const show = (number: number): string =>
    change.isRatio ? number.toFixed(4) : `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(4)}`;
  const interval = change.low === null || change.high === null ? "" : ` (${show(change.low)} … ${show(change.high)})`;
  return `${own}; ${change.isRatio ? "× " : ""}${show(change.value)}${interval} against ${change.against}`;
}

/** Alarms of the monitors; null for none. */
export function alarmTable(runs: readonly ReportRun[]): Table | null {
  const rows = runs.flatMap((run) =>
    run.alarms.map(({ step, monitor, action, restored, message, change }) => [
      runs.length === 1 ? `step ${step}` : `${run.name}, step ${step}`,
      monitor,
      restored === null ? action : `${action} to step ${restored}`,
      message,
      change,
    ])
  );
  return rows.length === 0 ? null : {
    caption: "What the monitors saw",
    head: ["at", "monitor", "action", "what was seen", "what to change"],
    rows,
  };
}

/** What changed where runs were resumed with other options; null for none. */
export function changeTable(runs: readonly ReportRun[]): Table | null {
  const rows = runs.flatMap((run) =>
    (run.summary?.changes ?? []).map(({ step, differences }) => [
      runs.length === 1 ? `after step ${step}` : `${run.name}, after step ${step}`,
      differences.join("; "),
    ])
  );
  return rows.length === 0 ? null : {
    caption: "Where the run was resumed with other options; the options below are the final ones",
    head: ["at", "what differed"],
    rows,
  };
}

/** Inputs among the options, which programs need not name; read_run.ts gives them. */
const INPUT_NAMES: readonly string[] = ["baseDtype", "schedule"];

/** Options of all runs. Options that differ come first and are marked. Null if no options are known. */
export function optionTable(runs: readonly ReportRun[]): Table | null {
  const known = runs.map(({ options }) => options ? new Map(flattened(options)) : null);
  const names = [...new Set(known.flatMap((options) => [...options?.keys() ?? []]))];
  if (names.length === 0) return null;
  const rows = names.map((name) => {
    const values = known.map((options) => options ? options.get(name) ?? ABSENT : "not known");
    // A run that is not finished lacks some of them, and a run of a program lacks inputs.
    const isSaid = !INPUT_NAMES.includes(name);
    const said = known.flatMap((options, run) => options?.get(name) ?? (isSaid && runs[run]?.summary ? ABSENT : []));
    return { name, values, differs: new Set(said).size > 1 };
  });
  return {
    caption: "As the run was started, defaults filled in",
    head: ["option", ...runs.map(({ name }) => name)],
    rows: [...rows.filter(({ differs }) => differs), ...rows.filter(({ differs }) => !differs)].map((
      { name, values, differs },
    ) => [differs ? `${name} (differs)` : name, ...values]),
  };
}

/** In words, how far a run is. */
function stateOf({ summary, records }: ReportRun): string {
  const last = records.at(-1);
  if (summary) return "finished";
  return last ? `not finished: ${last.stage}, step ${last.step} of ${last.steps}` : "not finished: no step yet";
}

/** A run's sparsity as a cell of a table. */
function shareOf(run: ReportRun, sparsity: number | null | undefined): string {
  if (keepsLayers(run)) return ABSENT;
  const text = percent(sparsity ?? NaN), of = ofModel(run);
  return text === ABSENT || of === "" ? text : `${text} ${of}`;
}

/** Nested options by dotted names. */
function flattened(options: Readonly<Record<string, unknown>>, prefix = ""): [string, string][] {
  return Object.entries(options).flatMap(([name, value]): [string, string][] => {
    const key = `${prefix}${name}`;
    if (Array.isArray(value)) {
      return [[
        key,
        value.length === 0
          ? "none"
          : value.map((one) => typeof one === "object" ? JSON.stringify(one) : String(one)).join(", "),
      ]];
    }
    if (typeof value === "object" && value !== null) return flattened({ ...value }, `${key}.`);
    // Sixteen digits of 2/3 say no more than four.
    if (typeof value === "number" && !Number.isInteger(value)) return [[key, String(Number(value.toPrecision(6)))]];
    return [[key, value === null ? "none" : String(value)]];
  });
}

function withoutEmpty({ rows, ...table }: Table): Table {
  return { ...table, rows: rows.filter(([, ...cells]) => cells.some((cell) => cell !== ABSENT)) };
}
