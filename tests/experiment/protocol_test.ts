// What a report says of how its cells were run and measured. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { protocolOf } from "../../lib/experiment/setup_lines.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { copyDemo } from "../cli/helpers/cli.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import type { ExperimentDefinition, ExperimentOverrides } from "../../lib/experiment/types.ts";
import { type Refusal, rejects } from "../refuses.ts";

const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.4, steps: 4, prompt: false, seq: 48 },
  grid: { rank: [2, 4], seed: [1, 2] },
};

async function linesOf(change: Partial<ExperimentDefinition>, overrides: ExperimentOverrides = {}): Promise<string[]> {
  const resolved = resolveExperiment(defineExperiment({ ...PLAIN, ...change }), overrides);
  let lines: string[] = [];
  await inTemporaryFolder(async (folder) => {
    lines = protocolOf(resolved, (await planCells(resolved, new Store(`${folder}/out`))).all);
  });
  return lines;
}

Deno.test("options that no run can have are refused at planning, with the cell", async () => {
  const refused = async (base: object, cell: Refusal): Promise<void> => {
    const grid = { method: ["compresso", "flap"], seed: [1] } as const;
    await rejects(linesOf({ base: { ...PLAIN.base, ...base }, grid: { ...grid } }), "usage", cell);
  };
  await refused({ schedule: "linear" }, { option: "schedule", value: "linear" });
  await refused({ units: "kv", align: 8 }, { value: "kv" });
  await refused({ protect: [99] }, { value: 99 });
  const rows = [{ name: "long", file: demoData("heldout"), seq: 4096 }];
  await rejects(linesOf({ evaluate: { rows } }), "usage", { value: 4096 });
  const perplexity = [{ name: "wide", text: demoData("heldout"), window: 4096 }];
  await rejects(linesOf({ evaluate: { perplexity } }), "usage", { value: 4096 });
});

Deno.test("what is the same for all runs is what they have, wherever it was set", async () => {
  const shared = async (...args: Parameters<typeof linesOf>): Promise<string | undefined> =>
    (await linesOf(...args)).find((line) => line.startsWith("the same"))?.replace("the same for all: ", "");
  assert.equal(await shared({}), "sparsity 0.4, prompt off, steps 4, seq 48");
  assert.equal(
    await shared({ grid: { sparsity: [0.2], rank: [2, 4] } }),
    "sparsity 0.2, prompt off, steps 4, seq 48",
    "the grid wins over the base",
  );
  assert.equal(await shared({}, { set: { seed: [5] } }), "sparsity 0.4, prompt off, steps 4, seq 48, seed 5");
});

Deno.test("what was pruned and what it was trained on is told, and each of several", async () => {
  const told = async (...args: Parameters<typeof linesOf>): Promise<string | undefined> => (await linesOf(...args))[0];
  assert.equal(await told({}), "pruned: demo; trained on train.jsonl");
  const file = demoData("heldout");
  assert.equal(
    await told({ base: { ...PLAIN.base, limitRows: 9 } }),
    "pruned: demo; trained on the first 9 rows of train.jsonl",
  );
  assert.equal(
    await told({
      data: {
        a: { file, last: 5 },
        b: { generate: { count: 3, tokens: 8 } },
        c: { file, textField: "output" },
        d: { answers: { file, limit: 4, tokens: 8 } },
      },
      grid: { data: ["a", "b", "c", "d"] },
    }),
    "pruned: demo; trained on a = the last 5 rows of heldout.jsonl, b = 3 texts that the model writes, c = heldout.jsonl (texts in output), d = answers that the model writes to the first 4 rows of heldout.jsonl",
  );
});

Deno.test("models of one folder's name are told apart, and calibrations have the names of the tables", async () => {
  await inTemporaryFolder(async (folder) => {
    for (const name of ["x", "y"]) await copyDemo(`${folder}/${name}/model`);
    const [first] = await linesOf({
      model: { x: `${folder}/x/model`, y: `${folder}/y/model` },
      data: { rows: demoData("train"), own: { generate: { count: 4, tokens: 8 } } },
      base: { ...PLAIN.base, data: "rows" },
      grid: [{ model: ["x", "y"], seed: [1] }, { model: ["x"], calibration: ["own"], seed: [1] }],
    });
    assert.equal(
      first,
      "pruned: x = x/model, y = y/model; trained on train.jsonl; calibrated on own = 4 texts that the model writes",
    );
  });
});

Deno.test("a measure is told with its texts' field, its length and the prompt before it", async () => {
  const rows = { name: "r", file: demoData("heldout"), seq: 48, limit: 4 };
  const evaluate = { rows: [rows, { ...rows, name: "t", textField: "output" }] };
  const lines = await linesOf({ evaluate });
  assert.ok(
    lines.includes("r: perplexity over up to the first 4 rows of heldout.jsonl, each read alone and cut to 48 tokens"),
  );
  assert.ok(
    lines.some((line) => /^t: .* heldout\.jsonl, texts in output, each read alone/.test(line)),
    lines.join("\n"),
  );
  assert.ok(!lines.some((line) => line.includes("before instructions")));
  const prompted = await linesOf({ evaluate: { ...evaluate, prompt: [true] } });
  assert.equal(prompted.at(-1), "before instructions and questions: the collaborative prompt");
  const both = await linesOf({ evaluate: { ...evaluate, prompt: [false, true] } });
  assert.equal(
    both.at(-1),
    "before instructions and questions: nothing, the collaborative prompt; each is measured separately",
  );
});
