// Models whose frozen weights are the blocks of their GGUF as they are in the file, against the same weights in f32.
import assert from "node:assert/strict";
import { Device, openDevice } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { createDecodePass } from "../../lib/nn/decode/pass.ts";
import { loadWeights, projectionMatrix, type Weights } from "../../lib/nn/weights.ts";
import { zeros } from "../../lib/run/memory/plan.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { type DecoderSpec, EMBEDDING, HEAD, projectionName, PROJECTIONS } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import type { GgufSource } from "../../lib/formats/gguf/model.ts";
import { exportGguf, openGguf } from "../disk.ts";
import { sharedDevice } from "../device.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomNumbers, randomSource, SPEC } from "../formats/models.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { rejects } from "../refuses.ts";
import { rowOf, someTokens } from "../run/helpers/reference.ts";

// The same numbers in other kernels: f32 differs by about 1e-6 in logits; the sums of gradients cancel more.
const LOGIT_TOLERANCE = 1e-4, GRADIENT_TOLERANCE = 1e-3;

/** Widths of whole K blocks but for the output of attention, and heads that need no padding. */
const WIDE: DecoderSpec = {
  ...SPEC,
  vocab: 150,
  hidden: 256,
  headDim: 16,
  layers: [{ heads: 4, kvHeads: 2, ffn: 256 }, { heads: 2, kvHeads: 2, ffn: 512 }],
  eosIds: [],
};

/** A GGUF of random weights in this type. */
async function withGguf(
  dtype: Parameters<typeof exportGguf>[2]["dtype"],
  spec: DecoderSpec,
  work: (source: GgufSource) => Promise<void>,
): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    await exportGguf(randomSource(spec), `${folder}/a`, { dtype, tokenizerMetadata: new Map(), name: "test" });
    await work(await openGguf(`${folder}/a`));
  });
}

/** The dtype of each matrix on the GPU. */
function dtypesOf({ spec, embedding, head, layers }: Weights): Map<string, string> {
  const found = new Map<string, string>([
    [EMBEDDING, embedding.dtype],
    ...spec.tied ? [] : [[HEAD, head.dtype] as const],
  ]);
  for (const [index, layer] of layers.entries()) {
    for (const projection of PROJECTIONS) {
      const matrix = projectionMatrix(layer, projection);
      if (matrix) found.set(projectionName(index, projection), matrix.dtype);
    }
  }
  return found;
}

const ON_GPU: Readonly<Record<string, string>> = { q4_1: "q4" };

for (
  const [fileDtype, tied, types] of [
    ["q8_0", true, ["q8_0"]],
    ["q4_1", false, ["q4", "q6_k"]],
    ["q4_k_m", false, ["q4_k", "q5_0", "q6_k"]],
  ] as const
) {
  Deno.test(`a base of the blocks of a ${fileDtype} file is the f32 model of the file, gradients included`, async () => {
    await withGguf(fileDtype, { ...WIDE, tied }, async (source) => {
      const device = await sharedDevice();
      using model = await loadModelFrom(source, { device, baseDtype: "file" });
      using plain = await loadModelFrom(source, { device, baseDtype: "f32" });
      const dtypes = dtypesOf(model.weights);
      for (const [name, dtype] of dtypes) {
        const type = source.storedDtype(name);
        assert.equal(dtype, ON_GPU[type] ?? type, name);
      }
      assert.deepEqual([...new Set(dtypes.values())].sort(), types);
      const tokens = [someTokens(19, WIDE.vocab), someTokens(19, WIDE.vocab).reverse()];
      for (const ids of tokens) {
        assertClose([distance("logits", await model.logits(ids), await plain.logits(ids))], LOGIT_TOLERANCE);
      }
      const targets = ["q", "v", "o", "up", "down"] as const, rank = 3;
      const weights = new Map(
        source.spec.layers.flatMap(({ heads, kvHeads, ffn }, layer) =>
          targets.flatMap((projection) => {
            const sizes = { q: [16 * heads, 256], v: [16 * kvHeads, 256], o: [256, 16 * heads], up: [ffn, 256] };
            const [outputs = 0, inputs = 0] = projection === "down" ? [256, ffn] : sizes[projection];
            return [
              [`lora.${layer}.${projection}.A`, randomNumbers(rank * inputs, layer + 1)] as const,
              [`lora.${layer}.${projection}.B`, randomNumbers(rank * outputs, layer + 9)] as const,
            ];
          })
        ),
      );
      const lora = { rank, alpha: 2, targets, weights };
      const input = { tokens, labels: tokens.map((ids) => ids.map((id) => (id + 1) % WIDE.vocab)), lora };
      const [actual, expected] = [await model.lossAndGradients(input), await plain.lossAndGradients(input)];
      assertClose([distance("loss", [actual.loss], [expected.loss])], LOGIT_TOLERANCE);
      assert.ok(expected.gradients.size > 10);
      assertClose(
        [...expected.gradients].map(([key, values]) => distance(key, actual.gradients.get(key) ?? [], values)),
        GRADIENT_TOLERANCE,
      );
    });
  });
}

