// AdamW and Lion against f64 twins over several steps, with clipping, weight decay and several rows of workgroups.
import assert from "node:assert/strict";
import { adamw, GRAD_SQUARES } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { createOptimizer } from "../../lib/nn/train/optimizer.ts";
import { createStepState, IDLE_STATE, type StepState, writeStepState } from "../../lib/nn/train/step_state.ts";
import { assertValues, type Cell, lay, random, ROUND, STALE } from "./helpers/cells.ts";

const device: Device = await openDevice();

const STEPS = 6;
const BEYOND = 5;

interface Adam {
  readonly w: Float64Array;
  readonly m: Float64Array;
  readonly v: Float64Array;
}

/** One step of AdamW (Loshchilov & Hutter 2019) after clipping the gradient to a global norm; `t` counts from 1. */
function adamStep({ w, m, v }: Adam, g: Float32Array, { t, state }: { t: number; state: StepState }): void {
  const length = Math.sqrt(g.reduce((sum, value) => sum + value * value, 0));
  const factor = state.clipNorm > 0 ? Math.min(1, state.clipNorm / length) : 1;
  for (let i = 0; i < w.length; i++) {
    const gradient = (g[i] ?? NaN) * factor;
    m[i] = 0.9 * (m[i] ?? NaN) + 0.1 * gradient;
    v[i] = 0.999 * (v[i] ?? NaN) + 0.001 * gradient ** 2;
    const step = (m[i] ?? NaN) / (1 - 0.9 ** t) / (Math.sqrt((v[i] ?? NaN) / (1 - 0.999 ** t)) + 1e-8);
    w[i] = (w[i] ?? NaN) - state.loraRate * (step + state.weightDecay * (w[i] ?? NaN));
  }
}

async function check(count: number, width: number, settings: Partial<StepState>): Promise<void> {
  const initial = random(count, 1), total = count + BEYOND;
  const wanted: Adam = { w: Float64Array.from(initial), m: new Float64Array(count), v: new Float64Array(count) };
  using g = device.createBuffer("g", 4 * total);
  using metrics = device.createBuffer("metrics", 32);
  using state = createStepState(device);
  using w = device.uploadBuffer("w", lay(initial, { rows: 1, cols: count, stride: total, fill: STALE }));
  using m = device.uploadBuffer(
    "m",
    lay(new Float32Array(count), { rows: 1, cols: count, stride: total, fill: STALE }),
  );
  using v = device.uploadBuffer(
    "v",
    lay(new Float32Array(count), { rows: 1, cols: count, stride: total, fill: STALE }),
  );
  using plan = new Plan(device);
  plan.dispatch(
    compileKernel(device, adamw),
    [g, state, metrics, w, m, v, { params: [u32(count), u32(width)] }],
    { groups: [Math.ceil(width / 64), Math.ceil(count / width)] },
  );
  for (let t = 1; t <= STEPS; t++) {
    // Every third gradient changes its sign from step to step, so that m nearly cancels; the first is 0.
    const gradient = random(count, 10).map((value, i) =>
      i === 0 ? 0 : value * (i % 3 === 0 && t % 2 === 0 ? -1 : 1) * t
    );
    const now: StepState = { ...IDLE_STATE, ...settings, loraUpdates: t };
    device.write(g, gradient);
    device.write(metrics, Float32Array.of(gradient.reduce((sum, value) => sum + value * value, 0)), 4 * GRAD_SQUARES);
    writeStepState(device, state, now);
    await plan.run();
    adamStep(wanted, gradient, { t, state: now });
  }
  const what = `${count} elements in rows of ${width}`;
  const beyond = { value: STALE, bound: 0 };
  // Each step rounds m and v some four times; m is a difference of terms that |g| ≤ STEPS bounds.
  assertValues(await device.readFloats(m, total), {
    what: `m of ${what}`,
    want: (i) => i >= count ? beyond : { value: wanted.m[i] ?? NaN, bound: 4 * STEPS * ROUND * STEPS },
  });
  assertValues(await device.readFloats(v, total), {
    what: `v of ${what}`,
    want(i): Cell {
      const value = wanted.v[i] ?? NaN;
      return i >= count ? beyond : { value, bound: 8 * STEPS * ROUND * value + 1e-30 };
    },
  });
  // Gradients grow from |g| to STEPS · |g|: √v̂ ≥ |g|, so the step errs by at most m's error over |g|; w itself is rounded at every step.
  assertValues(await device.readFloats(w, total), {
    what: `w of ${what}`,
    want(i): Cell {
      const value = wanted.w[i] ?? NaN,
        bound = STEPS * (4 * STEPS * STEPS * ROUND * (settings.loraRate ?? 0) + 2 * ROUND * (1 + Math.abs(value)));
      return i >= count ? beyond : { value, bound };
    },
  });
}

