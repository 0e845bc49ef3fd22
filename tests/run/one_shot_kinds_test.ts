// Hidden dims and whole layers under Wanda-sp and FLAP: their scores against definitions in f64, and runs that cut them.
import assert from "node:assert/strict";
import type { Device } from "../../lib/gpu/device.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { type DecoderSpec, projectionName } from "../../lib/spec/decoder.ts";
import { rankWithin } from "../../lib/masks/baselines.ts";
import { type ActivationStats, flapScores, wandaScores } from "../../lib/masks/baselines_activations.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { unitTable } from "../../lib/units/table.ts";
import { calibrate } from "../../lib/run/methods/calibrate.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import { drive, FEW, withDemo } from "./helpers/demo_run.ts";
import { BATCH, device, randomBatch, SEQ } from "./helpers/one_shot.ts";

/** What is measured of a model of five layers, of which layer 1 has no heads, layer 3 no FFN and layer 2 a narrower one. */
async function withUneven(
  work: (parts: { source: WeightSource; stats: ActivationStats }) => Promise<void>,
): Promise<void> {
  const { source: whole } = await openModelFiles("demo"), { spec } = whole;
  const flags = (key: "heads" | "ffn", isCut: (layer: number, at: number) => boolean): Float32Array =>
    Float32Array.from(
      spec.layers.flatMap((layer, index) => Array.from({ length: layer[key] }, (_, at) => isCut(index, at) ? 0 : 1)),
    );
  const masks = {
    head: flags("heads", (layer) => layer === 1),
    ffn: flags("ffn", (layer, at) => layer === 3 || (layer === 2 && at > 20)),
  };
  const source = sliceModel(whole, { masks });
  using model = await loadModelFrom(source, { device, baseDtype: "f32" });
  const batches = [1, 2].map((seed) => randomBatch(spec.vocab, seed));
  const stats = await calibrate(model, { batches, batch: BATCH, seq: SEQ });
  await work({ source, stats });
}

/** Σ of term · factor over all that writes each hidden dim, and its mean over the weights of each layer. */
async function sumsBy(
  { source, stats }: { readonly source: WeightSource; readonly stats: ActivationStats },
  term: (w: number) => number,
  factor: (mean: number, squares: number) => number,
): Promise<{ hidden: Float64Array; layers: Float64Array }> {
  const { spec } = source, hidden = new Float64Array(spec.hidden), layers = new Float64Array(spec.layers.length);
  for (const [layer, parts] of stats.layers.entries()) {
    let count = 0;
    for (const part of ["o", "down"] as const) {
      const { mean, squares } = parts[part] ?? { mean: [], squares: [] }, width = mean.length;
      const weight = width > 0 ? await source.read(projectionName(layer, part)) : [];
      weight.forEach((w, at) => {
        const value = term(w) * factor(mean[at % width] ?? NaN, squares[at % width] ?? NaN);
        const dim = Math.floor(at / width);
        hidden[dim] = (hidden[dim] ?? NaN) + value;
        layers[layer] = (layers[layer] ?? NaN) + value;
      });
      count += weight.length;
    }
    layers[layer] = (layers[layer] ?? NaN) / count;
  }
  return { hidden, layers };
}

/** Each value's place among all, (rank + 1) / count. */
function places(values: ArrayLike<number>): number[] {
  const all = Array.from(values);
  return all.map((value) => (all.filter((other) => other < value).length + 1) / all.length);
}

function assertPlaces(name: string, scores: ArrayLike<number>, values: ArrayLike<number>): void {
  const wanted = places(values);
  assert.equal(scores.length, wanted.length, name);
  wanted.forEach((place, i) => assert.ok(Math.abs((scores[i] ?? NaN) - place) < 1e-12, `${name} ${i}: ${scores[i]}`));
}

Deno.test("flap and wanda-sp rank hidden dims and layers by the sums of their terms", async () => {
  await withUneven(async ({ source, stats }) => {
    const absent = stats.layers.map(({ o, down }) => [o, down].map((part) => part === null));
    assert.deepEqual(absent.filter((parts) => parts.includes(true)), [[true, false], [false, true]]);
    const variance = await sumsBy({ source, stats }, (w) => w * w, (_, squares) => squares / (stats.tokens - 1));
    const norm = await sumsBy(
      { source, stats },
      Math.abs,
      (mean, squares) => Math.sqrt(squares + stats.tokens * mean ** 2),
    );
    // Protected layers have no units, but write hidden dims all the same.
    const table = unitTable(source.spec, ["kv", "ffn", "hidden", "layers"], { protect: [4] });
    const alone = unitTable(source.spec, ["kv", "ffn"], { protect: [4] });
    const flap = await flapScores(source, table, stats),
      wanda = rankWithin(table, await wandaScores(source, table, stats));
    const hidden = (scores: Float64Array): Float64Array =>
      scores.subarray(table.ranges.hidden.first, table.ranges.layers.first);
    const layers = (scores: Float64Array): Float64Array => scores.subarray(table.ranges.layers.first);
    assertPlaces("flap, hidden dim", hidden(flap), variance.hidden);
    assertPlaces("flap, layer", layers(flap), variance.layers.subarray(0, 4));
    assertPlaces("wanda-sp, hidden dim", hidden(wanda), norm.hidden);
    assertPlaces("wanda-sp, layer", layers(wanda), norm.layers.subarray(0, 4));
    // Heads and columns keep their own order: of flap one of all, where they have none beside them that of its scores.
    assertPlaces(
      "flap, head or column",
      flap.subarray(0, table.ranges.hidden.first),
      await flapScores(source, alone, stats),
    );
    assert.deepEqual(
      wanda.subarray(0, table.ranges.hidden.first),
      rankWithin(alone, await wandaScores(source, alone, stats)),
    );
  });
});

/** A run without training before, and with a little after. */
async function cut(
  { model, device }: { readonly model: Model; readonly device: Device },
  options: Partial<RunOptions>,
): Promise<{ readonly spec: DecoderSpec; readonly hard: number }> {
  const how = { ...FEW, ...options, sparsity: 0.3, steps: 0, prefinetune: 0, postfinetune: 1 };
  const { result: { source, masks, lora, sparsity, heldout } } = await drive(model, how);
  const sliced = sliceModel(source, { masks, lora }), adapters = { masks, lora };
  const { maxAbs, range } = await verifySliced(source, sliced, { device, adapters, tokens: heldout.slice(0, 4) });
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
        // What flap leaves of a first layer is a column that holds its biases.
        const left = (layer: number): readonly number[] => layer === 0 && method === "flap" ? [0, 0, 1] : [0, 0, 0];
        const wanted = [0, 1, 2, 3, 4].map((layer) => gone.includes(layer) ? left(layer) : [6, 3, 96]);
        assert.deepEqual(spec.layers.map(({ heads, kvHeads, ffn }) => [heads, kvHeads, ffn]), wanted);
      });
    });
  }
}
