// Rows of a GGUF that the GPU unpacks, against those that the host unpacks and writes: the same words in memory.
import assert from "node:assert/strict";
import { type BlockedType, isBlocked, isQuantized, keepsCodes, QUANT_ROWS, scalesOfBlock } from "../../kernels/mod.ts";
import { narrowBf16 } from "../../lib/core/half.ts";
import { randomU32 } from "../../lib/core/random.ts";
import { hasBlocks, unpackBlocks } from "../../lib/formats/gguf/blocks.ts";
import { dequantize } from "../../lib/formats/gguf/dequant.ts";
import { type GgufTensorType, TENSOR_FORMATS } from "../../lib/formats/gguf/types.ts";
import type { Device } from "../../lib/gpu/device.ts";
import {
  createMatrix,
  type Matrix,
  partsOf,
  shardPaddedRows,
  type ValueDtype,
  writeBlocks,
  writeRows,
} from "../../lib/nn/products/matrix.ts";
import { StoredWriter, takesStored } from "../../lib/nn/products/matrix_stored.ts";
import { readTexels } from "../../lib/nn/products/matrix_texels.ts";
import { openSafetensors } from "../disk.ts";
import { sharedDevice, withoutSubgroups } from "../device.ts";
import { fixture } from "../formats/files.ts";

const BLOCKED = (Object.keys(TENSOR_FORMATS) as GgufTensorType[]).filter(isBlocked);

/** All words of a matrix, padding included. */
async function wordsOf(device: Device, matrix: Matrix): Promise<number[][]> {
  const perTexel = isQuantized(matrix.dtype) ? QUANT_ROWS : 1;
  return await Promise.all(matrix.shards.flatMap((shard) =>
    shard.resources.map(async (store, index) => {
      const { texels = 0 } = partsOf(matrix)[index] ?? {}, rows = shardPaddedRows(shard) / perTexel;
      return [...new Uint32Array(await readTexels(device, store, { row: 0, rows, texels }))];
    })
  ));
}

/** Random blocks whose scales are finite and small enough, some of them 0 or subnormal. */
function randomBlocks(type: BlockedType, count: number): Uint8Array<ArrayBuffer> {
  const { halves, scales, below } = scalesOfBlock(type);
  const raw = new Uint16Array(count * halves).map((_, i) => randomU32(7, i));
  for (let block = 0; block < count; block++) {
    for (const [i, place] of scales.entries()) {
      const draw = randomU32(8, block, i), sign = draw & 0x8000;
      const size = block % 9 === 1 ? 0 : block % 9 === 2 ? draw & 0x3ff : draw % 0x7c00;
      const [value = 0] = new Float16Array(Uint16Array.of(size).buffer);
      raw[block * halves + place] = sign | (value < below ? size : 0x1400 + (size & 0x3ff));
    }
  }
  return new Uint8Array(raw.buffer);
}

/** Writes rows as the host unpacks them. */
function writeByHost(
  device: Device,
  matrix: Matrix,
  row0: number,
  { type, bytes }: { readonly type: GgufTensorType; readonly bytes: Uint8Array<ArrayBuffer> },
): void {
  const { dtype } = matrix, { block, bytes: size } = TENSOR_FORMATS[type], count = bytes.length / size * block;
  if (isQuantized(dtype) && hasBlocks(type, dtype === "q8" ? 8 : 4)) {
    const codes = new Uint8Array(count), scales = new Uint32Array(count / 32);
    unpackBlocks(bytes, type, { codes, scales, at: 0 });
    return writeBlocks(device, matrix, row0, { codes, scales });
  }
  const out = new Float32Array(count);
  dequantize(bytes, type, { out, at: 0 });
  writeRows(device, matrix, row0, out);
}

for (const type of BLOCKED) {
  for (const dtype of ["f16", "q8", "q4"] as const) {
    if (!takesStored({ cols: 256, dtype }, type)) continue;
    const how = !isQuantized(dtype) ? "as" : keepsCodes(type, dtype) ? "with its codes as" : "rounded anew to";
    Deno.test(`${type} is unpacked on the GPU ${how} ${dtype} with the bits of the host`, async () => {
      const device = await sharedDevice(), { block, bytes: size } = TENSOR_FORMATS[type];
      for (const [rows, blocks] of [[1, 1], [7, 3], [133, 2]] as const) {
        const cols = blocks * block, bytes = randomBlocks(type, rows * blocks);
        for (const placement of ["texture", "buffer"] as const) {
          const options = { rows: rows + 60, cols, dtype, placement, maxShardRows: 64 } as const;
          using matrix = createMatrix(device, type, options);
          using expected = createMatrix(device, type, options);
          using writer = new StoredWriter(device);
          writeByHost(device, expected, 60, { type, bytes });
          const first = bytes.slice(0, Math.min(rows, 68) * blocks * size);
          const writeFirst = (): void => assert.ok(writer.write(matrix, 60, { type, bytes: first }));
          if (placement === "texture") writeFirst();
          else withoutSubgroups(device, writeFirst);
          if (rows > 68) assert.ok(writer.write(matrix, 128, { type, bytes: bytes.slice(first.length) }));
          assert.deepEqual(await wordsOf(device, matrix), await wordsOf(device, expected), `${rows} × ${cols}`);
        }
      }
    });
  }
}

