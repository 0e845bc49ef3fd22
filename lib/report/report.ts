// A report of runs as one HTML file.
import { refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { Evaluation } from "./evaluation.ts";
import { type Figure, figuresOf } from "./figures.ts";
import {
  alarmTable,
  changeTable,
  evaluationTable,
  growthNotes,
  optionTable,
  resultTable,
  sizeTable,
} from "./overview.ts";
import { pageHtml } from "./page.ts";
import type { ReportRun } from "./read_run.ts";
import { escape } from "./svg.ts";
import { tilesOf } from "./tiles.ts";
import { type Table, tableHtml } from "./table.ts";

/** Options of {@link renderReport}. */
export interface ReportOptions {
  /** Headline; default: the names of the runs. */
  readonly title?: string;
  /** Measurements to show, in addition to those of the runs. */
  readonly evaluations?: readonly Evaluation[];
}

const NAMES: NamesOf<ReportOptions> = { title: "text", evaluations: true };

/**
 * Makes one self-contained HTML document of one run, or of several in the same charts: sizes, evaluation, loss,
 * sparsity, masks, layers, training, alarms and options. Figures are drawn in the document, so that it can be read
 * without its script. It loads nothing from the network.
 *
 * Throws `CompressoError("usage")` for no runs, and options that do not exist.
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
    refuse("usage", "cannot make a report", { rule: "it shows at least one run", value: "none" });
  }
  return pageHtml({ ...headOf(runs, options), content: reportContent(runs, options), live: null });
}

/** Title and the line below it: model and data, where they are known, and the adapter. */
export function headOf(
  runs: readonly ReportRun[],
  { title }: Pick<ReportOptions, "title">,
): { readonly title: string; readonly note: string } {
  const names = runs.map(({ name }) => name).join(", ");
  const distinct = (parts: readonly (string | null)[]): string =>
    [...new Set(parts.filter((part) => part !== null))].join("; ");
  const subjects = distinct(runs.map(subjectOf)), adapters = distinct(runs.map(({ adapter }) => adapter));
  return {
    title: title ?? `Pruning: ${names}`,
    note: `${subjects === "" ? "" : `${subjects}. `}${
      runs.length === 1 ? "One run" : `${runs.length} runs`
    } of Compresso${adapters === "" ? "" : ` on ${adapters}`}.`,
  };
}

/** The model and the data of a run in words. */
function subjectOf({ origin }: ReportRun): string | null {
  const nameOf = (wanted: string): string | undefined => origin.find(({ role }) => role === wanted)?.name;
  const model = nameOf("model"), data = nameOf("data");
  return model === undefined ? null : data === undefined ? model : `${model} on ${data}`;
}

/** All that stands between head and foot, as HTML; `isLive` says that the run is under way. */
export function reportContent(
  given: readonly ReportRun[],
  { evaluations = [], isLive = false }: Pick<ReportOptions, "evaluations"> & { readonly isLive?: boolean } = {},
): string {
  const runs = withDistinctNames(given), [first] = runs;
  const figures = figuresOf(runs),
    sections: { readonly id: string; readonly title: string; readonly html: string }[] = [];
  const add = (id: string, title: string, table: Table | null, notes: readonly string[] = []): void => {
    const below = notes.map((note) => `\n<p class="note">${escape(note)}</p>`).join("");
    if (table) sections.push({ id, title, html: tableHtml(table, `${id}-table`) + below });
  };
  add("result", "Result", resultTable(runs));
  add("size", "Size", sizeTable(runs), growthNotes(runs));
  add("evaluation", "Evaluation", evaluationTable(runs, evaluations));
  add("alarms", "Alarms", alarmTable(runs));
  for (const figure of figures) sections.push({ id: figure.id, title: figure.title, html: figureHtml(figure) });
  add("changes", "Changes on the way", changeTable(runs));
  add("options", "Options", optionTable(runs));
  const links = sections.map(({ id, title }) => `<li><a href="#${id}">${escape(title)}</a></li>`).join("");
  return [
    ...(first && runs.length === 1 ? [tilesHtml(first, { isLive })] : []),
    `<nav aria-label="Parts of the report"><ul>${links}</ul></nav>`,
    ...(figures.length === 0 && !runs.every(({ summary }) => summary)
      ? ['<p class="note">No step is done yet.</p>']
      : []),
    ...sections.map(({ id, title, html }) =>
      `<section aria-labelledby="${id}"><h2 id="${id}">${escape(title)}</h2>\n${html}\n</section>`
    ),
  ].join("\n");
}

function tilesHtml(run: ReportRun, state: { readonly isLive: boolean }): string {
  const tiles = tilesOf(run, state).map(({ label, value, note }) =>
    `<div><dt>${escape(label)}</dt><dd class="big">${escape(value)}</dd><dd class="small">${
      escape(note.replaceAll(" %", "\u00a0%"))
    }</dd></div>`
  );
  return `<dl class="tiles">${tiles.join("")}</dl>`;
}

/** Pixels that a figure is drawn wide, and for phones. */
const WIDTHS = { wide: 760, narrow: 366 } as const;

/** A figure, drawn for wide and for narrow screens: the page shows the version that fits. */
function figureHtml({ id, title, caption, draw, table }: Figure): string {
  const plots = (["wide", "narrow"] as const).map((kind) =>
    `<div class="plot ${kind}" id="${id}-plot${
      kind === "wide" ? "" : "-narrow"
    }" tabindex="0" role="group" aria-label="${escape(title)}, figure">
${draw(WIDTHS[kind])}</div>`
  );
  return `<figure aria-labelledby="${id}"><figcaption>${escape(caption)}</figcaption>
${plots.join("\n")}
<details id="${id}-details"><summary id="${id}-summary">Data: ${escape(title)}</summary>
${tableHtml(table, `${id}-table`)}
</details></figure>`;
}

/** Names that tell the runs apart: with their models where these differ, and numbered where that is not enough. */
function withDistinctNames(runs: readonly ReportRun[]): readonly ReportRun[] {
  const models = runs.map(({ origin }) => origin.find(({ role }) => role === "model")?.name);
  const isMixed = new Set(models).size > 1, taken = new Set<string>();
  return runs.map((run, index) => {
    const model = models[index], whole = isMixed && model !== undefined ? `${run.name} (${model})` : run.name;
    let name = whole;
    for (let count = 2; taken.has(name); count++) name = `${whole} (${count})`;
    taken.add(name);
    return { ...run, name };
  });
}
