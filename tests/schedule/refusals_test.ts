// Schedules that a run refuses before its first step, for what method, masks or layout cannot follow. On the demo model.
import assert from "node:assert/strict";
import { prune, type PruneOptions, type PruneResult, sliceModel } from "../../mod.ts";
import { parameterCount } from "../../lib/model/mod.ts";
import { defineSchedule, type ScheduleDefinition } from "../../lib/schedule/mod.ts";
import { BASE, withDemo } from "../run/helpers/demo_run.ts";
import { Lair } from "../run/helpers/scripts.ts";

Deno.test("targets of layers that leave no room for the run's size are refused before the pruning stage", async () => {
  await withDemo(async ({ model }) => {
    const { sparsity: _sparsity, ...base } = BASE, parameters = Math.round(0.8 * parameterCount(model.spec));
    const run = async (layers: NonNullable<ScheduleDefinition["layers"]>, stages: string[]): Promise<PruneResult> => {
      using run = prune(model, { ...base, size: { parameters }, schedule: defineSchedule({ sparsity: 0.1, layers }) });
      for await (const { stage } of run) stages.push(stage);
      return run.result();
    };
    const stages: string[] = [];
    await assert.rejects(
      run(({ layers }) => layers.map(() => 0.1), stages),
      /the schedule at step 7 of 8: cannot make the model as small as .* limited by targets of single layers.*come to the size at the last step/s,
    );
    assert.deepEqual(stages.filter((stage) => stage === "prune"), []);
    const { source, masks } = await run(({ layers }) => layers.map((_, index) => index === 0 ? 0.1 : null), []);
    const after = parameterCount(sliceModel(source, { masks }).spec);
    assert.ok(after <= parameters && after > parameters - 10_000, `${after}`);
  });
});

Deno.test("so are those of another schedule, with which a stopped run goes on", async () => {
  await withDemo(async ({ model }) => {
    const folder = await Deno.makeTempDir(), checkpoint = { path: `${folder}/checkpoint.safetensors`, every: 1 };
    try {
      using run = prune(model, { ...BASE, checkpoint, schedule: "linear" });
      for await (const { step } of run) if (step === BASE.prefinetune + 3) break;
      run[Symbol.dispose]();
      const resumed = { ...checkpoint, resume: true, mayDiffer: ["schedule"] }, seen: number[] = [];
      using again = prune(model, {
        ...{ ...BASE, checkpoint: resumed },
        schedule: defineSchedule({ layers: ({ layers }) => layers.map(() => 0.1) }),
      });
      await assert.rejects(async () => {
        for await (const { step } of again) seen.push(step);
      }, /the schedule at step 7 of 8: /);
      assert.deepEqual(seen, []);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
});

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
      [
        { preset: "paper" },
        "rates: { saliencyDecay: 0.5 }",
        { rates: { saliencyDecay: 0.5 } },
        /constant, and the rate 'saliencyDecay'/,
      ],
      [{ method: "taylor" }, "layers: () => []", { layers: () => [] }, /taylor cuts everything.*it decides layers/],
      [{ method: "random" }, "freeze: () => []", { freeze: () => [] }, /random cuts everything.*it decides freeze/],
      [{ layout: "uniform" }, "layers: () => []", { layers: () => [] }, /all cut alike; got: the layout "uniform"/],
    ];
    for (const [options, text, definition, message] of cases) {
      const script = await lair.write(
        `import { defineSchedule } from "compresso"; export default defineSchedule({ ${text} });`,
      );
      for (const schedule of [defineSchedule(definition), script]) {
        await assert.rejects(async () => {
          using run = prune(model, { ...BASE, ...options, schedule });
          await run.prepare();
        }, message);
      }
    }
    using run = prune(model, { ...BASE, layout: "uniform", schedule: defineSchedule({ freeze: () => [] }) });
    await run.prepare();
  });
});

Deno.test("a schedule that goes by the steps or targets of its records is not refused for those of a run that is made up", async () => {
  await withDemo(async ({ model }) => {
    const last = BASE.prefinetune + 7, whole = 0.3;
    const layers: NonNullable<ScheduleDefinition["layers"]>[] = [
      ({ layers, records }) => layers.map(() => records.at(-1)?.step === last ? whole : 0.1),
      ({ layers, records }) => layers.map(() => (records.at(-1)?.target ?? 1) < 0.295 ? whole : 0.1),
      ({ layers, records }) => layers.map(() => records.some(({ stage }) => stage === "finetune") ? whole : 0.1),
    ];
    // By the differences between layers, which any run has: of FFN columns and of heads.
    for (const part of ["ffn", "heads"] as const) {
      layers.push(({ layers, progress }) => {
        const mean = layers.reduce((sum, layer) => sum + layer[part], 0) / layers.length;
        return progress < 1 || layers.some((layer) => layer[part] > mean + 0.001)
          ? layers.map(() => null)
          : layers.map(() => 0.1);
      });
    }
    const sparsity: ScheduleDefinition["sparsity"] = ({ progress }) => progress === 1 ? whole : 0.29;
    for (const one of layers) {
      const schedule = defineSchedule({ layers: one, sparsity });
      using run = prune(model, { ...BASE, sparsity: whole, steps: 8, postfinetune: 0, schedule });
      for await (const { step } of run) assert.ok(step > 0);
      const { hard } = run.result().sparsity;
      assert.ok(hard >= whole - 1e-9 && hard < 0.303, `${hard}`);
    }
  });
});
