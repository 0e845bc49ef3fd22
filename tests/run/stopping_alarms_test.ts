// Alarms that are to stop a run, of monitors that warn or lead back by default: the error that names them, and how the run goes on without. On the demo model.
import assert from "node:assert/strict";
import { loadModel, openDevice, prune, type StepRecord } from "../../mod.ts";
import { AlarmError, planMemory, type RunHandle } from "../../lib/run/mod.ts";
import type { MonitorName } from "../../lib/types/mod.ts";
import { adapterOf } from "../../lib/run/memory/plan.ts";
import { BASE, drive, withDemo } from "./helpers/demo_run.ts";

const OPEN = 20, CLOSED = -20;
/** Each step is looked at, and nothing but the hook moves log α. */
const SHORT = {
  ...BASE,
  lora: { targets: ["q"] },
  steps: 6,
  prefinetune: 0,
  postfinetune: 0,
  seq: 32,
  start: "constant",
  rates: { tracking: 0, mask: 0, lambda: 0 },
} as const;
const OFF = { collapse: { action: "off" }, constraint: { action: "off" }, divergence: { action: "off" } } as const;

function setting(valueOf: (unit: number, run: RunHandle) => number): (run: RunHandle) => void {
  return (run) => run.setLogAlpha(Float32Array.from({ length: run.table.count }, (_, unit) => valueOf(unit, run)));
}

const CASES: readonly {
  readonly monitor: MonitorName;
  readonly code: string;
  readonly step: number;
  readonly said: RegExp;
  readonly beforeStep: (run: RunHandle, fill: () => void) => void;
}[] = [
  {
    ...{ monitor: "dead-layer", code: "numeric", step: 3, said: /layer 1 is dead: 100\.0 % of its heads/ },
    beforeStep: setting((unit, { step, table }) => step >= 2 && table.layer[unit] === 1 ? CLOSED : OPEN),
  },
  {
    ...{ monitor: "oscillation", code: "numeric", step: 5, said: /50\.0 % of the FFN columns turned back 3 times/ },
    beforeStep: setting((unit, { step, table }) =>
      unit >= table.ranges.ffn.first && unit % 2 === 0 && step % 2 === 0 ? CLOSED : OPEN
    ),
  },
  {
    // Once the warm-up is over, which is 0.4 of six steps.
    ...{
      monitor: "constraint",
      code: "numeric",
      step: 3,
      said: /constraint is not met: expected sparsity 0\.0 %, target/,
    },
    beforeStep: setting(() => OPEN),
  },
  {
    ...{ monitor: "memory", code: "gpu", step: 3, said: /memory runs out: .* MiB are in use/ },
    beforeStep: ({ step }, fill) => step === 2 ? fill() : undefined,
  },
];

for (const { monitor, code, step, said, beforeStep } of CASES) {
  Deno.test(`an alarm of ${monitor} that is to stop the run does so at its step, and the run goes on where it only warns`, async () => {
    using probe = await openDevice();
    using plain = await loadModel("demo", { device: probe });
    const { batch, seq } = SHORT, adapter = adapterOf(probe);
    const memoryLimit = 3 * (await planMemory(plain.spec, { batch, seq, adapter })).peakBytes;
    const folder = await Deno.makeTempDir(), checkpoint = { path: `${folder}/checkpoint.safetensors`, every: Infinity };
    await using _ = { [Symbol.asyncDispose]: () => Deno.remove(folder, { recursive: true }) };
    const records: StepRecord[] = [];
    {
      using device = await openDevice({ memoryLimit });
      using model = await loadModel("demo", { device });
      using guests = new DisposableStack();
      const fill = (): void =>
        void guests.use(device.createBuffer("guest", memoryLimit - device.bytes - 0.03 * memoryLimit));
      using run = prune(model, {
        ...SHORT,
        checkpoint,
        monitors: { ...OFF, [monitor]: { action: "stop" } },
        hooks: { beforeStep: (handle) => beforeStep(handle, fill), afterStep: () => {} },
      });
      await assert.rejects(async () => {
        for await (const record of run) records.push(record);
      }, (error) => {
        assert.ok(error instanceof AlarmError, String(error));
        assert.deepEqual([error.code, error.alarm.monitor, error.alarm.step], [code, monitor, step]);
        assert.deepEqual([error.alarm.action, error.alarm.restored], ["stop", null]);
        assert.match(error.alarm.message, said);
        assert.match(error.message, new RegExp(`after step ${step}; .*monitors: "${monitor}=warn"`));
        return true;
      });
      assert.equal(records.length, step);
      const told = records.flatMap(({ alarms }) => alarms.map(({ monitor, action }) => [monitor, action]));
      assert.deepEqual(told, [[monitor, "stop"]]);
    }
    await withDemo(async ({ model }) => {
      const monitors = { ...OFF, [monitor]: { action: "warn" } };
      const rest = await drive(model, { ...SHORT, monitors, checkpoint: { ...checkpoint, resume: true } });
      // Without the hook all is well, but that nothing leads these masks to the target.
      const told = rest.result.alarms.filter((alarm) => alarm.monitor !== "constraint" || monitor !== "constraint");
      assert.deepEqual([rest.records.at(-1)?.step, told], [SHORT.steps, []]);
    });
  });
}

Deno.test("log α that is no longer finite is named with its unit and step", async () => {
  await withDemo(async ({ model }) => {
    // λ beyond what f32 can hold, times a unit's cost.
    const rates = { ...SHORT.rates, lambda: 3e38, mask: 0.1 };
    const monitors = { ...OFF, nan: { action: "stop" } } as const;
    await assert.rejects(drive(model, { ...SHORT, rates, monitors }), (error) => {
      assert.ok(error instanceof AlarmError, String(error));
      assert.equal(error.alarm.monitor, "nan");
      const { step, message, options } = error.alarm;
      const unit = "(log α|Adam's moments of log α) of (KV group|FFN column) \\d+ of layer \\d+";
      assert.match(message, new RegExp(`^numbers are not finite at step ${step} .*first in ${unit}`));
      assert.deepEqual(options.map(({ option }) => option), ["rates.mask", "rates.lambda"]);
      return true;
    });
  });
});
