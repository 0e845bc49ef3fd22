// How the matrices of a quantised file lie on the GPU, and why some do not keep their blocks.
import assert from "node:assert/strict";
import { heldText, heldTypes } from "../../lib/run/memory/held.ts";
import { measureSpeed } from "../../lib/run/forecast.ts";
import { projectionName } from "../../lib/spec/decoder.ts";
import { sharedDevice } from "../device.ts";
import { decoder } from "../units/helpers/decoders.ts";

const LAYER = { heads: 8, kvHeads: 4, ffn: 512 };

Deno.test("matrices of other blocks, of padded heads and of floats are f16, and are told apart", async () => {
  const spec = decoder([LAYER, LAYER], { hidden: 256, headDim: 32 }), padded = { ...spec, headDim: 30 };
  const types: Readonly<Record<string, string>> = {
    [projectionName(0, "down")]: "q2_k",
    [projectionName(1, "down")]: "q2_k",
    [projectionName(1, "up")]: "bf16",
  };
  const storedDtype = (name: string): string => types[name] ?? "q4_k";
  const held = await heldTypes({ spec, storedDtype });
  assert.deepEqual(
    held.map(({ stored, held, lost, matrices, first }) => [stored, held, lost, matrices, first]),
    [
      ["q4_k", "q4_k", null, 12, "model.embed_tokens.weight"],
      ["q2_k", "f16", "type", 2, projectionName(0, "down")],
      ["bf16", "f16", null, 1, projectionName(1, "up")],
    ],
  );
  assert.match(heldText(held), /^12 matrices as q4_k, 2 matrices of q2_k as f16 \(.+\), 1 matrix of bf16 as f16$/);
  const lost = (await heldTypes({ spec: padded, storedDtype: () => "q8_0" })).filter(({ held }) => held === "f16");
  assert.deepEqual(lost.map(({ stored, lost, matrices }) => [stored, lost, matrices]), [["q8_0", "heads", 8]]);
});

Deno.test("the speed of a base of blocks is measured with blocks", async () => {
  const device = await sharedDevice(), spec = decoder([LAYER, LAYER, LAYER], { hidden: 256, headDim: 32 });
  const peakOf = async (storedDtype?: (name: string) => string): Promise<number> => {
    device.resetPeak();
    const { forward } = await measureSpeed(device, spec, { batch: 1, seq: 32, baseDtype: "file", storedDtype });
    assert.ok(forward > 0);
    return device.peakBytes;
  };
  const half = await peakOf(), asked = new Set<string>(), blocks = await peakOf((name) => (asked.add(name), "q8_0"));
  assert.ok(blocks < half, `${blocks} and ${half} bytes`);
  // The types are those of the layers that are measured, the last ones.
  assert.ok(asked.has(projectionName(2, "down")) && !asked.has(projectionName(0, "down")));
  assert.equal(device.bytes, 0);
});
