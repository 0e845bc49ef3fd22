// What a plan knows of cells' schedules that are scripts, before anything is run. Without a GPU.
import assert from "node:assert/strict";
import { defineExperiment } from "../../lib/experiment/definition.ts";
import { planCells } from "../../lib/experiment/plan.ts";
import { resolveExperiment } from "../../lib/experiment/resolve.ts";
import { Store } from "../../lib/experiment/store.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import type { ExperimentDefinition } from "../../lib/experiment/types.ts";
import { rejects } from "../refuses.ts";

const BASE: ExperimentDefinition["base"] = { sparsity: 0.2, steps: 8, prompt: false, seq: 48 };

Deno.test("a plan refuses cells whose script they cannot follow, and rates that would do nothing beside it", async () => {
  await inTemporaryFolder(async (folder) => {
    let count = 0;
    const plan = async (
      script: string,
      { grid = {}, base = {} }: Partial<ExperimentDefinition>,
      only: ReadonlyMap<string, readonly string[]> = new Map(),
    ): Promise<string[]> => {
      const schedule = `${folder}/schedule${count++}.ts`;
      await Deno.writeTextFile(schedule, script);
      const definition = { name: "scripts", model: "demo", base: { ...BASE, ...base, schedule }, grid };
      const { cells } = await planCells(resolveExperiment(defineExperiment(definition)), new Store(`${folder}/out`), {
        only,
      });
      return cells.map(({ name }) => name);
    };
    const script = (body: string): string =>
      `import { defineSchedule } from "compresso";\nexport default defineSchedule({ ${body} });`;
    const grid: ExperimentDefinition["grid"] = { method: ["compresso", "magnitude"] };
    const rate = "postfinetune: { lora: 1e-3 }";
    await rejects(plan(script(`sparsity: 0.2, ${rate}`), { grid }), "usage");
    await rejects(plan(script("sparsity: 0.2"), { grid }), "usage");
    assert.deepEqual(await plan(script(rate), { grid }), ["method=compresso", "method=magnitude"]);
    const given = { loraRate: 1e-4 };
    await rejects(plan(script(rate), { grid, base: given }), "usage", { value: "postfinetune.lora", names: "lora" });
    await rejects(plan(script("finetune: { lora: 1e-3 }"), { grid: { prefinetune: [1, 0] } }), "usage", {
      value: "schedule4.ts",
    });
    const only = new Map([["method", ["compresso"]]]);
    assert.deepEqual(
      await plan(script("sparsity: 0.2"), { grid }, only),
      ["method=compresso"],
      "a cell that is not chosen stops nobody",
    );
    const free = { clipNorm: 1 };
    const clips = "rates: { clipNorm: 2 }, finetune: { clipNorm: 2 }, postfinetune: { clipNorm: 2 }";
    assert.equal(
      (await plan(script(clips), { grid: { lora: [false] }, base: free })).length,
      1,
      "without LoRA its rates count for nothing",
    );
    await rejects(plan(script(clips), { grid: { lora: [true] }, base: free }), "usage", { names: "clipNorm" });
    // Trained or not, a rate of 0 is none that was asked for.
    assert.equal((await plan(script("rates: { lora: 0 }"), { grid: { lora: [true, false] } })).length, 2);
    // What fails is its cell's own failure.
    assert.equal((await plan("throw new Error('no');", { grid })).length, 2);
  });
});

Deno.test({
  name: "a plan takes no right to run programs, which what a script steers is asked by",
  permissions: { read: true, write: true, env: true, sys: true },
  fn: async () => {
    await inTemporaryFolder(async (folder) => {
      const schedule = `${folder}/mine.ts`;
      await Deno.writeTextFile(
        schedule,
        'import { defineSchedule } from "compresso";\nexport default defineSchedule({ sparsity: 0.2 });',
      );
      const definition = { name: "scripts", model: "demo", base: { ...BASE, schedule }, grid: { seed: [1, 2] } };
      const { all } = await planCells(resolveExperiment(defineExperiment(definition)), new Store(`${folder}/out`));
      assert.equal(all.length, 2);
    });
  },
});
