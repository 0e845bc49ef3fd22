// Whole models whose frozen weights lie on the GPU in blocks, against the same weights in f32.
import assert from "node:assert/strict";
import type { Device } from "../../lib/gpu/device.ts";
import { exportGguf } from "../disk.ts";
import { openGguf } from "../disk.ts";
import { openHfFolder } from "../disk.ts";
import { rowWindow } from "../../lib/spec/row_range.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import type { Matrix } from "../../lib/nn/products/matrix.ts";
import { readRows } from "../../lib/nn/products/matrix.ts";
import {
  EMBEDDING,
  HEAD,
  headDimOf,
  projectionName,
  PROJECTIONS,
  projectionShape,
  tensorShapes,
} from "../../lib/spec/decoder.ts";
import { loadWeights, projectionMatrix, storedShape, unpadHeads, type Weights } from "../../lib/nn/weights.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { rejects } from "../refuses.ts";
import { assertClose, distance, type GoldenName, openGolden } from "../golden/helpers/golden.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { sharedDevice } from "../device.ts";

// The same numbers in another kernel: f32 differs by about 1e-6 in logits; the sums of gradients cancel more.
const LOGIT_TOLERANCE = 1e-4;
const GRADIENT_TOLERANCE = 1e-3;

/** Between them: tied and not, heads padded in memory (8, 10 and 14 values), widths that are no multiple of 32. */
const NAMES: readonly GoldenName[] = ["gqa_llama3", "mha_linear", "mqa_bf16_sharded"];

/** Matrices by canonical name as the GPU holds them, without the padding of heads. */
async function readBack(
  device: Device,
  { spec, layers, embedding, head }: Weights,
): Promise<Map<string, Float32Array>> {
  const found = new Map<string, Float32Array>();
  const read = (matrix: Matrix): Promise<Float32Array> => readRows(device, matrix, 0, matrix.rows);
  found.set(EMBEDDING, await read(embedding));
  if (!spec.tied) found.set(HEAD, await read(head));
  for (const [index, layer] of layers.entries()) {
    for (const projection of PROJECTIONS) {
      const matrix = projectionMatrix(layer, projection);
      if (!matrix) continue;
      const shape = storedShape(spec, layer.spec, projection), logical = projectionShape(spec, layer.spec, projection);
      found.set(
        projectionName(index, projection),
        unpadHeads(headDimOf(spec, layer.spec), await read(matrix), { shape, logical }),
      );
    }
  }
  return found;
}

/** The source with other values of its matrices. */
function withMatrices(source: WeightSource, matrices: ReadonlyMap<string, Float32Array>): WeightSource {
  const shapes = tensorShapes(source.spec);
  return {
    spec: source.spec,
    storedDtype: () => "f32",
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const values = matrices.get(name);
      if (!values) return source.read(name, rows);
      const { start, count, width } = rowWindow(name, shapes.get(name) ?? [], { rows });
      return Promise.resolve(values.slice(start * width, (start + count) * width) as Float32Array<ArrayBuffer>);
    },
  };
}

