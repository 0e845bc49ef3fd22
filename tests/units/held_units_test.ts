// Units that a selection holds as they are, and what comes nearest to a target that they keep out of reach.
import assert from "node:assert/strict";
import { hardSparsity, type HeldUnits, selectUnits, unitTable } from "../../lib/masks/mod.ts";
import { refuses } from "../refuses.ts";
import { decoder } from "./helpers/decoders.ts";

const LAYER = { heads: 8, kvHeads: 4, ffn: 12 };
const SPEC = decoder([LAYER, LAYER, LAYER]);

Deno.test("a target that held units keep out of reach is refused by their name, or what comes nearest is taken", () => {
  // Two heads stay in each layer: those of highest score are of two groups, whose K and V both stay.
  const table = unitTable(SPEC, ["heads", "ffn"], { minimum: { heads: 2 } }),
    { count, ranges: { ffn: { first: ffnFirst } } } = table;
  const scores = Float64Array.from(
    { length: count },
    (_, unit) => unit < ffnFirst ? [9, 1, 8, 2, 3, 4, 5, 6][unit % 8] ?? 0 : unit,
  );
  const flags = Uint8Array.from({ length: count }, (_, unit) => unit >= ffnFirst ? 1 : 0);
  const held: HeldUnits = { flags, kept: new Uint8Array(count).fill(1) };
  refuses(() => selectUnits(table, scores, { target: 0.7, held }), "usage", { value: 0.7 });
  const kept = selectUnits(table, scores, { target: 0.7, held, isNearest: true });
  assert.ok(kept.subarray(ffnFirst).every((one) => one === 1));
  for (let layer = 0; layer < 3; layer++) {
    const heads = kept.subarray(8 * layer, 8 * layer + 8);
    // The best group of two: 5 and 6 are more than 9 and 1.
    assert.deepEqual([...heads], [0, 0, 0, 0, 0, 0, 1, 1]);
  }
  // Per hidden dim, 12 weights a head, q and o, and 12 a group, k and v; 3 a column.
  assert.ok(Math.abs(hardSparsity(table, kept) - (1 - (12 * (2 + 1) + 3 * 12) / (12 * (8 + 4) + 3 * 12))) < 1e-12);
});

Deno.test("held units of another table are refused", () => {
  const table = unitTable(SPEC, ["ffn"]), { count } = table, scores = new Float64Array(count);
  const flags = new Uint8Array(count).fill(1), kept = flags.slice();
  for (const held of [{ flags, kept: kept.subarray(1) }, { flags: flags.subarray(1), kept }]) {
    refuses(() => selectUnits(table, scores, { target: 0.1, held, isNearest: true }), "usage", { names: 36 });
  }
});

Deno.test("targets of layers that lie behind the whole's are met by saliency, whatever another order would round to", () => {
  // A head with its group has 2,560 weights for 20 hidden dims, which columns of 60 do not come to.
  const layer = { heads: 4, kvHeads: 4, ffn: 400 };
  const table = unitTable(decoder([layer, layer, layer], { headDim: 32 }), ["kv", "ffn"]),
    { count, ranges: { ffn: { first: ffnFirst } } } = table;
  // Columns fall by their number and no head.
  const scores = Float64Array.from({ length: count }, (_, unit) => unit < ffnFirst ? 1e6 : unit);
  for (let step = 1; step <= 20; step++) {
    const goal = 0.01 * step, layerTargets = [goal, 0.8 * goal, 1.2 * goal];
    const kept = selectUnits(table, scores, { target: goal + 0.03, layerTargets, isNearest: true });
    assert.ok(kept.subarray(0, ffnFirst).every((one) => one === 1), `${goal}`);
    for (let layer = 0; layer < 3; layer++) {
      const own = [...kept.subarray(ffnFirst + 400 * layer, ffnFirst + 400 * (layer + 1))];
      assert.deepEqual(own, own.toSorted((a, b) => a - b), `${goal}`);
    }
  }
});
