// What a run is said to have done to its units and layers: shares by hand, and how reports show them. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { markdown, spreadNote } from "../../lib/experiment/markdown.ts";
import { type ExperimentPlan, planCells } from "../../lib/experiment/plan.ts";
import type { CellOptions } from "../../lib/experiment/options.ts";
import { cutProfile } from "../../lib/experiment/cut_and_loss.ts";
import { makeReport } from "../../lib/experiment/report.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { DEMO, openModelFiles } from "../../lib/local/open_model.ts";
import { selectionMasks, unitTable } from "../../lib/units/table.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { OUTCOME } from "./tiny.ts";
import type {
  CellOutcome,
  CutProfile,
  ExperimentDefinition,
  ExperimentReport,
  Grid,
  Value,
} from "../../lib/experiment/types.ts";

const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, seq: 192 },
  grid: { seed: [1, 2] },
};

/** The report of an experiment whose cells are finished and were cut as told by their options. */
async function reportOf(
  change: Partial<ExperimentDefinition>,
  cutOf: (options: CellOptions) => CutProfile,
  more: (options: CellOptions) => Partial<CellOutcome> = () => ({}),
): Promise<ExperimentReport> {
  const resolved = resolveExperiment(defineExperiment({ ...PLAIN, ...change }));
  let report: ExperimentReport | null = null;
  await inTemporaryFolder(async (folder) => {
    const store = new Store(`${folder}/out`), plan = (): Promise<ExperimentPlan> => planCells(resolved, store);
    for (const { name: cell, folder, identity, options } of (await plan()).all) {
      await store.begin(folder, identity, { anew: false });
      const outcome = { ...OUTCOME, cut: cutOf(options), ...more(options) };
      await store.setResult(folder, { cell, identity, outcome, failure: null });
    }
    report = await makeReport(resolved, await plan(), store);
  });
  return report ?? assert.fail("no report");
}

Deno.test("units are undecided by their chance to be open, which the noise decides, and masks fractional by their value, which β does", async () => {
  const { source: { spec } } = await openModelFiles(DEMO), table = unitTable(spec, ["ffn"]);
  const kept = new Uint8Array(table.count).fill(1), masks = selectionMasks(table, kept);
  // A tenth of the units at each place, the rest far away.
  const places = [-30, -1.9, -0.3, 0.3, 1.9], tenth = Math.floor(table.count / 10);
  const logAlpha = new Float32Array(table.count).fill(30);
  for (const [index, place] of places.entries()) logAlpha.fill(place, index * tenth, (index + 1) * tenth);
  const sparsity = { target: 0, expected: 0, hard: 0 };
  const shares = (temperature: number, noise: number, learned = true): (number | null | undefined)[] => {
    const { undecided, fractional } = cutProfile({ table, masks, logAlpha, sparsity }, {
      learned,
      rates: { temperature, noise },
    });
    return [undecided, fractional].map((share) =>
      typeof share === "number" ? Math.round(share * table.count / tenth) : share
    );
  };
  // z without noise lies within (0.05, 0.95) for |log α| < β · ln 7 = 1.95 β: four places, or two, or none.
  assert.deepEqual(shares(1, 0.05), [0, 4]);
  assert.deepEqual(shares(0.5, 0.05), [0, 2]);
  assert.deepEqual(shares(0.1, 0.05), [1, 0]); // −0.3 lies near −β · ln 11
  // P(z > 0) lies within them for |log α + 2.4 β| < 2.94 τ.
  assert.deepEqual(shares(1, 1), [3, 4]);
  assert.deepEqual(shares(1, 1, false), [null, null]);
});

Deno.test("a report shows the share of fractional masks, and results of earlier versions without it", async () => {
  const cut = { ...OUTCOME.cut, undecided: 0.125 };
  const line = (text: string): string => text.split("\n").find((one) => one.includes("| undecided units |")) ?? "";
  const all = markdown(await reportOf({}, () => ({ ...cut, fractional: 0.25 })), []);
  assert.match(line(all), / \| undecided units \| fractional masks \| unevenness of layers \|$/);
  assert.match(all, /\| 12\.5 ± 0\.0 % \| 25\.0 ± 0\.0 % \| 0\.0 ± 0\.0 % \|\n/);
  assert.match(all, /its mask is fractional where it lies between 0\.05 and 0\.95 without noise/);
  const none = markdown(await reportOf({}, () => cut), []);
  assert.match(line(none), / \| undecided units \| unevenness of layers \|$/);
  const grid = { rank: [2, 4], seed: [1] };
  const some = markdown(await reportOf({ grid }, ({ rank }) => rank === 2 ? cut : { ...cut, fractional: 0.5 }), []);
  assert.match(some, /\| rank 2 \| 1 \|.* \| 12\.5 % \| – \| 0\.0 % \|\n\| rank 4 \| 1 \|.* \| 12\.5 % \| 50\.0 % \|/);
});

Deno.test("how an option moves layers is told of pairs whose layers may differ, not of two that are uniform", async () => {
  const grid: Grid = { layout: ["compact", "uniform"], prompt: [true, false], seed: [1, 2] };
  const report = await reportOf({ grid }, ({ layout, prompt, seed }) => {
    const apart = layout === "uniform" ? 0 : prompt === false ? 0.3 : seed === 1 ? 0.1 : 0.2;
    return { ...OUTCOME.cut, layers: [0.4 - apart, 0.4 + apart], uniform: 0.4, unevenness: apart };
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
  const other = markdown(await reportOf({ grid: { prompt: [true, false], seed: [1, 2] } }, () => OUTCOME.cut), []);
  assert.doesNotMatch(other, /uniform layout/);
});

Deno.test("what runs saw has columns where they differ in it, and measures say how many tokens they are over", async () => {
  const grid = { prompt: [true, false], seed: [1] }, cut = { ...OUTCOME.cut, undecided: 0.125 };
  const data = { labels: 1234, cutRows: 5, promptTokens: 40 };
  const head = (text: string): string => text.split("\n").find((one) => one.includes("| undecided units |")) ?? "";
  const alike = markdown(await reportOf({ grid }, () => cut, () => data), []);
  assert.match(head(alike), / \| unevenness of layers \|$/);
  const other = await reportOf(
    { grid },
    () => cut,
    ({ prompt }) => prompt ? data : { ...data, labels: 2000, promptTokens: 0 },
  );
  const text = markdown(other, []);
  assert.match(head(text), / \| unevenness of layers \| labels seen \| prompt, tokens a row \|$/);
  assert.match(text, /\| prompt on \|.* \| 1,234 \| 40 \|\n\| prompt off \|.* \| 2,000 \| 0 \|/);
  const value = (name: string, n: number): Value => ({ name, kind: "perplexity", value: 9, stderr: null, n });
  const two = spreadNote({
    ...other,
    dense: { demo: [value("C4, with prompt", 9218), value("C4, no prompt", 11202)] },
  });
  assert.match(
    two,
    /Perplexities are over so many tokens: C4, with prompt \(9,218\), C4, no prompt \(11,202\); .*fewer behind a prompt\./,
  );
  const models = { a: [value("C4", 9218)], b: [value("C4", 9300)] };
  assert.match(spreadNote({ ...other, dense: models }), /over so many tokens: C4 \(9,218 by a, 9,300 by b\)\./);
  assert.doesNotMatch(spreadNote({ ...other, dense: {} }), /so many tokens/);
});
