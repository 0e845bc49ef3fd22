// The use of experts on a text, and experts that are left out as if they were cut.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { loadModelFrom, openDevice } from "../../mod.ts";
import { measureExperts } from "../../lib/slice/expert_use.ts";
import { keepExperts } from "../../lib/slice/experts.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import type { KeptExperts } from "../../lib/nn/experts.ts";
import { openHfFolder } from "../disk.ts";
import { rejects } from "../refuses.ts";

const ROOT = fileURLToPath(new URL("../../fixtures/golden_experts/", import.meta.url));
const device = await openDevice();
const NAMES = ["qwen3_moe", "qwen2_moe", "olmoe", "mixtral", "granitemoe"] as const;
const tokensOf = (count: number, seed = 1): number[] =>
  Array.from({ length: count }, (_, i) => (i * i * 7 + seed) % 61);

// The OLMoE of the fixtures has as many experts as a token chooses.
for (const name of NAMES.filter((one) => one !== "olmoe")) {
  Deno.test(`${name} with experts left out computes what it computes with them cut`, async () => {
    const source = await openHfFolder(`${ROOT}${name}/model`), { spec } = source, topK = spec.router?.topK ?? 0;
    const kept: KeptExperts = spec.layers.map(({ experts }, layer) =>
      experts
        ? Array.from({ length: experts.count }, (_, e) => e).filter((e) => e !== layer % experts.count).slice(
          0,
          topK + 1,
        )
        : null
    );
    const tokens = tokensOf(23), cut = keepExperts(source, kept);
    using model = await loadModelFrom(source, { device, baseDtype: "f32" });
    using small = await loadModelFrom(cut, { device, baseDtype: "f32" });
    const all = await model.logits(tokens), masked = await model.logits(tokens, { experts: kept });
    const sliced = await small.logits(tokens), again = await model.logits(tokens);
    const off = (a: Float32Array, b: Float32Array): number =>
      a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? NaN))), 0);
    const range = Math.max(...sliced) - Math.min(...sliced);
    // The same sums of the same products, in the same order.
    assert.ok(off(masked, sliced) <= 1e-6 * range, `${off(masked, sliced)} of ${range}`);
    assert.ok(off(all, sliced) > 1e-4 * range);
    assert.deepEqual(again, all);
    const verified = await verifySliced(source, cut, { device, adapters: { experts: kept }, tokens: [tokens] });
    assert.ok(verified.maxAbs <= 1e-5 * verified.range);
    await rejects(
      verifySliced(source, cut, { device, adapters: {}, tokens: [tokens] }),
      "mismatch",
    );
  });
}

for (const name of NAMES) {
  Deno.test(`the use of ${name}'s experts does not depend on how the tokens are passed`, async () => {
    const source = await openHfFolder(`${ROOT}${name}/model`), { spec } = source, topK = spec.router?.topK ?? 0;
    const tokens = [tokensOf(9), tokensOf(8, 3)], seen: number[] = [];
    const use = await measureExperts(source, {
      device,
      tokens,
      window: 9,
      rows: 18,
      baseDtype: "f32",
      onProgress: (share) => seen.push(share),
    });
    assert.equal(use.tokens, 17);
    assert.equal(seen.at(-1), 1);
    // One sequence a pass, with much padding.
    const other = await measureExperts(source, { device, tokens, window: 16, rows: 16, baseDtype: "f32" });
    for (const [index, { experts }] of spec.layers.entries()) {
      const own = use.layers[index], again = other.layers[index];
      if (!experts) {
        assert.equal(own, null);
        continue;
      }
      assert.ok(own && again);
      assert.equal(own.tokens.reduce((a, b) => a + b, 0), 17 * topK);
      assert.deepEqual(own.tokens, again.tokens);
      assert.ok(Math.abs(own.weight.reduce((sum, w, e) => sum + w * (own.tokens[e] ?? NaN), 0) - 17) < 1e-4);
      for (const [e, value] of own.output.entries()) {
        assert.ok(Math.abs(value - (again.output[e] ?? NaN)) <= 1e-4 * value);
        assert.equal(value > 0, (own.tokens[e] ?? 0) > 0);
      }
    }
  });
}

Deno.test("an expert that is scaled scores that much more", async () => {
  const source = await openHfFolder(`${ROOT}mixtral/model`), { hidden, layers } = source.spec, scaled = 2;
  const last = layers.length - 1, name = `model.layers.${last}.mlp.experts.down_proj.weight`;
  const louder = {
    ...source,
    readStored: () => Promise.resolve(null),
    read: async (tensor: string, rows?: { readonly start: number; readonly count: number }) => {
      const values = await source.read(tensor, rows);
      if (tensor !== name) return values;
      const first = rows?.start ?? 0, width = layers[last]?.experts?.ffn ?? 1;
      return values.map((value, i) =>
        Math.floor((first + Math.floor(i / width)) / hidden) === scaled ? 3 * value : value
      );
    },
  };
  const how = { device, tokens: [tokensOf(40)], baseDtype: "f32" } as const;
  const before = (await measureExperts(source, how)).layers[last],
    after = (await measureExperts(louder, how)).layers[last];
  assert.ok(before && after && (before.tokens[scaled] ?? 0) > 0);
  for (const [e, value] of after.output.entries()) {
    const wanted = (before.output[e] ?? NaN) * (e === scaled ? 3 : 1);
    assert.ok(Math.abs(value - wanted) <= 1e-5 * wanted, `expert ${e}`);
  }
});

Deno.test("a dense model, no tokens and fewer open experts than a token has are refused", async () => {
  using model = await loadModelFrom(await openHfFolder(`${ROOT}mixtral/model`), { device });
  await rejects(measureExperts(model.source, { device, tokens: [] }), "input", { value: "none" });
  await rejects(model.logits([1, 2], { experts: [[0], [0, 1]] }), "usage", { value: 1 });
  const dense = await openHfFolder(fileURLToPath(new URL("../../fixtures/demo", import.meta.url)));
  await rejects(measureExperts(dense, { device, tokens: [[1, 2]] }), "usage", { value: "dense" });
});
