// A model that lost whole layers: the same masked, sliced, padded, written and read back.
import assert from "node:assert/strict";
import { openDevice } from "../../mod.ts";
import { openWeights } from "../../lib/io/open.ts";
import { openModelFiles } from "../../lib/io/open_model.ts";
import { hardenMasks } from "../../lib/prune/harden.ts";
import { padded } from "../../lib/prune/layouts.ts";
import { sliceModel } from "../../lib/prune/slice.ts";
import { unitTable } from "../../lib/prune/units.ts";
import { uniform } from "../../lib/random.ts";
import { exportModel } from "../../lib/run/export.ts";
import { assertClose } from "../golden/helpers/golden.ts";
import { LOGIT_TOLERANCE, logitDistance, openSource } from "./helpers.ts";

for (const dead of [0, 1, 2]) {
  Deno.test(`without layer ${dead} the sliced model computes what the masked one does, folded z and all`, async () => {
    using device = await openDevice();
    const source = await openSource("gqa_llama3"), table = unitTable(source.spec, ["kv", "ffn", "layers"]);
    const logAlpha = Float32Array.from({ length: table.count }, (_, unit) => 2 * uniform(8, unit) - 1);
    logAlpha[table.layers[dead]?.gate ?? -1] = -50;
    const masks = hardenMasks(table, logAlpha, { target: 0.4, temperature: 2 / 3, layout: "compact" });
    const compact = sliceModel(source, { masks });
    assert.deepEqual(compact.spec.layers[dead], { heads: 0, kvHeads: 0, ffn: 0 });
    assert.equal(compact.spec.layers.filter(({ heads, ffn }) => heads + ffn === 0).length, 1);
    for (const actual of [compact, padded(compact)]) {
      assertClose(
        [await logitDistance(device, "logits", { expected: source, adapters: { masks }, actual })],
        LOGIT_TOLERANCE,
      );
    }
  });
}

Deno.test("a folder and a GGUF without a layer compute what the sliced model does", async () => {
  const out = await Deno.makeTempDir();
  try {
    using device = await openDevice();
    const { source, tokenizer } = await openModelFiles("demo");
    assert.ok(tokenizer);
    const table = unitTable(source.spec, ["layers"], { protect: [0] }),
      logAlpha = new Float32Array(table.count).fill(2);
    logAlpha[table.layers[1]?.gate ?? -1] = -1;
    const masks = hardenMasks(table, logAlpha, { target: 0.01, temperature: 2 / 3, layout: "compact" });
    const sliced = sliceModel(source, { masks });
    const { hf, gguf, skipped } = await exportModel(sliced, out, { tokenizer, dtype: "f32", name: "shallow" });
    assert.deepEqual(skipped, []);
    for (const path of [hf ?? "", gguf ?? ""]) {
      const actual = await openWeights(path);
      assertClose([await logitDistance(device, path, { expected: sliced, actual })], LOGIT_TOLERANCE);
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
