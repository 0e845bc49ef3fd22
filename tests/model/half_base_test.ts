// Weights of a GGUF go to the GPU as f16 without widening on the host: the same bits as through f32.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { narrowF16 } from "../../lib/core/half.ts";
import { exportModel } from "../../lib/disk/export_model.ts";
import { disk } from "../../lib/files/disk.ts";
import { openWeights } from "../../lib/formats/open.ts";
import { loadWeights, projectionMatrix } from "../../lib/nn/weights.ts";
import { readRows } from "../../lib/nn/products/matrix.ts";
import { EMBEDDING, projectionName, PROJECTIONS, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { randomModel, SMOLLM2, specOf } from "../../scripts/bench/random_model.ts";
import { sharedDevice } from "../device.ts";

// Widths that are no multiples of 64, and one that is; q and k have their rows in another order in the file.
for (
  const [hidden, ffn, ggufDtype] of [[40, 72, "f16"], [64, 192, "f16"], [96, 192, "q8_0"], [64, 96, "q4_0"]] as const
) {
  Deno.test(`${ggufDtype} of a GGUF lies on the GPU as f16 as through f32: ${hidden} × ${ffn}`, async () => {
    const device = await sharedDevice(), folder = await Deno.makeTempDir();
    try {
      const spec = specOf({ ...SMOLLM2, hidden, ffn, layers: 1, heads: 4, kvHeads: 2, headDim: 16, vocab: 130 });
      const shared = { tokenizer: null, name: "half", ggufDtype, formats: ["gguf"] } as const;
      await exportModel(randomModel(spec, { seed: 3 }), `${folder}/model`, shared);
      const source = await openWeights(disk, `${folder}/model/model.gguf`);
      for (const [name, shape] of tensorShapes(spec)) {
        if (shape.length < 2) continue;
        const rows = { start: 3, count: 17 };
        const half = await source.readHalf?.(name, rows), codes = await source.readCodes?.(name, rows);
        if (ggufDtype !== "f16") assert.ok(codes && !half, name);
        else assert.deepEqual(half, narrowF16(await source.read(name, rows)), name);
      }
      using direct = await loadWeights(device, source, { baseDtype: "f16" });
      using widened = await loadWeights(device, withoutHalf(source), { baseDtype: "f16" });
      for (const projection of PROJECTIONS) {
        const [a, b] = [direct, widened].map(({ layers: [layer] }) => layer && projectionMatrix(layer, projection));
        assert.ok(a && b);
        assert.deepEqual(await readRows(device, a, 0, a.rows), await readRows(device, b, 0, b.rows), projection);
      }
      const [a, b] = [direct.embedding, widened.embedding];
      assert.deepEqual(await readRows(device, a, 0, a.rows), await readRows(device, b, 0, b.rows));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

Deno.test("an infinity among f16 of a file is refused with its place", async () => {
  const spec = specOf({ ...SMOLLM2, hidden: 64, ffn: 64, layers: 1, heads: 4, kvHeads: 2, headDim: 16, vocab: 70 });
  const base = randomModel(spec, { seed: 3 }), bad = projectionName(0, "up");
  const read: WeightSource["read"] = async (name, rows) => {
    const values = await base.read(name, rows);
    if (name === bad) values[65] = Infinity;
    return values;
  };
  const source: WeightSource = {
    ...withoutHalf(base),
    read,
    readHalf: async (name, rows) => name === EMBEDDING ? null : narrowF16(await read(name, rows)),
  };
  const device = await sharedDevice();
  await assert.rejects(
    loadWeights(device, source, { baseDtype: "f16" }),
    (error) =>
      error instanceof CompressoError && error.code === "numeric" && /Infinity at row 1, column 1/.test(error.message),
  );
});

function withoutHalf({ spec, read, storedDtype }: WeightSource): WeightSource {
  return { spec, read, storedDtype };
}
