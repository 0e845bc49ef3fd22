// The sliced model computes what the masked one does.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import type { MaskValues } from "../../lib/nn/mask_slots.ts";
import { HEAD, parameterCount, projectionName, tensorShapes } from "../../lib/spec/decoder.ts";
import { cheapestGroupSize } from "../../lib/units/head_groups.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { type Refusal, refuses, rejects } from "../refuses.ts";
import { assertClose } from "../golden/helpers/golden.ts";
import { LOGIT_TOLERANCE, logitDistance, NAMES, openSource, randomLora, randomMasks, randomSource } from "./helpers.ts";
import { sharedDevice } from "../device.ts";

for (const name of [...NAMES, "gemma4"]) {
  for (const soft of [false, true]) {
    Deno.test(`${name} sliced with ${soft ? "soft" : "hard"} masks of all kinds and LoRA equals the masked model`, async () => {
      const device = await sharedDevice();
      const source = await openSource(name), { spec } = source;
      const masks = randomMasks(spec, { seed: 3, kinds: ["head", "ffn", "hidden"], soft });
      const lora = randomLora(spec, { seed: 4 });
      const sliced = sliceModel(source, { masks, lora });
      const kept = masks.hidden?.filter((z) => z !== 0).length;
      assert.equal(sliced.spec.hidden, kept);
      assert.ok(sliced.spec.hidden < spec.hidden, "hidden dims were cut");
      assert.equal(sliced.spec.tied, spec.tied && !soft, "a soft hidden mask unties the head");
      if (sliced.spec.tied === spec.tied) assert.ok(parameterCount(sliced.spec) < parameterCount(spec));
      assertClose(
        [await logitDistance(device, "logits", { expected: source, adapters: { masks, lora }, actual: sliced })],
        LOGIT_TOLERANCE,
      );
    });
  }
}

Deno.test("LoRA alone is merged, and masks of a single kind leave the rest as it is", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3"), { spec } = source;
  const lora = randomLora(spec, { seed: 8 });
  const cases: { name: string; masks?: MaskValues }[] = [
    { name: "no masks" },
    ...(["head", "ffn", "hidden"] as const).map((kind) => ({
      name: kind,
      masks: randomMasks(spec, { seed: 12, kinds: [kind], soft: true }),
    })),
  ];
  for (const { name, masks } of cases) {
    const adapters = { lora, ...(masks ? { masks } : {}) };
    const sliced = sliceModel(source, adapters);
    assert.equal(sliced.spec.tied, name !== "hidden");
    assertClose([await logitDistance(device, name, { expected: source, adapters, actual: sliced })], LOGIT_TOLERANCE);
  }
});

Deno.test("cut hidden dims scale the norms' ε, which a large ε makes visible", async () => {
  const device = await sharedDevice();
  for (const name of ["gqa_llama3", "mha_linear"] as const) {
    const source = await openSource(name, { normEps: 0.5 });
    const masks = randomMasks(source.spec, { seed: 21, kinds: ["hidden"] });
    const sliced = sliceModel(source, { masks });
    const { hidden, normEps } = source.spec;
    assert.equal(sliced.spec.normEps, normEps * (hidden / sliced.spec.hidden));
    const expected = { expected: source, adapters: { masks } };
    assertClose([await logitDistance(device, name, { ...expected, actual: sliced })], LOGIT_TOLERANCE);
    const unscaled = { ...sliced, spec: { ...sliced.spec, normEps } };
    const { relative } = await logitDistance(device, name, { ...expected, actual: unscaled });
    assert.ok(relative > 1e-3, `without the scaled ε the logits differ, by ${relative}`);
  }
});

