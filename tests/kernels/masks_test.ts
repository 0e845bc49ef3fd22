// Kernels of the learned masks: samples, slots, expected size, descent and projection against f64 oracles.
import assert from "node:assert/strict";
import { maskSample } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import type { StepState } from "../../lib/nn/train/step_state.ts";
import { CONSTRAINT_FLOATS } from "../../lib/masks/learner.ts";
import { unitTable } from "../../lib/units/table.ts";
import { CONVOLVED, decoder, GROUPED, KINDS, LAYER_KINDS, MULTI_HEAD, UNEVEN } from "../units/helpers/decoders.ts";
import { assertCells, assertValues, type Cell, random, ROUND, STALE, stateBuffer } from "./helpers/cells.ts";
import {
  aliveChance,
  createRig,
  drawOf,
  expected,
  nameOf,
  NOISE,
  sigmoid,
  slopes,
  stretched,
} from "./helpers/mask_rig.ts";

const device: Device = await openDevice();

/** (z, slope, p, 0) of every unit as the kernel draws them. */
async function sample(logAlpha: Float32Array<ArrayBuffer>, state: Partial<StepState>): Promise<Float32Array> {
  const units = logAlpha.length;
  using stateNow = stateBuffer(device, state);
  using alpha = device.uploadBuffer("log alpha", logAlpha);
  using draws = device.uploadBuffer("draws", new Float32Array(4 * (units + 1)).fill(STALE));
  using plan = new Plan(device);
  plan.dispatch(compileKernel(device, maskSample), [alpha, stateNow, draws, { params: [u32(units)] }], {
    groups: [Math.ceil(units / 64)],
  });
  await plan.run();
  return await device.readFloats(draws, 4 * (units + 1));
}

Deno.test("mask_sample draws z, its slope and P(z > 0) by the hard concrete distribution", async () => {
  const seed = 9, step = 31;
  for (const units of [1, 63, 64, 65, 1000]) {
    for (
      const { noise, temperature } of [
        { noise: 1, temperature: 2 / 3 },
        { noise: 0.2, temperature: 2 / 3 },
        { noise: 0, temperature: 0.5 },
        { noise: 1, temperature: 5 },
      ]
    ) {
      const logAlpha = random(units, units).map((value) => 5 * value);
      const draws = await sample(logAlpha, { seed, step, noise, temperature });
      // log errs by 2⁻²¹ or 3 ulp of at most 14, sigmoid's slope is at most 1/4; exp errs by (3 + 2·|x|) ulp of a value s·(1 − s) ≤ 1/4.
      const zBound = 0.3 * ((noise * 2 ** -18 + 2 ** -20) / temperature + 2 ** -18);
      assertCells(draws, {
        what: `${units} units, noise ${noise}, temperature ${temperature}`,
        rows: units + 1,
        stride: 4,
        want(unit, part): Cell {
          if (unit === units) return { value: STALE, bound: 0 };
          const alpha = logAlpha[unit] ?? NaN;
          const { value, slope } = stretched(alpha, drawOf(seed, step, unit), { noise, temperature });
          switch (part) {
            case 0:
              return { value: Math.min(1, Math.max(0, value)), bound: zBound };
            case 1: {
              const edge = Math.min(Math.abs(value), Math.abs(value - 1));
              if (edge <= zBound) return { value: slope / 2, bound: slope }; // either side of the clamp
              return { value: value > 0 && value < 1 ? slope : 0, bound: 2 * zBound / temperature };
            }
            case 2: {
              const p = aliveChance(alpha, { noise, temperature });
              const size = (Math.abs(alpha) + 3 * temperature) / Math.max(noise, 0.05);
              return { value: p, bound: 8 * (1 + size) * ROUND * p * (1 - p) + 4 * ROUND * p };
            }
            default:
              return { value: 0, bound: 0 };
          }
        },
      });
    }
  }
});

