// The mask learner over many steps: it follows the schedule, finds the units that the loss does not need, and repeats itself to the bit.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { createMaskSlots, unpackMasks } from "../../lib/nn/mask_slots.ts";
import { createStepState, IDLE_STATE, type StepState, writeStepState } from "../../lib/nn/train/step_state.ts";
import { CONSTRAINT_FLOATS, MaskLearner } from "../../lib/masks/learner.ts";
import { cubicSparsity, progressOf } from "../../lib/schedule/ramp.ts";
import { hardSparsity, selectUnits } from "../../lib/units/selection.ts";
import { type UnitTable, unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { GROUPED, KINDS, MULTI_HEAD, UNEVEN } from "../units/helpers/decoders.ts";

const device: Device = await openDevice();

interface Trace {
  /** The eight numbers of the constraint after each step. */
  readonly constraints: readonly Float32Array[];
  readonly logAlpha: Float32Array;
  readonly z: Float32Array;
}

/** Trains masks against the loss Σ importance · (1 − z) over the slots, whose gradient is −importance. */
async function train(table: UnitTable, options: {
  steps: number;
  state: (step: number) => Partial<StepState>;
  importance?: (slot: number) => number;
  logAlpha?: Float32Array<ArrayBuffer>;
}): Promise<Trace> {
  const { steps, importance = () => 0, logAlpha } = options;
  using learner = new MaskLearner(device, table);
  using slots = createMaskSlots(device, table.spec);
  using state = createStepState(device);
  using plan = new Plan(device);
  learner.recordSample(plan, { state, slots });
  learner.recordUpdate(plan, { state, slots });
  device.write(slots.dz, Float32Array.from({ length: table.layout.count }, (_, slot) => -importance(slot)));
  if (logAlpha) device.write(learner.logAlpha, logAlpha);
  const constraints: Float32Array[] = [];
  for (let step = 0; step < steps; step++) {
    writeStepState(device, state, {
      ...IDLE_STATE,
      seed: 1,
      step,
      noise: 0.2,
      maskRate: 0.1,
      lambdaRate: 0.1,
      maskUpdates: step + 1,
      tracking: 1,
      ...options.state(step),
    });
    await plan.run();
    constraints.push(await device.readFloats(learner.constraint, CONSTRAINT_FLOATS));
  }
  return {
    constraints,
    logAlpha: await device.readFloats(learner.logAlpha, table.count),
    z: await device.readFloats(slots.z, table.layout.count),
  };
}

const spread = (count: number, seed: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: count }, (_, unit) => 5 * (uniform(seed, unit) - 0.5));

Deno.test("expected sparsity follows the cubic schedule at every step, for all kinds of units", async () => {
  const schedule = cubicSparsity({ target: 0.15, warmup: 0.7 }), steps = 8;
  for (const spec of [UNEVEN, MULTI_HEAD]) {
    for (const kinds of KINDS) {
      const table = unitTable(spec, kinds);
      if (kinds.join() === "heads" || kinds.join() === "kv") continue; // too little of these models to reach the target
      const { constraints } = await train(table, {
        steps,
        logAlpha: spread(table.count, 3),
        importance: (slot) => 1e-3 * uniform(4, slot),
        state: (step) => ({ target: schedule(progressOf(step, steps)) }),
      });
      constraints.forEach((numbers, step) => {
        const wanted = schedule(progressOf(step, steps));
        assert.ok(
          Math.abs((numbers[7] ?? NaN) - wanted) < 1e-4,
          `${kinds}, step ${step}: ${numbers[7]}, not ${wanted}`,
        );
      });
    }
  }
});

