// Block formats against the answers of gguf-py and ggml (scripts/golden/gguf_blocks.py), bit for bit.
import assert from "node:assert/strict";
import { dequantize } from "../../lib/formats/gguf/dequant.ts";
import { quantize } from "../../lib/formats/gguf/quant.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "../../lib/formats/gguf/types.ts";
import { openSafetensors } from "../disk.ts";
import { fixture } from "./files.ts";

for (const type of Object.keys(TENSOR_FORMATS) as GgufTensorType[]) {
  if (type === "f32") continue;
  Deno.test(`dequantize() of ${type} equals gguf-py bit for bit`, async () => {
    const golden = await openSafetensors(fixture("gguf_blocks.safetensors"));
    const expected = await golden.read(`${type}.values`);
    // One value more on each side must stay as it is.
    const out = new Float32Array(expected.length + 2).fill(7);
    dequantize(await golden.readRaw(`${type}.raw`), type, { out, at: 1 });
    assert.equal(out[0], 7);
    assert.equal(out.at(-1), 7);
    const bad = expected.findIndex((value, index) => !Object.is(value, out[index + 1]));
    assert.equal(bad, -1, `value ${bad}: ${out[bad + 1]} instead of ${expected[bad]}`);
  });
}

const WRITTEN = ["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"] as const;
const WRITTEN_K = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"] as const;

for (const type of ["q4_0", "q4_1", "q5_0", "q5_1", ...WRITTEN_K] as const) {
  Deno.test(`quantize() to ${type} with the importance of columns equals ggml byte for byte`, async () => {
    const golden = await openSafetensors(fixture("gguf_blocks.safetensors"));
    const expected = await golden.readRaw(`weighted.${type}`);
    const actual = quantize(await golden.read("input_k"), type, await golden.read("importance"));
    assert.equal(actual.length, expected.length);
    const bad = expected.findIndex((value, index) => value !== actual[index]);
    assert.equal(bad, -1, `byte ${bad}: ${actual[bad]} instead of ${expected[bad]}`);
  });
}

for (const [types, input] of [[WRITTEN, "input"], [WRITTEN_K, "input_k"], [["mxfp4"], "input_mxfp4"]] as const) {
  for (const type of types) {
    Deno.test(`quantize() to ${type} equals ${types === WRITTEN_K ? "ggml" : "gguf-py"} byte for byte`, async () => {
      const golden = await openSafetensors(fixture("gguf_blocks.safetensors"));
      const expected = await golden.readRaw(`${input}.${type}`);
      const actual = quantize(await golden.read(input), type);
      assert.equal(actual.length, expected.length);
      const bad = expected.findIndex((value, index) => value !== actual[index]);
      assert.equal(bad, -1, `byte ${bad}: ${actual[bad]} instead of ${expected[bad]}`);
    });
  }
}
