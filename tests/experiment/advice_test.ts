// What failed cells and plans advise: ways that an experiment has, in place of those of other verbs. Without a GPU.
import assert from "node:assert/strict";
import { CompressoError, option } from "../../lib/core/errors.ts";
import { failureOf } from "../../lib/experiment/failure.ts";
import { type ExperimentPlan, planCells } from "../../lib/experiment/plan.ts";
import { Store } from "../../lib/experiment/store.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { rejects } from "../refuses.ts";
import { resolved } from "./plain.ts";
import type { ExperimentDefinition, ExperimentOverrides } from "../../lib/experiment/types.ts";

function plan(change: Partial<ExperimentDefinition>, overrides: ExperimentOverrides = {}): Promise<ExperimentPlan> {
  return planCells(resolved(change, overrides), new Store("nowhere"));
}

/** What the cell of a failure is advised; the words are those that the tests of these errors have. */
function advised(fix: string): string {
  const { message } = failureOf(new CompressoError("gpu", { what: "cannot go on", fix }), {
    state: { kind: "new" },
    options: {},
  });
  return message.replace("cannot go on; fix: ", "");
}

Deno.test("a cell is advised of what an experiment has in place of options of a single run", () => {
  const goOn = `continue (${option("resume")}) once more is free`;
  assert.equal(
    advised(`${goOn}; or start over (${option("export.replace")}) and use ${option("baseDtype", "q4")}`),
    "continue (the same command) once more is free; or start over (redo) and use baseDtype: q4",
  );
  assert.equal(
    advised(`lower ${option("rates.lora")} or ${option("rates.logAlphaLimit")}`),
    "lower loraRate or logAlphaLimit",
  );
  assert.equal(
    advised(`have such rows left out (${option("skipBroken")})`),
    "have such rows left out (skipBroken of the data)",
  );
});

Deno.test("a task whose data are missing is advised of what says where they lie", async () => {
  const tasks = { names: ["piqa"], data: "absent" };
  await rejects(plan({ evaluate: { tasks } }), "input", { value: "absent", names: "evaluate.tasks.data" });
});

Deno.test("a schedule that is neither a built-in one nor there is advised of the built-in ones, a script of its path", async () => {
  await inTemporaryFolder(async (root) => {
    const built = { value: "no such file", names: ["cubik", "cubic", "linear"] };
    await rejects(plan({ grid: { schedule: ["cubik"] } }, { root }), "input", built);
    await rejects(plan({}, { root, set: { schedule: ["cubik"] } }), "input", built);
    await rejects(plan({ grid: { schedule: ["cubik.ts"] } }, { root }), "input", { names: "cubik.ts" });
  });
});