Deno.test("mask_sample gives exact 0 and 1 as often as hard concrete says", async () => {
  const units = 20000;
  for (
    const { alpha, noise, temperature } of [
      { alpha: 0, noise: 1, temperature: 2 / 3 },
      { alpha: -1.5, noise: 1, temperature: 2 / 3 },
      { alpha: 2, noise: 1, temperature: 2 },
      { alpha: -1, noise: 0.5, temperature: 2 / 3 },
    ]
  ) {
    const draws = await sample(new Float32Array(units).fill(alpha), { seed: 4, step: 2, noise, temperature });
    let zeros = 0, ones = 0;
    for (let unit = 0; unit < units; unit++) {
      if (draws[4 * unit] === 0) zeros++;
      if (draws[4 * unit] === 1) ones++;
    }
    const what = `log α ${alpha}, noise ${noise}, β ${temperature}`;
    assertShare(zeros / units, 1 - aliveChance(alpha, { noise, temperature }), `${what}: zeros`);
    // z = 1 where s ≥ (1 − γ) / (ζ − γ), whose logit is log 11.
    assertShare(ones / units, sigmoid((alpha - temperature * Math.log(11)) / noise), `${what}: ones`);
  }

  function assertShare(share: number, chance: number, what: string): void {
    const deviation = Math.sqrt(chance * (1 - chance) / units);
    assert.ok(Math.abs(share - chance) < 5 * deviation, `${what}: ${share}, expected ${chance} ± ${deviation}`);
  }
});

const TABLES = [
  ...KINDS.map((kinds) => unitTable(UNEVEN, kinds)),
  unitTable(MULTI_HEAD, ["heads", "ffn"]),
  unitTable(GROUPED, ["heads", "ffn", "hidden"]),
  unitTable(GROUPED, ["kv"]),
  unitTable(CONVOLVED, ["heads", "ffn", "hidden"]),
  unitTable(CONVOLVED, ["hidden"]),
];
/** The same with gates of whole layers, one of which is protected. */
const ALL_TABLES = [
  ...TABLES,
  ...LAYER_KINDS.map((kinds) => unitTable(UNEVEN, kinds)),
  unitTable(GROUPED, ["heads", "ffn", "hidden", "layers"], { protect: [1] }),
  unitTable(CONVOLVED, ["kv", "ffn", "layers"]),
];
Deno.test("mask_expand writes the units' slots, heads of a KV group alike, and leaves all others", async () => {
  for (const table of TABLES) {
    using setup = createRig(device, table);
    const before = random(table.layout.count, 5), logAlpha = random(table.count, 6).map((value) => 2 * value);
    device.write(setup.slots.z, before);
    const { z } = await setup.step({ state: { ...NOISE, seed: 3, step: 8 }, logAlpha });
    const want = before.slice();
    for (let unit = 0; unit < table.count; unit++) {
      const { value } = stretched(logAlpha[unit] ?? NaN, drawOf(3, 8, unit), NOISE);
      const first = table.slotFirst[unit] ?? NaN;
      want.fill(Math.min(1, Math.max(0, value)), first, first + (table.slotCount[unit] ?? NaN));
    }
    assertValues(z, {
      what: nameOf(table),
      // As z in the test of mask_sample; what no unit owns is untouched.
      want: (slot) => ({ value: want[slot] ?? NaN, bound: want[slot] === before[slot] ? 0 : 4e-6 }),
    });
  }
});

Deno.test("expected_size gives ŝ by the shapes of what lives, and λ climbs with its gap", async () => {
  for (const table of ALL_TABLES) {
    using setup = createRig(device, table);
    const logAlpha = random(table.count, 7).map((value) => 3 * value), target = 0.3, lambda = [0.5, -0.25] as const;
    const { constraint } = await setup.step({
      state: { ...NOISE, target, lambdaRate: 2 },
      logAlpha,
      lambda,
    });
    const s = expected(table, logAlpha), gap = s - target;
    const lambda1 = lambda[0] + 2 * gap, lambda2 = lambda[1] + 2 * gap * gap;
    const wanted = [s, lambda1, lambda2, lambda1 + 2 * lambda2 * gap];
    // Sums of up to 300 terms of size ≤ 1 in a tree, divided by the total.
    assertValues(constraint.subarray(2, 6), {
      what: nameOf(table),
      want: (index) => ({ value: wanted[index] ?? NaN, bound: 64 * ROUND * (1 + Math.abs(wanted[index] ?? NaN)) }),
    });
  }
});

