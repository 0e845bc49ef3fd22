// Reports of more runs than there are colors, and of long names: all can be told apart and read, in the legend as in the figure.
import assert from "node:assert/strict";
import { layerBars } from "../../lib/report/layer_bars.ts";
import { lineChart } from "../../lib/report/line_chart.ts";
import { renderReport } from "../../lib/report/report.ts";
import { textWidth } from "../../lib/report/svg.ts";
import { madeRun } from "./made_run.ts";
import { assertDrawn } from "./svg.ts";

/** Looks of drawn marks: what of their attributes one can see. */
function look(drawn: string): string {
  const [group = ""] = drawn.match(/<g [^>]*>/) ?? [];
  const seen = [group, ...drawn.match(/<(?:path|circle)[^>]*>/g) ?? []].flatMap((tag) =>
    tag.match(/\b(?:class|stroke-width|stroke-dasharray|opacity|r)="[^"]*"/g) ?? []
  );
  return [...new Set(seen)].join(" ");
}

/** The legend's samples by name. */
function samples(svg: string): Map<string, string> {
  return new Map(
    [...svg.matchAll(/(<g class="s\d+">(?:(?!<\/g>)[^])*<\/g>)\n<text [^>]*>([^<]*)</g)].map((
      [, drawn = "", name = ""],
    ) => [name, look(drawn)]),
  );
}

/** Figures of the report of so many runs, by title. */
function figuresOf(count: number): Map<string, string> {
  const html = renderReport(Array.from({ length: count }, (_, index) => madeRun(`run ${index + 1}`)));
  return new Map(
    [...html.matchAll(/<svg [^]*?<\/svg>/g)].map(([svg]) => [/<title[^>]*>([^<]*)</.exec(svg)?.[1] ?? "", svg]),
  );
}

Deno.test("no two of twenty runs look the same, and lines look as the legend says", () => {
  const figures = figuresOf(20), names = Array.from({ length: 20 }, (_, index) => `run ${index + 1}`);
  for (const title of ["Loss", "Sparsity", "Multipliers λ"]) {
    const svg = figures.get(title) ?? "", listed = samples(svg);
    const drawn = new Map(
      [...svg.matchAll(/<g [^>]*data-name="([^"]*)"[^>]*>(?:(?!<\/g>)[^])*<\/g>/g)].map((
        [whole, name = ""],
      ) => [name, look(whole)]),
    );
    assertDrawn(svg, title);
    assert.ok(drawn.size >= 40, `${title}: ${drawn.size} lines`);
    assert.equal(new Set(drawn.values()).size, drawn.size, `${title}: ${JSON.stringify([...drawn])}`);
    assert.deepEqual([...listed.keys()], names);
    for (const name of names) assert.equal(listed.get(name), drawn.get(name), `${title}, ${name}`);
  }
});

Deno.test("no two of twenty runs have bars, means or samples that look the same", () => {
  const svg = figuresOf(20).get("Sparsity of each layer") ?? "", listed = samples(svg);
  assertDrawn(svg);
  assert.equal(listed.size, 40);
  assert.equal(new Set(listed.values()).size, 40, JSON.stringify([...listed]));
  const groups = [...svg.matchAll(/(<g class="s\d+">)(<path [^>]*>)(<path [^>]*>)<\/g>/g)];
  assert.equal(groups.length, 20);
  for (const [index, [, group = "", bars = "", mean = ""]] of groups.entries()) {
    const name = `run ${index + 1}`, [own, uniform] = [bars, mean].map((path) => look(group + path));
    // A sample is as thick as eight pixels, whatever room the bars have.
    assert.equal(own?.replace(/stroke-width="[\d.]+"/, 'stroke-width="8"'), listed.get(name), name);
    assert.equal(uniform, [...listed].find(([one]) => one.startsWith(`${name}, uniform: `))?.[1], name);
  }
});

Deno.test("up to eight runs, colors alone tell them apart", () => {
  const widths = (svg = ""): string[] => [...new Set(svg.match(/stroke-width="[^"]*"/g))].sort();
  for (const title of ["Loss", "Sparsity", "Multipliers λ", "Sparsity of each layer"]) {
    const [two, eight] = [2, 8].map((count) => figuresOf(count).get(title) ?? "");
    // Bars of more runs have less room.
    if (title !== "Sparsity of each layer") assert.deepEqual(widths(eight), widths(two), title);
    assert.equal(eight?.match(/stroke-dasharray="3 2"/), null);
  }
});

Deno.test("bars reach from the axis to their value", () => {
  const runs = [{ name: "a", values: [0.5, 0.25], uniform: 0.5 }, { name: "b", values: [0, 0.5], uniform: 0.25 }];
  const svg = layerBars({ title: "t", description: "Two made up runs.", label: "cut", runs });
  const drawn = [...svg.matchAll(/<path d="([^"]*)"[^>]*stroke-opacity[^>]*>/g)].slice(-2).map(([, path = ""]) =>
    [...path.matchAll(/M([\d.]+) ([\d.]+)V([\d.]+)/g)].map((found) => found.slice(1).map(Number))
  );
  const [a = [], b = []] = drawn, [[, half = NaN, bottom = NaN] = []] = a;
  assert.deepEqual(a.map(([, top, end]) => [top, end]), [[half, bottom], [(half + bottom) / 2, bottom]]);
  assert.deepEqual(b.map(([, top, end]) => [top, end]), [[bottom, bottom], [half, bottom]]);
  assert.ok((a[0]?.[0] ?? NaN) < (b[0]?.[0] ?? NaN) && (b[0]?.[0] ?? NaN) < (a[1]?.[0] ?? NaN), "side by side");
});

Deno.test("a long name in a legend takes as many lines as it needs, within the picture, and all below it moves down", () => {
  const long = `model big, schedule https://example.org/${
    "folder/".repeat(14)
  }plateaus.ts, prompt none, targets q+k+v+o`;
  const points = [[0, 1], [1, 2]] as const;
  const drawings: readonly ((name: string) => string)[] = [
    (name) =>
      lineChart({
        ...{ title: "t", x: { label: "x" }, y: { label: "y" } },
        series: ["one", name, "three"].map((name) => ({ name, points })),
      }),
    (name) =>
      layerBars({
        ...{ title: "t", description: "Two made up runs.", label: "cut" },
        runs: ["one", name].map((name) => ({ name, values: [0.5], uniform: 0.5 })),
      }),
  ];
  for (const draw of drawings) {
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
