// What failed cells and plans advise: ways that an experiment has, in place of those of other verbs. Without a GPU.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { failureOf } from "../../lib/experiment/failure.ts";
import { type ExperimentPlan, planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { inTemporaryFolder, rejectsWith } from "../formats/files.ts";
import type { ExperimentDefinition, ExperimentOverrides } from "../../lib/experiment/types.ts";

const PLAIN: ExperimentDefinition = {
  name: "plain",
  model: "demo",
  base: { sparsity: 0.2, steps: 4, prompt: false, seq: 48 },
  grid: { seed: [1] },
};

async function plan(
  change: Partial<ExperimentDefinition>,
  overrides: ExperimentOverrides = {},
): Promise<ExperimentPlan> {
  return await planCells(
    resolveExperiment(defineExperiment({ ...PLAIN, ...change }), overrides),
    new Store("nowhere"),
  );
}

/** What the cell of a failure is advised; the words are those that the tests of these errors have. */
function advised(fix: string): string {
  const { message } = failureOf(new CompressoError("gpu", { what: "cannot go on", fix }), {
    state: { kind: "new" },
    options: {},
  });
  return message.replace("cannot go on; fix: ", "");
}

Deno.test("a cell whose memory or schedule ended it is advised of the same command, and of --redo for other options", () => {
  assert.equal(
    advised("go on (prune --resume) once more is free; or start anew (prune --overwrite) and use --base-dtype q4"),
    "the same command goes on once more is free; or run it anew (--redo) and use baseDtype q4",
  );
  assert.equal(
    advised(
      "use no longer --no-recompute (9 MiB), and go on (prune --resume); or start anew (prune --overwrite) and x",
    ),
    "use recompute: true (9 MiB), and the same command goes on; or run it anew (--redo) and x",
  );
  assert.equal(
    advised("a run goes on from its last checkpoint by --resume, with as much time again; else fix the script"),
    "the same command goes on from its last checkpoint, with as much time again; else fix the script",
  );
  assert.equal(
    advised("give the same options, or another --out, or go on with the others by --may-differ schedule,rates"),
    "run it anew with --redo, or put back what differs",
  );
});

Deno.test("a cell whose model falls silent is advised of the definition's count and seed, not of the axis of seeds", () => {
  assert.equal(
    advised(
      "lower count to 7, which are written (--count 7 --resume), or start anew with another seed (--seed, with --overwrite)",
    ),
    "lower generate.count of the data to 7, or give another generate.seed of the data (the option seed changes no text)",
  );
});

Deno.test("a task whose data are missing is advised of what says where they lie", async () => {
  const tasks = { names: ["piqa"], data: "absent" };
  await rejectsWith(
    plan({ evaluate: { tasks } }),
    "input",
    /no folder; fix: name the folder by evaluate\.tasks\.data, or by --file NAME=PATH where that is @NAME, and its files/,
  );
});

Deno.test("a schedule that is neither a built-in one nor there is advised of the built-in ones, a script of its path", async () => {
  await inTemporaryFolder(async (root) => {
    const built = /cannot read the schedule .*cubik; .*no such file; fix: check the path; built-in .* cubic, linear/;
    await rejectsWith(plan({ grid: { schedule: ["cubik"] } }, { root }), "input", built);
    await rejectsWith(plan({}, { root, set: { schedule: ["cubik"] } }), "input", built);
    await rejectsWith(
      plan({ grid: { schedule: ["cubik.ts"] } }, { root }),
      "input",
      /cubik\.ts; .*fix: check the path$/,
    );
  });
});
