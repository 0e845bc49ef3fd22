// Charts of dots: what stands in the SVG, and where.
import assert from "node:assert/strict";
import { dotChart } from "../../lib/report/dot_chart.ts";
import { assertDrawn } from "./svg.ts";

Deno.test("dotChart() draws every value, the mean and its spread on one scale, and escapes what it is told", () => {
  const svg = dotChart({
    title: "Rank <r>",
    description: "Two seeds & one.",
    panels: [
      {
        title: "perplexity",
        rows: [
          { label: "rank < 4", values: [10, 30], mean: 20, spread: 10 },
          { label: "rank 8", values: [40], mean: 40, spread: null },
          { label: "none", values: [], mean: NaN, spread: null },
        ],
        reference: { label: "unpruned", value: 0 },
      },
      { title: "accuracy", rows: [{ label: "rank 8", values: [0.5], mean: 0.5, spread: null }], format: "share" },
    ],
  });
  assertDrawn(svg);
  assert.match(
    svg,
    /<desc[^>]*>Two seeds &amp; one\. perplexity: rank &lt; 4 20, rank 8 40, none –; accuracy: rank 8 0\.5\./,
  );
  assert.equal(svg.match(/<circle/g)?.length, 4);
  assert.ok(svg.includes(">40 %</text>"), "shares are percentages");
  const [a = NaN, b = NaN, c = NaN] = Array.from(svg.matchAll(/<circle cx="([\d.]+)"/g), ([, x]) => Number(x));
  const [, from = NaN, to = NaN] = /<path d="M([\d.]+) [\d.]+H([\d.]+)"/.exec(svg)?.map(Number) ?? [];
  const means = Array.from(svg.matchAll(/<path d="M([\d.]+) [\d.]+V/g), ([, x]) => Number(x));
  // Pixels are rounded to a tenth.
  near(means[0], (a + b) / 2);
  near(from, a);
  near(to, b);
  near(means[1], c);
  near(c - b, (b - a) / 2);
  assert.equal(svg.match(/<path d="M[\d.]+ [\d.]+H/g)?.length, 1, "one value has no whisker");
});

Deno.test("dotChart() stands a chart whose values are all alike, and writes long labels in two lines", () => {
  const label = "layout compact, prompt on, targets q,k,v,o, postfinetune 60, memory 0.9";
  const svg = dotChart({
    title: "Alike",
    description: "The same.",
    panels: [{ title: "x", rows: [{ label, values: [3, 3], mean: 3, spread: 0 }] }],
  });
  assertDrawn(svg);
  assert.ok(!svg.includes("NaN"));
  for (const part of ["layout compact, prompt on, targets", "q,k,v,o, postfinetune 60, memory 0.9"]) {
    const [, right] = new RegExp(`<text[^>]* x="([\\d.]+)"[^>]*text-anchor="end"[^>]*>${part}</text>`).exec(svg) ?? [];
    assert.ok(Number(right) > 6 * part.length, `'${part}' begins left of the picture`);
  }
  const longer = `${label}, ${"x".repeat(60)}`, row = { label: longer, values: [3], mean: 3, spread: null };
  const cut = dotChart({ title: "Long", description: "One.", panels: [{ title: "x", rows: [row] }] });
  assertDrawn(cut);
  assert.ok(cut.includes(">q,k,v,o, postfinetune 60, memory 0.9, xxx…</text>"), cut);
});

function near(actual: number | undefined, expected: number): void {
  assert.ok(Math.abs((actual ?? NaN) - expected) <= 0.2, `${actual} for ${expected}`);
}

Deno.test("dotChart() draws values that rounding alone tells apart as one", () => {
  const values = [0.95, 0.95, 0.95], mean = 0.9499999999999998, reference = { label: "unpruned", value: 0.95 };
  const rows = [{ label: "a", values, mean, spread: 0 }];
  const svg = dotChart({ title: "Alike", description: "", panels: [{ title: "x", rows, reference, format: "share" }] });
  assertDrawn(svg);
  const labels = Array.from(svg.matchAll(/>([\d.]+ %)<\/text>/g), ([, label = ""]) => label);
  assert.ok(labels.length > 2 && labels.every((label) => label.length < 8), labels.join());
});

Deno.test("dotChart() draws no share beyond 100 %, whatever the spread", () => {
  const rows = [{ label: "a", values: [0.6, 1, 0.98], mean: 0.86, spread: 0.225 }];
  const svg = dotChart({ title: "Shares", description: "One.", panels: [{ title: "x", rows, format: "share" }] });
  assert.ok(svg.includes(">100 %</text>") && !svg.includes(">110 %</text>"));
  for (const share of [0, 1]) { // also where all are alike
    const alike = [{ label: "a", values: [share, share], mean: share, spread: 0 }];
    const one = dotChart({ title: "", description: "", panels: [{ title: "x", rows: alike, format: "share" }] });
    const ticks = Array.from(one.matchAll(/>(-?[\d.]+) %<\/text>/g), ([, tick]) => Number(tick));
    assert.ok(ticks.length > 2 && Math.min(...ticks) >= 0 && Math.max(...ticks) <= 100, ticks.join());
  }
});