/** The device as if it was a real GPU: matrices and caches lie in buffers. */
async function openAsGpu(): Promise<Device> {
  const { gpu, facts } = await openDevice();
  return new Device(gpu, { ...facts, isCpu: false });
}

Deno.test("a token after others has the logits of the full forward pass, with blocks of several types", async () => {
  await withGguf("q4_k_m", WIDE, async (source) => {
    // gate and up of other types are no case of the fused step.
    const mixed: WeightSource = {
      ...source,
      storedDtype: (name) => name === projectionName(1, "gate") ? "f32" : source.storedDtype(name),
      readStored: (name, ...rest) =>
        name === projectionName(1, "gate")
          ? Promise.resolve(null)
          : source.readStored?.(name, ...rest) ?? Promise.resolve(null),
    };
    for (const [open, from] of [[openDevice, source], [openAsGpu, source], [openDevice, mixed]] as const) {
      using device = await open();
      using model = await loadModelFrom(from, { device, baseDtype: "file" });
      const length = 5, tokens = someTokens(length, WIDE.vocab), expected = await model.logits(tokens);
      using pass = createDecodePass(device, model.weights, { capacity: length });
      await pass.prefill(tokens.slice(0, 2));
      for (let t = 2; t < length; t++) {
        const logits = await pass.logits(tokens[t] ?? 0);
        assertClose([distance(`logits[${t}]`, logits, rowOf(expected, t, WIDE.vocab))], LOGIT_TOLERANCE);
      }
    }
  });
});

Deno.test("a model of zeros with the file's types takes the memory of the model", async () => {
  await withGguf("q4_k_m", WIDE, async (source) => {
    const { limits, facts: { isCpu } } = await sharedDevice();
    using device = await openDevice(), dry = openDryDevice({ limits, isCpu });
    using _whole = await loadWeights(device, source, { baseDtype: "file" });
    using _planned = await loadWeights(dry, zeros(source.spec, (name) => source.storedDtype(name)), {
      baseDtype: "file",
    });
    assert.equal(dry.bytes, device.bytes);
    using half = openDryDevice({ limits, isCpu });
    using _half = await loadWeights(half, zeros(source.spec), { baseDtype: "file" });
    assert.ok(half.bytes > 2 * dry.bytes, `${half.bytes} and ${dry.bytes} bytes`);
  });
});

Deno.test("matrices with cut columns are f16 and those with cut rows keep the blocks of the file", async () => {
  await withGguf("q8_0", WIDE, async (source) => {
    const device = await sharedDevice(), ffn = randomNumbers(768, 3).map((value) => value < 0 ? 0 : 1);
    const cut = sliceModel(source, { masks: { ffn } });
    using weights = await loadWeights(device, cut, { baseDtype: "file" });
    const dtypes = dtypesOf(weights);
    assert.deepEqual(
      [dtypes.get(projectionName(0, "up")), dtypes.get(projectionName(0, "down")), dtypes.get(EMBEDDING)],
      ["q8_0", "f16", "q8_0"],
    );
    using _none = await loadWeights(device, randomSource(WIDE), { baseDtype: "file" });
    assert.deepEqual(new Set(dtypesOf(_none).values()), new Set(["f16"]));
  });
});

Deno.test("blocks whose scale is not finite are refused by the name of their tensor", async () => {
  await withGguf("q8_0", WIDE, async (source) => {
    const device = await sharedDevice(), before = device.bytes, up = projectionName(0, "up");
    const broken: WeightSource = {
      ...source,
      readStored: async (name, rows, into) => {
        const bytes = await source.readStored?.(name, rows, into) ?? null;
        if (name === up && bytes) new Uint16Array(bytes.buffer, bytes.byteOffset)[17] = 0x7e00;
        return bytes;
      },
    };
    await rejects(loadWeights(device, broken, { baseDtype: "file" }), "numeric", { value: ["rows 0"], names: up });
    assert.equal(device.bytes, before);
  });
});
