// OLMo 2: masked equals sliced and written in each layout; heads, whose q and k are normalised together, are not cut.
import assert from "node:assert/strict";
import { exportModel } from "../../lib/local/export_model.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { uniformMasks } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { verifySliced } from "../../lib/slice/verify.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { parameterMeasure } from "../../lib/units/target_size.ts";
import { unitTable } from "../../lib/units/table.ts";
import { refuses } from "../refuses.ts";
import { sharedDevice } from "../device.ts";
import { openHfFolder } from "../disk.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { assertClose, distance, openGolden } from "../golden/helpers/golden.ts";
import { randomLora, randomMasks } from "./helpers.ts";

const TOKENS = [3, 9, 20, 44, 5, 70, 1, 33, 12, 8, 61];

for (const cut of ["columns and hidden dims", "the attention of a layer"] as const) {
  Deno.test(`masked olmo2 equals the sliced one, and its folder in the layouts compact and padded: ${cut}`, async () => {
    const source = await openHfFolder((await openGolden("olmo2")).modelPath), device = await sharedDevice();
    const { spec } = source, [first] = spec.layers;
    using model = await loadModelFrom(source, { device, baseDtype: "f32" });
    const head = Float32Array.from({ length: 2 * (first?.heads ?? 0) }, (_, at) => at < (first?.heads ?? 0) ? 0 : 0.5);
    const masks = {
      ...randomMasks(spec, { seed: 31, kinds: ["ffn", "hidden"], soft: true }),
      ...cut === "the attention of a layer" ? { head } : {},
    };
    const lora = randomLora(spec, { seed: 4 }), sliced = sliceModel(source, { masks, lora });
    const masked = await model.logits(TOKENS, { masks, lora });
    assert.ok(sliced.spec.hidden < spec.hidden);
    assert.equal(sliced.spec.layers[0]?.heads, cut === "the attention of a layer" ? 0 : first?.heads);
    const measure = parameterMeasure(sliced.spec), rest = measure.rest(sliced.spec.hidden);
    const measured = sliced.spec.layers.reduce((sum, layer) => sum + measure.layer(layer, sliced.spec.hidden), rest);
    assert.equal(measured, parameterCount(sliced.spec));
    const close = async (other: WeightSource, what: string): Promise<void> => {
      using small = await loadModelFrom(other, { device, baseDtype: "f32" });
      assertClose([distance(what, await small.logits(TOKENS), masked)], 1e-5);
    };
    await close(sliced, "sliced");
    await verifySliced(source, sliced, { device, adapters: { masks, lora }, tokens: [TOKENS] });
    await inTemporaryFolder(async (folder) => {
      for (const [layout, type] of [["compact", "compresso"], ["padded", "olmo2"]] as const) {
        const out = `${folder}/${layout}`;
        await exportModel(sliced, out, { layout, dtype: "f32", tokenizer: null, formats: ["hf"], name: "x" });
        const written = await openHfFolder(`${out}/model`);
        assert.equal(written.config["model_type"], type);
        await close(written, layout);
      }
    });
  });
}

Deno.test("heads whose q and k are normalised together are not cut, and a uniform cut keeps them", async () => {
  const { spec, ...source } = await openHfFolder((await openGolden("olmo2")).modelPath);
  for (const kind of ["heads", "kv"] as const) refuses(() => unitTable(spec, ["ffn", kind]), "usage");
  assert.ok(unitTable(spec, ["ffn", "hidden", "layers"]).count > 0);
  const masks = { head: Float32Array.of(1, 1, 1, 1, 0, 1) };
  refuses(() => sliceModel({ ...source, spec }, { masks }), "usage", { value: [0, 3] });
  const even = uniformMasks(spec, {}, { masks: {}, target: 0.3 });
  assert.ok(even.head.every((value) => value === 1) && even.ffn.includes(0));
});
