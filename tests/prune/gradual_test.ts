// The running saliency of `gradual`: what a unit's gradients add to it. Without a GPU.
import assert from "node:assert/strict";
import { addGradients, gradualMasks } from "../../lib/prune/gradual.ts";
import { unitParameters, unitTable } from "../../lib/prune/units.ts";
import { decoder } from "./helpers/decoders.ts";

Deno.test("a whole layer's saliency leaves out what of it is cut already, unless the layer is", () => {
  const table = unitTable(decoder([{ heads: 2, kvHeads: 2, ffn: 3 }, { heads: 2, kvHeads: 2, ffn: 3 }]), [
    "kv",
    "ffn",
    "layers",
  ]);
  const slotGradients = Float32Array.from({ length: table.layout.count }, (_, slot) => slot + 1);
  const added = (slots: Float32Array): Float32Array => {
    const mean = new Float32Array(table.count);
    addGradients(table, mean, { slotGradients, slots });
    return mean;
  };
  const gate = table.layerFirst, first = table.slotFirst[gate] ?? 0, count = table.slotCount[gate] ?? 0;
  const value = (gradient: number): number => Math.fround(0.05 * gradient ** 2 / unitParameters(table, gate));
  const sumOf = (from: number): number =>
    slotGradients.subarray(first + from, first + count).reduce((sum, gradient) => sum + gradient, 0);
  const close = (actual: number | undefined, expected: number): void =>
    assert.ok(Math.abs((actual ?? NaN) / expected - 1) < 1e-6, `${actual}, not ${expected}`);
  const all = new Float32Array(table.layout.count).fill(1), part = all.slice(), none = all.slice();
  part.fill(0, first, first + 2);
  none.fill(0, first, first + count);
  close(added(all)[gate], value(sumOf(0)));
  close(added(part)[gate], value(sumOf(2)));
  close(added(none)[gate], value(sumOf(0)));
  // What is cut by itself can come back: its own gradient counts.
  assert.deepEqual(added(part).subarray(0, gate), added(all).subarray(0, gate));
});

Deno.test("units are kept by the running mean of their gradients, in which the past fades, and one that was cut comes back", () => {
  const table = unitTable(decoder([{ heads: 2, kvHeads: 2, ffn: 4 }]), ["ffn"]), { count } = table;
  assert.equal(count, 4);
  const mean = new Float32Array(count), share = unitParameters(table, 0), expected = new Float64Array(count);
  const step = (gradients: readonly number[]): void => {
    const slotGradients = new Float32Array(table.layout.count);
    gradients.forEach((gradient, unit) => slotGradients[table.slotFirst[unit] ?? 0] = gradient);
    addGradients(table, mean, { slotGradients, slots: null });
    gradients.forEach((gradient, unit) => {
      expected[unit] = 0.95 * (expected[unit] ?? 0) + 0.05 * gradient ** 2 / share;
    });
  };
  // A column has 60 of 1,200 weights.
  const kept = (): number[] => {
    const { ffn } = gradualMasks(table, mean, { target: 0.05, layout: "compact" });
    return Array.from(ffn);
  };
  step([3, 1, 2, 4]);
  assert.deepEqual(kept(), [1, 0, 1, 1], "the least of them falls");
  step([0.5, -2, 0.5, 0.5]);
  step([0.5, 2, 0.5, -0.5]);
  mean.forEach((value, unit) => assert.ok(Math.abs(value / (expected[unit] ?? NaN) - 1) < 1e-6));
  assert.deepEqual(
    kept(),
    [1, 1, 0, 1],
    "it is back, whatever the sign of its gradients, for one whose own are gone by",
  );
  for (let index = 0; index < 80; index++) step([0.5, 1, 0.75, 0.25]);
  assert.deepEqual(kept(), [1, 1, 1, 0], "the largest at first is forgotten");
});
