// The report of an experiment as one HTML page: what its Markdown says, with the charts in it.
import { pageHtml } from "../report/page.ts";
import { escape } from "../report/svg.ts";
import { tableHtml } from "../report/table.ts";
import type { DrawnChart } from "./charts.ts";

/** The page of a report, whose Markdown is that of `markdown()`; it asks for nothing from elsewhere. */
export function experimentPage(markdown: string, charts: readonly Pick<DrawnChart, "file" | "svg">[]): string {
  const [title = "", ...blocks] = markdown.trim().split(/\n{2,}/);
  let heading = "Table", tables = 0;
  const content = blocks.map((block) => {
    const [, marks, text = ""] = /^(#{2,3}) (.*)$/.exec(block) ?? [], [, file] = /^!\[.*\]\((.*)\)$/.exec(block) ?? [];
    if (marks !== undefined) {
      heading = plain(text);
      return `<h${marks.length}>${escape(heading)}</h${marks.length}>`;
    }
    if (file !== undefined) return `<figure>${charts.find((chart) => chart.file === file)?.svg ?? ""}</figure>`;
    const lines = block.split("\n");
    if (lines.every((line) => line.startsWith("- "))) {
      return `<ul>${lines.map((line) => `<li>${escape(plain(line.slice(2)))}</li>`).join("")}</ul>`;
    }
    if (!lines.every((line) => line.startsWith("| "))) return `<p>${lines.map(inline).join(" ")}</p>`;
    const [head = [], _rule, ...rows] = lines.map(cells);
    return `<div class="broad">${tableHtml({ caption: heading, head, rows }, `table-${++tables}`)}</div>`;
  });
  return pageHtml({
    title: plain(title.replace(/^# /, "")),
    note: "An experiment of Compresso.",
    content: content.join("\n"),
    live: null,
  });
}

/** The cells of a line of a table. */
function cells(line: string): string[] {
  return line.slice(2, -2).split(" | ").map(plain);
}

/** A line of a paragraph, with its code. */
function inline(line: string): string {
  return line.split(/(?<!\\)`([^`]*)`/).map((part, index) =>
    index % 2 === 1 ? `<code>${escape(part)}</code>` : escape(plain(part))
  ).join("");
}

/** Text without the backslashes that Markdown needs. */
function plain(text: string): string {
  return text.replaceAll(/\\([\\`*[\]<>!&~_|])/g, "$1");
}
