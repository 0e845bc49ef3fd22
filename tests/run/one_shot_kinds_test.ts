// Hidden dims and whole layers under Wanda-sp and FLAP: their scores against definitions in f64, and runs that cut them.
import assert from "node:assert/strict";
import type { Device } from "../../lib/gpu/device.ts";
import { type DecoderSpec, projectionName } from "../../lib/nn/spec.ts";
import { sliceModel } from "../../lib/prune/slice.ts";
import type { Model } from "../../lib/run/model.ts";
import type { PruneOptions } from "../../lib/run/options.ts";
import { verifySliced } from "../../lib/run/verify.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import type { Rows } from "./helpers/decoder_f64.ts";
import { drive, withDemo } from "./helpers/demo_run.ts";
import { columnsOf, deviation, inputsOf, mean, scored, withGolden } from "./helpers/one_shot.ts";

/** Variances of an f32 forward pass, standardised. */
const TOLERANCE = 8e-5;

Deno.test("flap and wanda-sp score hidden dims and layers by the same terms, each kind for itself", async () => {
  await withGolden("gqa_f16", async ({ model, source, batches }) => {
    const { spec } = source, inputs = await inputsOf(source, batches);
    const sumsBy = async (term: (w: number) => number, factor: (column: number[]) => number): Promise<Rows> => {
      const dims = new Float64Array(spec.hidden), layers = new Float64Array(spec.layers.length);
      for (const [layer, rows] of inputs.entries()) {
        let count = 0;
        for (const part of ["o", "down"] as const) {
          const weight = await source.read(projectionName(layer, part)), factors = columnsOf(rows[part]).map(factor);
          weight.forEach((w, at) => {
            const value = term(w) * (factors[at % factors.length] ?? NaN), dim = Math.floor(at / factors.length);
            dims[dim] = (dims[dim] ?? NaN) + value;
            layers[layer] = (layers[layer] ?? NaN) + value;
          });
          count += weight.length;
        }
        layers[layer] = (layers[layer] ?? NaN) / count;
      }
      return [dims, layers];
    };
    const both = ["ffn", "hidden", "layers"] as const,
      { table, scores } = await scored({ model, batches }, both, "flap");
    const byVariance = await sumsBy((w) => w * w, (column) => deviation(column) ** 2);
    const parts = [scores.subarray(table.hiddenFirst, table.layerFirst), scores.subarray(table.layerFirst)];
    assert.deepEqual(parts.map((part) => part.length), [spec.hidden, spec.layers.length]);
    byVariance.forEach((values, kind) => {
      const wanted = values.map((value) => (value - mean(values)) / deviation(values));
      assertClose([distance(`flap ${kind}`, parts[kind] ?? [], wanted)], TOLERANCE);
    });
    // Other units beside them change no score of a column.
    const alone = await scored({ model, batches }, ["ffn"], "flap");
    assert.deepEqual(scores.subarray(0, table.hiddenFirst), alone.scores);

    const ranked = (await scored({ model, batches }, both, "wanda-sp")).scores;
    const byNorm = await sumsBy(Math.abs, (column) => Math.sqrt(column.reduce((sum, x) => sum + x * x, 0)));
    byNorm.forEach((values, kind) =>
      values.forEach((value, i) => {
        const rank = values.filter((other) => other < value).length;
        const score = ranked[(kind === 0 ? table.hiddenFirst : table.layerFirst) + i] ?? NaN;
        assert.ok(Math.abs(score - (rank + 1) / values.length) < 1e-12, `wanda-sp ${kind}, unit ${i}: ${score}`);
      })
    );
  });
});

/** A run without training before, and with a little after. */
async function cut(
  { model, device }: { readonly model: Model; readonly device: Device },
  options: Partial<PruneOptions>,
): Promise<{ readonly spec: DecoderSpec; readonly hard: number }> {
  const how = { ...options, sparsity: 0.3, steps: 0, prefinetune: 0, postfinetune: 2 };
  const { result: { source, masks, lora, sparsity, heldout } } = await drive(model, how);
  const sliced = sliceModel(source, { masks, lora }), adapters = { masks, lora };
  const { maxAbs, range } = await verifySliced(source, sliced, { device, adapters, tokens: heldout });
  assert.ok(maxAbs < 1e-5 * range, `masked and sliced differ by ${maxAbs} of ${range}`);
  return { spec: sliced.spec, hard: sparsity.hard };
}

for (const method of ["flap", "wanda-sp"] as const) {
  Deno.test(`${method} cuts hidden dims to the target, and slices exactly`, async () => {
    await withDemo(async (demo) => {
      const { spec, hard } = await cut(demo, { method, units: ["ffn", "hidden"] });
      assert.ok(spec.hidden < demo.model.spec.hidden && hard >= 0.3 && hard < 0.301, `${spec.hidden}, ${hard}`);
    });
  });

  for (const gone of [[0, 2], [3, 4]]) {
    Deno.test(`${method} cuts layers ${gone}, where the others are protected, and slices exactly`, async () => {
      await withDemo(async (demo) => {
        const protect = [0, 1, 2, 3, 4].filter((layer) => !gone.includes(layer));
        const { spec, hard } = await cut(demo, { method, units: ["layers"], rules: { protect } });
        assert.equal(hard, 0.4);
        assert.deepEqual([...spec.layers.keys()].filter((layer) => spec.layers[layer]?.ffn === 0), gone);
      });
    });
  }
}
