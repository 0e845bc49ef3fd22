// Runs of `prune` as cells of an experiment, and the runs of an experiment on one page. On the demo model.
import assert from "node:assert/strict";
import { exists } from "../../lib/files/exists.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { cli } from "../cli/helpers/cli.ts";
import { assertNames } from "../refuses.ts";
import { experimentTest, MODEL, TINY } from "./tiny.ts";

experimentTest(
  "the folder of a run of prune is a cell, which is only measured, and keeps its model",
  async (run, out) => {
    const options = "--sparsity 0.2 --steps 3 --prefinetune 1 --postfinetune 1 --batch 2 --seq 48 --no-prompt --rank 4";
    const data = ["--data", demoData("train"), "--limit-rows", "60", "--calibration", "none"];
    const folder = `${out}/cells/mine`;
    const pruned = await cli(["prune", MODEL, ...data, ...options.split(" "), "--quiet", "--out", folder]);
    assert.equal(pruned.code, 0, pruned.stderr);
    const made = await Deno.readTextFile(`${folder}/run.json`);
    const definition = { ...TINY, grid: { rank: [2, 4] } };
    const { worked, result } = await run(definition, out);
    assert.deepEqual([worked, result.failed, result.left], [["rank=2", "rank=4"], [], 0]);
    const [two, four] = result.report.cells;
    assert.deepEqual([two?.folder, four?.folder], ["rank=2", "mine"]);
    assert.ok(four?.numbers["answers"]);
    assert.equal(await Deno.readTextFile(`${folder}/run.json`), made);
    assert.ok(await exists(`${folder}/model`) && !(await exists(`${out}/cells/rank=2/model`)));

    // One with other options is another run, and stays.
    const { worked: again } = await run({ ...definition, grid: { rank: [2, 4], seed: [0, 1] } }, out, { maxCells: 1 });
    assert.equal(again.length, 1);
    assert.equal(await Deno.readTextFile(`${folder}/run.json`), made);

    const reported = await cli(["report", out]);
    assertNames(reported.stderr, `${out}/experiment.html`);
    assert.equal(reported.code, 0, reported.stderr);
    const page = await Deno.readTextFile(`${out}/report.html`);
    for (const name of ["mine", "rank=2"]) assert.ok(page.includes(`data-name="${name}"`), name);
  },
);