Deno.test("blocks of gguf-py, all that are small enough, have the bits of the host", async () => {
  const golden = await openSafetensors(fixture("gguf_blocks.safetensors")), device = await sharedDevice();
  for (const type of BLOCKED) {
    const raw = await golden.readRaw(`${type}.raw`), { bytes: size, block } = TENSOR_FORMATS[type];
    for (const dtype of ["f16", "q8", "q4"] as const) {
      if (!takesStored({ cols: block, dtype }, type)) continue;
      using matrix = createMatrix(device, type, { rows: 4 * raw.length / size, cols: block, dtype });
      using expected = createMatrix(device, type, { rows: matrix.rows, cols: block, dtype });
      using writer = new StoredWriter(device);
      let taken = 0;
      for (let at = 0; at < raw.length; at += size) { // four times, since texels of codes have four rows
        const one = raw.slice(at, at + size), bytes = new Uint8Array(4 * size);
        for (let row = 0; row < 4; row++) bytes.set(one, row * size);
        if (!writer.write(matrix, 4 * taken, { type, bytes })) continue;
        writeByHost(device, expected, 4 * taken++, { type, bytes });
      }
      assert.ok(taken > 0, type);
      assert.deepEqual(await wordsOf(device, matrix), await wordsOf(device, expected), `${type} as ${dtype}`);
    }
  }
});

Deno.test("halves between two codes of q8 round upwards, as the host rounds them", async () => {
  const device = await sharedDevice(), { halves } = scalesOfBlock("q6_k");
  // Values s·(q − 32): the largest is 254, so d is 2, and every odd value is half way between two codes.
  const bytes = new Uint8Array(2 * halves * 4).map((_, i) => 37 * i), words = new Uint16Array(bytes.buffer);
  for (let row = 0; row < 4; row++) {
    const block = bytes.subarray(2 * halves * row, 2 * halves * (row + 1));
    block.fill(1, 192, 208);
    for (let part = 0; part < 8; part++) block[192 + 2 * part] = 127;
    // Codes of 34 in the even groups of 16, which give 254, and whatever there is in the odd ones.
    for (let i = 0; i < 128; i++) if (i % 32 < 16) block[i] = 0x22;
    for (let i = 0; i < 64; i++) if (i % 32 < 16) block[128 + i] = 0xaa;
    words[row * halves + 104] = 0x3c00 + (row << 10); // d of 1, 2, 4 and 8 / 8
  }
  words[3 * halves + 104] = 0xbc00;
  using matrix = createMatrix(device, "w", { rows: 4, cols: 256, dtype: "q8" });
  using expected = createMatrix(device, "w", { rows: 4, cols: 256, dtype: "q8" });
  using writer = new StoredWriter(device);
  writeByHost(device, expected, 0, { type: "q6_k", bytes });
  assert.ok(writer.write(matrix, 0, { type: "q6_k", bytes }));
  assert.deepEqual(await wordsOf(device, matrix), await wordsOf(device, expected));
});

/** Blocks of values n·d whose n are equal, near each other, of one sign, with a zero or without. */
const PATTERNS: readonly ((i: number, draw: number) => number)[] = [
  () => 0,
  () => 100,
  () => -100,
  (i) => i === 7 ? 1 : 0,
  (i) => i === 7 ? -127 : 0,
  (i) => 100 + (i & 1),
  (i) => -(100 + (i & 1)),
  (i) => 1 + i,
  (i) => -1 - i,
  (i) => i,
  (i) => -i,
  (i) => 31 - 2 * i, // no zero, and halves between codes
  (i) => 30 - 2 * i,
  (i) => i < 16 ? -15 : 15,
  (_, draw) => draw % 15 + 1,
  (_, draw) => draw % 29 - 14,
  (_, draw) => draw % 127 + 1,
  (_, draw) => -(draw % 127) - 1,
  (_, draw) => (draw % 127 + 1) * (draw & 256 ? 1 : -1),
  (_, draw) => draw % 100,
];

