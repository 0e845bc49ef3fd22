// Labels of ticks.
import assert from "node:assert/strict";
import { dotChart } from "../../lib/report/dot_chart.ts";
import { lineChart } from "../../lib/report/line_chart.ts";
import { scaleOf, ticksOf } from "../../lib/report/axes.ts";

Deno.test("no two ticks of an axis have one label, however close they lie", () => {
  const labels = (domain: readonly [number, number], format: "plain" | "share"): string[] =>
    ticksOf(scaleOf({ domain, format }, [], { nice: false }), { format, count: 6 }).map(({ label }) => label);
  assert.deepEqual(labels([20.5, 20.58], "plain").slice(0, 3), ["20.50", "20.51", "20.52"]);
  assert.deepEqual(labels([0.4338, 0.435], "share").slice(0, 2), ["43.38 %", "43.40 %"]);
  assert.deepEqual(labels([0, 1], "share"), ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]);
  const line = { x: { label: "layer" }, y: { label: "cut", format: "share" } } as const;
  const points = [[0, 0.4017], [1, 0.4021]] as const;
  const drawn = lineChart({ title: "Alike", description: "All.", ...line, series: [{ name: "a", points }] });
  const shares = [...drawn.matchAll(/>([\d.]+ %)</g)].map(([, text]) => text);
  assert.ok(shares.length > 2, drawn);
  assert.equal(new Set(shares).size, shares.length, shares.join(", "));
  for (const format of ["plain", "share"] as const) {
    const rows = [{ label: "a", values: [0.20501, 0.20508], mean: 0.20504, spread: null }];
    const svg = dotChart({ title: "Close", description: "Two.", panels: [{ title: "x", rows, format }] });
    const labels = [...svg.matchAll(/text-anchor="middle"[^>]*>([^<]*)</g)].map(([, text]) => text);
    assert.ok(labels.length > 4, svg);
    assert.equal(new Set(labels).size, labels.length, labels.join(", "));
  }
});
