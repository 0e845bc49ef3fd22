// Every number that a schedule may set, on its way into a step; and a script that never ends, beside a run that does. On the demo model.
import assert from "node:assert/strict";
import type { RunOptions } from "../../lib/run/options/options.ts";
import type { RunHandle } from "../../lib/run/mod.ts";
import { defineSchedule } from "../../lib/schedule/mod.ts";
import { RATE_NAMES } from "../../lib/schedule/definition.ts";
import { unitTable } from "../../lib/units/table.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { firstPosition } from "../../lib/run/position.ts";
import { stepStateOf } from "../../lib/run/step.ts";
import { openSteerer, type Steering } from "../../lib/run/steering.ts";
import { refuses, rejects } from "../refuses.ts";
import { BASE, bitsOf, drive, withShortDemo } from "./helpers/demo_run.ts";
import { Lair, scriptOf } from "./helpers/scripts.ts";

Deno.test("each rate that a schedule sets comes into the step as it says, and no other one moves", async () => {
  const { source: { spec } } = await openModelFiles("demo"), table = unitTable(spec, ["kv", "ffn"]);
  const options = resolveOptions({ ...BASE, steps: 40 }, spec), position = firstPosition({ epoch: 0, index: 0 });
  const at = async (schedule?: ReturnType<typeof defineSchedule>): Promise<Steering> => {
    await using steerer = await openSteerer(table, options, { schedule });
    return await steerer.at({ step: 4, steps: 40, records: [], layers: () => Promise.resolve([]) });
  };
  const stateOf = ({ rates, target }: Steering): Record<string, number | boolean> => ({
    ...stepStateOf(options, position, { rate: rates.lora, target, rates }),
    saliencyDecay: rates.saliencyDecay,
  });
  const plain = stateOf(await at());
  const places: Record<string, string> = {
    lora: "loraRate",
    mask: "maskRate",
    lambda: "lambdaRate",
    logAlphaLimit: "limit",
  };
  for (const name of RATE_NAMES) {
    const value = name === "logAlphaLimit" ? 37.5 : 0.375; // less would put masks out of their order
    const steered = stateOf(await at(defineSchedule({ rates: { [name]: () => value } })));
    const moved = Object.keys(plain).filter((key) => steered[key] !== plain[key]), place = places[name] ?? name;
    if (name === "warmup") {
      assert.deepEqual([moved, Number(steered["target"]) > Number(plain["target"])], [["target"], true]);
    } else assert.deepEqual([moved, steered[place]], [[place], value], name);
  }
});

Deno.test("a limit of log α below what the run's own may be is refused at its step where masks start from saliency", async () => {
  const { source: { spec } } = await openModelFiles("demo"), table = unitTable(spec, ["kv", "ffn"]);
  const limitAt = async (limit: number, more: Partial<RunOptions> = {}): Promise<number> => {
    const options = resolveOptions({ ...BASE, steps: 40, ...more }, spec);
    const schedule = defineSchedule({ rates: { logAlphaLimit: ({ step }) => step === 4 ? limit : 100 } });
    await using steerer = await openSteerer(table, options, { schedule });
    const at = (step: number): Promise<Steering> =>
      steerer.at({ step, steps: 40, records: [], layers: () => Promise.resolve([]) });
    await at(3);
    return (await at(4)).rates.logAlphaLimit;
  };
  // 3 · 8 + 0.1 · log 11 + 7 · 0.1, as the run's own.
  await rejects(limitAt(24.9), "input", { value: ["rates.logAlphaLimit", 24.9], names: ["step 4", 40, "25.0"] });
  assert.equal(await limitAt(24.95), 24.95);
  assert.equal(await limitAt(7, { rates: { spread: 2 } }), 7);
  await rejects(limitAt(6.9, { rates: { spread: 2 } }), "input", { names: "7.0" });
  assert.equal(await limitAt(0.375, { start: "constant" }), 0.375);
  refuses(() => resolveOptions({ ...BASE, steps: 40, rates: { logAlphaLimit: 24.9 } }, spec), "usage", {
    option: "rates.logAlphaLimit",
    names: "25.0",
  });
});

Deno.test("a rate that only steps under a schedule would use is refused beside one that sets it, and trust beside what is no script", async () => {
  const { source: { spec } } = await openModelFiles("demo"), table = unitTable(spec, ["kv", "ffn"]);
  const options = resolveOptions({ ...BASE, steps: 40 }, spec);
  const opens = async (more: Parameters<typeof openSteerer>[2]): Promise<void> => {
    await using _ = await openSteerer(table, options, more);
  };
  const setting = (name: string): ReturnType<typeof defineSchedule> => defineSchedule({ rates: { [name]: () => 0.5 } });
  for (const name of ["mask", "lambda", "saliencyDecay", "warmup", "tracking"]) {
    const given = { [name]: 0.25 }, refused = { value: [0.25, `rates.${name}`] };
    await rejects(opens({ schedule: setting(name), given }), "usage", refused);
    await opens({ schedule: setting("noise"), given });
  }
  // Other stages, or the start, use these too.
  for (const name of ["lora", "temperature"]) await opens({ schedule: setting(name), given: { [name]: 0.25 } });
  for (
    const [schedule, value] of [
      [undefined, "no schedule"],
      ["linear", "linear"],
      [setting("mask"), "defineSchedule"],
    ] as const
  ) {
    await rejects(opens({ schedule, trust: true }), "usage", { option: "trustSchedule", value });
  }
});

Deno.test("a schedule that never ends stops its own run with an error, and not another one on the same model", async () => {
  await using lair = new Lair();
  const endless = await lair.write(scriptOf({ body: "while (true) {}" }));
  await withShortDemo(async ({ model }) => {
    const alone = await drive(model, { steps: 4 });
    await rejects(drive(model, { steps: 4, schedule: endless }), "input", { value: ["step 0", 4, 2] });
    assert.equal(bitsOf(await drive(model, { steps: 4 })), bitsOf(alone));
  });
});

Deno.test("early_stop.ts ends the pruning stage of a run whose loss runs away, and leaves one that is well alone", async () => {
  const schedule = new URL("../../scripts/examples/early_stop.ts", import.meta.url);
  const options = { steps: 24, prefinetune: 0, postfinetune: 1, schedule, rates: { lora: 1e-6 } } as const;
  const monitors = { divergence: { action: "off" } } as const;
  const spoil = async (run: RunHandle): Promise<void> => {
    if (run.step !== 12) return;
    const weights = await run.lora();
    for (const [name, values] of weights) if (name.endsWith(".B")) values.fill(0.2);
    run.setLora(weights);
  };
  await withShortDemo(async ({ model }) => {
    const stepsOf = async (more: Partial<RunOptions> & { readonly sparsity?: number }): Promise<number> =>
      (await drive(model, { ...options, monitors, ...more })).records.filter(({ stage }) => stage === "prune").length;
    const ended = await stepsOf({ hooks: { beforeStep: spoil } });
    assert.ok(ended > 12 && ended < 24, `${ended} steps`);
    // One row again and again: no step is harder than another.
    const [row] = BASE.rows, rows = Array.from({ length: 8 }, () => row).filter((one) => one !== undefined);
    assert.equal(await stepsOf({ sparsity: 0.02, rows, packing: false }), 24);
  });
});
