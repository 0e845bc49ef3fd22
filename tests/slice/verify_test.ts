// The check that runs before a sliced model is written.
import assert from "node:assert/strict";
import { loadModelFrom } from "../../lib/model/mod.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { FINAL_NORM, projectionName, PROJECTIONS } from "../../lib/spec/decoder.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { CHECKS, comparedTokens, verifyShape, verifySliced } from "../../lib/slice/verify.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { openSource, randomLora, randomMasks, someTokens, tampered } from "./helpers.ts";
import { sharedDevice } from "../device.ts";

Deno.test("verifySliced() gives the difference where the models agree, and names the first layer where they do not", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3");
  const adapters = {
    masks: randomMasks(source.spec, { seed: 3, kinds: ["head", "ffn", "hidden"], soft: true }),
    lora: randomLora(source.spec, { seed: 4 }),
  };
  const sliced = sliceModel(source, adapters);
  const tokens = [someTokens(source.spec), [5], someTokens(source.spec, 9)];
  const input = { device, adapters, tokens };
  const shares: number[] = [], onProgress = (share: number): void => void shares.push(share);
  const result = await verifySliced(source, sliced, { ...input, window: 8, onProgress });
  assert.equal(result.tokens, 27);
  // A layer or a band of the head at a time.
  assert.ok(shares.length > source.spec.layers.length && shares.at(-1) === 1, shares.join());
  assert.deepEqual(shares, shares.toSorted((a, b) => a - b));
  assert.ok(result.range > 0.1 && result.maxAbs < 1e-5 * result.range, JSON.stringify(result));
  assert.equal(device.liveCount, 0, "nothing is left on the GPU");
  await rejects(verifySliced(source, sliced, { ...input, tokens: [] }), "input");
  // Without the masks the two are different models.
  await assert.rejects(
    verifySliced(source, sliced, { ...input, adapters: { lora: adapters.lora } }),
    CompressoError,
  );
  const scale = (values: Float32Array): void => values.forEach((value, i) => values[i] = value * 1.05);
  const cases: [string, (values: Float32Array) => void, Refusal][] = [
    ["model.embed_tokens.weight", scale, { value: "embedding" }],
    [projectionName(0, "up"), scale, { value: "layer 0" }],
    [projectionName(2, "v"), scale, { value: "layer 2" }],
    [FINAL_NORM, scale, { value: "final norm" }],
    [
      projectionName(1, "q"),
      (values) => values[0] = NaN,
      { value: ["NaN", "row 0", "column 0"] },
    ],
  ];
  for (const [tensor, change, message] of cases) {
    const code = tensor === projectionName(1, "q") ? "numeric" : "mismatch";
    await rejects(verifySliced(source, tampered(sliced, tensor, change), input), code, message);
  }
});

Deno.test("a wrong slice is found by the quick check and the full one, whichever part of a layer it is in", async () => {
  const device = await sharedDevice(), source = await openSource("gqa_llama3"), last = source.spec.layers.length - 1;
  const masks = randomMasks(source.spec, { seed: 3, kinds: ["head", "ffn", "hidden"] });
  const sliced = sliceModel(source, { masks });
  const heldout = [[5], ...Array.from({ length: 9 }, () => Array.from({ length: 90 }, (_, at) => 3 + at % 7))];
  const swapped = (values: Float32Array): void => values.set(values.slice(0, 8).toReversed());
  const counts: number[] = [];
  for (const check of CHECKS) {
    const tokens = comparedTokens(heldout, check), shape = verifyShape({ batch: 2, seq: 96, check });
    const how = { device, adapters: { masks }, tokens, ...shape };
    counts.push((await verifySliced(source, sliced, how)).tokens);
    for (const projection of PROJECTIONS) {
      for (const layer of [0, last]) {
        const tensor = projectionName(layer, projection);
        const wrong = tampered(sliced, tensor, swapped);
        await rejects(verifySliced(source, wrong, how), "mismatch", { value: `layer ${layer}` });
      }
    }
    const wrong = tampered(sliced, FINAL_NORM, swapped);
    await rejects(verifySliced(source, wrong, how), "mismatch", { value: "final norm" });
  }
  assert.deepEqual(counts, [64, 1 + 7 * 90]);
});

Deno.test("verifySliced() gives what a comparison of the whole models gives", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3");
  const adapters = {
    masks: randomMasks(source.spec, { seed: 3, kinds: ["head", "ffn", "hidden"], soft: true }),
    lora: randomLora(source.spec, { seed: 4 }),
  };
  const sliced = sliceModel(source, adapters);
  const tokens = [someTokens(source.spec), someTokens(source.spec, 9)];
  const result = await verifySliced(source, sliced, { device, adapters, tokens });
  using masked = await loadModelFrom(source, { device, baseDtype: "f32" });
  using own = await loadModelFrom(sliced, { device, baseDtype: "f32" });
  let maxAbs = 0, low = Infinity, high = -Infinity;
  for (const sequence of tokens) {
    const expected = await masked.logits(sequence, adapters), actual = await own.logits(sequence);
    expected.forEach((value, i) => {
      maxAbs = Math.max(maxAbs, Math.abs(value - (actual[i] ?? NaN)));
      [low, high] = [Math.min(low, value), Math.max(high, value)];
    });
  }
  // The same kernels in the same order; only the number of rows, and so the tile of a product, differs.
  assert.ok(Math.abs(result.range - (high - low)) < 1e-5 * (high - low), `${result.range} and ${high - low}`);
  assert.ok(result.maxAbs < 1e-5 * (high - low) && maxAbs < 1e-5 * (high - low));
});

Deno.test("hiddenStates() holds the masked embedding first, and what the final norm and head make logits of last", async () => {
  const device = await sharedDevice();
  const source = await openSource("mha_linear"), { spec } = source;
  using model = await loadModelFrom(source, { device, baseDtype: "f32" });
  const tokens = someTokens(spec, 5);
  const masks = randomMasks(spec, { seed: 3, kinds: ["hidden"], soft: true });
  const states = await model.hiddenStates(tokens, { masks });
  assert.deepEqual(states.map((state) => state.length), Array(spec.layers.length + 1).fill(5 * spec.hidden));
  const embedding = await source.read("model.embed_tokens.weight");
  const first = tokens.flatMap((token) =>
    Array.from(
      { length: spec.hidden },
      (_, d) => (embedding[token * spec.hidden + d] ?? NaN) * (masks.hidden?.[d] ?? NaN),
    )
  );
  assertClose([distance("x0", states[0] ?? [], first)], 1e-6);
  const last = states.at(-1) ?? [], norm = await source.read(FINAL_NORM), head = await source.read("lm_head.weight");
  const logits = tokens.flatMap((_, t) => {
    const row = [...last.slice(t * spec.hidden, (t + 1) * spec.hidden)];
    const rms = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / spec.hidden + spec.normEps);
    return Array.from(
      { length: spec.vocab },
      (_, v) => row.reduce((sum, x, d) => sum + x / rms * (norm[d] ?? NaN) * (head[v * spec.hidden + d] ?? NaN), 0),
    );
  });
  assertClose([distance("logits", await model.logits(tokens, { masks }), logits)], 1e-5);
});
