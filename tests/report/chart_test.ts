// Charts: what stands in the SVG, and what odd data make of it.
import assert from "node:assert/strict";
import { domainOf, ticksOf } from "../../lib/report/axes.ts";
import { drawChart } from "../../lib/report/chart.ts";
import { drawPanel, type Point, type Series, thinned } from "../../lib/report/panel.ts";
import { textWidth } from "../../lib/report/svg.ts";
import { assertDrawn, dotPanel, lineChart } from "./svg.ts";

const BOX = { x: 0, y: 0, width: 400, height: 200 };

/** Points of the paths, in pixels. */
function paths(body: readonly string[]): number[][][] {
  return Array.from(
    body.join("").matchAll(/<path d="([^"]*)"/g),
    ([, path = ""]) => path.split(/(?=[ML])/).map((part) => part.slice(1).split(",").map(Number)),
  );
}

Deno.test("drawChart() draws every series with a legend, ticks, labels and a description, in an SVG by itself", () => {
  const svg = lineChart({
    title: "Loss <of> a run",
    description: "Made up & short.",
    x: { label: "step" },
    y: { label: "loss & more" },
    series: [
      { name: "a < b", points: [[0, 4], [50, 3], [100, 2]] },
      { name: "dots", points: [[0, 2.5], [100, 3.5]], style: { line: "none" } },
    ],
    marks: [{ x: 50, label: "prune" }],
  });
  assertDrawn(svg);
  assert.match(svg, /prefers-color-scheme: dark/);
  assert.match(svg, /<title[^>]*>Loss &lt;of&gt; a run<\/title>/);
  assert.match(
    svg,
    /<desc[^>]*>Made up &amp; short\. loss &amp; more over step\. a &lt; b: from 4 at 0 to 2 at 100; dots: from/,
  );
  for (const label of ["a &lt; b", "dots", "step", "prune", "20", "100", "4.0"]) {
    assert.ok(svg.includes(`>${label}</text>`), label);
  }
  assert.equal(svg.match(/<circle/g)?.length, 3, "two dots, one in the legend");
});

Deno.test("a long title takes as many lines as it needs, and all below it moves down", () => {
  const chart = { x: { label: "step" }, y: { label: "loss" }, series: [] };
  const titled = (title: string): { height: number; lines: string[] } => {
    const svg = lineChart({ ...chart, title });
    assertDrawn(svg);
    const lines = Array.from(svg.matchAll(/<text[^>]*font-size="16"[^>]*>([^<]*)<\/text>/g), ([, line = ""]) => line);
    return { height: Number(/height="(\d+)"/.exec(svg)?.[1]), lines };
  };
  const short = titled("Loss"),
    long = titled(`https://example.org/${"folder/".repeat(20)}schedule.ts, 200 steps to 30 % sparsity`);
  assert.deepEqual(short.lines, ["Loss"]);
  assert.equal(
    long.lines.join("").replaceAll(" ", ""),
    `https://example.org/${"folder/".repeat(20)}schedule.ts,200stepsto30%sparsity`,
  );
  for (const line of long.lines) assert.ok(textWidth(line, 16) <= 760 - 2 * 16, line);
  assert.equal(long.height - short.height, 20 * (long.lines.length - 1));
});

Deno.test("drawPanel() puts values where the scales say, and tells them to scripts", () => {
  const { body, attributes } = drawPanel({
    x: { label: "x", domain: [0, 10] },
    y: { label: "y", domain: [0, 1] },
    series: [{ name: "a", points: [[0, 0], [5, 0.5], [10, 1]] }],
  }, BOX);
  const [, left = 0, right = 0] = /data-x="0 10 ([\d.]+) ([\d.]+) plain x"/.exec(attributes)?.map(Number) ?? [];
  const [, bottom = 0, top = 0] = /data-y="0 1 ([\d.]+) ([\d.]+) plain y"/.exec(attributes)?.map(Number) ?? [];
  assert.ok(left > 20 && right > left + 250 && right < 400 && bottom > top + 100, attributes);
  const rounded = (value: number): number => Math.round(value * 10) / 10;
  assert.deepEqual(paths(body), [[
    [rounded(left), bottom],
    [rounded((left + right) / 2), rounded((bottom + top) / 2)],
    [right, top],
  ]]);
});

Deno.test("an axis of whole numbers has no ticks between them, one of any numbers has", () => {
  const labels = (format: "whole" | "plain"): string[] => {
    const { body } = drawPanel({
      x: { label: "layer", format },
      y: { label: "y", format: "share" },
      series: [{ name: "a", points: [[0, 0.1], [4, 0.3]] }],
    }, { ...BOX, width: 900 });
    return Array.from(body.join("").matchAll(/>([\d.]+)<\/text>/g), ([, label = ""]) => label);
  };
  assert.deepEqual(labels("whole"), ["0", "1", "2", "3", "4"]);
  assert.ok(labels("plain").includes("0.5"));
});

