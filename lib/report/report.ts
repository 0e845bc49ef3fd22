// A report of runs as one HTML file. Owns the order of its parts; refuses to read folders and to write files.
import { CompressoError } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Evaluation } from "./evaluation.ts";
import { type Figure, figuresOf } from "./figures.ts";
import { alarmTable, changeTable, evaluationTable, optionTable, resultTable, sizeTable, tilesOf } from "./overview.ts";
import { pageHtml } from "./page.ts";
import type { ReportRun } from "./read_run.ts";
import { escape } from "./svg.ts";
import { type Table, tableHtml } from "./table.ts";

/** Options of {@link renderReport}. */
export interface ReportOptions {
  /** Headline; default: the names of the runs. */
  readonly title?: string;
  /** Measurements to show beside those that the runs have. */
  readonly evaluations?: readonly Evaluation[];
}

const NAMES: NamesOf<ReportOptions> = { title: "text", evaluations: true };

/**
 * One self-contained HTML document of one run or several laid over each other: loss, sparsity, multipliers, masks, layers, sizes, evaluation,
 * alarms and options. Figures are drawn already, so that it can be read without its script; it asks for nothing from elsewhere.
 *
 * Throws `CompressoError("usage")` for no runs, and options that there are not.
 *
 * @example
 * ```ts ignore
 * import { readRun, renderReport } from "compresso/report";
 * await Deno.writeTextFile("report.html", renderReport([await readRun("runs/mine"), await readRun("runs/other")]));
 * ```
 */
export function renderReport(runs: readonly ReportRun[], options: ReportOptions = {}): string {
  checkNames(options, NAMES, { whose: "renderReport" });
  if (runs.length === 0) {
    throw new CompressoError("usage", {
      what: "cannot make a report",
      rule: "it shows one run at least",
      value: "none",
      fix: "give a run, as readRun() reads it",
    });
  }
  return pageHtml({ ...headOf(runs, options), content: reportContent(runs, options), live: null });
}

/** Title and the line below it. */
export function headOf(
  runs: readonly ReportRun[],
  { title }: Pick<ReportOptions, "title">,
): { readonly title: string; readonly note: string } {
  const names = runs.map(({ name }) => name).join(", ");
  const adapters = [...new Set(runs.flatMap(({ adapter }) => adapter === null ? [] : [adapter]))].join("; ");
  return {
    title: title ?? `Pruning: ${names}`,
    note: `${runs.length === 1 ? "One run" : `${runs.length} runs`} of Compresso${
      adapters === "" ? "" : ` on ${adapters}`
    }.`,
  };
}

/** All that stands between head and foot, as HTML. */
export function reportContent(
  given: readonly ReportRun[],
  { evaluations = [] }: Pick<ReportOptions, "evaluations"> = {},
): string {
  const runs = withDistinctNames(given), [first] = runs;
  const figures = figuresOf(runs),
    sections: { readonly id: string; readonly title: string; readonly html: string }[] = [];
  const add = (id: string, title: string, table: Table | null): void => {
    if (table) sections.push({ id, title, html: tableHtml(table, `${id}-table`) });
  };
  add("result", "Result", resultTable(runs));
  add("alarms", "Alarms", alarmTable(runs));
  for (const figure of figures) sections.push({ id: figure.id, title: figure.title, html: figureHtml(figure) });
  add("size", "Size", sizeTable(runs));
  add("evaluation", "Evaluation", evaluationTable(runs, evaluations));
  add("changes", "Changes on the way", changeTable(runs));
  add("options", "Options", optionTable(runs));
  const links = sections.map(({ id, title }) => `<li><a href="#${id}">${escape(title)}</a></li>`).join("");
  return [
    ...(first && runs.length === 1 ? [tilesHtml(first)] : []),
    `<nav aria-label="Parts of the report"><ul>${links}</ul></nav>`,
    ...(figures.length === 0 ? ['<p class="note">No step is done yet.</p>'] : []),
    ...sections.map(({ id, title, html }) =>
      `<section aria-labelledby="${id}"><h2 id="${id}">${escape(title)}</h2>\n${html}\n</section>`
    ),
  ].join("\n");
}

function tilesHtml(run: ReportRun): string {
  const tiles = tilesOf(run).map(({ label, value, note }) =>
    `<div><dt>${escape(label)}</dt><dd class="big">${escape(value)}</dd><dd class="small">${
      escape(note.replaceAll(" %", "\u00a0%"))
    }</dd></div>`
  );
  return `<dl class="tiles">${tiles.join("")}</dl>`;
}

function figureHtml({ id, title, caption, svg, table }: Figure): string {
  return `<figure aria-labelledby="${id}"><figcaption>${escape(caption)}</figcaption>
<div class="plot" id="${id}-plot" tabindex="0" role="group" aria-label="${escape(title)}, figure">
${svg}</div>
<details id="${id}-details"><summary id="${id}-summary">Data: ${escape(title)}</summary>
${tableHtml(table, `${id}-table`)}
</details></figure>`;
}

/** Runs of the same name are numbered: a legend must tell them apart. */
function withDistinctNames(runs: readonly ReportRun[]): readonly ReportRun[] {
  const taken = new Set<string>();
  return runs.map((run) => {
    let name = run.name;
    for (let count = 2; taken.has(name); count++) name = `${run.name} (${count})`;
    taken.add(name);
    return { ...run, name };
  });
}
