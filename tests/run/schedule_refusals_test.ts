// Schedules that a run refuses before its first step, for what method, masks or layout cannot follow. On the demo model.
import assert from "node:assert/strict";
import { defineSchedule, prune, type PruneOptions, type ScheduleDefinition } from "../../mod.ts";
import { BASE, withDemo } from "./helpers/demo_run.ts";
import { Lair } from "./helpers/scripts.ts";

Deno.test("a schedule with parts that method or layout cannot follow is refused before the first step, a script too", async () => {
  await withDemo(async ({ model }) => {
    await using lair = new Lair();
    const cases: readonly (readonly [Partial<PruneOptions>, string, ScheduleDefinition, RegExp])[] = [
      [
        { method: "gradual" },
        "rates: { noise: 0.2 }",
        { rates: { noise: 0.2 } },
        /method gradual, and the rate 'noise'/,
      ],
      [{ preset: "paper" }, "rates: { memory: 0.5 }", { rates: { memory: 0.5 } }, /constant, and the rate 'memory'/],
      [{ method: "gradual" }, "layers: () => []", { layers: () => [] }, /learned masks; now: the method gradual/],
      [{ method: "gradual" }, "freeze: () => []", { freeze: () => [] }, /learned masks; now: the method gradual/],
      [{ layout: "uniform" }, "layers: () => []", { layers: () => [] }, /all cut alike; now: the layout "uniform"/],
    ];
    for (const [options, text, definition, message] of cases) {
      const script = await lair.write(
        `import { defineSchedule } from "compresso"; export default defineSchedule({ ${text} });`,
      );
      for (const schedule of [defineSchedule(definition), script]) {
        using run = prune(model, { ...BASE, ...options, schedule });
        await assert.rejects(run.prepare(), message);
      }
    }
    using run = prune(model, { ...BASE, layout: "uniform", schedule: defineSchedule({ freeze: () => [] }) });
    await run.prepare();
  });
});
