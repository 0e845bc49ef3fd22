// A model that lost whole layers: the same masked, sliced, padded, written and read back.
import assert from "node:assert/strict";
import { openWeights } from "../disk.ts";
import { maskSizes } from "../../lib/nn/mask_slots.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { hardenMasks } from "../../lib/masks/harden.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { padded, shallow } from "../../lib/slice/layouts.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { padLora, shallowLora, sliceLora } from "../../lib/slice/lora.ts";
import { unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { assertClose, distance } from "../golden/helpers/golden.ts";
import { LOGIT_TOLERANCE, logitDistance, logitsOf, openSource, randomLora } from "./helpers.ts";
import { sharedDevice } from "../device.ts";

for (const dead of [0, 1, 2]) {
  Deno.test(`without layer ${dead} the sliced model computes what the masked one does, folded z and all`, async () => {
    const device = await sharedDevice();
    const source = await openSource("gqa_llama3"), table = unitTable(source.spec, ["kv", "ffn", "layers"]);
    const logAlpha = Float32Array.from({ length: table.count }, (_, unit) => 2 * uniform(8, unit) - 1);
    logAlpha[table.layers[dead]?.gate ?? -1] = -50;
    const masks = hardenMasks(table, logAlpha, { target: 0.4, temperature: 2 / 3, layout: "compact" });
    const compact = sliceModel(source, { masks });
    assert.deepEqual(compact.spec.layers[dead], { heads: 0, kvHeads: 0, ffn: 0 });
    assert.equal(compact.spec.layers.filter(({ heads, ffn }) => heads + ffn === 0).length, 1);
    const thin = shallow(compact);
    assert.deepEqual(thin.spec.layers, compact.spec.layers.toSpliced(dead, 1));
    assert.equal(parameterCount(thin.spec), parameterCount(compact.spec));
    assert.deepEqual(
      padded(thin).spec.layers,
      padded(compact).spec.layers.slice(1),
      "groups that were split are one again",
    );
    for (const actual of [compact, padded(compact), thin, padded(thin)]) {
      assertClose(
        [await logitDistance(device, "logits", { expected: source, adapters: { masks }, actual })],
        LOGIT_TOLERANCE,
      );
    }
  });
}

Deno.test("LoRA of a model goes to the layers that are left of it", async () => {
  const device = await sharedDevice();
  const base = await openSource("gqa_llama3"), { spec } = base, lora = randomLora(spec, { seed: 5 });
  const { head, ffn } = maskSizes(spec), width = ffn / spec.layers.length, heads = head / spec.layers.length;
  const masks = { head: new Float32Array(head).fill(1), ffn: new Float32Array(ffn).fill(1) };
  masks.head.fill(0, heads, 2 * heads); // the second of three layers
  masks.ffn.fill(0, width, 2 * width);
  masks.head.set([0, 1, 1, 0, 0, 1]); // groups of two heads and one
  const wanted = await logitsOf(device, sliceModel(base, { masks, lora }));
  const sliced = sliceModel(base, { masks }), thin = shallow(sliced);
  const own = shallowLora(sliced.spec, sliceLora(spec, { masks, lora }));
  for (const [source, config] of [[thin, own], [padded(thin), padLora(thin.spec, own)]] as const) {
    const { relative } = distance("logits", await logitsOf(device, source, { lora: config }), wanted);
    assert.ok(relative < LOGIT_TOLERANCE, `${relative}`);
  }
});

Deno.test("a model without any layer keeps those that it has", async () => {
  const base = await openSource("gqa_llama3"), { head, ffn } = maskSizes(base.spec);
  const none = sliceModel(base, { masks: { head: new Float32Array(head), ffn: new Float32Array(ffn) } });
  assert.equal(shallow(none), none);
});

Deno.test("a folder and a GGUF without a layer compute what the sliced model does, and are stock files where the others are alike", async () => {
  const out = await Deno.makeTempDir();
  try {
    const device = await sharedDevice();
    const { source, tokenizer } = await openModelFiles("demo");
    assert.ok(tokenizer);
    const table = unitTable(source.spec, ["layers"], { protect: [0] }),
      logAlpha = new Float32Array(table.count).fill(2);
    logAlpha[table.layers[1]?.gate ?? -1] = -1;
    const masks = hardenMasks(table, logAlpha, { target: 0.01, temperature: 2 / 3, layout: "compact" });
    const sliced = sliceModel(source, { masks });
    const { hf, gguf, skipped, loadableBy } = await exportModel(sliced, out, {
      tokenizer,
      dtype: "f32",
      name: "shallow",
    });
    assert.deepEqual(skipped, []);
    const { model_type: type, num_hidden_layers: layers } = JSON.parse(await Deno.readTextFile(`${hf}/config.json`));
    assert.deepEqual([type, layers], ["llama", 4]);
    assert.ok(loadableBy.every(({ programs }) => !/trust_remote_code|deci/.test(programs.join())));
    for (const path of [hf ?? "", gguf ?? ""]) {
      const actual = await openWeights(path);
      assertClose([await logitDistance(device, path, { expected: sliced, actual })], LOGIT_TOLERANCE);
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
