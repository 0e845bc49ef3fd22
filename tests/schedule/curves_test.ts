// Built-in curves and schedules: their closed forms at known points, and what they refuse.
import assert from "node:assert/strict";
import { builtinSchedule, SCHEDULE_NAMES } from "../../lib/schedule/builtin.ts";
import { constant, cosine, cubic, type CurveFunction, exponential, linear, steps } from "../../lib/schedule/curves.ts";
import { cubicSparsity } from "../../lib/schedule/ramp.ts";
import { evaluateSchedule } from "../../lib/schedule/output.ts";
import { type Refusal, refuses } from "../refuses.ts";

function assertCurve(curve: CurveFunction, points: readonly (readonly [progress: number, expected: number])[]): void {
  for (const [progress, expected] of points) {
    const actual = curve({ progress, sparsity: 0.4 });
    // A few roundings of numbers near 1.
    assert.ok(Math.abs(actual - expected) < 1e-12, `${actual} instead of ${expected} at ${progress}`);
  }
}

Deno.test("cubic() is to + (from − to)(1 − q)³", () => {
  assertCurve(cubic({ from: 0.1, to: 0.5, warmup: 0.8 }), [
    [0, 0.1],
    [0.2, 0.5 - 0.4 * 0.75 ** 3],
    [0.4, 0.5 - 0.4 / 8],
    [0.8, 0.5],
    [1, 0.5],
  ]);
});

Deno.test("cubic() gives the same bits as the loop's own cubic schedule", () => {
  const ours = cubic({ to: "target", warmup: 0.7 }), loop = cubicSparsity({ target: 0.3, warmup: 0.7 });
  for (let k = 0; k <= 100; k++) assert.equal(ours({ progress: k / 100, sparsity: 0.3 }), loop(k / 100));
});

Deno.test("linear() is a straight line up to its warm-up", () => {
  assertCurve(linear({ from: 1, to: 0, warmup: 0.5 }), [[0, 1], [0.125, 0.75], [0.25, 0.5], [0.5, 0], [0.9, 0]]);
});

Deno.test("cosine() is to + (from − to)(1 + cos πq) / 2", () => {
  assertCurve(cosine({ from: 2, to: 1 }), [
    [0, 2],
    [1 / 3, 1.75],
    [0.5, 1.5],
    [2 / 3, 1.25],
    [1, 1],
  ]);
});

Deno.test("a curve may leave the run's sparsity, and the least steepness is a straight line", () => {
  for (const curve of [cubic, linear, cosine, exponential]) {
    assert.equal(curve({ from: "target", to: 0.1 })({ progress: 0, sparsity: 0.4 }), 0.4);
    assert.equal(curve({ from: "target", to: 0.1 })({ progress: 1, sparsity: 0.4 }), 0.1);
  }
  for (const steepness of [1e-17, 1e-300]) {
    const value = exponential({ to: 0.4, steepness })({ progress: 0.25, sparsity: 0 });
    assert.ok(Math.abs(value - 0.1) < 1e-12, `${value}`);
  }
});

Deno.test("exponential() is to + (from − to)(e^(−kq) − e^(−k)) / (1 − e^(−k))", () => {
  assertCurve(exponential({ to: 0.4, steepness: Math.LN2 }), [
    [0, 0],
    [0.5, 0.4 - 0.4 * (2 ** -0.5 - 0.5) / 0.5],
    [1, 0.4],
  ]);
  const decay = exponential({ from: 8, to: 2, steepness: Math.log(8 / 2) });
  assertCurve(decay, [0, 0.25, 0.5, 0.75, 1].map((q) => [q, 8 * (2 / 8) ** q]));
});

Deno.test("steps() holds each value until the next, and constant() one", () => {
  const stairs = steps([[0, 0.1], [0.25, 0.2], [0.5, "target"]]);
  assertCurve(stairs, [[0, 0.1], [0.2499, 0.1], [0.25, 0.2], [0.4999, 0.2], [0.5, 0.4], [1, 0.4]]);
  assertCurve(constant(0.2), [[0, 0.2], [1, 0.2]]);
  assertCurve(constant("target"), [[0, 0.4], [1, 0.4]]);
});

Deno.test("a warm-up of 0 is there at once", () => {
  for (const curve of [cubic, linear, cosine, exponential]) {
    assertCurve(curve({ from: 0.1, to: "target", warmup: 0 }), [[0, 0.4], [0.5, 0.4]]);
  }
});

Deno.test("curves refuse options that make no curve, with the value", () => {
  const cases: readonly (readonly [() => unknown, Refusal])[] = [
    [() => cubic({ to: NaN }), { value: "NaN" }],
    [() => linear({ from: Infinity, to: 1 }), { value: "Infinity" }],
    [() => cosine({ to: 1, warmup: 1.5 }), { value: 1.5 }],
    [() => exponential({ to: 1, steepness: 0 }), { value: 0 }],
    [() => steps([]), { names: "steps()" }],
    [() => steps([[0.1, 1]]), { value: 0.1, names: 0 }],
    [() => steps([[0, 1], [0.5, 2], [0.5, 3]]), { value: 0.5 }],
    [() => constant(NaN), { value: "NaN" }],
    ...[cubic, linear, cosine].flatMap((curve) => [
      [() => curve(JSON.parse('{"to": 1, "warmUp": 0.2}')), { value: "warmUp" }] as const,
      [() => curve(JSON.parse('{"to": 1, "steepness": 4}')), { value: "steepness" }] as const,
      [() => curve(JSON.parse("null")), { value: "null" }] as const,
    ]),
    [() => exponential(JSON.parse('{"to": 1, "steepnes": 4}')), { value: "steepnes" }],
    [() => steps(JSON.parse("[0, 1]")), { value: "[0,1]", names: "[progress, value]" }],
  ];
  for (const [make, message] of cases) {
    refuses(make, "usage", message);
  }
});

Deno.test("every built-in schedule rises from little to the run's sparsity, reached at the warm-up, and never falls", () => {
  const count = 50, sparsity = 0.3, warmup = 0.6;
  for (const name of SCHEDULE_NAMES) {
    const schedule = builtinSchedule(name, { warmup });
    let last = 0;
    for (let step = 0; step < count; step++) {
      const progress = (step + 1) / count;
      const value =
        evaluateSchedule(schedule, { stage: "prune", progress, step, steps: count, sparsity, records: [], layers: [] })
          .sparsity ?? NaN;
      assert.ok(value >= last, `${name}: ${value} after ${last}`);
      if (progress >= warmup) assert.equal(value, sparsity, `${name} at ${progress}`);
      else if (name !== "constant") assert.ok(value < sparsity, `${name} at ${progress}`);
      last = value;
    }
  }
});

Deno.test("the built-in step schedule has four stairs of the same height", () => {
  const { definition: { sparsity: curve } } = builtinSchedule("step", { warmup: 0.75 });
  const at = (progress: number): number =>
    typeof curve === "function"
      ? curve({ stage: "prune", progress, step: 0, steps: 1, sparsity: 0.4, records: [], layers: [] })
      : NaN;
  const stairs = [1, 1, 2, 2, 3, 3, 4, 4].map((stair) => 0.4 * stair / 4);
  assert.deepEqual([0, 0.24, 0.25, 0.49, 0.5, 0.74, 0.75, 1].map(at), stairs);
});