Deno.test("masks learn which columns the loss needs", async () => {
  const table = unitTable(GROUPED, ["ffn"]), target = 0.3, steps = 60;
  const needed = (unit: number): boolean => uniform(8, unit) < 0.5;
  const unitOf = new Map(Array.from(table.slotFirst, (slot, unit) => [slot, unit]));
  const { logAlpha, constraints } = await train(table, {
    steps,
    importance: (slot) => needed(unitOf.get(slot) ?? -1) ? 1e-2 : 1e-5,
    state: (step) => ({ target: target * Math.min(1, (step + 1) / 40), noise: 1, lambdaRate: 1 }),
  });
  const kept = selectUnits(table, logAlpha, { target });
  const lost = [...kept.keys()].filter((unit) => kept[unit] === 0 && needed(unit));
  assert.deepEqual(lost, [], `${lost.length} needed columns were cut`);
  assert.ok(Math.abs((constraints.at(-1)?.[7] ?? NaN) - target) < 1e-4);
  assert.ok(hardSparsity(table, kept) >= target);
});

Deno.test("without projection λ alone drives expected sparsity up to the target", async () => {
  const table = unitTable(GROUPED, ["kv", "ffn"]), target = 0.3;
  const { constraints } = await train(table, {
    steps: 80,
    logAlpha: new Float32Array(table.count).fill(1.5),
    state: () => ({ target, tracking: 0, noise: 1, maskRate: 0.1, lambdaRate: 1 }),
  });
  const reached = constraints.map((numbers) => numbers[2] ?? NaN);
  assert.ok((reached[0] ?? NaN) < 0.1, `it began at ${reached[0]}`);
  // λ1 is negative while ŝ is below the target: its force raises ŝ.
  assert.ok((constraints[5]?.[3] ?? NaN) < 0, `λ1 is ${constraints[5]?.[3]}`);
  assert.ok(Math.max(...reached) >= target, `it never came further than ${Math.max(...reached)}`);
  assert.ok(constraints.every((numbers) => numbers[6] === 0), "log α was shifted");
});

Deno.test("masks of kinds that are not pruned stay 1, padding slots stay 0", async () => {
  for (const kinds of KINDS) {
    const table = unitTable(UNEVEN, kinds);
    const { z } = await train(table, {
      steps: 3,
      logAlpha: new Float32Array(table.count).fill(-4),
      state: () => ({ tracking: 0, maskRate: 0 }),
    });
    const masks = unpackMasks(UNEVEN, table.layout, z), isPruned = (pruned: boolean): string => pruned ? "0" : "1";
    const seen = (values: Float32Array): string => [...new Set(values)].join();
    assert.equal(seen(masks.head), isPruned(table.kinds.has("heads") || table.kinds.has("kv")), kinds.join());
    assert.equal(seen(masks.ffn), isPruned(table.kinds.has("ffn")), kinds.join());
    assert.equal(seen(masks.hidden), isPruned(table.kinds.has("hidden")), kinds.join());
    const sum = (values: Float32Array): number => values.reduce((total, value) => total + value, 0);
    assert.equal(sum(z), sum(masks.head) + sum(masks.ffn) + sum(masks.hidden), "padding is not 0");
  }
});

Deno.test("the same seed gives the same bits, another seed other masks", async () => {
  const table = unitTable(GROUPED, ["heads", "ffn", "hidden"]);
  const run = (seed: number): Promise<Trace> =>
    train(table, {
      steps: 6,
      logAlpha: spread(table.count, 5),
      importance: (slot) => 1e-2 * uniform(6, slot),
      state: (step) => ({ seed, target: 0.05 * step }),
    });
  const first = await run(1);
  assert.deepEqual(await run(1), first);
  const other = await run(2);
  assert.notDeepEqual(other.z, first.z);
  assert.notDeepEqual(other.logAlpha, first.logAlpha);
});

Deno.test("a learner says which mask gradients it needs", () => {
  for (
    const [kinds, wanted] of [[["heads"], ["head"]], [["kv", "hidden"], ["head", "hidden"]], [["ffn"], [
      "ffn",
    ]]] as const
  ) {
    using learner = new MaskLearner(device, unitTable(UNEVEN, kinds));
    assert.deepEqual([...learner.maskGrads], wanted);
  }
});

Deno.test("learners leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
