// A sweep as a table, a chart of quality against size, and a page with both.
import { formatBytes, formatCount } from "../report/numbers.ts";
import { drawChart } from "../report/chart.ts";
import type { Series } from "../report/panel.ts";
import { metricsOf } from "../eval/metrics.ts";
import { pageHtml } from "../report/page.ts";
import { escape, short } from "../report/svg.ts";
import { type Table, tableHtml } from "../report/table.ts";
import type { LossChange } from "../run/quality.ts";
import { accuracyOf, hasLosses, type SweepPoint, type SweepResult } from "./sweep_points.ts";

const ABSENT = "–";

/** The table of a sweep: a row for the model before pruning, and one for each sparsity. */
export function sweepTable(result: SweepResult): Table {
  const { dense, ggufDtype, points, knee } = result, [first] = points, tasks = Object.keys(first?.tasks ?? {});
  const of = (name: "text" | "heldout"): LossColumn[] => first?.[name] ? lossColumns(name) : [];
  const columns: readonly LossColumn[] = [...of("heldout"), ...of("text")];
  const size = ({ parameters, bytes }: Pick<SweepPoint, "parameters" | "bytes">): string[] => [
    formatCount(parameters),
    bytes === null ? ABSENT : formatBytes(bytes),
  ];
  const accuracies = (point: SweepPoint | undefined, which: 0 | 1): string[] =>
    tasks.map((task) => {
      const score = point && accuracyOf(point, task)?.[which];
      return score ? `${short(100 * metricsOf(score)[0].value)} %` : ABSENT;
    });
  return {
    caption: `Quality against size. ${
      knee ? `The knee is at ${share(knee.sparsity)}` : hasLosses(result) ? "There is no knee" : "No loss was measured"
    }.`,
    head: ["sparsity", "parameters", `GGUF, ${ggufDtype}`, ...columns.map(({ name }) => name), ...tasks],
    rows: [
      [
        "0 %",
        ...size(dense),
        ...columns.map(({ dense: cell }) => first ? cell(first) : ABSENT),
        ...accuracies(first, 0),
      ],
      ...points.map((point) => [
        share(point.hard) + (point === knee ? " (knee)" : ""),
        ...size(point),
        ...columns.map(({ cell }) => cell(point)),
        ...accuracies(point, 1),
      ]),
    ],
  };
}

/** A chart of quality against size, as SVG. */
export function sweepChart(result: SweepResult): string {
  const { points, dense, knee, method } = result, millions = (parameters: number): number => parameters / 1e6;
  const line = (name: string, lossOf: (point: SweepPoint) => LossChange | null): Series[] => {
    const [first] = points, start = first && lossOf(first);
    if (!start) return [];
    const at = (loss: LossChange, which: "before" | "after"): number => loss.bitsPerByte?.[which] ?? loss[which];
    const measured = points.flatMap((point) => {
      const loss = lossOf(point);
      return loss ? [{ size: millions(point.parameters), loss }] : [];
    });
    // The interval of the rise, in the unit of the axis.
    const around = (loss: LossChange): readonly [number, number] => {
      const unit = at(loss, "before") / loss.before, { low, high } = loss.difference;
      return [(loss.before + low) * unit, (loss.before + high) * unit];
    };
    return [{
      name,
      points: [
        [millions(dense.parameters), at(start, "before")],
        ...measured.map(({ size, loss }) => [size, at(loss, "after")] as const),
      ],
      intervals: [[NaN, NaN], ...measured.map(({ loss }) => around(loss))],
    }];
  };
  // Each on its own scale: a small change of one would not show on that of the other.
  const panels = [line("held-out rows", ({ heldout }) => heldout), line("text", ({ text }) => text)]
    .filter((series) => series.length > 0);
  const isBits = points.every(({ heldout, text }) => (text ?? heldout)?.bitsPerByte !== null);
  return drawChart({
    title: `Quality against size: ${method}`,
    description: `Before pruning at the right. Bars are 95 % intervals of the rise.${
      knee ? ` Past the knee at ${share(knee.sparsity)}, pruning costs more than average.` : ""
    }`,
    panels: panels.map((series, color) => ({
      x: { label: "parameters, millions" },
      y: { label: isBits ? "bits per byte" : "loss, nats a token" },
      series: series.map((one) => ({ ...one, style: { dots: true, color } })),
      marks: knee ? [{ x: millions(knee.parameters), label: `knee, ${share(knee.sparsity)}` }] : [],
    })),
  });
}

/** The page of a sweep: one HTML document, which asks for nothing from elsewhere. */
export function sweepPage(result: SweepResult): string {
  const { points, method } = result;
  const links = points.map(({ hard, folder }) => `<li>${escape(`${share(hard)}: ${folder}`)}</li>`).join("");
  return pageHtml({
    title: "Sweep: quality against size",
    note: `${points.length} sparsities, method ${method}.`,
    content: `<section><h2>Result</h2>
<div class="broad">${tableHtml(sweepTable(result), "sweep-table")}</div>
</section>
${hasLosses(result) ? `<section><h2>Chart</h2>\n<figure>${sweepChart(result)}</figure>\n</section>` : ""}
<section><h2>Runs</h2>
<ul>${links}</ul>
</section>`,
    live: null,
  });
}

interface LossColumn {
  readonly name: string;
  readonly dense: (point: SweepPoint) => string;
  readonly cell: (point: SweepPoint) => string;
}

/** Columns about the loss on held-out rows or a text. */
function lossColumns(name: "heldout" | "text"): LossColumn[] {
  const of = name === "heldout" ? "held out" : "text";
  const column = (what: string, value: (loss: LossChange, which: "before" | "after") => string): LossColumn => {
    const cell = (which: "before" | "after") => (point: SweepPoint): string => {
      const loss = point[name];
      return loss ? value(loss, which) : ABSENT;
    };
    return { name: `${what}, ${of}`, dense: cell("before"), cell: cell("after") };
  };
  return [
    column("loss", (loss, which) => loss[which].toFixed(3)),
    column("rise at 95 %", (loss, which) => which === "after" ? interval(loss) : ABSENT),
    column("perplexity", ({ perplexity }, which) => perplexity[which].toFixed(2)),
    column("bits per byte", ({ bitsPerByte }, which) => bitsPerByte ? bitsPerByte[which].toFixed(3) : ABSENT),
  ];
}

/** The 95 % confidence interval of the rise. */
function interval({ difference: { low, high } }: LossChange): string {
  const signed = (value: number): string => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
  return Number.isFinite(low) ? `${signed(low)} to ${signed(high)}` : ABSENT;
}

function share(value: number): string {
  return `${Number((100 * value).toFixed(1))} %`;
}
