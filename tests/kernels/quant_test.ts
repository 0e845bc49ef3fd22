// Weights in blocks of 32 columns: rounding, packing, and what a matrix reads back.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { createMatrix, readRows, shardPaddedRows, writeBlocks, writeRows } from "../../lib/nn/products/matrix.ts";
import { OperandPool } from "../../lib/nn/products/operand.ts";
import { dequantizeRows, packTexels, QUANT_LIMIT, quantizeRows, unpackTexels } from "../../lib/spec/quant.ts";
import { refuses } from "../refuses.ts";
import { random } from "./helpers/cells.ts";

const device: Device = await openDevice();
const DTYPES = ["q8", "q4"] as const;
const PLACEMENTS = ["texture", "buffer"] as const;

/** Smallest step of f16. */
const TINY = 2 ** -24;

/** Largest error that `quantizeRows` documents for a block, from its values alone. */
function documentedBound(block: Float32Array, dtype: "q8" | "q4"): number {
  const least = Math.min(...block), most = Math.max(...block);
  if (dtype === "q8") return above(Math.max(-least, most) / 127) / 2;
  if (block.includes(0)) {
    return Math.max((Math.max(most, 0) - Math.min(least, 0)) / 14 * (1 + 2 ** -6) / 2, TINY / 2);
  }
  // m lies below the least value by less than one step of f16.
  const m = Math.abs(least) * 2 ** -10 + TINY;
  return above((most - least + m) / 15) / 2;
}

/** At least the next f16 above. */
function above(x: number): number {
  return x * (1 + 2 ** -10) + TINY;
}

const BLOCKS: Readonly<Record<string, Float32Array<ArrayBuffer>>> = {
  "spread around zero": random(32, 1),
  "all of one sign": random(32, 2).map((x) => 3 + x),
  "negative and far from zero": random(32, 3).map((x) => -100 + x / 100),
  "positive and far from zero": random(32, 12).map((x) => 100 + x / 100),
  "one value": new Float32Array(32).fill(0.3),
  "one negative value": new Float32Array(32).fill(-1e-3),
  "zeros": new Float32Array(32),
  "one zero": random(32, 4).map((x, i) => i === 7 ? 0 : 2 + x),
  "zeros and negative values": random(32, 5).map((x, i) => i % 3 === 0 ? 0 : -2 - x),
  "zeros and both signs": random(32, 6).map((x, i) => i % 5 === 0 ? 0 : x / 7),
  "an outlier": random(32, 7).map((x, i) => i === 3 ? 90 : x),
  "tiny values": random(32, 8).map((x) => x * 1e-6),
  "tiny values and a zero": random(32, 9).map((x, i) => i === 0 ? 0 : x * 1e-7),
  "the largest values": random(32, 10).map((x, i) => [QUANT_LIMIT, -QUANT_LIMIT, 0][i] ?? x),
  "the largest values of one sign": random(32, 11).map((x) => -QUANT_LIMIT * (0.9 + 0.1 * Math.abs(x))),
};