Deno.test("expected_size lets λ climb by Adam where that is its rule, and rest where there is no goal", async () => {
  const [table = unitTable(GROUPED, ["ffn"])] = ALL_TABLES;
  using setup = createRig(device, table);
  const logAlpha = random(table.count, 7).map((value) => 3 * value), lambda = [0.5, -0.25], moments = [0, 0, 0, 0];
  device.write(setup.learner.constraint, new Float32Array(CONSTRAINT_FLOATS));
  for (const [index, target] of [0.3, 0.35, 0.1, 0.6].entries()) {
    const t = index + 1, gap = expected(table, logAlpha) - target;
    [gap, gap * gap].forEach((gradient, which) => {
      const [m = 0, v = 0] = moments.slice(2 * which);
      moments[2 * which] = 0.9 * m + 0.1 * gradient;
      moments[2 * which + 1] = 0.99 * v + 0.01 * gradient ** 2;
      const step = (moments[2 * which] ?? 0) / (1 - 0.9 ** t) /
        (Math.sqrt((moments[2 * which + 1] ?? 0) / (1 - 0.99 ** t)) + 1e-8);
      lambda[which] = (lambda[which] ?? 0) + 0.1 * step;
    });
    const { constraint } = await setup.step({
      state: { ...NOISE, target, lambdaRate: 0.1, lambdaAdam: true, maskUpdates: t },
      logAlpha,
      ...index === 0 ? { lambda: [0.5, -0.25] as const } : {},
    });
    const wanted = [...lambda, ...moments];
    // The gap is a difference of numbers near 0.5, and enters the second moment squared.
    assertValues(Float32Array.of(...constraint.subarray(3, 5), ...constraint.subarray(8)), {
      what: `λ at step ${t}`,
      want: (at) => ({ value: wanted[at] ?? NaN, bound: 256 * ROUND * (1 + Math.abs(wanted[at] ?? NaN)) }),
    });
  }
  const before = await device.readFloats(setup.learner.constraint, CONSTRAINT_FLOATS);
  const { constraint } = await setup.step({
    state: { ...NOISE, target: -1, lambdaRate: 0.1, lambdaAdam: true, maskUpdates: 5 },
    logAlpha,
  });
  for (const at of [3, 4, 8, 9, 10, 11]) assert.equal(constraint[at], before[at]);
});

Deno.test("mask_update descends along the constraint's gradient, which is that of finite differences", async () => {
  for (const table of ALL_TABLES) {
    using setup = createRig(device, table);
    const logAlpha = random(table.count, 8).map((value) => 2 * value);
    const { moments, constraint } = await setup.step({
      state: { ...NOISE, target: 0.2, maskRate: 0.01 },
      logAlpha,
      lambda: [3, 1],
    });
    const force = constraint[5] ?? NaN, slope = slopes(table, logAlpha);
    const largest = slope.reduce((most, value) => Math.max(most, Math.abs(value)), 0) * Math.abs(force);
    assert.ok(largest > 0);
    // After one step m is a tenth of the gradient. p and its products err by some 20 roundings; 1e-10 / step of the difference is less.
    assertCells(moments, {
      what: nameOf(table),
      rows: table.count,
      stride: 2,
      want(unit, part): Cell {
        const gradient = force * (slope[unit] ?? NaN);
        if (part === 0) return { value: 0.1 * gradient, bound: 0.1 * 1e-5 * largest };
        return { value: 0.01 * gradient ** 2, bound: 0.01 * 2e-5 * largest ** 2 };
      },
    });
  }
});

