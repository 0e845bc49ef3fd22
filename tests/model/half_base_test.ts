// Weights of a file go to the GPU as f16 without widening on the host: the same bits as through f32.
import assert from "node:assert/strict";
import { narrowF16 } from "../../lib/core/half.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { disk } from "../../lib/files/disk.ts";
import type { ExportOptions } from "../../lib/slice/export_options.ts";
import { openWeights } from "../../lib/formats/open.ts";
import { loadWeights, projectionMatrix } from "../../lib/nn/weights.ts";
import { readRows } from "../../lib/nn/products/matrix.ts";
import { EMBEDDING, projectionName, PROJECTIONS } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { rejects } from "../refuses.ts";
import { randomModel, SMOLLM2, specOf } from "../../scripts/bench/random_model.ts";
import { sharedDevice } from "../device.ts";

// Widths that are no multiples of 64, and one that is; q and k have their rows in another order in the file.
for (
  const [hidden, ffn, type, format] of [
    [40, 72, "f16", "gguf"],
    [64, 192, "f16", "gguf"],
    [96, 192, "q8_0", "gguf"],
    [64, 96, "q4_0", "gguf"],
    [40, 72, "f16", "hf"],
    [64, 192, "bf16", "hf"],
    [64, 96, "f32", "hf"],
  ] as const
) {
  Deno.test(`${type} of a file (${format}) lies on the GPU as f16 as through f32: ${hidden} × ${ffn}`, async () => {
    const device = await sharedDevice(), folder = await Deno.makeTempDir();
    try {
      const spec = specOf({ ...SMOLLM2, hidden, ffn, layers: 1, heads: 4, kvHeads: 2, headDim: 16, vocab: 130 });
      const own = format === "gguf" ? { ggufDtype: type } : { dtype: type };
      const asked: ExportOptions = { tokenizer: null, name: "half", formats: [format] };
      await exportModel(randomModel(spec, { seed: 3 }), folder, Object.assign(asked, own));
      const source = await openWeights(disk, format === "gguf" ? `${folder}/model.gguf` : `${folder}/model`);
      const stored: string[] = [];
      const counted: WeightSource = {
        ...source,
        readStored: (name, ...rest) => (stored.push(name), source.readStored?.(name, ...rest) ?? Promise.resolve(null)),
      };
      using direct = await loadWeights(device, counted, { baseDtype: "f16" });
      using widened = await loadWeights(device, withoutStored(source), { baseDtype: "f16" });
      for (const name of [EMBEDDING, projectionName(0, "q"), projectionName(0, "down")]) {
        assert.ok(stored.includes(name), name);
      }
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
    ...withoutStored(base),
    read,
    storedDtype: () => "f16",
    readStored: async (name, rows) =>
      name === EMBEDDING ? null : new Uint8Array(narrowF16(await read(name, rows)).buffer),
  };
  const device = await sharedDevice();
  await rejects(loadWeights(device, source, { baseDtype: "f16" }), "numeric", { value: ["row 1", "column 1"] });
});

function withoutStored({ spec, read, storedDtype }: WeightSource): WeightSource {
  return { spec, read, storedDtype };
}
