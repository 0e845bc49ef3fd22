// Schedules: their values at known points, and their shape.
import assert from "node:assert/strict";
import { builtinSchedule } from "../../lib/schedule/builtin.ts";
import { evaluateSchedule } from "../../lib/schedule/output.ts";
import { cubicSparsity, progressOf, warmupCosine } from "../../lib/schedule/ramp.ts";

const close = (actual: number, expected: number): void =>
  assert.ok(Math.abs(actual - expected) < 1e-12, `${actual} instead of ${expected}`);

Deno.test("cubicSparsity() follows T − T·(1 − k / warm-up)³ and stays at the target", () => {
  const schedule = cubicSparsity({ target: 0.4, warmup: 0.8 });
  for (
    const [progress, expected] of [[0, 0], [0.2, 0.4 * (1 - 0.75 ** 3)], [0.4, 0.35], [0.8, 0.4], [1, 0.4]] as const
  ) {
    close(schedule(progress), expected);
  }
});

Deno.test("cubicSparsity() never falls, and moves by less in every step", () => {
  const schedule = cubicSparsity({ target: 0.3, warmup: 0.7 });
  let last = Infinity;
  for (let k = 1; k <= 50; k++) {
    const gain = schedule(k / 50) - schedule((k - 1) / 50);
    assert.ok(gain >= 0 && gain <= last + 1e-12, `step ${k} gains ${gain} after ${last}`);
    last = gain;
  }
});

Deno.test("warmupCosine() climbs to its peak and falls to its floor", () => {
  const rate = warmupCosine({ peak: 2, warmup: 0.2, floor: 0.5 });
  for (const [progress, expected] of [[0, 0], [0.1, 1], [0.2, 2], [0.6, 1.25], [1, 0.5]] as const) {
    close(rate(progress), expected);
  }
  close(warmupCosine({ peak: 2, warmup: 0 })(0), 2);
  close(warmupCosine({ peak: 2, warmup: 0 })(1), 0);
  close(warmupCosine({ peak: 2, warmup: 1 })(0.5), 1);
});

Deno.test("the schedule step reaches its target with the end of the warm-up, not a step later", () => {
  for (const [steps, warmup] of [[10, 0.7], [30, 0.9], [60, 0.55]] as const) {
    const schedule = builtinSchedule("step", { warmup });
    const at = (step: number): number | null => {
      const progress = progressOf(step, steps);
      return evaluateSchedule(schedule, {
        stage: "prune",
        progress,
        sparsity: 0.4,
        step,
        steps,
        records: [],
        layers: [],
      }).sparsity;
    };
    const end = Math.round(warmup * steps) - 1;
    assert.deepEqual([at(end - 1), at(end), at(steps - 1)], [0.4 * 3 / 4, 0.4, 0.4]);
  }
});

Deno.test("progressOf() moves with the first step and ends at 1", () => {
  assert.deepEqual([0, 1, 2, 3].map((index) => progressOf(index, 4)), [0.25, 0.5, 0.75, 1]);
  assert.equal(progressOf(9, 4), 1);
  assert.equal(progressOf(0, 0), 1);
});
