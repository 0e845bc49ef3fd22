// GGML blocks taken over as codes and scales, against their dequantised values.
import assert from "node:assert/strict";
import { hasBlocks, unpackBlocks } from "../../lib/formats/gguf/blocks.ts";
import { exportGguf } from "../disk.ts";
import { openGguf } from "../disk.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "../../lib/formats/gguf/types.ts";
import { openSafetensors } from "../disk.ts";
import { dequantizeRows } from "../../lib/spec/quant.ts";
import { HEAD, projectionName, tensorShapes } from "../../lib/spec/decoder.ts";
import { fixture, inTemporaryFolder } from "./files.ts";
import { randomSource, SPEC } from "./models.ts";

const BITS: Readonly<Partial<Record<GgufTensorType, number>>> = {
  q4_0: 4,
  q4_1: 4,
  q4_k: 4,
  q5_0: 5,
  q5_1: 5,
  q5_k: 5,
  q8_0: 8,
};
const WIDE = { ...SPEC, hidden: 64, headDim: 8, vocab: 70, layers: [{ heads: 4, kvHeads: 2, ffn: 96 }] };

for (const [type, bits] of Object.entries(BITS) as [GgufTensorType, number][]) {
  const isExact = !type.endsWith("k");
  Deno.test(`codes and scales of ${type} give gguf-py's values, ${isExact ? "bit for bit" : "but for the rounding of scales to f16"}`, async () => {
    const golden = await openSafetensors(fixture("gguf_blocks.safetensors"));
    const expected = await golden.read(`${type}.values`), raw = await golden.readRaw(`${type}.raw`);
    assert.ok(hasBlocks(type, bits));
    assert.ok(!hasBlocks(type, bits - 1));
    // One block of 32 more on each side must stay as it is.
    const codes = new Uint8Array(expected.length + 64).fill(7), scales = new Uint32Array(codes.length / 32).fill(7);
    unpackBlocks(raw, type, { codes, scales, at: 32 });
    for (const array of [codes.subarray(0, 32), codes.subarray(-32), scales.subarray(0, 1), scales.subarray(-1)]) {
      assert.ok(array.every((value) => value === 7));
    }
    const inner = codes.slice(32, -32), pairs = new Float16Array(scales.slice(1, -1).buffer);
    assert.ok(inner.every((code) => code < 2 ** bits), "codes fit their bits");
    // Every golden block at once: a matrix of one row.
    const values = dequantizeRows({ codes: inner, scales: scales.slice(1, -1) }, expected.length);
    // d·q and m are each off by 2⁻¹¹ at most (2⁻²⁵ where f16 is subnormal); f32 rounds by 2⁻²⁴ of them.
    const bound = (i: number): number => {
      if (isExact) return 0;
      const [d = 0, m = 0] = [pairs[2 * (i >> 5)], pairs[2 * (i >> 5) + 1]].map((x) => Math.abs(x ?? 0));
      const q = inner[i] ?? 0;
      return (d * q + m) * 1.01 * 2 ** -11 + (q + 1) * 2 ** -25;
    };
    const bad = expected.findIndex((value, i) =>
      // A zero has no sign here: 8·d − 8·d is +0 for every d.
      !Object.is(value, values[i]) && !(Math.abs(value - (values[i] ?? NaN)) <= bound(i))
    );
    assert.equal(bad, -1, `value ${bad}: ${values[bad]} instead of ${expected[bad]}`);
  });
}

Deno.test("other types have no blocks of 32 values with one scale", () => {
  for (const type of Object.keys(TENSOR_FORMATS) as GgufTensorType[]) {
    assert.equal(hasBlocks(type, 8), type in BITS, type);
  }
});

Deno.test("readBlocks() gives the rows that read() gives, q and k in Hugging Face's order, whole and in ranges", async () => {
  await inTemporaryFolder(async (folder) => {
    for (const dtype of ["q4_0", "q8_0"] as const) {
      await exportGguf(randomSource(WIDE), `${folder}/a`, { dtype, tokenizerMetadata: new Map(), name: "test" });
      const source = await openGguf(`${folder}/a`);
      for (const [name, [rows = 0, cols]] of tensorShapes(WIDE)) {
        if (cols === undefined) continue;
        const bits = source.storedDtype(name) === "q8_0" ? 8 : 4, values = await source.read(name);
        for (const [start, count] of [[0, rows], [0, 1], [5, 2], [7, 9], [rows - 1, 1], [3, 0]] as const) {
          const blocks = await source.readBlocks?.(name, { bits, rows: { start, count } });
          assert.ok(blocks, name);
          assert.deepEqual(
            dequantizeRows(blocks, cols).map((x) => x + 0), // −0 is 0
            values.slice(start * cols, (start + count) * cols).map((x) => x + 0),
            `${name} rows ${start} + ${count}`,
          );
        }
        assert.deepEqual(await source.readBlocks?.(name, { bits: 8 }), await source.readBlocks?.(name, { bits }));
      }
      assert.equal(await source.readBlocks?.(HEAD, { bits: 4 }), null, "the head is q8_0");
      assert.equal(await source.readBlocks?.("model.norm.weight", { bits: 8 }), null);
    }
    await exportGguf(randomSource(WIDE), `${folder}/a`, { dtype: "f16", tokenizerMetadata: new Map(), name: "test" });
    assert.equal(await (await openGguf(`${folder}/a`)).readBlocks?.(projectionName(0, "q"), { bits: 8 }), null);
  });
});
