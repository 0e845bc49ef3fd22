// Reports of more runs than there are colors, and of long names: all can be told apart and read, in the legend as in the figure.
import assert from "node:assert/strict";
import { renderReport } from "../../lib/report/report.ts";
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
  const groups = [...svg.matchAll(/(<g class="s\d+"[^>]*>)(<path [^>]*>)<\/g>/g)].slice(40);
  assert.equal(groups.length, 40);
  for (const [index, [name, sample]] of [...listed].entries()) {
    const drawn = look(groups[index]?.slice(1).join("") ?? "");
    // A sample is as thick as eight pixels, whatever room the bars have.
    assert.equal(name.includes("uniform") ? drawn : drawn.replace(/stroke-width="[\d.]+"/, 'stroke-width="8"'), sample);
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