Deno.test("mask_update is Adam on the sum of a unit's slot gradients times its slope, within ± its limit", async () => {
  const cases = [
    { table: unitTable(GROUPED, ["kv", "ffn", "hidden"]), limit: 100 },
    { table: unitTable(UNEVEN, ["heads", "ffn"]), limit: 100 },
    { table: unitTable(GROUPED, ["heads", "ffn", "hidden"]), limit: Math.log(100) },
  ];
  for (const { table, limit } of cases) {
    using setup = createRig(device, table);
    const rate = 0.05, seed = 2;
    let logAlpha = random(table.count, 9).map((value) => 2 * value);
    logAlpha.set([limit + 0.5, -limit - 1]); // as a projection, or the start, may leave them: back to the limits
    const m = new Float64Array(table.count), v = new Float64Array(table.count);
    for (let step = 0; step < 4; step++) {
      const dz = random(table.layout.count, 20 + step).map((value) => 1e-2 * value);
      const { logAlpha: next, moments } = await setup.step({
        state: { ...NOISE, seed, step, target: 0.5, maskRate: rate, limit, maskUpdates: step + 1 },
        dz,
        lambda: [1, 0],
        ...(step === 0 ? { logAlpha } : {}),
      });
      const slope = slopes(table, logAlpha), force = 1; // λ1 + 2·λ2·gap with λ2 = 0
      for (let unit = 0; unit < table.count; unit++) {
        const first = table.slotFirst[unit] ?? NaN,
          { value, slope: dzda } = stretched(
            logAlpha[unit] ?? NaN,
            drawOf(seed, step, unit),
            NOISE,
          );
        let gradient = 0;
        for (let i = 0; i < (table.slotCount[unit] ?? NaN); i++) gradient += dz[first + i] ?? NaN;
        gradient = gradient * (value > 0 && value < 1 ? dzda : 0) + force * (slope[unit] ?? NaN);
        m[unit] = 0.9 * (m[unit] ?? NaN) + 0.1 * gradient;
        v[unit] = 0.99 * (v[unit] ?? NaN) + 0.01 * gradient ** 2;
      }
      const what = `${nameOf(table)}, step ${step}`;
      // Gradients are at most some 0.02 and as exact as above.
      assertCells(moments, {
        what: `moments of ${what}`,
        rows: table.count,
        stride: 2,
        want: (unit, part) =>
          part === 0
            ? { value: m[unit] ?? NaN, bound: 4e-8 }
            : { value: v[unit] ?? NaN, bound: 1e-4 * (v[unit] ?? NaN) + 1e-12 },
      });
      const c1 = 1 - 0.9 ** (step + 1), c2 = 1 - 0.99 ** (step + 1), before = logAlpha;
      assertValues(next, {
        what: `log α of ${what}`,
        want(unit): Cell {
          // From the GPU's own moments, as their quotient amplifies errors of a small gradient.
          const first = moments[2 * unit] ?? NaN, second = moments[2 * unit + 1] ?? NaN;
          const moved = (before[unit] ?? NaN) - rate * first / c1 / (Math.sqrt(second / c2) + 1e-8);
          const value = Math.max(-limit, Math.min(limit, moved));
          return { value, bound: 4 * ROUND * Math.abs(value) + 32 * ROUND * rate };
        },
      });
      logAlpha = Float32Array.from(next);
      if (step === 0) assert.deepEqual([...logAlpha.subarray(0, 2)], [Math.fround(limit), -Math.fround(limit)]);
    }
  }
});

Deno.test("mask_update moves log α with the logarithm of a unit's running squares, where it is to follow one", async () => {
  for (const table of [unitTable(GROUPED, ["kv", "ffn", "hidden"]), unitTable(UNEVEN, ["heads", "ffn", "layers"])]) {
    using setup = createRig(device, table);
    const drift = 1.5, memory = 0.8, start = random(table.count, 31).map((value) => 2 * value);
    const slots = table.layout.count,
      dz = random(2 * slots, 32).map((value, slot) => slot < slots ? value : value * value);
    const saliency = random(table.count, 33).map((value) => 1e-3 + value * value);
    saliency[1] = 0; // of a unit that no batch has moved: told from none by the least that there is
    const prior = random(table.count, 34).map((value) => value > 0 ? value : 0);
    setup.learner.follow(saliency, { prior, drift, saliencyDecay: memory });
    const held = new Uint8Array(table.count);
    held[2] = 1;
    setup.learner.setHold(held);
    // No rate and no goal: nothing else moves log α.
    const state = { ...NOISE, target: -1, maskRate: 0, maskUpdates: 1 };
    const { logAlpha, moments } = await setup.step({ state, dz, logAlpha: start });
    for (let unit = 0; unit < table.ranges.layers.first; unit++) {
      const first = table.slotFirst[unit] ?? NaN, end = first + (table.slotCount[unit] ?? NaN);
      const square = dz.subarray(slots + first, slots + end).reduce((sum, value) => sum + value, prior[unit] ?? NaN);
      const past = Math.max(1e-30, saliency[unit] ?? NaN), now = memory * past + (1 - memory) * square;
      const wanted = unit === 2 ? past : now, moved = unit === 2 ? 0 : drift * Math.log(now / past);
      const [got, at] = [moments[2 * table.count + unit] ?? NaN, logAlpha[unit] ?? NaN];
      assert.ok(Math.abs(got - wanted) <= 1e-5 * wanted, `saliency ${unit} of ${nameOf(table)}: ${got}, not ${wanted}`);
      const aim = Math.max(-100, Math.min(100, (start[unit] ?? NaN) + moved));
      assert.ok(Math.abs(at - aim) <= 1e-4, `log α ${unit} of ${nameOf(table)}: ${at}, not ${aim}`);
    }
  }
});

