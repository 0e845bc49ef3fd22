// A program's own functions that fail: what they throw ends the sitting as it is, also where they give a promise. On a device that only counts.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { planExperiment, runExperiment } from "../../lib/experiment/run.ts";
import { Store } from "../../lib/experiment/store.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { finishCell } from "./finish_cell.ts";
import { TINY } from "./tiny.ts";
import type { ExperimentDefinition, RunExperimentOptions } from "../../lib/experiment/types.ts";

const TWO: ExperimentDefinition = { ...TINY, grid: { seed: [1, 2] }, evaluate: {} };
const MINE = new RangeError("the program's own");
const fail = (): never => {
  throw MINE;
};
const reject = (): Promise<never> => Promise.reject(MINE);
const unfit = new CompressoError("numeric", { what: "cannot measure kernels" });

/** The cells' states after a sitting that ends with what the program's own function has thrown. */
async function ended(
  definition: ExperimentDefinition,
  options: Partial<RunExperimentOptions> & { readonly out: string },
): Promise<string[]> {
  using device = openDryDevice({ isCpu: true });
  const experiment = defineExperiment(definition);
  await assert.rejects(runExperiment(experiment, { device, ...options }), (error) => error === MINE);
  return (await planExperiment(experiment, { out: options.out })).map(({ state }) => state.kind);
}

Deno.test("what onCell throws or rejects with ends the sitting before the cell begins", async () => {
  await inTemporaryFolder(async (out) => {
    for (const onCell of [fail, reject]) assert.deepEqual(await ended(TWO, { out, onCell }), ["new", "new"]);
  });
});

Deno.test("what onFailure throws or rejects with ends the sitting, and the cell's failure is kept", async () => {
  for (const onFailure of [fail, reject]) {
    await inTemporaryFolder(async (out) => {
      const worked: string[] = [];
      const options = {
        onFailure,
        onCell: ({ name }: { readonly name: string }): void => void worked.push(name),
        onModel: () => Promise.reject(unfit),
      };
      assert.deepEqual(await ended(TWO, { out, ...options }), ["failed", "new"]);
      assert.deepEqual(worked, ["seed=1"]);
    });
  }
});

Deno.test("what onNote throws or rejects with ends the sitting, and is no cell's failure", async () => {
  for (const onNote of [fail, reject]) {
    await inTemporaryFolder(async (folder) => {
      // Of rows that are left out it is told once the model lies there, and is the cell at work.
      const data = `${folder}/rows.jsonl`, rows = (await Deno.readTextFile(demoData("train"))).split("\n").slice(0, 40);
      const blank = JSON.stringify({ instruction: "What?", input: "", output: "" });
      await Deno.writeTextFile(data, [blank, ...rows].join("\n"));
      assert.deepEqual(await ended({ ...TWO, data }, { out: `${folder}/rows`, onNote }), ["stopped", "new"]);

      // Of cells that cannot be measured, before any is worked on.
      const out = `${folder}/measures`, store = new Store(out), definition = { ...TINY, grid: { seed: [1] } };
      for (const cell of await planExperiment(defineExperiment(definition), { out })) await finishCell(store, cell);
      assert.deepEqual(await ended(definition, { out, onNote, evaluateOnly: true }), ["unmeasured"]);
    });
  }
});