for (const dtype of DTYPES) {
  Deno.test(`quantizeRows() to ${dtype} moves no value by more than half a step, and no zero at all`, () => {
    for (const [name, block] of Object.entries(BLOCKS)) {
      const values = dequantizeRows(quantizeRows(block, { cols: 32, dtype }), 32);
      const bound = documentedBound(block, dtype);
      block.forEach((x, i) => {
        // 2⁻²⁴ of the value: d·q + m is rounded to f32.
        const error = Math.abs((values[i] ?? NaN) - x);
        assert.ok(error <= bound + Math.abs(x) * 2 ** -24, `${name}[${i}]: ${x} became ${values[i]}, bound ${bound}`);
        if (x === 0) assert.equal(Math.abs(values[i] ?? NaN), 0, `${name}[${i}]`);
      });
    }
  });

  Deno.test(`quantizeRows() to ${dtype} rounds blocks of a row apart, and pads rows with exact zeros`, () => {
    for (const cols of [1, 31, 32, 33, 70]) {
      const data = random(3 * cols, cols).map((x) => x + 2);
      const rows = quantizeRows(data, { cols, dtype }), blocks = Math.ceil(cols / 32);
      assert.equal(rows.codes.length, 3 * blocks * 32);
      assert.equal(rows.scales.length, 3 * blocks);
      const padded = new Float32Array(3 * blocks * 32);
      for (let r = 0; r < 3; r++) padded.set(data.subarray(r * cols, r * cols + cols), r * blocks * 32);
      const whole = quantizeRows(padded, { cols: blocks * 32, dtype });
      assert.deepEqual(rows, whole, `${cols} columns`);
      const values = dequantizeRows(rows, blocks * 32);
      padded.forEach((x, i) => x === 0 && assert.equal(Math.abs(values[i] ?? NaN), 0, `${cols} columns, value ${i}`));
      assert.deepEqual(
        dequantizeRows(rows, cols),
        data.map((_, i) => values[Math.floor(i / cols) * blocks * 32 + i % cols] ?? NaN),
      );
    }
  });

  Deno.test(`packTexels() puts ${dtype} codes of 4 rows into a texel, the first column lowest`, () => {
    const cols = 32, stride = 64, rows = quantizeRows(random(6 * cols, 1), { cols, dtype });
    const { codes, scales } = packTexels(rows, { cols, stride, dtype });
    const [bits, perWord] = dtype === "q8" ? [8, 4] : [4, 8];
    assert.equal(codes.length, 2 * stride / perWord * 4);
    assert.equal(scales.length, 2 * stride / 32 * 4);
    for (const [row, column] of [[0, 0], [1, 9], [3, 31], [5, 17]] as const) {
      const texel = Math.floor(row / 4) * stride / perWord + Math.floor(column / perWord);
      const word = codes[texel * 4 + row % 4] ?? 0;
      assert.equal(
        word >>> column % perWord * bits & 2 ** bits - 1,
        rows.codes[row * 32 + column],
        `${row}, ${column}`,
      );
      assert.equal(scales[Math.floor(row / 4) * 8 + row % 4], rows.scales[row]);
    }
    const back = unpackTexels({ codes, scales }, { cols, stride, dtype });
    assert.deepEqual(back.codes.subarray(0, 6 * 32), rows.codes);
    assert.deepEqual(back.scales.subarray(0, 6), rows.scales);
    assert.ok(back.codes.subarray(6 * 32).every((code) => code === 0), "rows beyond the last are zero");
  });

  for (const placement of PLACEMENTS) {
    Deno.test(`rows and blocks written to a ${placement} of ${dtype} read back as they were rounded, in any pieces`, async () => {
      for (const cols of [33, 96]) {
        using matrix = createMatrix(device, "w", { rows: 150, cols, dtype, placement, maxShardRows: 64 });
        assert.deepEqual(matrix.shards.map(({ row0, rows }) => [row0, rows]), [[0, 64], [64, 64], [128, 22]]);
        const data = random(150 * cols, 5), blocks = quantizeRows(data, { cols, dtype });
        const want = dequantizeRows(blocks, cols), perRow = Math.ceil(cols / 32);
        for (const [from, to] of [[0, 8], [8, 140], [140, 150]] as const) {
          writeRows(device, matrix, from, data.subarray(from * cols, to * cols));
        }
        assert.deepEqual(await readRows(device, matrix, 0, 150), want);
        assert.deepEqual(await readRows(device, matrix, 61, 70), want.slice(61 * cols, 131 * cols));
        writeRows(device, matrix, 0, new Float32Array(150 * cols));
        assert.deepEqual(await readRows(device, matrix, 0, 150), new Float32Array(150 * cols));
        for (const [from, to] of [[0, 100], [100, 150]] as const) {
          writeBlocks(device, matrix, from, {
            codes: blocks.codes.slice(from * perRow * 32, to * perRow * 32),
            scales: blocks.scales.slice(from * perRow, to * perRow),
          });
        }
        assert.deepEqual(await readRows(device, matrix, 0, 150), want);
      }
    });
  }
}

Deno.test("a matrix of q8 takes 9 bits a value, one of q4 5 bits, beside the padding", () => {
  for (const [dtype, bits] of [["q8", 9], ["q4", 5]] as const) {
    using buffer = createMatrix(device, "w", { rows: 1024, cols: 2048, dtype, placement: "buffer" });
    assert.equal(buffer.bytes, 1024 * 2048 * bits / 8);
    using texture = createMatrix(device, "w", { rows: 1024, cols: 2048, dtype, placement: "texture" });
    assert.ok(texture.bytes < 1.03 * buffer.bytes, `${texture.bytes}`);
  }
});

Deno.test("a shard has no more rows than an operand's texture has room for", () => {
  for (const dtype of DTYPES) {
    const rows = 4 * device.limits.maxTextureDimension2D;
    using matrix = createMatrix(device, "w", { rows, cols: 1, dtype, placement: "texture" });
    assert.equal(matrix.shards.length, 2);
    using pool = new OperandPool(device, "texture");
    for (const shard of matrix.shards) pool.texture("operand", 1, shardPaddedRows(shard));
  }
});

Deno.test("writeRows() and writeBlocks() refuse what blocks cannot hold, and parts of texels", () => {
  using matrix = createMatrix(device, "w", { rows: 10, cols: 2, dtype: "q4" });
  for (const value of [NaN, Infinity, -QUANT_LIMIT * (1 + 2 ** -22)]) {
    refuses(() => writeRows(device, matrix, 4, Float32Array.of(0, 0, 0, value, 0, 0, 0, 0)), "numeric", {
      value: ["row 5", "column 1"],
      names: ["w", "q4", "±32768"],
    });
  }
  writeRows(device, matrix, 4, Float32Array.of(0, 0, 0, QUANT_LIMIT, 0, 0, 0, 0));
  assert.throws(() => writeRows(device, matrix, 2, new Float32Array(8)), /not whole texels/);
  assert.throws(() => writeRows(device, matrix, 0, new Float32Array(6)), /not whole texels/);
  writeRows(device, matrix, 8, new Float32Array(4));
  const blocks = { codes: new Uint8Array(4 * 32), scales: new Uint32Array(4) };
  for (const broken of [0x7c00, 0xfe000000]) {
    blocks.scales[2] = broken;
    refuses(() => writeBlocks(device, matrix, 4, blocks), "numeric", { value: ["row 6", "block 0"], names: "w" });
  }
  using full = createMatrix(device, "w", { rows: 4, cols: 2, dtype: "f32" });
  assert.throws(() => writeBlocks(device, full, 0, blocks), /is f32/);
});

Deno.test("matrices in blocks leave no buffer or texture behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
