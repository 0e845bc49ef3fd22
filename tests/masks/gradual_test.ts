// The running saliency of `gradual`: what a unit's gradients add to it. Without a GPU.
import assert from "node:assert/strict";
import { addGradients, gradualMasks } from "../../lib/masks/gradual.ts";
import { packMasks } from "../../lib/nn/mask_slots.ts";
import { heldUnits, withTheirLayers } from "../../lib/run/frozen.ts";
import { keptUnits, type Selection, unitParameters, unitTable } from "../../lib/units/table.ts";
import { decoder } from "../units/helpers/decoders.ts";

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
  const gate = table.ranges.layers.first, first = table.slotFirst[gate] ?? 0, count = table.slotCount[gate] ?? 0;
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

const LAYERS = [{ heads: 2, kvHeads: 2, ffn: 40 }, { heads: 2, kvHeads: 2, ffn: 40 }, {
  heads: 2,
  kvHeads: 2,
  ffn: 40,
}];

/** Kept columns of each layer. */
function columns({ ffn }: ReturnType<typeof gradualMasks>): number[][] {
  return LAYERS.map((_, layer) => [...ffn.subarray(40 * layer, 40 * layer + 40)]);
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

Deno.test("layers with targets of their own meet them, the others the whole's; where these are behind it, it is left out of reach", () => {
  const table = unitTable(decoder(LAYERS), ["ffn"]);
  // The columns of the last layer are worth least, so that without targets it loses all.
  const mean = Float32Array.from({ length: table.count }, (_, unit) => table.count - unit);
  const at = (target: number, layerTargets: readonly (number | null)[] | null): number[] =>
    columns(gradualMasks(table, mean, { target, layout: "compact", layerTargets })).map(sum);
  // A layer has 2 · 6 · 4 + 3 · 40 = 168 weights for each hidden dim, a column 3 of them.
  assert.deepEqual(at(0.2, null), [40, 40, 6]);
  assert.deepEqual(at(0.2, [null, 0.25, 0]), [20, 26, 40]);
  assert.deepEqual(at(0.2, [0, 0.25, 0]), [40, 26, 40], "the whole's is out of reach");
  assert.deepEqual(at(0, [0, 0.25, 0]), [40, 26, 40], "before the whole has a target");
  assert.deepEqual(at(0, [0, null, 0]), [40, 40, 40]);
});

Deno.test("units that are held stay as they are, cut or not, whatever their saliency and the target say", () => {
  const table = unitTable(decoder(LAYERS), ["ffn"]), { count } = table;
  const mean = Float32Array.from({ length: count }, (_, unit) => 1 + unit);
  const kept = new Uint8Array(count).fill(1).fill(0, 110);
  // All of the first layer's, which are kept, and of the last one's, ten of which are cut.
  const flags = Uint8Array.from({ length: count }, (_, unit) => unit < 40 || unit >= 80 ? 1 : 0);
  const held = { flags, kept }, before = [1, 3].map((layer) => [...kept.subarray(40 * layer - 40, 40 * layer)]);
  const at = (target: number, table_ = table): number[] => {
    const [first, middle = [], last] = columns(gradualMasks(table_, mean, { target, layout: "compact", held }));
    assert.deepEqual([first, last], before);
    return middle;
  };
  assert.equal(sum(at(0.2)), 40 - (34 - 10), "what is cut of the others counts");
  assert.deepEqual(at(0.2).slice(0, 24), new Array<number>(24).fill(0), "of the others the least fall");
  assert.equal(sum(at(0.02)), 40);
  assert.equal(sum(at(0)), 40);
  assert.equal(sum(at(0.5)), 0, "all the others fall, and the target is out of reach");
  const aligned = unitTable(decoder(LAYERS), ["ffn"], { align: 8 });
  assert.equal(sum(at(0.2, aligned)), 16);
});

Deno.test("columns that are held count among the widths that are multiples", () => {
  const table = unitTable(decoder(LAYERS), ["ffn"], { align: 8 }), { count } = table;
  const mean = Float32Array.from({ length: count }, (_, unit) => 1 + unit);
  const widths = (units: readonly number[], cut: readonly number[], target: number): readonly number[] => {
    const kept = new Uint8Array(count).fill(1), flags = new Uint8Array(count);
    for (const unit of units) flags[unit] = 1;
    for (const unit of cut) kept[unit] = 0;
    return columns(gradualMasks(table, mean, { target, layout: "compact", held: { flags, kept } })).map(sum);
  };
  // Five stay: of the others 32 fall at most, and of the second layer the rest.
  assert.deepEqual(widths([0, 1, 2, 3, 4], [], 0.19), [8, 40, 40]);
  assert.deepEqual(widths([0, 1, 2, 3, 4], [], 0.2), [8, 32, 40]);
  // Three of the five have fallen already, and five more fall with them.
  assert.deepEqual(widths([0, 1, 2, 3, 4], [0, 1, 2], 0.04), [32, 40, 40]);
});

Deno.test("a layer of which units are held does not fall either, and a choice at the masks that it led to is the same", () => {
  const table = unitTable(decoder(LAYERS), ["ffn", "layers"]),
    { count, ranges: { layers: { first: layerFirst } } } = table;
  const mean = Float32Array.from({ length: count }, (_, unit) => unit === layerFirst ? 0 : 1 + unit);
  const flags = heldUnits(table, [{ layer: 0, kind: "ffn", units: [7] }]);
  assert.ok(flags);
  const choose = (kept: Selection): ReturnType<typeof gradualMasks> =>
    gradualMasks(table, mean, {
      ...{ target: 0.3, layout: "compact" },
      held: { flags: withTheirLayers(table, flags), kept },
    });
  const first = choose(new Uint8Array(count).fill(1));
  assert.equal(columns(first)[0]?.[7], 1);
  assert.deepEqual(choose(keptUnits(table, packMasks(table.spec, table.layout, first))), first);
  const free = columns(gradualMasks(table, mean, { target: 0.3, layout: "compact" }));
  assert.equal(sum(free[0] ?? []), 0, "else it falls whole");
});

Deno.test("under equal widths the others become what they would be, and held units stay as they are", () => {
  const table = unitTable(decoder(LAYERS), ["ffn"]), { count } = table;
  const mean = Float32Array.from({ length: count }, (_, unit) => 1 + unit);
  const kept = new Uint8Array(count).fill(1).fill(0, 40, 50);
  const flags = Uint8Array.from({ length: count }, (_, unit) => unit < 60 ? 1 : 0);
  const at = (target: number): number[] =>
    columns(gradualMasks(table, mean, { target, layout: "uniform", held: { flags, kept } })).map(sum);
  const whole = columns(gradualMasks(table, mean, { target: 0.2, layout: "uniform" })).map(sum);
  assert.deepEqual(whole, [28, 28, 28]);
  // The ten that are cut are among the twelve of their layer.
  assert.deepEqual(at(0.2), [40, 28, 28]);
  assert.deepEqual(at(0.02), [40, 30, 38]);
});
