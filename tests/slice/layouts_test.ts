// Padded and uniform layouts.
import assert from "node:assert/strict";
import { maskSizes, type MaskValues } from "../../lib/nn/mask_slots.ts";
import { type DecoderSpec, layersAlike, normName, parameterCount, projectionName } from "../../lib/spec/decoder.ts";
import { padded, uniformMasks } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { padLora, sliceLora } from "../../lib/slice/lora.ts";
import { hardSparsity } from "../../lib/units/selection.ts";
import { unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { refuses } from "../refuses.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { decoder } from "../units/helpers/decoders.ts";
import {
  LOGIT_TOLERANCE,
  logitDistance,
  logitsOf,
  NAMES,
  openSource,
  randomLora,
  randomMasks,
  randomSource,
} from "./helpers.ts";
import { sharedDevice } from "../device.ts";

for (const name of [...NAMES, "gemma4"]) {
  Deno.test(`${name}: the padded model has equal layers and computes what the compact one does`, async () => {
    const device = await sharedDevice();
    const source = await openSource(name);
    // Heads of two widths stay whole.
    const kinds = source.spec.localHeadDim === undefined
      ? ["head", "ffn", "hidden"] as const
      : ["ffn", "hidden"] as const;
    const masks = randomMasks(source.spec, { seed: 31, kinds });
    const compact = sliceModel(source, { masks }), wide = padded(compact);
    assert.ok(!layersAlike(compact.spec), "the masks make layers differ");
    assert.ok(layersAlike(wide.spec));
    assert.equal(wide.spec.layers[0]?.ffn, Math.max(...compact.spec.layers.map((layer) => layer.ffn)));
    assertClose([await logitDistance(device, name, { expected: compact, actual: wide })], LOGIT_TOLERANCE);
  });
}

Deno.test("padding gives a layer without attention or FFN one of zeros", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3");
  const head = new Float32Array(18).fill(1), ffn = new Float32Array(303).fill(1);
  head.fill(0, 0, 6);
  head[8] = 0; // groups of 2 and 3 heads in the second layer
  head.fill(0, 12, 15); // one group of 3 in the third
  ffn.fill(0, 202, 303);
  const compact = sliceModel(source, { masks: { head, ffn } }), wide = padded(compact);
  assert.deepEqual(compact.spec.layers.map(({ heads, kvHeads, ffn }) => [heads, kvHeads, ffn]), [
    [0, 0, 101],
    [6, 2, 101],
    [3, 1, 0],
  ]);
  assert.deepEqual(wide.spec.layers, Array(3).fill({ heads: 6, kvHeads: 2, ffn: 101 }));
  assert.ok((await wide.read(projectionName(0, "v"))).every((value) => value === 0));
  assert.ok((await wide.read(normName(2, "ffn"))).every((value) => value === 1));
  assertClose([await logitDistance(device, "logits", { expected: compact, actual: wide })], LOGIT_TOLERANCE);
});

Deno.test("padding finds one group size for layers that have different ones", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3");
  const head = Float32Array.from([...[1, 0, 0, 1, 0, 0], ...[1, 1, 0, 0, 1, 1], ...[1, 1, 1, 0, 0, 0]]);
  const compact = sliceModel(source, { masks: { head } }), wide = padded(compact);
  assert.deepEqual(compact.spec.layers.map(({ heads, kvHeads }) => [heads, kvHeads]), [[2, 2], [4, 2], [3, 1]]);
  // Group size 3: 2 KV heads cost 8; size 2: 2 cost 6; size 1: 4 cost 8.
  assert.deepEqual(wide.spec.layers.map(({ heads, kvHeads }) => [heads, kvHeads]), Array(3).fill([4, 2]));
  assertClose([await logitDistance(device, "logits", { expected: compact, actual: wide })], LOGIT_TOLERANCE);
});

Deno.test("KV heads that slicing repeats are one again when padded, so that zeros make no model larger than it was", async () => {
  const device = await sharedDevice();
  const { spec } = await openSource("qwen2"), layer = { heads: 6, kvHeads: 3, ffn: 24 };
  const base = randomSource({ ...spec, layers: [layer, layer, layer] }), lora = randomLora(base.spec, { seed: 5 });
  // Groups of 2 and of 1 head: four groups of one are the smaller layer, with a KV head twice.
  const head = Float32Array.from([...[1, 1, 1, 1, 1, 1], ...[1, 1, 0.5, 0, 0, 1], ...[0, 0, 1, 1, 0, 1]]);
  const masks = { head }, compact = sliceModel(base, { masks, lora }), wide = padded(compact);
  assert.deepEqual(compact.spec.layers.map(({ heads, kvHeads }) => [heads, kvHeads]), [[6, 3], [4, 4], [4, 2]]);
  assert.deepEqual(wide.spec.layers, [layer, layer, layer]);
  assertClose([await logitDistance(device, "merged", { expected: compact, actual: wide })], LOGIT_TOLERANCE);
  // LoRA that lies beside the model goes the same way.
  const bare = sliceModel(base, { masks }), own = padLora(bare.spec, sliceLora(base.spec, { masks, lora }));
  const beside = await logitsOf(device, padded(bare), { lora: own });
  assertClose([distance("beside", beside, await logitsOf(device, compact))], LOGIT_TOLERANCE);

  for (let seed = 0; seed < 200; seed++) {
    const cut = sliceModel(base, { masks: randomMasks(base.spec, { seed, kinds: ["head", "ffn"] }) });
    const [written, before] = [padded(cut).spec, base.spec].map(parameterCount);
    // These have no biases of o_proj or down_proj, which slicing may add to.
    assert.ok((written ?? NaN) <= (before ?? NaN), `${written} of ${before}: ${JSON.stringify(cut.spec.layers)}`);
  }
});

