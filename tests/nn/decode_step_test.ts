// The fused decoding step against the full forward pass: masks, uneven layers, every storage, both placements, and its promises on memory.
import assert from "node:assert/strict";
import { Device, openDevice } from "../../lib/gpu/device.ts";
import { createDecodePass } from "../../lib/nn/decode/pass.ts";
import { stepPlacement } from "../../lib/nn/decode/step.ts";
import { maskSizes, type MaskValues, packMasks } from "../../lib/nn/mask_slots.ts";
import type { ValueDtype } from "../../lib/nn/products/matrix.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { generate } from "../../lib/generate/generate.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { randomNumbers, UNEVEN } from "../formats/models.ts";
import { randomSource } from "../slice/helpers.ts";
import { argmax, greedyReference, openGoldenModel, rowOf, someTokens } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";

/** Both paths are f32 with other orders of summation; golden_test.ts holds the forward pass within this of f64. */
const TOLERANCE = 1e-4;

/** The device as if it was a real GPU: matrices and caches lie in buffers, and workgroups add up by trees. */
async function openAsGpu(): Promise<Device> {
  const { gpu, facts } = await openDevice();
  return new Device(gpu, { ...facts, isCpu: false });
}

const DEVICES = { texture: openDevice, buffer: openAsGpu } as const;

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`logits of uneven layers in ${placement}s equal those of the full forward pass, with masks and without`, async () => {
    using device = await DEVICES[placement]();
    for (const dtype of ["f32", "f16", "q8", "q4"] as const) {
      using model = await load(UNEVEN, { device, dtype });
      assert.equal(model.weights.embedding.placement, placement);
      const masks = someMasks(model.spec);
      await assertLogits(model, { what: `${placement} ${dtype}` });
      await assertLogits(model, { what: `${placement} ${dtype} with masks`, masks });
      for (const kind of ["head", "ffn", "hidden"] as const) {
        const only = masks[kind];
        if (only) {
          await assertLogits(model, { what: `${placement} ${dtype} with ${kind}`, masks: { [kind]: only }, length: 3 });
        }
      }
    }
  });
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`logits of uneven layers with norms of heads, which the fused step does not take, in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    using model = await loadModelFrom(randomSource({ ...UNEVEN, qkNorm: "head" }), { device, baseDtype: "f32" });
    await assertLogits(model, { what: placement, length: 5 });
  });
}

for (
  const name of [
    "gqa_bias",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma4",
    "opt",
    "opt_residual",
    "gpt2",
    "gpt_neox",
    "stablelm_parallel",
    "phi",
    "hunyuan",
    "cohere2",
    "olmo3",
    "ministral3",
    "apertus",
    "lfm2",
    "lfm2_long",
  ] as const
) {
  for (const placement of ["texture", "buffer"] as const) {
    Deno.test(`logits of ${name}, which the fused step does not take, equal those of the full forward pass in ${placement}s`, async () => {
      using device = await DEVICES[placement]();
      const { model, adapters: { masks } } = await openGoldenModel(name, { device });
      using _ = model;
      assert.equal(stepPlacement(device, model.weights, 20), null);
      await assertLogits(model, { what: name });
      await assertLogits(model, { what: `${name} with masks`, masks });
    });
  }
}

for (const name of ["mistral_window", "ministral_window"] as const) {
  for (const placement of ["texture", "buffer"] as const) {
    Deno.test(`logits of ${name} beyond its window equal those of the full forward pass in ${placement}s`, async () => {
      using device = await DEVICES[placement]();
      const { model, adapters: { masks } } = await openGoldenModel(name, { device });
      using _ = model;
      // Across a row of a cache texture, read at once and token by token.
      await assertLogits(model, { what: name, length: 100, start: 61 });
      await assertLogits(model, { what: `${name} with masks`, masks, length: 30 });
    });
  }
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`logits of heads that rotate in part, by LongRoPE, equal those of the full forward pass in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    const scaling = {
      kind: "longrope",
      short: [1, 1.25],
      long: [3, 4],
      attention: 1.2,
      originalMaxPosition: 200,
    } as const;
    using model = await load({ ...UNEVEN, rope: { base: 100, scaling, dims: 4 } }, { device, dtype: "f32" });
    assert.ok(model.spec.headDim > 4);
    await assertLogits(model, { what: "partial", masks: someMasks(model.spec), length: 30, start: 11 });
  });
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`logits of olmo2, with norms of outputs alone, equal those of the full forward pass in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    const { model, adapters: { masks } } = await openGoldenModel("olmo2", { device });
    using _ = model;
    await assertLogits(model, { what: "olmo2", masks, length: 30, start: 11 });
  });

  Deno.test(`logits of granite, with factors, equal those of the full forward pass in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    const { model, adapters: { masks } } = await openGoldenModel("granite", { device });
    using _ = model;
    await assertLogits(model, { what: "granite", masks, length: 30, start: 11 });
  });

  Deno.test(`logits of layers with and without RoPE equal those of the full forward pass in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    const { model, adapters: { masks } } = await openGoldenModel("smollm3", { device });
    using _ = model;
    assert.ok(model.spec.layers.some(({ rope }) => rope === "none"));
    await assertLogits(model, { what: "smollm3", masks, length: 30, start: 11 });
  });
}

Deno.test("decoding goes on past one row of a cache texture", async () => {
  const device = await sharedDevice();
  const { model } = await openGoldenModel("gqa_llama3", { device });
  using _ = model;
  await assertLogits(model, { what: "gqa_llama3", length: 100, start: 61 });
});

Deno.test("decoding reuses what was allocated and bound at its start", async () => {
  const device = await sharedDevice();
  using model = await load(UNEVEN, { device, dtype: "f16" });
  using pass = createDecodePass(device, model.weights, { capacity: 64 });
  await pass.prefill([1, 2]);
  await pass.next(3, { count: 2 });
  const before = [device.liveCount, device.bytes];
  const { gpu } = device;
  const forbidden = ["createBindGroup", "createTexture", "createComputePipeline"] as const;
  let buffers = 0;
  const createBuffer = gpu.createBuffer.bind(gpu);
  for (const name of forbidden) {
    Object.defineProperty(gpu, name, {
      configurable: true,
      value: () => assert.fail(name),
    });
  }
  Object.defineProperty(gpu, "createBuffer", {
    configurable: true,
    value: (descriptor: GPUBufferDescriptor) => (buffers++, createBuffer(descriptor)),
  });
  try {
    await pass.next(3, { count: 30 });
  } finally {
    for (const name of [...forbidden, "createBuffer"]) Reflect.deleteProperty(gpu, name);
  }
  assert.equal(buffers, 1, "the one that the tokens are read through");
  assert.deepEqual([device.liveCount, device.bytes], before);
});

Deno.test("next() asked again before it has answered goes on where it was", async () => {
  const device = await sharedDevice();
  using model = await load(UNEVEN, { device, dtype: "f32" });
  const expected = await greedyReference(model, [1, 2, 3], { maxTokens: 12 });
  using pass = createDecodePass(device, model.weights, { capacity: 20 });
  await pass.prefill([1, 2]);
  const groups = await Promise.all([
    // A profiled run waits for the GPU after each token: the others must not overtake it.
    pass.next(3, { count: 5, profile: new Map() }),
    pass.next(null, { count: 1 }),
    pass.next(null, { count: 6 }),
  ]);
  assert.deepEqual(groups.flat(), expected);
  assert.deepEqual(groups.map(({ length }) => length), [5, 1, 6]);
  const logits = await pass.logits(expected.at(-1) ?? 0);
  assert.equal(argmax(logits), (await greedyReference(model, [1, 2, 3], { maxTokens: 13 })).at(-1));
  await assert.rejects(pass.next(null, { count: 20 }), /capacity 20/);
});

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`tokens read behind others, and anew after a rewind, count as if read from the start, in ${placement}s`, async () => {
    using device = await DEVICES[placement]();
    // Kernels over buffers take long to compile.
    const layers = placement === "buffer" ? UNEVEN.layers.slice(0, 2) : UNEVEN.layers;
    using model = await load({ ...UNEVEN, layers }, { device, dtype: "f32" });
    const { spec, weights } = model, masks = someMasks(spec), tokens = someTokens(80, spec.vocab);
    const expected = await model.logits(tokens, { masks });
    using pass = createDecodePass(device, weights, { capacity: tokens.length });
    device.write(pass.masks.z, packMasks(spec, pass.masks.layout, masks));
    const check = async (t: number): Promise<void> => {
      const logits = await pass.logits(tokens[t] ?? 0);
      assertClose([distance(`logits[${t}]`, logits, rowOf(expected, t, spec.vocab))], TOLERANCE);
    };
    await pass.prefill(tokens.slice(0, 5));
    await check(5);
    await pass.prefill(tokens.slice(6, 70)); // past one row of a cache texture
    assert.equal(pass.length, 70);
    await check(70);
    await pass.next(1, { count: 4 });
    pass.rewind(40);
    await pass.prefill(tokens.slice(40, 41));
    await check(41);
    const abort = new AbortController(), stopped = pass.next(2, { count: 30, signal: abort.signal });
    abort.abort(new Error("enough"));
    await assert.rejects(stopped, /enough/);
    pass.rewind(30);
    await pass.prefill(tokens.slice(30, 79));
    await check(79);
    assert.throws(() => pass.rewind(81), /rewinding 80 tokens to 81/);
  });
}

Deno.test("a text that ends leaves no work behind", async () => {
  const device = await sharedDevice();
  using endless = await load(UNEVEN, { device, dtype: "f32" });
  const tokens = await greedyReference(endless, [1, 2, 3], { maxTokens: 20 });
  const end = tokens[9] ?? -1;
  using model = await load({ ...UNEVEN, eosIds: [end] }, { device, dtype: "f32" });
  const before = [device.liveCount, device.bytes], got: number[] = [];
  for await (const id of generate(model, [1, 2, 3], { maxTokens: 100 })) got.push(id);
  assert.deepEqual(got, tokens.slice(0, tokens.indexOf(end)));
  assert.deepEqual([device.liveCount, device.bytes], before);
  device.check();
});

async function load(
  spec: DecoderSpec,
  { device, dtype }: { readonly device: Device; readonly dtype: ValueDtype },
): Promise<Model> {
  return await loadModelFrom(randomSource(spec), { device, baseDtype: dtype });
}

/** Values from 0.25 to 1, some of them 0. */
function someMasks(spec: DecoderSpec): MaskValues {
  const sizes = maskSizes(spec);
  const make = (count: number, seed: number): Float32Array =>
    randomNumbers(count, seed).map((value) => value < -0.6 ? 0 : 0.625 + 0.375 * value);
  return { head: make(sizes.head, 1), ffn: make(sizes.ffn, 2), hidden: make(sizes.hidden, 3) };
}

/** Compares the logits of each token behind a prefill with those of the forward pass over all tokens. */
async function assertLogits(
  model: Model,
  { what, masks = {}, length = 9, start = 2 }: {
    readonly what: string;
    readonly masks?: MaskValues;
    readonly length?: number;
    readonly start?: number;
  },
): Promise<void> {
  const { device, weights, spec } = model, tokens = someTokens(length, spec.vocab);
  const expected = await model.logits(tokens, { masks });
  using pass = createDecodePass(device, weights, { capacity: length });
  device.write(pass.masks.z, packMasks(spec, pass.masks.layout, masks));
  await pass.prefill(tokens.slice(0, start));
  const distances = [];
  for (let t = start; t < length; t++) {
    const logits = await pass.logits(tokens[t] ?? 0);
    distances.push(distance(`${what}, logits[${t}]`, logits, rowOf(expected, t, spec.vocab)));
  }
  assertClose(distances, TOLERANCE);
}
