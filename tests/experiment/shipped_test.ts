// The experiments that come with the toolkit: each can be planned, on the demo or on the files that it wants.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { cellsOf } from "../../lib/experiment/grid.ts";
import { openExperiment } from "../../lib/experiment/open.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { demoData } from "../../lib/local/open_model.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import type { ExperimentDefinition, ExperimentOverrides } from "../../lib/experiment/types.ts";

/** What experiments on larger models ask for; all others have the demo. */
const GIVEN: Readonly<Record<string, string>> = {
  instructions: demoData("train"),
  rows: demoData("train"),
  wikitext: demoData("heldout"),
  c4: demoData("train"),
  tasks: "fixtures/tasks",
};

/** The files that an experiment asks for. */
function wantedBy({ files = {} }: ExperimentDefinition): ExperimentOverrides {
  const asked = Object.entries(files).filter(([, path]) => path === null).map(([name]) => name);
  return asked.length === 0 ? {} : {
    models: { model: "demo" },
    files: Object.fromEntries(Object.entries(GIVEN).filter(([name]) => asked.includes(name))),
  };
}

Deno.test("every experiment in scripts/experiments is well formed, and a run of each of its cells is possible", async () => {
  const folder = fileURLToPath(new URL("../../scripts/experiments/", import.meta.url));
  const files: string[] = [];
  for await (const { name } of Deno.readDir(folder)) {
    if (name.endsWith(".ts") && name !== "on_demo.ts") files.push(name); // what they share is none
  }
  assert.ok(files.length >= 11, files.join(", "));
  for (const file of files) {
    const experiment = await openExperiment(folder + file), { definition } = experiment;
    assert.equal(`${definition.name}.ts`, file);
    assert.ok((definition.question ?? "").length > 20, file);
    assert.doesNotMatch(
      definition.question ?? "",
      /\d/,
      `${file}: --set may change what the protocol alone then tells`,
    );
    await inTemporaryFolder(async (out) => {
      const resolved = resolveExperiment(experiment, wantedBy(definition));
      const { cells } = await planCells(resolved, new Store(`${out}/runs`));
      assert.ok(cells.length >= 2, file);
      assert.deepEqual(cells.map(({ name }) => name), cellsOf(definition).map(({ name }) => name), file);
    });
  }
});
