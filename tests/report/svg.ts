// What every SVG figure must be: closed tags, escaped text, a name and a description, colors for light and dark.
import assert from "node:assert/strict";
import { type ChartPanel, drawChart } from "../../lib/report/chart.ts";

/** A chart with one panel. */
export function lineChart(
  { title, description = "", ...panel }: ChartPanel & { readonly title: string; readonly description?: string },
): string {
  return drawChart({ title, description, panels: [panel] });
}

/** Values of one row of dots. */
export interface DotRow {
  readonly label: string;
  readonly values: readonly number[];
  readonly mean: number;
  readonly sd: number | null;
}

/** A panel of dots in rows. */
export function dotPanel(
  rows: readonly DotRow[],
  { title = "x", format = "plain", marks = [] }: {
    readonly title?: string;
    readonly format?: "plain" | "share";
    readonly marks?: NonNullable<ChartPanel["marks"]>;
  } = {},
): ChartPanel {
  return {
    ...{ title, marks, x: { label: "", format }, y: { label: "", rows: rows.map(({ label }) => label) } },
    series: rows.map(({ label: name, values, mean, sd }, row) => ({
      ...{ name, points: values.map((value) => [value, row] as const), spread: { mean, sd } },
    })),
  };
}

/** Fails where a figure is not well-formed as far as our writer can go wrong: nesting, quotes, escapes, numbers; or has no name and description. */
export function assertDrawn(svg: string, name = "figure"): void {
  const open: string[] = [], tags = /<(\/?)([a-zA-Z]+)((?:\s+[\w:-]+="[^"<>]*")*)\s*(\/?)>/g;
  for (const [, closing, tag = "", attributes = "", self] of svg.matchAll(tags)) {
    assert.ok(!/\b(?:NaN|Infinity|undefined)\b/.test(attributes), `${name}: <${tag}${attributes}>`);
    if (closing) assert.equal(open.pop(), tag, `${name}: </${tag}>`);
    else if (!self) open.push(tag);
  }
  assert.deepEqual(open, [], `${name}: all elements are closed`);
  const rest = svg.replaceAll(/<!--.*?-->/gs, "").replaceAll(tags, "");
  assert.ok(!/[<>]|&(?!(?:amp|lt|gt|quot|#39);)/.test(rest), `${name}: text is escaped`);
  assert.match(
    svg,
    /^<svg [^>]*role="img" aria-labelledby="(\S+)" aria-describedby="(\S+)"[^>]*>\n<title id="\1">[^<]+<\/title>\n<desc id="\2">[^<]{10,}<\/desc>/,
    name,
  );
}

/** Fails where a figure by itself has no colors for dark grounds. */
export function assertStandsAlone(svg: string, name = "figure"): void {
  assertDrawn(svg, name);
  assert.match(svg, /<style>[^<]*prefers-color-scheme: dark/, name);
}
