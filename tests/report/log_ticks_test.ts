// Ticks of logarithmic axes: every decade has its label, all labels are in one notation and the axis' own format.
import assert from "node:assert/strict";
import { lineChart } from "../../lib/report/line_chart.ts";
import type { Axis } from "../../lib/report/line_panel.ts";
import { textWidth } from "../../lib/report/svg.ts";
import { assertDrawn } from "./svg.ts";

interface Label {
  readonly x: number;
  readonly text: string;
}

/** Labels of the vertical axis and of the horizontal one, of a chart with points from `least` to `most`. */
function labels(
  [least, most]: readonly [number, number],
  { format = "plain", width = 760 }: { readonly format?: NonNullable<Axis["format"]>; readonly width?: number } = {},
): { readonly y: string[]; readonly x: Label[] } {
  const axis = { label: "", scale: "log", format } as const, points = [[least, least], [most, most]] as const;
  const svg = lineChart({ title: "t", x: axis, y: axis, series: [{ name: "a", points }], width });
  assertDrawn(svg);
  const of = (anchor: string): Label[] =>
    [...svg.matchAll(new RegExp(`<text class="soft" x="([\\d.]+)"[^>]*text-anchor="${anchor}"[^>]*>([^<]+)<`, "g"))]
      .map(([, x, text = ""]) => ({ x: Number(x), text })).sort((a, b) => a.x - b.x);
  return { y: of("end").map(({ text }) => text), x: of("middle") };
}

/** Labels of powers of ten, the same on both axes. */
function decades(range: readonly [number, number], format: NonNullable<Axis["format"]> = "plain"): string[] {
  const { x, y } = labels(range, { format });
  const [wide, high] = [x.map(({ text }) => text), y].map((all) =>
    all.filter((text) => /^[01.,]+(?![\d.,])/.test(text))
  );
  assert.deepEqual(wide, high);
  return high ?? [];
}

Deno.test("a logarithmic axis has every decade, and others only where there is room", () => {
  assert.deepEqual(decades([1e-4, 10]), ["0.0001", "0.001", "0.01", "0.1", "1", "10"]);
  assert.deepEqual(decades([1e-5, 10]), ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1", "10"]);
  assert.deepEqual(labels([1e-3, 1]).y, ["0.001", "0.003", "0.01", "0.03", "0.1", "0.3", "1"]);
  assert.deepEqual(labels([0.01, 1]).y, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
  assert.deepEqual(labels([0.3, 0.7]).y, ["0.3", "0.4", "0.5", "0.6", "0.7"]);
  // Of a decade's last part, on an axis with room for some, the power stays.
  assert.deepEqual(labels([7, 14], { width: 190 }).x.map(({ text }) => text), ["8", "10"]);
});

Deno.test("labels of a logarithmic axis have one notation, that of its format", () => {
  const powers = (from: number, to: number): string[] =>
    Array.from({ length: to - from + 1 }, (_, at) => `1e${from + at}`);
  assert.deepEqual(decades([1e-7, 0.1]), powers(-7, -1));
  assert.deepEqual(decades([1, 1e7]), powers(0, 7));
  assert.deepEqual(decades([1e3, 1e6]), ["1,000", "10,000", "100,000", "1,000,000"]);
  assert.deepEqual(decades([1e-3, 10], "share"), ["0.1 %", "1 %", "10 %", "100 %", "1,000 %"]);
  assert.deepEqual(decades([1e-5, 10], "si"), ["10 µ", "100 µ", "1 m", "10 m", "100 m", "1", "10"]);
  assert.deepEqual(decades([1, 1e5], "whole"), ["1", "10", "100", "1,000", "10,000", "100,000"]);
  // Ticks that lie as on a linear axis have as many digits as tell them apart.
  assert.deepEqual(labels([4.21, 4.23]).y, ["4.210", "4.215", "4.220", "4.225", "4.230"]);
  assert.deepEqual(labels([0.42, 0.44], { format: "share" }).y[0], "42.0 %");
});

Deno.test("where labels of a logarithmic axis would lie on each other, those of the powers of ten stay", () => {
  for (const [range, width] of [[[0.7, 70], 400], [[2, 30], 760], [[1000, 1e6], 760], [[1, 1e4], 760]] as const) {
    const { x } = labels(range, { width }), shown = x.map(({ text }) => Number(text.replaceAll(",", "")));
    for (let power = 1; power <= range[1]; power *= 10) {
      if (power >= range[0]) assert.ok(shown.includes(power), `${power} of ${shown}, from ${range.join(" to ")}`);
    }
    for (const [at, { x: middle, text }] of x.entries()) {
      const before = x[at - 1];
      const room = before ? middle - before.x - (textWidth(text, 11) + textWidth(before.text, 11)) / 2 : Infinity;
      assert.ok(room >= 3.9, `${before?.text} and ${text} are ${room} pixels apart`);
    }
  }
});