for (const baseDtype of ["q8", "q4"] as const) {
  for (const name of NAMES) {
    Deno.test(`${name} with a ${baseDtype} base is the f32 model of its rounded weights, gradients included`, async () => {
      const golden = await openGolden(name), source = await openHfFolder(golden.modelPath);
      const { rank, alpha, targets, lora } = golden, { tokens, labels } = await golden.batch("pair");
      const input = { tokens, labels, lora: { rank, alpha, targets, weights: lora } };
      const device = await sharedDevice();
      using model = await loadModelFrom(source, { device, baseDtype });
      const matrices = await readBack(device, model.weights);
      using plain = await loadModelFrom(withMatrices(source, matrices), { device, baseDtype: "f32" });
      assert.ok(model.weights.layers[0]?.ffn?.down?.dtype === baseDtype);
      for (const ids of tokens) {
        assertClose([distance("logits", await model.logits(ids), await plain.logits(ids))], LOGIT_TOLERANCE);
      }
      const [actual, expected] = [await model.lossAndGradients(input), await plain.lossAndGradients(input)];
      assertClose([distance("loss", [actual.loss], [expected.loss])], LOGIT_TOLERANCE);
      assert.ok(expected.gradients.size > 10);
      assertClose(
        [...expected.gradients].map(([key, values]) => distance(key, actual.gradients.get(key) ?? [], values)),
        GRADIENT_TOLERANCE,
      );
      // It is another model than that of the file, or the test could not fail.
      const original = await source.read(projectionName(0, "up")), rounded = matrices.get(projectionName(0, "up"));
      const moved = distance("up", rounded ?? [], original).relative;
      assert.ok(moved > (baseDtype === "q8" ? 1e-3 : 2e-2) && moved < (baseDtype === "q8" ? 1e-2 : 1e-1), `${moved}`);
    });
  }
}

/** All widths are whole blocks, and heads need no padding: what a quantised GGUF can be without falling back to f16. */
const WIDE = { ...SPEC, hidden: 96, headDim: 8, vocab: 150, layers: [{ heads: 4, kvHeads: 4, ffn: 64 }] };

for (const [fileDtype, baseDtype] of [["q4_0", "q4"], ["q4_0", "q8"], ["q8_0", "q8"]] as const) {
  Deno.test(`the blocks of a ${fileDtype} GGUF are those of a ${baseDtype} base, bit for bit`, async () => {
    await inTemporaryFolder(async (folder) => {
      await exportGguf(randomSource(WIDE), `${folder}/a`, {
        dtype: fileDtype,
        tokenizerMetadata: new Map(),
        name: "test",
      });
      const source = await openGguf(`${folder}/a`);
      const device = await sharedDevice();
      using weights = await loadWeights(device, source, { baseDtype });
      const matrices = await readBack(device, weights);
      assert.equal(matrices.size, 9);
      for (const [name, values] of matrices) {
        assert.ok(source.storedDtype(name).startsWith("q"), `${name} is ${source.storedDtype(name)}`);
        const expected = await source.read(name);
        const bad = values.findIndex((value, i) => value !== expected[i]);
        assert.equal(bad, -1, `${name}[${bad}]: ${values[bad]} instead of ${expected[bad]}`);
      }
    });
  });
}

Deno.test("embedding and head of a q4 base have 8 bits", async () => {
  const device = await sharedDevice();
  using weights = await loadWeights(device, randomSource(WIDE), { baseDtype: "q4" });
  assert.deepEqual(
    [weights.embedding.dtype, weights.head.dtype, weights.layers[0]?.attention?.q.dtype],
    ["q8", "q8", "q4"],
  );
});

Deno.test("a q4 or q8 base refuses NaN and what its blocks cannot hold, and names the tensor", async () => {
  const device = await sharedDevice();
  const source = randomSource(WIDE), up = projectionName(0, "up");
  for (const baseDtype of ["q8", "q4"] as const) {
    for (
      const [value, message] of [[NaN, { value: ["NaN", "row 0", "column 5"], names: "±32768" }], [
        1e5,
        { value: [100000, "row 0", "column 5"], names: "±32768" },
      ]] as const
    ) {
      const values = await source.read(up);
      values[5] = value;
      const broken = withMatrices(source, new Map([[up, values]]));
      await rejects(loadWeights(device, broken, { baseDtype }), "numeric", { ...message, names: up });
    }
    const blocks = { codes: new Uint8Array(64 * 96), scales: new Uint32Array(64 * 3) };
    blocks.scales[7] = 0x7e00;
    const broken: WeightSource = {
      ...source,
      readBlocks: (name) => Promise.resolve(name === up ? blocks : null),
    };
    await rejects(loadWeights(device, broken, { baseDtype }), "numeric", { value: ["row 2", "block 1"] });
  }
  assert.equal(device.liveCount, 0);
});
