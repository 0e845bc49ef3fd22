// Parts of a model as models: their tensors are those of the whole.
import assert from "node:assert/strict";
import { EMBEDDING, FINAL_NORM, HEAD, HEAD_BIAS, tensorShapes } from "../../lib/spec/decoder.ts";
import { headPart, layerParts } from "../../lib/model/parts.ts";
import { openSource, randomLora, randomMasks } from "../slice/helpers.ts";

Deno.test("a layer's parts hold its attention and its FFN, with the layer's own masks and LoRA", async () => {
  const source = await openSource("gqa_llama3"), { layers } = source.spec;
  const masks = randomMasks(source.spec, { seed: 3, kinds: ["head", "ffn", "hidden"], soft: true });
  const lora = randomLora(source.spec, { seed: 4 });
  const [attention, ffn, ...others] = layerParts({ source, adapters: { masks, lora } }, 1);
  assert.ok(attention && ffn && others.length === 0);
  const before = layers[0], layer = layers[1];
  assert.ok(before && layer);
  assert.deepEqual(attention.source.spec.layers, [{ ...layer, ffn: 0 }]);
  assert.deepEqual(ffn.source.spec.layers, [{ ...layer, heads: 0, kvHeads: 0 }]);
  for (const { source: part } of [attention, ffn]) {
    for (const [name, shape] of tensorShapes(part.spec)) {
      const data = await part.read(name);
      assert.equal(data.length, shape.reduce((size, side) => size * side, 1), name);
      if (name === EMBEDDING) continue;
      const there = name.replace("model.layers.0.", "model.layers.1.");
      assert.deepEqual(data.slice(0, 100), (await source.read(there)).slice(0, 100), name);
    }
  }
  assert.deepEqual(attention.adapters.masks?.head, masks.head?.subarray(before.heads, before.heads + layer.heads));
  assert.deepEqual(ffn.adapters.masks?.ffn, masks.ffn?.subarray(before.ffn, before.ffn + layer.ffn));
  assert.equal(attention.adapters.masks?.hidden, masks.hidden);
  assert.equal(attention.adapters.lora?.weights.get("lora.0.q.A"), lora.weights.get("lora.1.q.A"));
});

Deno.test("a part that a layer does not have is left out", async () => {
  const source = await openSource("gqa_llama3");
  const without = (layer: { heads: number; kvHeads: number; ffn: number }): number =>
    layerParts({ source: { ...source, spec: { ...source.spec, layers: [layer] } }, adapters: {} }, 0).length;
  assert.equal(without({ heads: 0, kvHeads: 0, ffn: 8 }), 1);
  assert.equal(without({ heads: 2, kvHeads: 1, ffn: 0 }), 1);
  assert.equal(without({ heads: 0, kvHeads: 0, ffn: 0 }), 0);
});

Deno.test("a band of the output head holds its rows, tied or not", async () => {
  for (const name of ["gqa_llama3", "mha_linear", "phi"] as const) {
    const source = await openSource(name), { tied, hidden } = source.spec, head = tied ? EMBEDDING : HEAD;
    const part = headPart(source, { start: 3, count: 5 });
    assert.deepEqual([part.spec.vocab, part.spec.layers.length, part.spec.tied], [5, 0, true]);
    assert.deepEqual(await part.read(EMBEDDING), await source.read(head, { start: 3, count: 5 }));
    assert.deepEqual(
      await part.read(EMBEDDING, { start: 2, count: 1 }),
      await source.read(head, { start: 5, count: 1 }),
    );
    if (source.spec.headBias) {
      assert.deepEqual(await part.read(HEAD_BIAS), (await source.read(HEAD_BIAS)).subarray(3, 8));
    }
    assert.equal((await part.read(FINAL_NORM)).length, hidden);
    assert.equal(part.storedDtype(EMBEDDING), source.storedDtype(head));
  }
});
