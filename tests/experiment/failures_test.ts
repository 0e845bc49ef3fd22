// Cells that fail: what they keep, whose turn it is then, and what is advised. On the demo model.
import assert from "node:assert/strict";
import type { ExperimentDefinition } from "../../lib/experiment/definition.ts";
import type { ExperimentReport } from "../../lib/experiment/report.ts";
import type { CellResult } from "../../lib/experiment/store.ts";
import { demoData } from "../../lib/io/open_model.ts";
import { exists } from "../../lib/io/exists.ts";
import { experimentTest, json, TINY } from "./tiny.ts";

const { choices = [] } = TINY.evaluate ?? {};
const PLAIN: ExperimentDefinition = { ...TINY, grid: { seed: [1] }, evaluate: { choices } };
/** The same with a measure that cannot be taken: so short a row has no answer. */
const WITH_BROKEN: ExperimentDefinition = {
  ...PLAIN,
  evaluate: { choices, rows: [{ name: "answers", file: demoData("heldout"), last: 8, seq: 3 }] },
};
const CELL = "cells/only";

experimentTest(
  "running anew what lacks a measure that cannot be taken costs no finished run, and is a failure all the same",
  async (run, out) => {
    await run(PLAIN, out);
    const result = await Deno.readTextFile(`${out}/${CELL}/run.json`);
    const values = await Deno.readTextFile(`${out}/${CELL}/measures.json`);
    const failed: string[] = [];
    const redone = await run(WITH_BROKEN, out, { redo: true, onFailure: ({ name }) => failed.push(name) });
    assert.deepEqual([redone.worked, failed], [["only"], ["only"]]);
    assert.deepEqual(redone.result.failed.map(({ cell }) => cell), ["only"]);
    assert.match(redone.result.failed[0]?.message ?? "", /cannot measure perplexity over rows/);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/run.json`), result);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/measures.json`), values);
    const { groups, unfinished } = await json<ExperimentReport>(`${out}/report.json`);
    assert.equal(groups[0]?.numbers["questions"]?.n, 1);
    assert.match(unfinished[0]?.state ?? "", /^failed: cannot measure perplexity over rows/);
    assert.match(await Deno.readTextFile(`${out}/report.md`), /## Not finished\n\n- only: failed: cannot measure/);

    const later = await run(WITH_BROKEN, out);
    assert.deepEqual(later.worked, [], "without its model only --redo can measure it");
    assert.equal(later.result.failed.length, 1, "it has failed before");
    const without = await run(PLAIN, out);
    assert.deepEqual([without.worked, without.result.left, without.result.failed], [[], 0, []]);
  },
);

experimentTest(
  "a measure that fails on a model that was kept leaves the other values in the tables, and the model",
  async (run, out) => {
    await run(PLAIN, out, { keep: "models" });
    const { outcome } = await json<CellResult>(`${out}/${CELL}/result.json`);
    for (const evaluateOnly of [true, false]) {
      const { worked, result } = await run(WITH_BROKEN, out, { evaluateOnly });
      assert.deepEqual([worked, result.failed.map(({ cell }) => cell)], [["only"], ["only"]]);
      assert.equal(result.report.groups[0]?.numbers["questions"]?.n, 1);
      assert.doesNotMatch(await Deno.readTextFile(`${out}/report.md`), /No cell is finished/);
    }
    const now = await json<CellResult>(`${out}/${CELL}/result.json`);
    assert.deepEqual(now.outcome, outcome);
    assert.deepEqual([now.failure?.code, now.failure?.tries], ["input", 2]);
    assert.deepEqual((await run(PLAIN, out)).worked, []);

    const ran = await Deno.readTextFile(`${out}/${CELL}/run.json`);
    const mended = await run({ ...PLAIN, evaluate: TINY.evaluate }, out, { evaluateOnly: true, redo: true });
    assert.deepEqual([mended.worked, mended.result.failed, mended.result.left], [["only"], [], 0]);
    assert.equal(await Deno.readTextFile(`${out}/${CELL}/run.json`), ran, "measuring alone prunes nothing anew");
    assert.ok(await exists(`${out}/${CELL}/model`));
  },
);

experimentTest(
  "running anew a cell whose definition has changed keeps the old run until the new one begins",
  async (run, out) => {
    await run(PLAIN, out);
    const changed = { ...WITH_BROKEN, base: { ...PLAIN.base, steps: 2 } };
    const { result } = await run(changed, out, { redo: true });
    assert.deepEqual(result.failed.map(({ cell }) => cell), ["only"]);
    assert.match(await Deno.readTextFile(`${out}/report.md`), /- only: failed: cannot measure perplexity over rows/);
    const kept = await run(PLAIN, out);
    assert.deepEqual([kept.worked, kept.result.left], [[], 0]);

    // More columns stay than may: known as soon as the model is, before the first step.
    const refused = { ...PLAIN, base: { ...PLAIN.base, sparsity: 0.9, minFfn: 80, units: "ffn" } };
    assert.equal((await run(refused, out, { redo: true })).result.failed.length, 1);
    assert.equal((await run(PLAIN, out)).result.left, 0);
  },
);

experimentTest(
  "cells that failed have their turn after the others, those that were tried least first",
  async (run, out) => {
    const definition: ExperimentDefinition = {
      ...TINY,
      base: { ...TINY.base, minFfn: 80, units: "ffn" },
      grid: { sparsity: [0.9, 0.8, 0.05] },
      evaluate: {},
    };
    const worked: string[] = [];
    for (let sitting = 0; sitting < 5; sitting++) {
      worked.push(...(await run(definition, out, { maxCells: 1 })).worked.map((name) => name.replace("sparsity=", "")));
    }
    assert.deepEqual(worked, ["0.9", "0.8", "0.05", "0.9", "0.8"]);
  },
);

experimentTest(
  "a run that an alarm stops is advised of what an experiment can do, and that can be done",
  async (run, out) => {
    const base = { ...TINY.base, prefinetune: 6, steps: 2, loraRate: 1 };
    const definition: ExperimentDefinition = {
      ...TINY,
      base,
      grid: { onAlarm: ["divergence=stop"] },
      evaluate: {},
    };
    const { result } = await run(definition, out);
    const [failure] = result.failed;
    assert.match(
      failure?.message ?? "",
      /now: the loss runs away.*; mend: lower the learning rate of LoRA \(loraRate\).*, and run it anew \(--redo\); or let it go/,
    );
    assert.match(
      failure?.message ?? "",
      /onAlarm "divergence=warn" .*or for all runs --set onAlarm=divergence=warn, and --redo$/,
    );
    assert.doesNotMatch(failure?.message ?? "", /--resume|--overwrite|\(prune|--lora-rate/);
    assert.doesNotMatch(await Deno.readTextFile(`${out}/report.md`), /--resume/);
    const again = await run(definition, out, { set: { onAlarm: ["divergence=warn"] }, redo: true });
    assert.deepEqual([again.result.failed, again.result.left], [[], 0]);
    const [cell] = again.result.report.cells;
    assert.deepEqual(cell?.alarms?.map(({ monitor, action }) => [monitor, action]), [["divergence", "warn"]]);
  },
);