Deno.test("groups of different lengths become equal, with zero heads or a repeated KV head", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3");
  // Layers of 6 heads in 2 groups.
  const head = Float32Array.from([
    ...[1, 1, 1, 0, 1, 0], // 3 + 1: filled twice, 8 heads of both kinds, as many as with four groups of 1; the larger size wins
    ...[0, 0, 0, 1, 0, 1], // the first KV head goes
    ...[1, 1, 0, 1, 0, 0], // 2 + 1: filled once
  ]);
  const sliced = sliceModel(source, { masks: { head } });
  assert.deepEqual(sliced.spec.layers.map(({ heads, kvHeads }) => [heads, kvHeads]), [[6, 2], [2, 1], [4, 2]]);
  assertClose(
    [await logitDistance(device, "logits", { expected: source, adapters: { masks: { head } }, actual: sliced })],
    LOGIT_TOLERANCE,
  );
});

Deno.test("a long group beside short ones is split, and its KV head repeated, where that is smaller", async () => {
  assert.equal(cheapestGroupSize([[8, 1, 1]]), 2, "18 heads of both kinds instead of 27");
  assert.equal(cheapestGroupSize([[6, 1, 1, 1]]), 2, "18 with size 2 as with 1: the larger");
  assert.equal(cheapestGroupSize([[5, 1, 1, 1]]), 1, "16 instead of 24, or of 18 with size 2");
  assert.equal(cheapestGroupSize([[3, 3, 2]]), 3);
  assert.equal(cheapestGroupSize([[], []]), 1);
  const device = await sharedDevice();
  const { spec } = await openSource("mqa_bf16_sharded");
  const source = randomSource({
    ...spec,
    layers: [{ heads: 8, kvHeads: 2, ffn: 5 }, { heads: 4, kvHeads: 1, ffn: 3 }],
  });
  const head = Float32Array.from([...[1, 0.5, 1, 1], ...[0, 0, 0.3, 0], ...[1, 0, 0, 1]]);
  const sliced = sliceModel(source, { masks: { head } });
  assert.deepEqual(sliced.spec.layers.map(({ heads, kvHeads }) => [heads, kvHeads]), [[6, 3], [2, 1]]);
  const keys = await sliced.read(projectionName(0, "k")), size = keys.length / 3;
  assert.deepEqual(keys.slice(0, size), keys.slice(size, 2 * size), "the first KV head is there twice");
  assertClose(
    [await logitDistance(device, "logits", { expected: source, adapters: { masks: { head } }, actual: sliced })],
    LOGIT_TOLERANCE,
  );
});

Deno.test("layers may lose all heads or all FFN columns, the first one too", async () => {
  const device = await sharedDevice();
  const source = await openSource("gqa_llama3"), { layers } = source.spec;
  const without = (heads: number[], ffn: number[]): MaskValues => ({
    head: Float32Array.from(layers.flatMap((layer, i) => Array(layer.heads).fill(heads.includes(i) ? 0 : 1))),
    ffn: Float32Array.from(layers.flatMap((layer, i) => Array(layer.ffn).fill(ffn.includes(i) ? 0 : 1))),
  });
  const lora = randomLora(source.spec, { seed: 2 });
  for (
    const [heads, ffn] of [[[0], []], [[1], [2]], [[0, 1], [0]], [[], [2]], [[0, 1, 2], []]] as [number[], number[]][]
  ) {
    const adapters = { masks: without(heads, ffn), lora };
    const sliced = sliceModel(source, adapters);
    sliced.spec.layers.forEach((layer, i) => {
      assert.deepEqual([layer.heads === 0, layer.kvHeads === 0, layer.ffn === 0], [
        heads.includes(i),
        heads.includes(i),
        ffn.includes(i),
      ]);
    });
    const name = `no heads in [${heads}], no FFN in [${ffn}]`;
    assertClose([await logitDistance(device, name, { expected: source, adapters, actual: sliced })], LOGIT_TOLERANCE);
  }
});

