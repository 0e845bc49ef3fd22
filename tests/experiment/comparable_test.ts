// What the differences of a report are over: settings that all seeds have, and perplexities over the same tokens. Without a GPU.
import assert from "node:assert/strict";
import { markdown, spreadNote } from "../../lib/experiment/markdown.ts";
import type { CellOptions } from "../../lib/experiment/options.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { madeReport } from "./finish_cell.ts";
import { PLAIN as ONE } from "./plain.ts";
import type { ExperimentDefinition, ExperimentReport } from "../../lib/experiment/types.ts";

const PLAIN: ExperimentDefinition = {
  ...ONE,
  evaluate: { rows: [{ name: "answers", file: demoData("heldout"), last: 8, seq: 48 }] },
};

/** The report of an experiment whose cells are finished and have this perplexity, over tokens of this digest. */
async function reportOf(
  change: Partial<ExperimentDefinition>,
  measured: (options: CellOptions) => { readonly value: number; readonly tokens?: string },
): Promise<ExperimentReport> {
  return await madeReport({ ...PLAIN, ...change }, {
    values: ({ options }) => [{ name: "answers", kind: "perplexity", stderr: null, n: 100, ...measured(options) }],
  });
}

Deno.test("a difference is over the settings that all seeds have, and says how many pairs others are", async () => {
  const grid = [
    { rank: [2, 4], sparsity: [0.2], seed: [1, 2] },
    { rank: [2, 4], sparsity: [0.3], seed: [1] },
  ];
  // Rank 4 is better by 1 and 2 at 20 %, and worse by 90 at 30 %.
  const report = await reportOf({ grid }, ({ rank, sparsity, seed = NaN }) => {
    const more = sparsity === 0.3 ? 90 : -seed;
    return { value: 100 + (rank === 4 ? more : 0) };
  });
  const [contrast] = report.contrasts;
  assert.deepEqual([contrast?.axis, contrast?.from, contrast?.to], ["rank", "2", "4"]);
  const { mean, stderr, n, leftOut } = contrast?.numbers["answers"] ?? assert.fail("no difference");
  assert.deepEqual([mean, n, leftOut], [-1.5, 2, 1]);
  assert.ok(Math.abs((stderr ?? NaN) - 0.5) < 1e-12);
  const text = markdown(report, []);
  assert.match(text, /\| rank: 4 in place of 2 \| 2; 1 left out \| −1\.50 ± 0\.50 \|/);
  assert.match(text, /Pairs whose setting not all of these seeds have are left out/);
  // What goes with the seed is no setting of its own.
  const data = { answers: demoData("train"), held: demoData("heldout") };
  const tied = await reportOf({
    data,
    grid: [{ rank: [2, 4], data: ["answers"], seed: [1] }, { rank: [2, 4], data: ["held"], seed: [2] }],
  }, ({ rank, seed = NaN }) => ({ value: 100 - (rank === 4 ? seed : 0) }));
  const own = tied.contrasts.find(({ axis }) => axis === "rank")?.numbers["answers"];
  assert.deepEqual(own, { mean: -1.5, stderr: 0.5, n: 2, seeds: 2, leftOut: 0 });
  const whole = markdown(await reportOf({ grid: { rank: [2, 4], seed: [1, 2] } }, () => ({ value: 9 })), []);
  assert.doesNotMatch(whole, /eft out/);
});

Deno.test("perplexities over the tokens of two tokenizers, and losses beside them, are not subtracted", async () => {
  const change = { model: { a: "demo", b: "demo" }, grid: { model: ["a", "b"], seed: [1, 2] } };
  const report = await reportOf(change, ({ model }) => ({ value: model === "a" ? 20 : 12, tokens: String(model) }));
  const [contrast] = report.contrasts;
  assert.deepEqual(contrast?.numbers["answers"], undefined);
  assert.deepEqual(contrast?.numbers["loss, last 8 steps"], undefined);
  assert.equal(contrast?.numbers["hard sparsity"]?.n, 2);
  assert.match(
    spreadNote(report),
    /answers \(100 by a, 100 by b\)\. Models by whose tokenizers or templates the tokens differ/,
  );
  // Values of earlier versions do not say it.
  for (const tokens of [{ tokens: "same" }, {}]) {
    const alike = await reportOf(change, ({ model }) => ({ value: model === "a" ? 20 : 12, ...tokens }));
    assert.equal(alike.contrasts[0]?.numbers["answers"]?.mean, -8);
    assert.equal(alike.contrasts[0]?.numbers["loss, last 8 steps"]?.mean, 0);
    assert.match(spreadNote(alike), /answers \(100\)\.(?! Models)/);
  }
});