Deno.test("ranges of all kinds are rounded anew to q4 with the bits of the host", async () => {
  const device = await sharedDevice(), { halves } = scalesOfBlock("q8_0");
  const scales = [1, -1, 1 / 3, 0.1, -1e-3, 255.5, 2 ** -14, 2 ** -24, 5 * 2 ** -24, 1023 * 2 ** -24, 1025 / 1024, 0];
  const blocks = PATTERNS.flatMap((pattern) => scales.map((d) => ({ pattern, d }))), rows = blocks.length / 4;
  const bytes = new Uint8Array(blocks.length * 2 * halves), raw = new Uint16Array(bytes.buffer);
  const codes = new Int8Array(bytes.buffer), bits = new Uint16Array(new Float16Array(blocks.map(({ d }) => d)).buffer);
  for (const [block, { pattern }] of blocks.entries()) {
    raw[block * halves] = bits[block] ?? 0;
    for (let i = 0; i < 32; i++) codes[block * 2 * halves + 2 + i] = pattern(i, randomU32(11, block, i));
  }
  using matrix = createMatrix(device, "w", { rows, cols: 128, dtype: "q4" });
  using expected = createMatrix(device, "w", { rows, cols: 128, dtype: "q4" });
  using writer = new StoredWriter(device);
  writeByHost(device, expected, 0, { type: "q8_0", bytes });
  assert.ok(writer.write(matrix, 0, { type: "q8_0", bytes }));
  assert.deepEqual(await wordsOf(device, matrix), await wordsOf(device, expected));
});

/** f32 at the borders of rounding to f16, up to the largest, and random ones. */
function borders(count: number, largest: number): Float32Array<ArrayBuffer> {
  const special = [
    0,
    -0,
    2 ** -24,
    2 ** -25,
    3 * 2 ** -26,
    2 ** -14 - 2 ** -26,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    largest,
    -largest,
    1e-30,
  ];
  return Float32Array.from({ length: count }, (_, i) => {
    const draw = randomU32(9, i);
    return special[i] ?? (draw / 2 ** 31 - 1) * 2 ** (draw % 40 - 26);
  });
}

for (const [type, dtype] of [["f32", "f16"], ["bf16", "f16"], ["f16", "f16"], ["f32", "f32"]] as const) {
  Deno.test(`${type} of a file is written as ${dtype} with the bits of the host`, async () => {
    const device = await sharedDevice(), [rows, cols] = [67, 96];
    const values = borders(rows * cols, type === "bf16" ? 65280 : 65519);
    const stored = type === "f32" ? values : type === "bf16" ? narrowBf16(values) : new Float16Array(values);
    const bytes = new Uint8Array(stored.buffer);
    for (const placement of ["texture", "buffer"] as const) {
      const options = { rows: rows + 5, cols, dtype, placement, maxShardRows: 64 } as const;
      using matrix = createMatrix(device, type, options);
      using expected = createMatrix(device, type, options);
      using writer = new StoredWriter(device);
      writeByHost(device, expected, 5, { type, bytes });
      assert.ok(writer.write(matrix, 5, { type, bytes }));
      assert.deepEqual(await wordsOf(device, matrix), await wordsOf(device, expected));
    }
  });
}

Deno.test("rows with values that are not finite, or too large, are left to the host", async () => {
  const device = await sharedDevice();
  using writer = new StoredWriter(device);
  const isTaken = (type: GgufTensorType, dtype: ValueDtype, bytes: Uint8Array<ArrayBuffer>): boolean => {
    const cols = Math.max(32, TENSOR_FORMATS[type].block);
    using matrix = createMatrix(device, "w", { rows: 1, cols, dtype });
    return writer.write(matrix, 0, { type, bytes });
  };
  for (const place of [0, 1, 31]) {
    const floats = (value: number): Float32Array<ArrayBuffer> =>
      new Float32Array(32).fill(-2).fill(value, place, place + 1);
    const bytes = (array: Float32Array<ArrayBuffer> | Float16Array<ArrayBuffer> | Uint16Array<ArrayBuffer>) =>
      new Uint8Array(array.buffer);
    for (
      const [value, f16, f32] of [[65519, true, true], [-65520, false, true], [Infinity, false, false], [
        NaN,
        false,
        false,
      ]] as const
    ) {
      assert.equal(isTaken("f32", "f16", bytes(floats(value))), f16, `${value}`);
      assert.equal(isTaken("f32", "f32", bytes(floats(value))), f32, `${value}`);
      assert.equal(isTaken("bf16", "f16", bytes(narrowBf16(floats(value === 65519 ? 65280 : value)))), f16, `${value}`);
      assert.equal(
        isTaken("f16", "f16", bytes(new Float16Array(floats(value === 65519 ? 65504 : value)))),
        f16,
        `${value}`,
      );
    }
  }
  for (const type of BLOCKED) {
    const { halves, scales, below } = scalesOfBlock(type);
    for (const place of scales) {
      for (
        const [value, taken] of [[below * (1 - 2 ** -10), true], [-below, false], [NaN, false], [
          -Infinity,
          false,
        ]] as const
      ) {
        const raw = new Uint16Array(halves);
        raw[place] = new Uint16Array(Float16Array.of(value).buffer)[0] ?? 0;
        assert.equal(isTaken(type, "f16", new Uint8Array(raw.buffer)), taken, `${type}: ${value}`);
      }
    }
  }
});