Deno.test("a sliced model can be sliced again", async () => {
  const device = await sharedDevice();
  const source = await openSource("mha_linear");
  const once = sliceModel(source, {
    masks: randomMasks(source.spec, { seed: 5, kinds: ["head", "ffn", "hidden"], soft: true }),
  });
  const masks = randomMasks(once.spec, { seed: 6, kinds: ["head", "ffn", "hidden"], soft: true });
  const lora = randomLora(once.spec, { seed: 7 });
  const twice = sliceModel(once, { masks, lora });
  assert.ok(parameterCount(twice.spec) < parameterCount(once.spec));
  assertClose(
    [await logitDistance(device, "logits", { expected: once, adapters: { masks, lora }, actual: twice })],
    LOGIT_TOLERANCE,
  );
});

Deno.test("every tensor has its shape, and ranges of rows are those of the whole", async () => {
  const source = await openSource("gqa_f16"), { spec } = source;
  const sliced = sliceModel(source, {
    masks: randomMasks(spec, { seed: 3, kinds: ["head", "ffn", "hidden"], soft: true }),
    lora: randomLora(spec, { seed: 4 }),
  });
  assert.ok(tensorShapes(sliced.spec).has(HEAD));
  for (const [name, shape] of tensorShapes(sliced.spec)) {
    const whole = await sliced.read(name), rows = shape[0] ?? 0, width = whole.length / rows;
    assert.equal(whole.length, shape.reduce((product, size) => product * size, 1), name);
    for (const [start, count] of [[0, rows], [1, 1], [rows - 1, 1], [2, rows - 3], [3, 0]] as const) {
      assert.deepEqual(
        await sliced.read(name, { start, count }),
        whole.slice(start * width, (start + count) * width),
        `${name} [${start}, ${start + count})`,
      );
    }
    await assert.rejects(sliced.read(name, { start: 1, count: rows }), CompressoError);
  }
  await rejects(sliced.read("model.layers.9.mlp.up_proj.weight"), "input", {
    names: "model.layers.9.mlp.up_proj.weight",
  });
});

Deno.test("what is not changed keeps its stored dtype, what is computed is f32", async () => {
  const source = await openSource("gqa_f16");
  const ffn = new Float32Array(106).fill(1);
  ffn[0] = 0;
  ffn[60] = 0.5;
  const sliced = sliceModel(source, { masks: { ffn } });
  assert.equal(sliced.storedDtype("model.embed_tokens.weight"), "f16");
  assert.equal(sliced.storedDtype("model.layers.0.mlp.up_proj.weight"), "f16");
  assert.equal(sliced.storedDtype("model.layers.1.mlp.gate_proj.weight"), "f16");
  assert.equal(sliced.storedDtype("model.layers.1.mlp.up_proj.weight"), "f32");
});

Deno.test("masks and LoRA that do not fit are refused", async () => {
  const source = await openSource("gqa_f16"), { spec } = source;
  const lora = randomLora(spec, { seed: 4 });
  const changed = (change: (weights: Map<string, Float32Array>) => void) => {
    const weights = new Map(lora.weights);
    change(weights);
    return { lora: { ...lora, weights } };
  };
  const cases: [Parameters<typeof sliceModel>[1], Refusal][] = [
    [{ masks: { hidden: new Float32Array(spec.hidden) } }, { value: 0 }],
    [{ masks: { head: new Float32Array(3) } }, { value: 3 }],
    [{ masks: { ffn: new Float32Array(106).fill(NaN) } }, { value: [0, "NaN"] }],
    [changed((weights) => weights.delete("lora.1.q.A")), { names: "lora.1.q.A" }],
    [changed((weights) => weights.delete("lora.0.down.B")), { names: "lora.0.down.B" }],
    [changed((weights) => weights.set("lora.1.v.B", new Float32Array(5))), { value: 5, names: "lora.1.v.B" }],
    [changed((weights) => weights.set("lora.2.q.A", new Float32Array(5))), { value: "lora.2.q.A" }],
    [changed((weights) => weights.set("lora.1.head.A", new Float32Array(5))), { value: "lora.1.head.A" }],
  ];
  for (const [input, message] of cases) {
    refuses(() => sliceModel(source, input), "input", message);
  }
});
