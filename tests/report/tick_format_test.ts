// Labels of ticks.
import assert from "node:assert/strict";
import { dotChart } from "../../lib/report/dot_chart.ts";
import { lineChart } from "../../lib/report/line_chart.ts";
import { tickFormat } from "../../lib/report/tick_format.ts";

Deno.test("no two ticks of an axis have one label, however close they lie", () => {
  const label = tickFormat([20.5, 20.58], { count: 6 });
  assert.deepEqual([20.5, 20.52, 20.58].map(label), ["20.50", "20.52", "20.58"]);
  const share = tickFormat([0.4338, 0.435], { count: 6, format: "share" });
  assert.deepEqual([0.434, 0.4342].map(share), ["43.40 %", "43.42 %"]);
  assert.deepEqual([0, 0.2, 1].map(tickFormat([0, 1], { count: 6, format: "share" })), ["0 %", "20 %", "100 %"]);
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
