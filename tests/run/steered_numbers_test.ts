// Numbers that a schedule may set beside the rates: LoRA's dropout, and the share of the labels that the last stage learns from. On the demo model.
import assert from "node:assert/strict";
import { prune } from "../../mod.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { type Curve, defineSchedule, type ScheduleDefinition } from "../../lib/schedule/mod.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { optionNumbers } from "../../lib/run/schedule_parts.ts";
import { openSteerer } from "../../lib/run/steering.ts";
import { unitTable } from "../../lib/units/table.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, interrupted, withShortDemo } from "./helpers/demo_run.ts";

const STAGES = { prefinetune: 2, steps: 2, postfinetune: 3 } as const;
/** Without a focus of the run's own. */
const GRADUAL = { ...STAGES, method: "gradual" } as const;

Deno.test("dropout of a stage is that which a schedule sets there, with what it takes of memory", async () => {
  await withShortDemo(async ({ model }) => {
    const bits = async (definition: ScheduleDefinition, more: Partial<RunOptions> = {}): Promise<string> =>
      bitsOf(await drive(model, { ...GRADUAL, ...more, schedule: defineSchedule(definition) }));
    const dropout = 0.4, all = { finetune: { dropout }, rates: { dropout }, postfinetune: { dropout } };
    const whole = await bits(all), given = await drive(model, { ...GRADUAL, lora: { dropout } });
    assert.equal(whole, bitsOf(given), "in all stages it is that of the run");
    for (const stage of ["finetune", "rates", "postfinetune"] as const) {
      assert.notEqual(
        await bits({ ...all, [stage]: {} }, { lora: { dropout: 0.1 } }),
        whole,
        `${stage} has the run's own`,
      );
    }
  });
});

Deno.test("the last stage learns from the share of the labels that a schedule sets for each step", async () => {
  await withShortDemo(async ({ model }) => {
    const bits = async (focus: Curve): Promise<string> =>
      bitsOf(await drive(model, { ...GRADUAL, schedule: defineSchedule({ postfinetune: { focus } }) }));
    const [half, whole] = [await drive(model, { ...GRADUAL, focus: 0.5 }), await drive(model, GRADUAL)];
    assert.equal(await bits(0.5), bitsOf(half));
    assert.notEqual(bitsOf(half), bitsOf(whole));
    const falling = await bits(({ step }) => [1, 0.5, 0.1][step] ?? NaN);
    assert.equal(new Set([falling, bitsOf(half), bitsOf(whole)]).size, 3);
    // The memory of steps with a focus is planned, though the run's own has none.
    const planned = async (options: Partial<RunOptions>): Promise<number> =>
      (await drive(model, { ...GRADUAL, ...options })).records[0]?.plannedGpuBytes ?? NaN;
    const schedule = defineSchedule({ postfinetune: { focus: 1 } });
    assert.equal(await planned({ schedule }), half.records[0]?.plannedGpuBytes);
    assert.ok(await planned({}) < await planned({ schedule }));
  });
});

Deno.test("a run whose schedule changes dropout and focus from step to step ends with the same bits where it was interrupted", async () => {
  await withShortDemo(async ({ model }) => {
    const dropout = ({ progress }: { readonly progress: number }): number => 0.5 * (1 - progress);
    const postfinetune = { dropout, focus: ({ step }: { readonly step: number }): number => 1 / (1 + step) };
    const schedule = defineSchedule({ finetune: { dropout }, rates: { dropout }, postfinetune });
    const options = { ...STAGES, schedule }, whole = bitsOf(await drive(model, options));
    for (const at of [1, 3, 6]) assert.equal(bitsOf(await interrupted(model, options, at)), whole, `after step ${at}`);
  });
});

Deno.test("LoRA stays at its beginning where the run was told a rate of 0, whatever a schedule sets", async () => {
  await withShortDemo(async ({ model }) => {
    const lora = 1e-2, options = { ...GRADUAL, rates: { lora: 0 } };
    const schedule = defineSchedule({ finetune: { lora }, rates: { lora }, postfinetune: { lora: () => lora } });
    const still = await drive(model, { ...options, schedule });
    assert.equal(bitsOf(still), bitsOf(await drive(model, options)));
    assert.ok(still.records.every(({ learningRate }) => learningRate === 0));
  });
});

Deno.test("a dropout or focus that no step would use beside a schedule is refused, and a focus of flap", async () => {
  const { source: { spec } } = await openModelFiles("demo"), dropout = 0.2;
  const table = unitTable(spec, ["kv", "ffn"]);
  const opens = async (definition: ScheduleDefinition, more: Partial<RunOptions>): Promise<void> => {
    const options = resolveOptions({ ...BASE, ...STAGES, ...more }, spec), schedule = defineSchedule(definition);
    await using _ = await openSteerer(table, options, { schedule, given: optionNumbers(more) });
  };
  const all = { finetune: { dropout }, rates: { dropout }, postfinetune: { dropout } };
  await rejects(opens(all, { lora: { dropout: 0.1 } }), "usage", {
    value: [0.1, "finetune.dropout", "rates.dropout", "postfinetune.dropout"],
  });
  await opens(all, { lora: { dropout: 0 } });
  await opens({ rates: { dropout } }, { lora: { dropout: 0.1 } });
  await rejects(opens({ postfinetune: { focus: 0.5 } }, { focus: 0.3 }), "usage", {
    value: [0.3, "postfinetune.focus"],
  });
  await opens({ postfinetune: { focus: 0.5 } }, {});
  await rejects(opens({ postfinetune: { focus: 0.5 } }, { method: "flap" }), "usage", {
    value: "postfinetune.focus",
    names: "flap",
  });
});

Deno.test("a focus that is out of range is named with its step, and ends the run there", async () => {
  await withShortDemo(async ({ model }) => {
    const schedule = defineSchedule({ postfinetune: { focus: ({ step }) => step === 1 ? 0 : 0.5 } });
    using run = prune(model, { ...BASE, ...GRADUAL, schedule });
    const seen: number[] = [];
    const loop = async (): Promise<void> => {
      for await (const { step } of run) seen.push(step);
    };
    await rejects(loop, "input", { value: "postfinetune.focus = 0", names: "step 1" });
    assert.deepEqual(seen, [1, 2, 3, 4, 5]);
  });
});