Deno.test("a model whose layers are alike is not padded", async () => {
  const source = await openSource("gqa_f16");
  assert.equal(padded(source), source);
});

Deno.test("uniform masks meet the sparsity to within one FFN column and keep the best units of each layer", async () => {
  const device = await sharedDevice();
  for (const name of NAMES) {
    const source = await openSource(name), { spec } = source;
    const sizes = maskSizes(spec);
    const score = (stream: number, count: number): Float32Array =>
      Float32Array.from({ length: count }, (_, i) => uniform(77, stream, i));
    const scores = { head: score(1, sizes.head), ffn: score(2, sizes.ffn) };
    for (
      const [target, kinds] of [[0.2, ["ffn"]], [0.35, ["head", "ffn"]], [undefined, [
        "head",
        "ffn",
        "hidden",
      ]]] as const
    ) {
      const hard = randomMasks(spec, { seed: 9, kinds });
      const masks = uniformMasks(spec, scores, { masks: hard, ...(target ? { target } : {}) });
      const sliced = sliceModel(source, { masks });
      assert.ok(layersAlike(sliced.spec), name);
      const wanted = target ?? sparsity(spec, hard), got = sparsity(spec, masks);
      const dims = sliced.spec.hidden;
      const column = 3 * dims * spec.layers.length / (spec.hidden * perDim(spec));
      assert.ok(got >= wanted - 1e-9 && got < wanted + column, `${name}: ${got} for ${wanted}, a column is ${column}`);
      let first = 0;
      for (const layer of spec.layers) {
        const own = [...masks.ffn.subarray(first, first + layer.ffn).keys()];
        const at = (kept: number): number[] =>
          own.filter((i) => masks.ffn[first + i] === kept).map((i) => scores.ffn[first + i] ?? NaN);
        assert.ok(Math.min(...at(1)) > Math.max(...at(0)), `${name}: the best columns stay`);
        first += layer.ffn;
      }
      assertClose(
        [await logitDistance(device, name, { expected: source, adapters: { masks }, actual: sliced })],
        LOGIT_TOLERANCE,
      );
    }
  }

  function sparsity(spec: DecoderSpec, { head, ffn, hidden }: MaskValues): number {
    const table = unitTable(spec, ["heads", "ffn", "hidden"]);
    const share = spec.layers.map((layer) => layer.heads === layer.kvHeads);
    assert.ok(share.every((alike) => alike === share[0]), "units are heads in all layers");
    const kept = [
      ...(head ?? new Float32Array(table.ranges.ffn.first).fill(1)),
      ...(ffn ?? new Float32Array(table.ranges.hidden.first - table.ranges.ffn.first).fill(1)),
      ...(hidden ?? new Float32Array(spec.hidden).fill(1)),
    ];
    assert.equal(kept.length, table.count);
    return hardSparsity(table, Uint8Array.from(kept, (z) => z === 0 ? 0 : 1));
  }
  function perDim(spec: DecoderSpec): number {
    return spec.layers.reduce(
      (sum, { heads, kvHeads, ffn }) => sum + 2 * spec.headDim * (heads + kvHeads) + 3 * ffn,
      0,
    );
  }
});

Deno.test("uniform masks keep whole KV groups where the hard masks do, those of the highest scores", async () => {
  const { spec } = await openSource("gqa_f16");
  const hard = { head: Float32Array.from([1, 1, 0, 0, 1, 1, 0, 0]) };
  const scores = { head: Float32Array.from([1, 0, 3, 3, 4, 4, 5, 0]) };
  const masks = uniformMasks(spec, scores, { masks: hard });
  assert.deepEqual([...masks.head], [0, 0, 1, 1, 1, 1, 0, 0]);
  assert.ok(masks.ffn.every((z) => z === 1), "nothing is left for the FFN to cut");
});

Deno.test("uniform masks keep a KV group less where that is larger than the whole FFN", () => {
  const layer = { heads: 2, kvHeads: 2, ffn: 8 };
  const spec = decoder([layer, layer], { headDim: 16 });
  const { head, ffn } = uniformMasks(spec, {}, { masks: {}, target: 0.246 });
  assert.deepEqual([...head], [1, 0, 1, 0]);
  assert.ok(ffn.every((z) => z === 1), "two groups and all columns would be more than the target leaves");
});

Deno.test("uniform masks refuse a sparsity that leaves nothing", async () => {
  const { spec } = await openSource("gqa_f16");
  refuses(() => uniformMasks(spec, {}, { masks: {}, target: 0.99 }), "usage", { value: ["0.9900", 2] });
  for (const target of [NaN, -0.1, 1]) {
    refuses(() => uniformMasks(spec, {}, { masks: {}, target }), "usage", { names: [0, 1] });
  }
});