Deno.test("mask_project shifts all log α by one number such that ŝ meets the target", async () => {
  for (const table of ALL_TABLES) {
    using setup = createRig(device, table);
    const start = random(table.count, 10).map((value) => 2 * value);
    const fixed = table.fixed * table.spec.hidden / table.total;
    for (const target of [0.02, 0.6]) {
      const { logAlpha, constraint } = await setup.step({
        state: { ...NOISE, target, tracking: 1 },
        logAlpha: start,
        lambda: [0, 0],
      });
      const shift = constraint[6] ?? NaN, reached = constraint[7] ?? NaN;
      assertValues(logAlpha, {
        what: `log α for ${target} with ${nameOf(table)}`,
        want(unit): Cell {
          const value = (start[unit] ?? NaN) + shift;
          return { value, bound: 2 * ROUND * Math.abs(value) };
        },
      });
      // What is reached is what the f64 oracle sees; sums as in expected_size.
      assert.ok(Math.abs(reached - expected(table, logAlpha)) < 1e-5, `${reached} is recorded for ${nameOf(table)}`);
      // A target beyond all that these units can cut takes all of them.
      const wanted = Math.min(target, table.kinds.has("hidden") ? 1 : 1 - fixed);
      assert.ok(Math.abs(reached - wanted) < 1e-4, `${reached} instead of ${wanted} for ${nameOf(table)}`);
    }
  }
});

Deno.test("mask_project records what log α expects, also where it stops short of a target that would drive all units far", async () => {
  const table = unitTable(GROUPED, ["heads", "ffn", "hidden"]),
    start = random(table.count, 10).map((value) => 2 * value);
  using setup = createRig(device, table);
  const noise = { noise: 20, temperature: 0.1 };
  const state = { ...noise, target: 0.002, tracking: 1, limit: 170 };
  const { logAlpha, constraint } = await setup.step({ state, logAlpha: start, lambda: [0, 0] });
  const reached = constraint[7] ?? NaN;
  assert.ok(Math.abs(reached - expected(table, logAlpha, noise)) < 1e-5, `${reached}`);
  assert.ok(reached > 0.01, `${reached} is as near as it comes`);
});

Deno.test("mask_project closes the share `tracking` of the gap, and leaves log α alone with none", async () => {
  const table = unitTable(GROUPED, ["heads", "ffn", "hidden"]), start = random(table.count, 11);
  using setup = createRig(device, table);
  const before = expected(table, start);
  for (const [tracking, wanted] of [[0.5, (before + 0.4) / 2], [0.1, before + 0.1 * (0.4 - before)]] as const) {
    const { logAlpha, constraint } = await setup.step({
      state: { ...NOISE, target: 0.4, tracking },
      logAlpha: start,
      lambda: [0, 0],
    });
    assert.ok(Math.abs(expected(table, logAlpha) - wanted) < 1e-4, `tracking ${tracking}: ${constraint[7]}`);
  }
  const { logAlpha, constraint } = await setup.step({
    state: { ...NOISE, target: 0.4 },
    logAlpha: start,
    lambda: [0, 0],
  });
  assert.deepEqual(logAlpha, start);
  assert.equal(constraint[6], 0);
  assert.ok(Math.abs((constraint[7] ?? NaN) - before) < 1e-5);
});

Deno.test("expected_size and mask_project hold for more units than one workgroup has lanes", async () => {
  const table = unitTable(decoder([{ heads: 320, kvHeads: 160, ffn: 2000 }], { hidden: 700 }), [
    "heads",
    "ffn",
    "hidden",
  ]);
  using setup = createRig(device, table);
  const start = random(table.count, 12);
  const { logAlpha, constraint } = await setup.step({
    state: { ...NOISE, target: 0.25, tracking: 1 },
    logAlpha: start,
    lambda: [0, 0],
  });
  assert.ok(Math.abs((constraint[2] ?? NaN) - expected(table, start)) < 1e-5, `ŝ before is ${constraint[2]}`);
  assert.ok(Math.abs(expected(table, logAlpha) - 0.25) < 1e-4, `ŝ after is ${constraint[7]}`);
});

Deno.test("mask kernels leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
