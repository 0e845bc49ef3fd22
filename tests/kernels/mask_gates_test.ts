// Gates of whole layers in the mask kernels: z of a slot is a product of two, and gradients follow the product rule.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { slotLayout } from "../../lib/nn/mask_slots.ts";
import { MaskLearner } from "../../lib/masks/learner.ts";
import { type UnitTable, unitTable } from "../../lib/units/table.ts";
import { decoder, GROUPED, LAYER_KINDS, UNEVEN } from "../units/helpers/decoders.ts";
import { assertCells, assertValues, type Cell, random } from "./helpers/cells.ts";
import { createRig, drawOf, nameOf, NOISE, stretched } from "./helpers/mask_rig.ts";

const device: Device = await openDevice();
const TABLES = [
  ...LAYER_KINDS.map((kinds) => unitTable(UNEVEN, kinds)),
  unitTable(GROUPED, ["heads", "ffn", "hidden", "layers"], { protect: [1] }),
  unitTable(decoder([{ heads: 6, kvHeads: 2, ffn: 300 }, { heads: 65, kvHeads: 5, ffn: 1 }]), ["kv", "ffn", "layers"]),
];
const SEED = 3, STEP = 8;

/** z of every slot by the spec's shape alone; slots that no unit acts on keep `before`. */
function slotsOf(table: UnitTable, logAlpha: ArrayLike<number>, before: ArrayLike<number>): Float64Array {
  const { spec, kinds, layers } = table, layout = slotLayout(spec), z = Float64Array.from(before);
  let next = 0;
  const draw = (): number => {
    const unit = next++, { value } = stretched(logAlpha[unit] ?? NaN, drawOf(SEED, STEP, unit), NOISE);
    return Math.min(1, Math.max(0, value));
  };
  const acted = new Set<number>();
  const put = (slot: number, value: number): void => void (z[slot] = value, acted.add(slot));
  spec.layers.forEach(({ heads, kvHeads }, index) => {
    const slot = layout.layers[index]?.head ?? NaN;
    if ((layers[index]?.attention.count ?? 0) === 0) return;
    const perUnit = kinds.has("kv") ? heads / kvHeads : 1;
    for (let h = 0; h < heads; h += perUnit) {
      const value = draw();
      for (let i = 0; i < perUnit; i++) put(slot + h + i, value);
    }
  });
  spec.layers.forEach(({ ffn }, index) => {
    const slot = layout.layers[index]?.ffn ?? NaN;
    if ((layers[index]?.ffn.count ?? 0) > 0) { for (let c = 0; c < ffn; c++) put(slot + c, draw()); }
  });
  for (let d = 0; kinds.has("hidden") && d < spec.hidden; d++) put(layout.hidden + d, draw());
  spec.layers.forEach(({ heads, ffn }, index) => {
    if ((layers[index]?.gate ?? -1) < 0) return;
    const gate = draw(), { head = NaN, ffn: column = NaN } = layout.layers[index] ?? {};
    const times = (slot: number): void => put(slot, acted.has(slot) ? gate * (z[slot] ?? NaN) : gate);
    for (let h = 0; h < heads; h++) times(head + h);
    for (let c = 0; c < ffn; c++) times(column + c);
  });
  assert.equal(next, table.count);
  return z;
}

Deno.test("z of a slot is that of its unit times that of its layer", async () => {
  for (const table of TABLES) {
    using setup = createRig(device, table);
    const before = random(table.layout.count, 5), logAlpha = random(table.count, 6).map((value) => 2 * value);
    device.write(setup.slots.z, before);
    const { z } = await setup.step({ state: { ...NOISE, seed: SEED, step: STEP }, logAlpha });
    const want = slotsOf(table, logAlpha, before);
    assertValues(z, {
      what: nameOf(table),
      // Two draws, each as exact as in the test of mask_sample; what no unit owns is untouched.
      want: (slot) => ({ value: want[slot] ?? NaN, bound: want[slot] === before[slot] ? 0 : 8e-6 }),
    });
  }
});

Deno.test("gradients of units and gates are those of Σ dz · z, by finite differences", async () => {
  for (const table of TABLES) {
    using setup = createRig(device, table);
    const logAlpha = random(table.count, 6).map((value) => 2 * value), dz = random(table.layout.count, 7);
    const { moments } = await setup.step({
      state: { ...NOISE, seed: SEED, step: STEP },
      logAlpha,
      dz,
      lambda: [0, 0],
    });
    const zeros = new Float64Array(table.layout.count), moved = Float64Array.from(logAlpha), step = 1e-5;
    const loss = (): number => slotsOf(table, moved, zeros).reduce((sum, z, slot) => sum + z * (dz[slot] ?? NaN), 0);
    const gradient = moved.map((alpha, unit) => {
      moved[unit] = alpha + step;
      const above = loss();
      moved[unit] = alpha - step;
      const below = loss();
      moved[unit] = alpha;
      return (above - below) / (2 * step);
    });
    // Sums of up to 300 terms; z and slope err by some 1e-5 as in the test of mask_sample. After one step m is a tenth of the gradient.
    const largest = gradient.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    assertCells(moments, {
      what: nameOf(table),
      rows: table.count,
      stride: 2,
      want(unit, part): Cell {
        const value = gradient[unit] ?? NaN;
        if (part === 0) return { value: 0.1 * value, bound: 0.1 * 3e-5 * largest };
        return { value: 0.01 * value ** 2, bound: 0.01 * 6e-5 * largest ** 2 };
      },
    });
  }
});

Deno.test("a learner of gates needs the gradients of heads and columns", () => {
  using learner = new MaskLearner(device, unitTable(UNEVEN, ["hidden", "layers"]));
  assert.deepEqual(learner.maskGrads, new Set(["head", "ffn", "hidden"]));
});

Deno.test("gates leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
