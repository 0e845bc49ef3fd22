// What a run is said to have done to its units and layers: shares by hand, and how reports show them. Without a GPU.
import assert from "node:assert/strict";
import { markdown, spreadNote } from "../../lib/experiment/markdown.ts";
import type { CellOptions } from "../../lib/experiment/options.ts";
import { undecidedUnits } from "../../lib/run/undecided.ts";
import { DEMO, openModelFiles } from "../../lib/local/open_model.ts";
import { unitTable } from "../../lib/units/table.ts";
import { type MadeOutcome, madeReport } from "./finish_cell.ts";
import type { ExperimentDefinition, ExperimentReport, Grid, Value } from "../../lib/experiment/types.ts";

const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, seq: 192 },
  grid: { seed: [1, 2] },
};

/** The report of an experiment whose cells are finished and came to what their options tell. */
function reportOf(
  change: Partial<ExperimentDefinition>,
  outcome: (options: CellOptions) => MadeOutcome,
): Promise<ExperimentReport> {
  return madeReport({ ...PLAIN, ...change }, { outcome: ({ options }) => outcome(options) });
}

Deno.test("units are undecided by their chance to be open, which the noise decides, and masks fractional by their value, which β does", async () => {
  const { source: { spec } } = await openModelFiles(DEMO), table = unitTable(spec, ["ffn"]);
  // A tenth of the units at each place, the rest far away.
  const places = [-30, -1.9, -0.3, 0.3, 1.9], tenth = Math.floor(table.count / 10);
  const logAlpha = new Float32Array(table.count).fill(30);
  for (const [index, place] of places.entries()) logAlpha.fill(place, index * tenth, (index + 1) * tenth);
  const shares = (temperature: number, noise: number, learned = true): (number | undefined)[] => {
    const method = learned ? "compresso" : "gradual";
    const found = undecidedUnits(table, logAlpha, { method, schedule: undefined, rates: { temperature, noise } });
    return [found?.chance, found?.value].map((share) => share && Math.round(share * table.count / tenth));
  };
  // z without noise lies within (0.05, 0.95) for |log α| < β · ln 7 = 1.95 β: four places, or two, or none.
  assert.deepEqual(shares(1, 0.05), [0, 4]);
  assert.deepEqual(shares(0.5, 0.05), [0, 2]);
  assert.deepEqual(shares(0.1, 0.05), [1, 0]); // −0.3 lies near −β · ln 11
  // P(z > 0) lies within them for |log α + 2.4 β| < 2.94 τ.
  assert.deepEqual(shares(1, 1), [3, 4]);
  assert.deepEqual(shares(1, 1, false), [undefined, undefined]);
});

Deno.test("a report shows the shares of undecided and of fractional masks, where masks are learned", async () => {
  const line = (text: string): string => text.split("\n").find((one) => one.includes("| gap to the schedule |")) ?? "";
  const undecided = { chance: 0.125, value: 0.25 };
  const all = markdown(await reportOf({}, () => ({ undecided })), []);
  assert.match(line(all), / \| undecided units \| fractional masks \| unevenness of layers \|$/);
  assert.match(all, /\| 12\.5 ± 0\.0 % \| 25\.0 ± 0\.0 % \| 0\.0 ± 0\.0 % \|\n/);
  const none = markdown(await reportOf({}, () => ({})), []);
  assert.match(line(none), / \| gap to the schedule \| unevenness of layers \|$/);
  const grid = { rank: [2, 4], seed: [1] };
  const some = markdown(await reportOf({ grid }, ({ rank }) => rank === 2 ? {} : { undecided }), []);
  assert.match(some, /\| rank 2 \| 1 \|.* \| – \| – \| 0\.0 % \|\n\| rank 4 \| 1 \|.* \| 12\.5 % \| 25\.0 % \|/);
});

Deno.test("how an option moves layers is told of pairs whose layers may differ, not of two that are uniform", async () => {
  const grid: Grid = { layout: ["compact", "uniform"], prompt: [true, false], seed: [1, 2] };
  const report = await reportOf({ grid }, ({ layout, prompt, seed }) => {
    const apart = layout === "uniform" ? 0 : prompt === false ? 0.3 : seed === 1 ? 0.1 : 0.2;
    return { layers: [0.4 - apart, 0.4 + apart], hard: 0.4 };
  });
  const prompt = report.contrasts.find(({ axis }) => axis === "prompt");
  const shown = (value: { readonly mean: number; readonly n: number } | null | undefined): unknown =>
    value && [value.mean.toFixed(9), value.n];
  assert.deepEqual(shown(prompt?.layerDistance), ["0.150000000", 2]);
  assert.deepEqual(shown(prompt?.numbers["unevenness of layers"]), ["0.150000000", 2]);
  assert.deepEqual(prompt?.numbers["loss, last 8 steps"]?.n, 4, "other numbers are of all pairs");
  const text = markdown(report, []);
  assert.match(
    text,
    /\| change \| pairs \| distance of the layers \| further from uniform \|\n.*\n.*layout: uniform in place of compact \| 4, of 2 seeds \| 22\.5 ± 2\.5 % \| −22\.5 ± 2\.5 points \|\n\| prompt: off in place of on \| 2 \| 15\.0 ± 5\.0 % \| \+15\.0 ± 5\.0 points \|/,
  );
  assert.match(text, /Pairs of uniform layouts are left out of distances between two runs/);
  const other = markdown(await reportOf({ grid: { prompt: [true, false], seed: [1, 2] } }, () => ({})), []);
  assert.doesNotMatch(other, /uniform layout/);
});

Deno.test("what runs saw has columns where they differ in it, and measures say how many tokens they are over", async () => {
  const grid = { prompt: [true, false], seed: [1] };
  const data = { labels: 1236, cutRows: 5, promptTokens: 40 };
  const head = (text: string): string => text.split("\n").find((one) => one.includes("| gap to the schedule |")) ?? "";
  const alike = markdown(await reportOf({ grid }, () => data), []);
  assert.match(head(alike), / \| unevenness of layers \|$/);
  const other = await reportOf(
    { grid },
    ({ prompt }) => prompt ? data : { ...data, labels: 2000, promptTokens: 0 },
  );
  const text = markdown(other, []);
  assert.match(head(text), / \| unevenness of layers \| labels seen \| prompt, tokens a row \|$/);
  assert.match(text, /\| prompt on \|.* \| 1,236 \| 40 \|\n\| prompt off \|.* \| 2,000 \| 0 \|/);
  const value = (name: string, n: number): Value => ({ name, kind: "perplexity", value: 9, stderr: null, n });
  const two = spreadNote({
    ...other,
    dense: { demo: [value("C4, with prompt", 9218), value("C4, no prompt", 11202)] },
  });
  assert.match(
    two,
    /Perplexities are over so many tokens: C4, with prompt \(9,218\), C4, no prompt \(11,202\); .*fewer after a prompt\./,
  );
  const models = { a: [value("C4", 9218)], b: [value("C4", 9300)] };
  assert.match(spreadNote({ ...other, dense: models }), /over so many tokens: C4 \(9,218 by a, 9,300 by b\)\./);
  assert.doesNotMatch(spreadNote({ ...other, dense: {} }), /so many tokens/);
});