Deno.test("a value that is not finite breaks the line, and a point between two such is a dot", () => {
  const { body } = drawPanel({
    x: { label: "x" },
    y: { label: "y" },
    series: [{ name: "a", points: [[0, 1], [1, 2], [2, NaN], [3, 2], [4, Infinity], [5, 1], [6, 0]] }],
  }, BOX);
  assert.equal(body.join("").match(/[ML]/g)?.filter((letter) => letter === "M").length, 3);
  assert.equal(body.join("").match(/<circle/g)?.length, 1);
  assert.ok(!body.join("").includes("NaN"));
});

Deno.test("no points, one point and equal values are drawn without NaN", () => {
  const cases: readonly (readonly [string, readonly Point[]])[] = [
    ["none", []],
    ["one", [[3, 7]]],
    ["equal", [[1, 5], [2, 5]]],
    ["zeros", [[1, 0], [2, 0]]],
    ["tiny", [[1, 1e-300], [2, 2e-300]]],
  ];
  for (const [name, points] of cases) {
    const svg = lineChart({ title: name, x: { label: "x" }, y: { label: "y" }, series: [{ name, points }] });
    assertDrawn(svg);
    assert.ok(!/NaN|Infinity/.test(svg), name);
  }
});

Deno.test("values that rounding alone tells apart are drawn as one, with ticks that can be read", () => {
  const [a, b] = [0.4023437499999999, 0.40234375];
  const svg = lineChart({
    ...{ title: "t", x: { label: "x" }, y: { label: "y", format: "share" } },
    series: [{ name: "a", points: [[0, a], [1, a]] }, { name: "b", points: [[0, b], [1, b]] }],
  });
  assertDrawn(svg);
  const labels = Array.from(svg.matchAll(/>([\d.]+ %)<\/text>/g), ([, label = ""]) => label);
  assert.ok(labels.length > 2 && labels.every((label) => label.length < 8), labels.join());
  assert.equal(new Set(labels).size, labels.length, "no two alike");
});

Deno.test("a share is shown in per cent, an axis with zero begins there", () => {
  const svg = lineChart({
    title: "t",
    x: { label: "tokens", format: "whole" },
    y: { label: "sparsity", format: "share", zero: true },
    series: [{ name: "a", points: [[0, 0.3], [4000, 0.4]] }],
  });
  for (const label of ["0 %", "40 %", "2,000"]) assert.ok(svg.includes(`>${label}</text>`), label);
});

Deno.test("the axis of equal shares ends at 0 and 100 %, and that of other numbers where it did", () => {
  const domain = (value: number, format: "share" | "plain"): string => {
    const points: readonly Point[] = [[0, value], [4, value]];
    const { attributes } = drawPanel(
      { x: { label: "x" }, y: { label: "y", format }, series: [{ name: "a", points }] },
      BOX,
    );
    return /data-y="(\S+ \S+) /.exec(attributes)?.[1] ?? "";
  };
  assert.deepEqual([0, 0.5, 0.9, 1].map((value) => domain(value, "share")), ["0 0.5", "0.2 0.8", "0.4 1", "0.5 1"]);
  assert.deepEqual([0, 1].map((value) => domain(value, "plain")), ["-0.6 0.6", "0.4 1.6"]);
  assert.equal(domain(1.5, "share"), "0.7 1.5", "what is no share is shown all the same");
});

Deno.test("thinned() keeps first and last, every peak, and breaks, of a hundred thousand points", () => {
  const points = Array.from(
    { length: 100_000 },
    (_, x): Point => [x, x === 31_234 ? 99 : x === 77_777 ? NaN : Math.sin(x)],
  );
  const kept = thinned(points, 1000);
  assert.ok(kept.length <= 1010, `${kept.length}`);
  assert.deepEqual([kept[0], kept.at(-1)], [points[0], points.at(-1)]);
  assert.ok(kept.some(([x, y]) => x === 31_234 && y === 99));
  assert.ok(kept.some(([, y]) => Number.isNaN(y)));
  assert.ok(kept.every(([x], at) => at === 0 || x > (kept[at - 1]?.[0] ?? NaN)), "in order");
  assert.equal(thinned(points.slice(0, 1000), 1000).length, 1000);
  // Breaks at the beginning of every stretch, and two in one, hide no peak and stay themselves.
  const broken = points.slice(0, 3000).map(([x, y]): Point => [x, x % 11 === 0 || x % 11 === 4 ? NaN : y]);
  const seen = thinned(broken, 1092);
  assert.equal(seen.filter(([, y]) => Number.isNaN(y)).length, broken.filter(([, y]) => Number.isNaN(y)).length);
  const most = (all: readonly Point[]): number => Math.max(...all.map(([, y]) => Number.isNaN(y) ? -9 : y));
  for (let from = 0; from + 11 <= 3000; from += 11) {
    const within = ([x]: Point): boolean => x >= from && x < from + 11;
    assert.equal(most(seen.filter(within)), most(broken.filter(within)), `from ${from}`);
  }
});

