// Attention sub-layers as units: the heads of a layer fall together.
import assert from "node:assert/strict";
import { sliceModel, verifySliced } from "../../lib/masks/mod.ts";
import { keptUnits, selectionMasks, unitName, unitParameters, unitTable } from "../../lib/units/table.ts";
import { hardSparsity, selectedSpec } from "../../lib/units/selection.ts";
import { packMasks } from "../../lib/nn/mask_slots.ts";
import { decoder, MULTI_HEAD } from "../units/helpers/decoders.ts";
import { refuses } from "../refuses.ts";
import { drive, FEW, withShortDemo } from "./helpers/demo_run.ts";

const LAYERS = [{ heads: 6, kvHeads: 2, ffn: 40 }, { heads: 0, kvHeads: 0, ffn: 40 }, {
  heads: 4,
  kvHeads: 4,
  ffn: 24,
}];

Deno.test("a unit has all heads of a layer, costs what they cost, and leaves the FFN", () => {
  const spec = decoder(LAYERS), table = unitTable(spec, ["attention", "ffn"]), { headDim, hidden } = spec;
  const { ranges: { attention } } = table;
  assert.deepEqual([attention.kind, attention.first, attention.end], ["attention", 0, 2]);
  assert.deepEqual([...table.slotCount.subarray(0, 2)], [6, 4]);
  assert.equal(unitName(table, 1), "attention of layer 2");
  assert.deepEqual([0, 1].map((unit) => unitParameters(table, unit)), [
    2 * headDim * (6 + 2) * hidden,
    2 * headDim * (4 + 4) * hidden,
  ]);
  const kept = new Uint8Array(table.count).fill(1);
  kept[0] = 0;
  assert.equal(hardSparsity(table, kept), unitParameters(table, 0) / table.total);
  assert.deepEqual(selectedSpec(table, kept).layers[0], { heads: 0, kvHeads: 0, ffn: 40 });
  assert.deepEqual(keptUnits(table, packMasks(spec, table.layout, selectionMasks(table, kept))), kept);
});

Deno.test("smaller units of attention come first, and the last sub-layer and equal layers are refused", () => {
  const spec = decoder(LAYERS);
  assert.deepEqual([...unitTable(spec, ["attention", "kv"]).kinds], ["kv"]);
  assert.equal(unitTable(spec, ["attention", "layers"]).count, 5);
  refuses(() => unitTable(decoder(LAYERS.slice(1)), ["attention"]), "usage", { names: "attention" });
  refuses(() => unitTable({ ...decoder(LAYERS), normPlaces: "residual", norm: "layer" }, ["attention"]), "usage");
  assert.ok(unitTable({ ...MULTI_HEAD, qkNorm: "whole" }, ["attention"]).count > 0);
});

/** The loss of so large a cut may run away. */
const CALM = { monitors: { divergence: { action: "off" } } } as const;

for (const method of ["compresso", "gradual", "taylor", "fisher", "wanda-sp"] as const) {
  Deno.test(`${method} cuts attention sub-layers whole, and the sliced model equals the masked one`, async () => {
    await withShortDemo(async ({ model, device }) => {
      const options = {
        method,
        units: ["attention", "ffn"],
        sparsity: 0.4,
        steps: 9,
        ...CALM,
        ...(method === "wanda-sp" ? FEW : {}),
      } as const;
      const { result: { source, masks, lora, sparsity, heldout } } = await drive(model, options);
      let at = 0, fell = 0;
      for (const { heads } of model.spec.layers) {
        const own = [...masks.head?.subarray(at, at += heads) ?? []];
        assert.equal(new Set(own).size, 1, `heads of a layer differ: ${own}`);
        if (own[0] === 0) fell++;
      }
      assert.ok(sparsity.hard >= 0.4 && fell < model.spec.layers.length, `${sparsity.hard}, ${fell} fell`);
      const sliced = sliceModel(source, { masks, lora });
      assert.equal(sliced.spec.layers.filter(({ heads }) => heads === 0).length, fell);
      const { maxAbs, range } = await verifySliced(source, sliced, {
        device,
        adapters: { masks, lora },
        tokens: heldout.slice(0, 4),
      });
      assert.ok(maxAbs < 1e-5 * range, `masked and sliced differ by ${maxAbs} of ${range}`);
    });
  });
}

Deno.test("a cut of attention alone drops whole sub-layers, chosen at once or learned", async () => {
  await withShortDemo(async ({ model }) => {
    const units = ["attention"] as const, once = { steps: 0, prefinetune: 0, postfinetune: 0 } as const;
    for (const how of [{ method: "fisher", ...once }, { method: "compresso", steps: 9 }] as const) {
      const { result: { masks, sparsity } } = await drive(model, { ...how, units, sparsity: 0.15 });
      assert.ok(sparsity.hard >= 0.15 && masks.ffn?.every((z) => z === 1) && masks.head?.includes(0), how.method);
    }
    await assert.rejects(drive(model, { ...once, method: "fisher", units, layout: "uniform" }), { code: "usage" });
  });
});
