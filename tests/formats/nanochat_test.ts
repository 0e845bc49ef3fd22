// nanochat: its embedding is read normalised; a cut that changes the embedding is no longer of its class.
import assert from "node:assert/strict";
import { familyFor } from "../../lib/families/all.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import type { MaskValues } from "../../lib/nn/mask_slots.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { EMBEDDING, FINAL_NORM, normName } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { sharedDevice } from "../device.ts";
import { exportHf, openHfFolder, openSafetensors } from "../disk.ts";
import { assertClose, distance, openGolden } from "../golden/helpers/golden.ts";
import { inTemporaryFolder } from "./files.ts";

const TOKENS = [3, 9, 20, 44, 5, 60, 1, 33, 12];
const { modelPath } = await openGolden("nanochat");
const source = await openHfFolder(modelPath), { spec } = source, { hidden, normEps } = spec;

async function logitsOf(of: WeightSource, masks: MaskValues = {}): Promise<Float32Array> {
  using model = await loadModelFrom(of, { device: await sharedDevice(), baseDtype: "f32" });
  return await model.logits(TOKENS, { masks });
}

Deno.test("the rows of nanochat's embedding are read normalised, and its norms as ones", async () => {
  const file = await openSafetensors(`${modelPath}/model.safetensors`), stored = await file.read(EMBEDDING);
  const whole = await source.read(EMBEDDING), rows = await source.read(EMBEDDING, { start: 5, count: 3 });
  assert.deepEqual(rows, whole.slice(5 * hidden, 8 * hidden));
  for (const token of [0, 5, spec.vocab - 1]) {
    const own = stored.slice(token * hidden, (token + 1) * hidden);
    const square = own.reduce((sum, value) => sum + value ** 2, 0) / hidden;
    own.forEach((value, i) => {
      const wanted = value / Math.sqrt(square + normEps), made = whole[token * hidden + i] ?? NaN;
      // Two roundings.
      assert.ok(
        Math.abs(made - wanted) <= 2 ** -23 * Math.abs(wanted),
        `row ${token}, column ${i}: ${made}, ${wanted}`,
      );
    });
  }
  assert.equal(await source.readStored?.(EMBEDDING), null);
  for (const name of [FINAL_NORM, normName(1, "ffn")]) {
    assert.deepEqual(await source.read(name), new Float32Array(hidden).fill(1));
    assert.equal(file.tensors.has(name), false);
  }
});

/** Masks, and the class of what they leave. */
const CUTS: readonly (readonly [string, MaskValues, string])[] = [
  ["columns", { ffn: Float32Array.from({ length: 122 }, (_, at) => at % 61 > 6 ? 1 : 0) }, "nanochat"],
  ["hidden dims", { hidden: Float32Array.from({ length: hidden }, (_, at) => at % 9 > 0 ? 1 : 0) }, "compresso"],
  [
    "shares of hidden dims",
    { hidden: Float32Array.from({ length: hidden }, (_, at) => at % 9 > 0 ? 1 : 0.5) },
    "compresso",
  ],
];

for (const [name, masks, type] of CUTS) {
  Deno.test(`nanochat without ${name} is a ${type} that computes what its masks do, also when read back`, async () => {
    const wanted = await logitsOf(source, masks), made = sliceModel(source, { masks });
    assert.equal(familyFor(made.spec).type, type);
    assertClose([distance("sliced", await logitsOf(made), wanted)], 1e-5);
    await inTemporaryFolder(async (folder) => {
      await exportHf(made, `${folder}/made`, { dtype: "f32", tokenizer: null });
      assertClose([distance("read", await logitsOf(await openHfFolder(`${folder}/made`)), wanted)], 1e-5);
    });
  });
}
