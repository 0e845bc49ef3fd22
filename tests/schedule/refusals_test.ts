// Schedules that a run refuses, for what method, masks, layout or size cannot follow. On the demo model.
import assert from "node:assert/strict";
import { prune, type PruneResult, sliceModel } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { parameterCount } from "../../lib/model/mod.ts";
import { defineSchedule, type ScheduleDefinition } from "../../lib/schedule/mod.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { BASE, withDemo } from "../run/helpers/demo_run.ts";
import { Lair } from "../run/helpers/scripts.ts";

Deno.test("targets of layers that leave no room for the run's size are refused at the last step", async () => {
  await withDemo(async ({ model }) => {
    const { sparsity: _sparsity, ...base } = BASE, parameters = Math.round(0.8 * parameterCount(model.spec));
    const run = async (layers: NonNullable<ScheduleDefinition["layers"]>, stages: string[]): Promise<PruneResult> => {
      using run = prune(model, { ...base, size: { parameters }, schedule: defineSchedule({ sparsity: 0.1, layers }) });
      for await (const { stage } of run) stages.push(stage);
      return run.result();
    };
    const stages: string[] = [];
    await rejects(run(({ layers }) => layers.map(() => 0.1), stages), "input", { names: ["step 7", 8] });
    assert.equal(stages.filter((stage) => stage === "prune").length, 7);
    const { source, masks } = await run(({ layers }) => layers.map((_, index) => index === 0 ? 0.1 : null), []);
    const after = parameterCount(sliceModel(source, { masks }).spec);
    assert.ok(after <= parameters && after > parameters - 10_000, `${after}`);
  });
});

Deno.test("a schedule with parts that method or layout cannot follow is refused before the first step, a script too", async () => {
  await withDemo(async ({ model }) => {
    await using lair = new Lair();
    const cases: readonly (readonly [Partial<RunOptions>, string, ScheduleDefinition, Refusal])[] = [
      [
        { method: "gradual" },
        "rates: { noise: 0.2 }",
        { rates: { noise: 0.2 } },
        { option: "rates.noise" },
      ],
      [
        { preset: "paper" },
        "rates: { saliencyDecay: 0.5 }",
        { rates: { saliencyDecay: 0.5 } },
        { option: "rates.saliencyDecay", value: 'start: "constant"' },
      ],
      [{ method: "taylor" }, "layers: () => []", { layers: () => [] }, { value: "layers", names: "taylor" }],
      [{ method: "random" }, "freeze: () => []", { freeze: () => [] }, { value: "freeze", names: "random" }],
      [{ layout: "uniform" }, "layers: () => []", { layers: () => [] }, { value: '"uniform"' }],
    ];
    for (const [options, text, definition, message] of cases) {
      const script = await lair.write(
        `import { defineSchedule } from "compresso"; export default defineSchedule({ ${text} });`,
      );
      for (const schedule of [defineSchedule(definition), script]) {
        await rejects(
          async () => {
            using run = prune(model, { ...BASE, ...options, schedule });
            await run.prepare();
          },
          "usage",
          message,
        );
      }
    }
    using run = prune(model, { ...BASE, layout: "uniform", schedule: defineSchedule({ freeze: () => [] }) });
    await run.prepare();
  });
});
