// Taylor scores against differences of the loss in f64, channel by channel.
import assert from "node:assert/strict";
import type { WeightSource } from "../../lib/io/source.ts";
import { type MaskValues, slotLayout, unpackMasks } from "../../lib/nn/masks.ts";
import { projectionName } from "../../lib/nn/spec.ts";
import { createTaylor } from "../../lib/prune/baselines.ts";
import { unitParameters, type UnitTable, unitTable } from "../../lib/prune/units.ts";
import { type Decoder, decoderOf, lossOf } from "./helpers/decoder_f64.ts";
import { scored, sequences, withGolden } from "./helpers/one_shot.ts";

/** Step of the differences; their error is its square. */
const STEP = 1e-3;

/** The same weights, the input channel `column` of a layer's o_proj times `factor`. */
function scaledChannel(source: WeightSource, layer: number, column: number, factor: number): WeightSource {
  const { heads = 0 } = source.spec.layers[layer] ?? {}, width = heads * source.spec.headDim;
  return {
    ...source,
    spec: source.spec,
    storedDtype: (name) => source.storedDtype(name),
    async read(name, rows): ReturnType<WeightSource["read"]> {
      const values = await source.read(name, rows);
      if (name !== projectionName(layer, "o")) return values;
      return values.map((value, at) => at % width === column ? value * factor : value);
    },
  };
}

Deno.test("taylor adds up |dL/ds| of a unit's channels, L the mean loss over all batches, per parameter, by differences in f64", async () => {
  await withGolden("gqa_f16", async ({ model, source, batches }) => {
    const { spec } = source, rows = sequences(batches);
    const lossBy = (decode: Decoder, masks?: MaskValues): number => {
      const all = rows.map(({ tokens, labels }) => lossOf(decode(tokens, masks).logits, labels));
      return all.reduce((sum, own) => sum + own.sum, 0) / all.reduce((count, own) => count + own.count, 0);
    };
    const ofChannel = async (layer: number, column: number): Promise<number> => {
      const moved = async (factor: number): Promise<number> =>
        lossBy(await decoderOf(scaledChannel(source, layer, column, factor)));
      return Math.abs(await moved(1 + STEP) - await moved(1 - STEP)) / (2 * STEP);
    };
    const decode = await decoderOf(source);
    const ofMask = (table: UnitTable, unit: number): number => {
      const moved = (by: number): number => {
        const slots = new Float32Array(table.layout.count).fill(1), first = table.slotFirst[unit] ?? NaN;
        slots.fill(1 + by, first, first + (table.slotCount[unit] ?? NaN));
        return lossBy(decode, unpackMasks(spec, table.layout, slots));
      };
      return Math.abs(moved(STEP) - moved(-STEP)) / (2 * STEP);
    };
    for (const kinds of [["heads", "ffn", "hidden"], ["kv", "ffn"]] as const) {
      const { table, scores } = await scored({ model, batches }, kinds, "taylor");
      const check = (unit: number, importance: number, of: readonly number[]): void => {
        const wanted = importance / unitParameters(table, unit), largest = Math.max(...of);
        // STEP² of the difference, and the rounding of weights and masks to f32.
        const off = Math.abs((scores[unit] ?? NaN) - wanted);
        assert.ok(off <= 2e-3 * largest, `${kinds} unit ${unit}: ${scores[unit]} instead of ${wanted}`);
      };
      for (const unit of [0, table.ffnFirst - 1]) {
        const layer = table.layer[unit] ?? NaN, slots = table.layout.layers[layer];
        const first = ((table.slotFirst[unit] ?? NaN) - (slots?.head ?? NaN)) * spec.headDim;
        let sum = 0;
        for (let c = 0; c < (table.slotCount[unit] ?? NaN) * spec.headDim; c++) {
          sum += await ofChannel(layer, first + c);
        }
        check(unit, sum, [...scores.subarray(0, table.ffnFirst)]);
      }
      for (const unit of [table.ffnFirst + 17, table.hiddenFirst + 5].filter((unit) => unit < table.count)) {
        check(unit, ofMask(table, unit), [...scores.subarray(table.ffnFirst)]);
      }
    }
  });
});

Deno.test("taylor of a whole layer is the sum of its heads and columns", async () => {
  await withGolden("gqa_f16", async ({ model, batches }) => {
    const { table, scores } = await scored({ model, batches }, ["heads", "ffn", "layers"], "taylor");
    const importance = (unit: number): number => (scores[unit] ?? NaN) * unitParameters(table, unit);
    model.spec.layers.forEach((_, layer) => {
      let sum = 0;
      for (let unit = 0; unit < table.layerFirst; unit++) if (table.layer[unit] === layer) sum += importance(unit);
      const own = importance(table.layerFirst + layer);
      assert.ok(Math.abs(own - sum) <= 1e-9 * sum && sum > 0, `layer ${layer}: ${own} instead of ${sum}`);
    });
  });
});

Deno.test("channels of opposite sign do not cancel within a head, and batches of opposite sign do", async () => {
  await withGolden("gqa_f16", ({ source: { spec } }) => {
    const table = unitTable(spec, ["heads"]), dz = new Float32Array(slotLayout(spec).count);
    const heads = (first: readonly number[]): Float32Array[] =>
      spec.layers.map((layer, index) => {
        const values = new Float32Array(layer.heads * spec.headDim);
        if (index === 0) values.set(first);
        return values;
      });
    const taylor = createTaylor(table);
    taylor.add({ dz, heads: heads([1, -1, 3]) }, { labels: 2 });
    taylor.add({ dz, heads: heads([1, -1, -1]) }, { labels: 6 });
    // (2·1 + 6·1, −2 − 6, 2·3 − 6) / 8
    assert.equal((taylor.scores()[0] ?? NaN) * unitParameters(table, 0), 2);
    return Promise.resolve();
  });
});