Deno.test("bars reach from the axis to their value", () => {
  const bars = (name: string, values: readonly number[]): Series => ({
    ...{ name, points: values.map((value, layer) => [layer, value] as const), style: { line: "bars" } },
  });
  const { body } = drawPanel({
    x: { label: "layer", domain: [-0.5, 1.5] },
    y: { label: "cut", zero: true },
    series: [bars("a", [0.5, 0.25]), bars("b", [0, 0.5])],
  }, BOX);
  const drawn = [...body.join("").matchAll(/<path d="([^"]*)"[^>]*stroke-opacity[^>]*>/g)].map(([, path = ""]) =>
    [...path.matchAll(/M([\d.]+),([\d.]+)V([\d.]+)/g)].map((found) => found.slice(1).map(Number))
  );
  const [a = [], b = []] = drawn, [[, half = NaN, bottom = NaN] = []] = a;
  assert.deepEqual(a.map(([, top, end]) => [top, end]), [[half, bottom], [(half + bottom) / 2, bottom]]);
  assert.deepEqual(b.map(([, top, end]) => [top, end]), [[bottom, bottom], [half, bottom]]);
  assert.ok((a[0]?.[0] ?? NaN) < (b[0]?.[0] ?? NaN) && (b[0]?.[0] ?? NaN) < (a[1]?.[0] ?? NaN), "side by side");
});

