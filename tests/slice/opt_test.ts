// OPT: masked equals sliced and written, in each layout; what its LayerNorm and its classes rule out is refused.
import assert from "node:assert/strict";
import { exportModel } from "../../lib/disk/export_model.ts";
import { ggufArch } from "../../lib/formats/gguf/export.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { parameterMeasure } from "../../lib/units/target_size.ts";
import { tableOf } from "../../lib/units/uniform.ts";
import { unitTable } from "../../lib/units/units.ts";
import { sharedDevice } from "../device.ts";
import { openHfFolder } from "../disk.ts";
import { inTemporaryFolder, refuses, rejectsWith } from "../formats/files.ts";
import { assertClose, distance, openGolden } from "../golden/helpers/golden.ts";

const TOKENS = [3, 9, 20, 44, 5, 70, 1, 33, 12, 8, 61];

/** Hard and soft masks that leave each of the three layers with other widths; hidden ones are soft alone. */
const MASKS = {
  head: Float32Array.from({ length: 21 }, (_, i) => [1, 4, 5, 9, 15, 16].includes(i) ? 0 : i % 4 === 0 ? 0.5 : 1),
  ffn: Float32Array.from({ length: 201 }, (_, i) => i % 3 === 0 ? 0 : i % 5 === 0 ? 0.25 : 1),
  hidden: Float32Array.from({ length: 42 }, (_, i) => i % 7 === 0 ? 0.75 : 1),
};

async function opt(): Promise<WeightSource> {
  return await openHfFolder((await openGolden("opt")).modelPath);
}

Deno.test("masked OPT equals the sliced one, and its folder in the layouts compact and padded", async () => {
  const source = await opt(), device = await sharedDevice();
  using model = await loadModelFrom(source, { device, baseDtype: "f32" });
  const masked = await model.logits(TOKENS, { masks: MASKS }), sliced = sliceModel(source, { masks: MASKS });
  assert.deepEqual(sliced.spec.layers.map(({ heads }) => heads), [4, 6, 5]);
  const measure = parameterMeasure(sliced.spec), { hidden, layers } = sliced.spec;
  const measured = layers.reduce((sum, layer) => sum + measure.layer(layer, hidden), measure.rest(hidden));
  assert.equal(measured, parameterCount(sliced.spec));
  const close = async (other: WeightSource, what: string): Promise<void> => {
    using small = await loadModelFrom(other, { device, baseDtype: "f32" });
    assertClose([distance(what, await small.logits(TOKENS), masked)], 2e-6);
  };
  await close(sliced, "sliced");
  await inTemporaryFolder(async (folder) => {
    for (const [layout, type] of [["compact", "compresso"], ["padded", "opt"]] as const) {
      const out = `${folder}/${layout}`;
      await exportModel(sliced, out, { layout, dtype: "f32", tokenizer: null, formats: ["hf"], name: "opt" });
      const written = await openHfFolder(`${out}/model`);
      assert.equal(written.config["model_type"], type);
      await close(written, layout);
    }
    await rejectsWith(
      exportModel(sliced, `${folder}/gguf`, { tokenizer: null, formats: ["gguf"], name: "opt" }),
      "input",
      /no.*for OPT/,
    );
    const alike = sliceModel(source, {
      masks: { head: Float32Array.from({ length: 21 }, (_, i) => i % 7 === 0 ? 0 : 1) },
    });
    await rejectsWith(
      exportModel(alike, `${folder}/uniform`, { layout: "uniform", tokenizer: null, formats: ["hf"], name: "opt" }),
      "usage",
      /hidden \/ head_dim = 7 heads.*got: 6 heads/,
    );
  });
});

Deno.test("an OPT whose layers are cut alike in FFN columns stays an OPT in the layout uniform", async () => {
  const source = await opt();
  const sliced = sliceModel(source, {
    masks: { ffn: Float32Array.from({ length: 201 }, (_, i) => i % 67 < 20 ? 0 : 1) },
  });
  await inTemporaryFolder(async (folder) => {
    await exportModel(sliced, folder, {
      layout: "uniform",
      dtype: "f32",
      tokenizer: null,
      formats: ["hf"],
      name: "opt",
    });
    const written = await openHfFolder(`${folder}/model`);
    assert.deepEqual([written.config["model_type"], written.config["ffn_dim"]], ["opt", 47]);
    assert.deepEqual(written.spec, sliced.spec);
  });
});

Deno.test("hidden dims of a model with LayerNorm are not cut, and heads not in the layout uniform", async () => {
  const source = await opt(), { spec } = source;
  refuses(() => unitTable(spec, ["ffn", "hidden"]), "usage", /hidden.*RMSNorm alone.*LayerNorm/);
  const hidden = Float32Array.from({ length: 42 }, (_, i) => i === 3 ? 0 : 1);
  refuses(() => sliceModel(source, { masks: { hidden } }), "usage", /LayerNorm over the kept dims/);
  refuses(() => tableOf(spec, { units: ["kv", "ffn"], rules: {}, layout: "uniform" }), "usage", /kv.*= 7 heads/);
  assert.equal(tableOf(spec, { units: ["kv", "ffn"], rules: {}, layout: "compact" }).cost[21], 2);
  refuses(() => ggufArch(spec), "input", /no.*for OPT/);
});