Deno.test("AdamW matches f64 over several steps, for every size and for several rows of workgroups", async () => {
  for (const [count, width] of [[1, 1], [63, 63], [65, 65], [1000, 1000], [1000, 130], [300, 64]] as const) {
    await check(count, width, { loraRate: 0.01 });
  }
});

Deno.test("AdamW decays weights by rate · decay, and does not clip a norm that is small enough", async () => {
  await check(300, 300, { loraRate: 0.01, weightDecay: 0.1 });
  await check(300, 300, { loraRate: 0.01, weightDecay: 0.1, clipNorm: 1e6 });
});

Deno.test("AdamW clips the global norm of the gradient", async () => {
  await check(300, 300, { loraRate: 0.01, clipNorm: 1.5 });
});

Deno.test("AdamW covers more elements than one row of 65,535 workgroups", async () => {
  const count = 65535 * 64 + 70, width = 65535 * 64;
  const gradient = new Float32Array(count).fill(-1);
  using g = device.uploadBuffer("g", gradient);
  using w = device.createBuffer("w", 4 * count);
  using m = device.createBuffer("m", 4 * count);
  using v = device.createBuffer("v", 4 * count);
  using metrics = device.createBuffer("metrics", 32);
  using state = createStepState(device);
  writeStepState(device, state, { ...IDLE_STATE, loraRate: 0.5 });
  using plan = new Plan(device);
  plan.dispatch(
    compileKernel(device, adamw),
    [g, state, metrics, w, m, v, { params: [u32(count), u32(width)] }],
    { groups: [Math.ceil(width / 64), Math.ceil(count / width)] },
  );
  await plan.run();
  const got = await device.readFloats(w, count);
  // The first step of Adam is its rate, whatever the gradient.
  const wrong = got.findIndex((value) => !(Math.abs(value - 0.5) < 32 * ROUND));
  assert.equal(wrong, -1, `w[${wrong}] is ${got[wrong]}`);
});

Deno.test("Lion matches f64 over several steps, with and without clipping and decay", async () => {
  for (const settings of [{}, { clipNorm: 1.5 }, { weightDecay: 0.1, clipNorm: 1e6 }]) {
    for (const count of [1, 63, 65, 1000]) {
      const initial = random(count, 1), w = Float64Array.from(initial), m = new Float64Array(count);
      using grads = device.createBuffer("g", 4 * count);
      using params = device.uploadBuffer("w", initial);
      using metrics = device.createBuffer("metrics", 32);
      using state = createStepState(device);
      using lion = createOptimizer(device, "lion", { params, grads, count });
      using plan = new Plan(device);
      lion.record(plan, { state, metrics });
      const loraRate = 0.01, { clipNorm = 0, weightDecay = 0 } = { clipNorm: 0, weightDecay: 0, ...settings };
      for (let t = 1; t <= STEPS; t++) {
        const gradient = random(count, 10).map((value, i) => value * (i % 3 === 0 && t % 2 === 0 ? -1 : 1) * t);
        const squares = gradient.reduce((sum, value) => sum + value * value, 0);
        const factor = clipNorm > 0 ? Math.min(1, clipNorm / Math.sqrt(squares)) : 1;
        for (let i = 0; i < count; i++) {
          const g = factor * (gradient[i] ?? NaN), before = m[i] ?? NaN, weight = w[i] ?? NaN;
          w[i] = weight - loraRate * (Math.sign(0.9 * before + 0.1 * g) + weightDecay * weight);
          m[i] = 0.99 * before + 0.01 * g;
        }
        device.write(grads, gradient);
        device.write(metrics, Float32Array.of(squares), 4 * GRAD_SQUARES);
        writeStepState(device, state, { ...IDLE_STATE, loraRate, clipNorm, weightDecay });
        await plan.run();
      }
      const [momentum] = lion.arrays, what = `${count} elements, ${JSON.stringify(settings)}`;
      assert.deepEqual(lion.arrays.map(({ name }) => name), ["loraM"]);
      // m sums gradients up to STEPS in size, and clipping divides by a norm with some ulp of error.
      assertValues(await device.readFloats(momentum?.buffer ?? params, count), {
        what: `m of ${what}`,
        want: (i): Cell => ({ value: m[i] ?? NaN, bound: 8 * STEPS * STEPS * ROUND }),
      });
      // A step is its rate up or down: a sign that f32 saw otherwise would be off by 2 · rate.
      assertValues(await device.readFloats(params, count), {
        what: `w of ${what}`,
        want: (i): Cell => ({ value: w[i] ?? NaN, bound: 8 * STEPS * ROUND * (1 + Math.abs(w[i] ?? NaN)) }),
      });
    }
  }
});

Deno.test("optimizers leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