Deno.test("rows of dots have every value, the mean and its spread on one scale", () => {
  const svg = drawChart({
    title: "Rank <r>",
    description: "Two seeds & one.",
    panels: [
      dotPanel([
        { label: "rank < 4", values: [10, 30], mean: 20, sd: 10 },
        { label: "rank 8", values: [40], mean: 40, sd: null },
        { label: "none", values: [], mean: NaN, sd: null },
      ], { title: "perplexity", marks: [{ label: "unpruned", x: 0 }] }),
      dotPanel([{ label: "rank 8", values: [0.5], mean: 0.5, sd: null }], { title: "accuracy", format: "share" }),
    ],
  });
  assertDrawn(svg);
  assert.match(
    svg,
    /<desc[^>]*>Two seeds &amp; one\. perplexity: rank &lt; 4 20, rank 8 40, none –\. accuracy: rank 8 0\.5\./,
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

Deno.test("drawChart() stands rows whose values are all alike, and writes long labels in two lines", () => {
  const label = "layout compact, prompt on, targets q,k,v,o, postfinetune 60, memory 0.9";
  const svg = drawChart({
    title: "Alike",
    description: "The same.",
    panels: [dotPanel([{ label, values: [3, 3], mean: 3, sd: 0 }])],
  });
  assertDrawn(svg);
  assert.ok(!svg.includes("NaN"));
  for (const part of ["layout compact, prompt on, targets", "q,k,v,o, postfinetune 60, memory 0.9"]) {
    const [, right] = new RegExp(`<text[^>]* x="([\\d.]+)"[^>]*text-anchor="end"[^>]*>${part}</text>`).exec(svg) ?? [];
    assert.ok(Number(right) > 6 * part.length, `'${part}' begins left of the picture`);
  }
  const longer = `${label}, ${"x".repeat(60)}`, row = { label: longer, values: [3], mean: 3, sd: null };
  const cut = drawChart({ title: "Long", description: "One.", panels: [dotPanel([row])] });
  assertDrawn(cut);
  assert.ok(cut.includes(">q,k,v,o, postfinetune 60, memory 0.9, xxx…</text>"), cut);
});

function near(actual: number | undefined, expected: number): void {
  assert.ok(Math.abs((actual ?? NaN) - expected) <= 0.2, `${actual} for ${expected}`);
}

Deno.test("rows draw values that rounding alone tells apart as one", () => {
  const values = [0.95, 0.95, 0.95], mean = 0.9499999999999998, marks = [{ label: "unpruned", x: 0.95 }];
  const rows = [{ label: "a", values, mean, sd: 0 }];
  const svg = drawChart({ title: "Alike", description: "", panels: [dotPanel(rows, { marks, format: "share" })] });
  assertDrawn(svg);
  const labels = Array.from(svg.matchAll(/>([\d.]+ %)<\/text>/g), ([, label = ""]) => label);
  assert.ok(labels.length > 2 && labels.every((label) => label.length < 8), labels.join());
});

Deno.test("rows draw no share beyond 100 %, whatever the spread", () => {
  const rows = [{ label: "a", values: [0.6, 1, 0.98], mean: 0.86, sd: 0.225 }];
  const svg = drawChart({ title: "Shares", description: "One.", panels: [dotPanel(rows, { format: "share" })] });
  assert.ok(svg.includes(">100 %</text>") && !svg.includes(">110 %</text>"));
  for (const share of [0, 1]) { // also where all are alike
    const alike = [{ label: "a", values: [share, share], mean: share, sd: 0 }];
    const one = drawChart({ title: "", description: "", panels: [dotPanel(alike, { format: "share" })] });
    const ticks = Array.from(one.matchAll(/>(-?[\d.]+) %<\/text>/g), ([, tick]) => Number(tick));
    assert.ok(ticks.length > 2 && Math.min(...ticks) >= 0 && Math.max(...ticks) <= 100, ticks.join());
  }
});

Deno.test("no two ticks of an axis have one label, however close they lie", () => {
  const labels = (domain: readonly [number, number], format: "plain" | "share"): string[] =>
    ticksOf(domainOf({ domain, format }, [], { nice: false }), { format, count: 6 }).map(({ label }) => label);
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
    const rows = [{ label: "a", values: [0.20501, 0.20508], mean: 0.20504, sd: null }];
    const svg = drawChart({ title: "Close", description: "Two.", panels: [dotPanel(rows, { format })] });
    const labels = [...svg.matchAll(/text-anchor="middle"[^>]*>([^<]*)</g)].map(([, text]) => text);
    assert.ok(labels.length > 4, svg);
    assert.equal(new Set(labels).size, labels.length, labels.join(", "));
  }
});

Deno.test("a long name in a legend takes as many lines as it needs, within the picture, and all below it moves down", () => {
  const long = `model big, schedule https://example.org/${
    "folder/".repeat(14)
  }plateaus.ts, prompt none, targets q+k+v+o`;
  const points = [[0, 1], [1, 2]] as const;
  for (const kind of ["solid", "bars"] as const) {
    const draw = (name: string): string =>
      lineChart({
        ...{ title: "t", x: { label: "x" }, y: { label: "y" } },
        series: ["one", name, "three"].map((name) => ({ name, points, style: { line: kind } })),
      });
    const lines = (svg: string): { x: number; y: number; text: string }[] =>
      [...svg.matchAll(/<text class="ink" x="([\d.]+)" y="([\d.]+)" text-anchor="start">([^<]*)</g)]
        .map(([, x, y, text = ""]) => ({ x: Number(x), y: Number(y), text }));
    const height = (svg: string): number => Number(/ height="(\d+)"/.exec(svg)?.[1]);
    const svg = draw(long), names = lines(svg), all = names.map(({ text }) => text).join("").replaceAll(" ", "");
    assertDrawn(svg);
    assert.ok(all.includes(long.replaceAll(" ", "")), all);
    for (const { x, text } of names) assert.ok(x + textWidth(text) <= 760, text);
    // No two lines of the legend lie on each other, and the axes begin below it.
    const places = names.map(({ x, y }) => `${x} ${y}`), last = Math.max(...names.map(({ y }) => y));
    assert.equal(new Set(places).size, places.length);
    assert.ok(height(svg) - last >= height(draw("two")) - Math.max(...lines(draw("two")).map(({ y }) => y)));
    const grid = [...svg.matchAll(/<line class="grid"[^>]* y1="([\d.]+)"/g)].map(([, y]) => Number(y));
    assert.ok(grid.length > 2 && Math.min(...grid) > last, `${Math.min(...grid)} below ${last}`);
  }
});

Deno.test("intervals of points are bars from end to end on the scale, which they widen; a point may have none", () => {
  const intervals = [[NaN, NaN], [1.5, 2.5], [2, 9]] as const;
  const series: Series = { name: "a", points: [[0, 1], [5, 2], [10, 3]], intervals };
  const { body, attributes } = drawPanel({ x: { label: "x" }, y: { label: "y" }, series: [series] }, BOX);
  const [, low = 0, high = 0, bottom = 0, top = 0] = /data-y="(\S+) (\S+) (\S+) (\S+) /.exec(attributes)?.map(Number) ??
    [];
  assert.ok(high >= 9, attributes);
  const bars = Array.from(body.join("").matchAll(/d="M[\d.]+ ([\d.]+)H[\d.]+M[\d.]+ [\d.]+V([\d.]+)M/g));
  const values = bars.map((bar) =>
    bar.slice(1).map((at) => low + (Number(at) - bottom) / (top - bottom) * (high - low))
  );
  assert.equal(values.length, 2);
  values.flat().forEach((value, index) => {
    const want = intervals.slice(1).flat()[index] ?? NaN;
    assert.ok(Math.abs(value - want) < 0.01 * (high - low), `${value}, ${want}`);
  });
});
