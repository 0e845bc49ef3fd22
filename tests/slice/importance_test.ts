// The importance of columns for quantised files: what is measured, and that the file is fitted by it.
import assert from "node:assert/strict";
import { dequantize } from "../../lib/formats/gguf/dequant.ts";
import { quantize } from "../../lib/formats/gguf/quant.ts";
import { createInputStatistics } from "../../lib/nn/column_stats.ts";
import { createPass, recordForward } from "../../lib/nn/pass.ts";
import { loadModelFrom } from "../../lib/model/mod.ts";
import { EMBEDDING, normName, presentProjections, projectionName } from "../../lib/spec/decoder.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { measureImportance } from "../../lib/slice/importance.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { rejects } from "../refuses.ts";
import { openSource, randomMasks, randomSource, someTokens } from "./helpers.ts";
import { openWeights } from "../disk.ts";
import { sharedDevice } from "../device.ts";

for (const name of ["gqa_llama3", "parallel"] as const) {
  Deno.test(`measureImportance() of ${name} gives mean squares of what columns are multiplied by`, async () => {
    const device = await sharedDevice();
    const whole = await openSource("gqa_llama3"), shape = whole.spec;
    // Layers that differ; and attention and FFN that read one norm.
    const source = name === "parallel"
      ? randomSource({ ...shape, parallel: "shared" })
      : sliceModel(whole, { masks: randomMasks(shape, { seed: 3, kinds: ["head", "ffn", "hidden"], soft: true }) });
    const { spec } = source, tokens = [someTokens(spec), [5], someTokens(spec, 9)], shares: number[] = [];
    const found = await measureImportance(source, {
      ...{ device, tokens, window: 8, rows: 16 },
      onProgress: (share) => shares.push(share),
    });
    assert.equal(shares.at(-1), 1);
    assert.equal(device.liveCount, 0, "nothing is left on the GPU");

    // The same of the whole model at once, in one pass of padded sequences.
    const pieces = [
      tokens[0]?.slice(0, 8),
      tokens[0]?.slice(8, 16),
      tokens[0]?.slice(16),
      tokens[1],
      tokens[2]?.slice(0, 8),
    ];
    const all = [...pieces, tokens[2]?.slice(8)].map((piece) => piece ?? []), rows = 8 * all.length;
    using model = await loadModelFrom(source, { device, baseDtype: "f32" });
    using pass = createPass(device, model.weights, { batch: all.length, seq: 8 });
    const context = pass.plan();
    using plan = context.plan;
    using statistics = createInputStatistics(device, spec, { rows, of: ["attention", "o", "ffn", "down"] });
    recordForward({ ...context, observe: statistics.observe });
    plan.finish();
    const ids = new Uint32Array(rows), flags = new Uint32Array(rows);
    all.forEach((piece, index) => {
      ids.set(piece, 8 * index);
      flags.fill(1, 8 * index, 8 * index + piece.length);
    });
    device.write(pass.act.tokens, ids);
    statistics.choose(flags);
    await plan.run();
    const inputs = new Map((await statistics.read()).map((one) => [`${one.of} ${one.layer}`, one] as const));
    const of = {
      q: "attention",
      k: "attention",
      v: "attention",
      o: "o",
      gate: "ffn",
      up: "ffn",
      down: "down",
    } as const;
    for (const [index, layer] of spec.layers.entries()) {
      for (const projection of presentProjections(spec, layer)) {
        const { mean, squares } = inputs.get(`${of[projection]} ${index}`) ?? assert.fail(`${projection} ${index}`);
        const own = found.get(projectionName(index, projection)) ?? assert.fail(projection);
        assert.equal(own.length, mean.length);
        own.forEach((value, column) => {
          const want = (mean[column] ?? NaN) ** 2 + (squares[column] ?? NaN) / 27;
          // Halves of layers run one by one, and sums in another order.
          const gap = Math.abs(value - want), what = `${projection} of ${index}, ${column}: ${value}, expected ${want}`;
          assert.ok(gap <= 1e-5 * want + 1e-12, what);
        });
      }
    }
    assert.ok(!found.has(EMBEDDING));

    // The norm of the embedding, by hand.
    const weight = await source.read(normName(0, "attention")), sums = new Float64Array(spec.hidden);
    const scale = spec.scales?.embedding ?? 1;
    for (const id of tokens.flat()) {
      const x = (await source.read(EMBEDDING, { start: id, count: 1 })).map((value) => value * scale);
      const root = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / spec.hidden + spec.normEps);
      x.forEach((value, dim) => sums[dim] = (sums[dim] ?? 0) + (value / root * (weight[dim] ?? 0)) ** 2 / 27);
    }
    const first = found.get(projectionName(0, "k"));
    sums.forEach((sum, dim) => assert.ok(Math.abs((first?.[dim] ?? NaN) - sum) <= 1e-5 * sum, `dim ${dim}`));
    await rejects(measureImportance(source, { device, tokens: [] }), "input");
  });
}

Deno.test("a quantised GGUF is fitted by the importance of columns of the layout that is written", async () => {
  const { spec } = await openSource("gqa_llama3"), out = await Deno.makeTempDir({ prefix: "compresso_importance_" });
  const columns = 96,
    source = randomSource({ ...spec, layers: spec.layers.map((layer) => ({ ...layer, ffn: columns })) });
  const down = projectionName(1, "down");
  const importance = Float32Array.from({ length: columns }, (_, column) => (column * 7919 % 13) ** 3 + 0.1);
  let asked = 0;
  const options = { tokenizer: null, name: "m", replace: true, formats: ["gguf"] } as const;
  const ggufImportance = (): Promise<ReadonlyMap<string, Float32Array>> => {
    asked++;
    return Promise.resolve(new Map([[down, importance]]));
  };
  for (const [dtype, isFitted] of [["q4_0", true], ["q4_1", true], ["f16", false]] as const) {
    await exportModel(source, out, { ...options, ggufDtype: dtype, ggufImportance });
    const written = await openWeights(`${out}/model.gguf`);
    if (!isFitted) break;
    for (const [name, weights] of [[down, importance], [projectionName(0, "down"), null]] as const) {
      const values = await source.read(name), wanted = new Float32Array(values.length);
      dequantize(quantize(values, dtype, weights), dtype, { out: wanted, at: 0 });
      assert.deepEqual(await written.read(name), wanted, `${dtype} of ${name}`);
    }
    const plain = new Float32Array(columns), values = (await source.read(down)).slice(0, columns);
    dequantize(quantize(values, dtype), dtype, { out: plain, at: 0 });
    assert.notDeepEqual((await written.read(down)).slice(0, columns), plain, "it changes something");
  }
  assert.equal(asked, 2, "not for a type without blocks");
  const wrong = (): Promise<ReadonlyMap<string, Float32Array>> =>
    Promise.resolve(new Map([[down, importance.slice(1)]]));
  await rejects(exportModel(source, out, { ...options, ggufDtype: "q4_0", ggufImportance: wrong }), "mismatch", {
    value: 95,
  });
  await Deno.remove(out, { recursive: true });
});
