// Products against an f64 oracle, in every storage, direction and tile.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { paddedRows, strideOf } from "../../lib/nn/padding.ts";
import { type Direction, recordLinear } from "../../lib/nn/products/linear.ts";
import { fillTexture, operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { recordMatmul } from "../../lib/nn/products/matmul.ts";
import {
  createMatrix,
  type MatrixPlacement,
  readRows,
  shardPaddedRows,
  type ValueDtype,
  writeRows,
} from "../../lib/nn/products/matrix.ts";
import { refuses } from "../refuses.ts";
import { assertCells, type Cell, lay, random, STALE } from "./helpers/cells.ts";
import { DTYPES, stored } from "./helpers/stored.ts";
import { readTexture } from "./helpers/textures.ts";
import { WatchedPlan } from "./helpers/watched_plan.ts";

const device: Device = await openDevice();

interface Oracle {
  at(row: number, column: number): Cell;
}

/** Σₖ a(m, k) · b(k, n) in f64, with the rigorous bound of an f32 sum in any order: (k + 3) · 2⁻²⁴ · Σ|a·b|. */
function oracle(k: number, a: (m: number, k: number) => number, b: (k: number, n: number) => number): Oracle {
  return {
    at(row, column): Cell {
      let value = 0, size = 0;
      for (let i = 0; i < k; i++) {
        const term = a(row, i) * b(i, column);
        value += term;
        size += Math.abs(term);
      }
      return { value, bound: (k + 3) * 2 ** -24 * size + 1e-30 };
    },
  };
}

/** Fills scratch textures with NaN, as what an earlier use left there must not matter. */
function soil(plan: Plan, pool: OperandPool, slots: readonly string[]): Disposable {
  const rows = 192, stride = 320;
  const buffer = device.uploadBuffer("stale", new Float32Array(rows * stride).fill(NaN));
  for (const slot of slots) operand(plan, pool, buffer, { rows, stride, slot });
  return buffer;
}

interface LinearCase {
  m: number;
  rows: number;
  cols: number;
  direction: Direction;
  dtype: ValueDtype;
  placement: MatrixPlacement;
  accumulate?: boolean;
  maxShardRows?: number;
  columnOffset?: number;
  columns?: number;
  shard?: number;
  /** Rank of an added low-rank product. */
  rank?: number;
}

/** The number of its dispatches. */
async function checkLinear(test: LinearCase): Promise<number> {
  const { m, rows, cols, direction, dtype, placement, accumulate = false, columnOffset = 0 } = test;
  const values = random(rows * cols, 1);
  const weight = stored(values, { cols, dtype });
  using matrix = createMatrix(device, "w", {
    rows,
    cols,
    dtype,
    placement,
    ...(test.maxShardRows === undefined ? {} : { maxShardRows: test.maxShardRows }),
  });
  writeRows(device, matrix, 0, values);
  const shard = test.shard === undefined ? undefined : matrix.shards[test.shard];
  const row0 = shard?.row0 ?? 0, count = shard?.rows ?? rows;
  const isForward = direction === "forward";
  const depth = isForward ? cols : count, width = isForward ? count : cols;
  const stride = strideOf(columnOffset + width), strideX = strideOf(depth);
  const input = random(m * depth, 2), before = random(paddedRows(m) * stride, 3);
  // Padding columns of an accumulated target are zero already; of any other they are stale.
  if (accumulate) before.forEach((_, i) => i % stride >= columnOffset + width && (before[i] = 0));
  else before.fill(STALE);
  using x = device.uploadBuffer(
    "x",
    lay(input, { rows: m, cols: depth, stride: strideX, total: paddedRows(m) * strideX, fill: 0 }),
  );
  using y = device.uploadBuffer("y", before);
  using pool = new OperandPool(device, placement);
  using plan = new Plan(device);
  using _stale = soil(plan, pool, ["operand", "matmul-a", "matmul-b"]);
  const rank = test.rank ?? 0, alpha = 0.75;
  const strideH = rank === 8 ? 64 : rank + 1;
  const h = random(m * rank, 9), low = random(rank * width, 10), none = new Float32Array(1);
  using bufferH = device.uploadBuffer(
    "h",
    rank === 0 ? none : lay(h, { rows: m, cols: rank, stride: strideH, fill: NaN }),
  );
  using bufferLow = device.uploadBuffer("low", rank === 0 ? none : low);
  const { columns } = test;
  recordLinear(plan, operand(plan, pool, x, { rows: m, stride: strideX }), matrix, {
    buffer: y,
    stride,
    columnOffset,
    ...(columns === undefined ? {} : { columns }),
  }, {
    rows: m,
    direction,
    accumulate,
    ...(test.shard === undefined ? {} : { shard: test.shard }),
    ...(rank === 0 ? {} : {
      low: {
        h: { buffer: bufferH, stride: strideH },
        weight: { buffer: bufferLow, stride: isForward ? rank : width },
        rank,
        alpha,
        pool,
      },
    }),
  });
  await plan.run();
  const product = oracle(
    depth + rank,
    (i, k) => k < depth ? input[i * depth + k] ?? NaN : alpha * (h[i * rank + k - depth] ?? NaN),
    isForward
      ? (k, n) => (k < depth ? weight[(row0 + n) * cols + k] : low[n * rank + k - depth]) ?? NaN
      : (k, n) => (k < depth ? weight[(row0 + k) * cols + n] : low[(k - depth) * width + n]) ?? NaN,
  );
  const written = Math.min(columns ?? Infinity, stride - columnOffset);
  assertCells(await device.readFloats(y, paddedRows(m) * stride), {
    what: JSON.stringify(test),
    rows: paddedRows(m),
    stride,
    want(row, column): Cell {
      const old = before[row * stride + column] ?? NaN;
      const n = column - columnOffset;
      if (row >= m || n < 0 || n >= written) return { value: old, bound: 0 };
      const base = accumulate ? old : 0;
      if (n >= width) return { value: base, bound: 0 };
      const { value, bound } = product.at(row, n);
      return { value: base + value, bound: bound + 2 ** -23 * Math.abs(base) };
    },
  });
  return plan.length;
}

const storages = (["texture", "buffer"] as const).flatMap((placement) => DTYPES.map((dtype) => ({ placement, dtype })));
const directions = ["forward", "backward"] as const;

for (const { placement, dtype } of storages) {
  Deno.test(`a linear product from a ${placement} of ${dtype} matches the oracle for sizes 1, odd, tile - 1, tile + 1 and large`, async () => {
    const small = [[1, 1, 1], [1, 200, 100], [3, 7, 5], [4, 65, 66], [5, 63, 129], [15, 127, 64]] as const;
    const sizes = [...small, [17, 129, 130], [65, 300, 200], [195, 65, 70]] as const;
    for (const direction of directions) {
      for (const [m, rows, cols] of sizes) {
        await checkLinear({ m, rows, cols, direction, dtype, placement });
      }
    }
  });

  Deno.test(`a linear product from a ${placement} of ${dtype} accumulates, and loops over shards`, async () => {
    for (const direction of directions) {
      const base = { rows: 200, cols: 70, direction, dtype, placement };
      await checkLinear({ ...base, m: 17, accumulate: true });
      await checkLinear({ ...base, m: 17, maxShardRows: 64 });
      await checkLinear({ ...base, m: 2, maxShardRows: 100, accumulate: true });
    }
  });
}

Deno.test("a deep backward product of f32 or codes is added up from several, with a low-rank product once", async () => {
  for (const dtype of ["f32", "q8", "q4"] as const) {
    const base = { m: 5, rows: 4200, cols: 33, direction: "backward", dtype, placement: "texture" } as const;
    await checkLinear({ ...base, accumulate: true });
    await checkLinear({ ...base, rank: 3 });
  }
});

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`a linear product from a ${placement} works on one shard, and writes at a column offset only the wanted columns`, async () => {
    for (const direction of directions) {
      for (const dtype of ["f16", "q8", "q4"] as const) {
        const base = { m: 14, rows: 150, cols: 90, direction, dtype, placement } as const;
        await checkLinear({ ...base, maxShardRows: 64, shard: 0 });
        await checkLinear({ ...base, maxShardRows: 64, shard: 2 });
        await checkLinear({ ...base, maxShardRows: 64, shard: 1, accumulate: true });
        await checkLinear({ ...base, columnOffset: 36 });
        await checkLinear({ ...base, columnOffset: 36, columns: direction === "forward" ? 152 : 92 });
        await checkLinear({ ...base, columnOffset: 64, maxShardRows: 64, accumulate: true });
      }
    }
  });

  Deno.test(`a linear product from a ${placement} adds a low-rank product of any rank`, async () => {
    for (const direction of directions) {
      for (const dtype of DTYPES) {
        await checkLinear({ m: 33, rows: 150, cols: 90, direction, dtype, placement, rank: 8 });
        await checkLinear({ m: 17, rows: 67, cols: 197, direction, dtype, placement, rank: 3, accumulate: true });
      }
      const base = { m: 19, rows: 150, cols: 91, direction, dtype: "f16", placement } as const;
      await checkLinear({ ...base, rank: 17, columnOffset: 64 });
      await checkLinear({ ...base, rank: 5, maxShardRows: 64 });
    }
  });

  Deno.test(`rows written to a ${placement} read back rounded to the dtype, in any pieces`, async () => {
    for (const dtype of ["f32", "f16"] as const) {
      using matrix = createMatrix(device, "w", { rows: 150, cols: 33, dtype, placement, maxShardRows: 64 });
      assert.deepEqual(matrix.shards.map(({ row0, rows }) => [row0, rows]), [[0, 64], [64, 64], [128, 22]]);
      assert.deepEqual(matrix.shards.map(shardPaddedRows), [64, 64, 64]);
      assert.equal(matrix.stride, 64);
      assert.equal(matrix.paddedRows, 192);
      const data = random(150 * 33, 5);
      data[0] = 2 ** -24; // the smallest f16
      data[1] = 1 + 2 ** -11; // a tie: to even, 1
      for (const [from, to] of [[0, 10], [10, 140], [140, 150]] as const) {
        writeRows(device, matrix, from, data.subarray(from * 33, to * 33));
      }
      const want = dtype === "f16" ? Float32Array.from(new Float16Array(data)) : data;
      assert.deepEqual(await readRows(device, matrix, 0, 150), want);
      assert.deepEqual(await readRows(device, matrix, 60, 70), want.subarray(60 * 33, 130 * 33).slice());
      assert.equal(want[1], dtype === "f16" ? 1 : 1 + 2 ** -11);
    }
  });
}

Deno.test("a low-rank product takes a dispatch of its own where an adapter binds too few textures for both", async () => {
  for (const direction of directions) {
    for (const dtype of DTYPES) {
      const test = { m: 17, rows: 67, cols: 197, direction, dtype, placement: "texture", rank: 3 } as const;
      const most = await checkLinear(test), { limits } = device;
      const few: Record<string, number> = {};
      for (const name in limits) few[name] = Reflect.get(limits, name);
      Object.defineProperty(device, "limits", {
        configurable: true,
        value: { ...few, maxStorageTexturesPerShaderStage: 4 },
      });
      try {
        const more = dtype === "q8" || dtype === "q4" ? 1 : 0;
        assert.equal(await checkLinear(test) - most, more, `${direction}, ${dtype}`);
      } finally {
        Reflect.deleteProperty(device, "limits");
      }
    }
  }
});

Deno.test("writeRows() refuses values that the dtype cannot hold, and rows outside the matrix", () => {
  using half = createMatrix(device, "w", { rows: 2, cols: 2, dtype: "f16" });
  using full = createMatrix(device, "w", { rows: 2, cols: 2, dtype: "f32" });
  refuses(() => writeRows(device, half, 0, Float32Array.of(0, 0, 0, -65520)), "numeric", {
    value: [-65520, "row 1", "column 1"],
    names: "±65504",
  });
  refuses(() => writeRows(device, full, 1, Float32Array.of(0, NaN)), "numeric", {
    value: ["NaN", "row 1", "column 1"],
  });
  assert.throws(() => writeRows(device, full, 1, Float32Array.of(0, 0, 0, 0)), /do not fit/);
  writeRows(device, half, 0, Float32Array.of(0, 0, 0, -65519));
});

interface MatmulCase {
  m: number;
  n: number;
  k: number;
  transposeA: boolean;
  transposeB: boolean;
  placement: MatrixPlacement;
  /** Offset and padding of the strides; 0 for a stride that is a multiple of 64. */
  odd: number;
  alpha?: number;
  accumulate?: boolean;
}

async function checkMatmul(test: MatmulCase): Promise<void> {
  const { m, n, k, transposeA, transposeB, placement, odd, alpha = 1, accumulate = false } = test;
  const strideFor = (width: number): number => odd === 0 ? strideOf(width) : width + odd;
  const [rowsA, colsA] = transposeA ? [k, m] : [m, k];
  const [rowsB, colsB] = transposeB ? [n, k] : [k, n];
  const a = random(m * k, 6), b = random(k * n, 7);
  const strideA = strideFor(colsA), strideB = strideFor(colsB), strideC = strideFor(n);
  const before = random(odd + m * strideC + 5, 8);
  // What lies between the values must not matter.
  using bufferA = device.uploadBuffer(
    "a",
    lay(a, { rows: rowsA, cols: colsA, stride: strideA, offset: odd, fill: NaN }),
  );
  using bufferB = device.uploadBuffer(
    "b",
    lay(b, { rows: rowsB, cols: colsB, stride: strideB, offset: odd, fill: NaN }),
  );
  using bufferC = device.uploadBuffer("c", before);
  using pool = new OperandPool(device, placement);
  using plan = new Plan(device);
  using _stale = soil(plan, pool, ["matmul-a", "matmul-b"]);
  recordMatmul(plan, {
    a: { buffer: bufferA, offset: odd, stride: strideA },
    b: { buffer: bufferB, offset: odd, stride: strideB },
    c: { buffer: bufferC, offset: odd, stride: strideC },
    m,
    n,
    k,
    transposeA,
    transposeB,
    alpha,
    accumulate,
    pool,
  });
  await plan.run();
  const product = oracle(
    k,
    (i, j) => a[transposeA ? j * m + i : i * k + j] ?? NaN,
    (j, i) => b[transposeB ? i * k + j : j * n + i] ?? NaN,
  );
  assertCells(await device.readFloats(bufferC, before.length), {
    what: JSON.stringify(test),
    rows: 1,
    stride: before.length,
    want(_, index): Cell {
      const old = before[index] ?? NaN;
      const row = Math.floor((index - odd) / strideC), column = (index - odd) % strideC;
      if (index < odd || row >= m || column >= n) return { value: old, bound: 0 };
      const base = accumulate ? old : 0;
      const { value, bound } = product.at(row, column);
      return { value: base + alpha * value, bound: Math.abs(alpha) * bound * 2 + 2 ** -23 * Math.abs(base) };
    },
  });
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`a general product by ${placement} matches the oracle for all transposes, ranks, offsets and strides`, async () => {
    for (const rank of [1, 3, 8, 17]) {
      const base = { placement, odd: rank === 3 || rank === 8 ? 0 : rank, alpha: 0.5, accumulate: rank % 2 === 1 };
      const [tokens, width] = rank === 8 ? [68, 132] : [37, 75];
      // h = x·Aᵀ, y += h·Bᵀ, dh = dy·B, dB = dyᵀ·h, dA = dhᵀ·x, dx += dh·A
      await checkMatmul({ ...base, m: tokens, n: rank, k: width, transposeA: false, transposeB: true });
      await checkMatmul({ ...base, m: tokens, n: width, k: rank, transposeA: false, transposeB: true });
      await checkMatmul({ ...base, m: tokens, n: rank, k: width, transposeA: false, transposeB: false });
      await checkMatmul({ ...base, m: width, n: rank, k: tokens, transposeA: true, transposeB: false });
      await checkMatmul({ ...base, m: rank, n: width, k: tokens, transposeA: true, transposeB: false });
      await checkMatmul({ ...base, m: tokens, n: width, k: rank, transposeA: false, transposeB: false });
      await checkMatmul({ ...base, m: rank, n: width, k: tokens, transposeA: true, transposeB: true });
    }
  });
}

Deno.test("a general product reads an operand's texture, and refuses a result in its own operand", async () => {
  const m = 9, n = 4, k = 20, stride = 64;
  const a = random(m * k, 1), b = random(n * k, 2);
  using x = device.uploadBuffer("x", lay(a, { rows: m, cols: k, stride, total: paddedRows(m) * stride }));
  using w = device.uploadBuffer("w", b);
  using y = device.createBuffer("y", 4 * m * n);
  using pool = new OperandPool(device, "texture");
  using plan = new Plan(device);
  const view = operand(plan, pool, x, { rows: m, stride });
  recordMatmul(plan, {
    a: view,
    b: { buffer: w, stride: k },
    c: { buffer: y, stride: n },
    m,
    n,
    k,
    transposeB: true,
    pool,
  });
  await plan.run();
  const product = oracle(k, (i, j) => a[i * k + j] ?? NaN, (j, i) => b[i * k + j] ?? NaN);
  assertCells(await device.readFloats(y, m * n), {
    what: "operand",
    rows: m,
    stride: n,
    want: (i, j) => product.at(i, j),
  });
  assert.throws(
    () => recordMatmul(new Plan(device), { a: view, b: view, c: view, m: 1, n: 1, k: 1 }),
    /operand's buffer/,
  );
});

Deno.test("a texture holds the bits of a view of any size, offset and stride, and zeros up to its width", async () => {
  const cases = [
    { rows: 1, columns: 1, width: 4, stride: 1, offset: 0, copies: 0 },
    { rows: 5, columns: 63, width: 64, stride: 65, offset: 3, copies: 0 },
    { rows: 9, columns: 64, width: 64, stride: 192, offset: 64, copies: 0 },
    { rows: 33, columns: 1021, width: 1024, stride: 1023, offset: 1, copies: 0 }, // large, but its rows are not aligned
    { rows: 3, columns: 66, width: 68, stride: 128, offset: 2, copies: 0 },
    { rows: 65, columns: 576, width: 576, stride: 640, offset: 64, copies: 1 },
  ];
  for (const { rows, columns, width, stride, offset, copies } of cases) {
    const values = random(offset + rows * stride, rows), what = `${rows} x ${columns} of ${stride}`;
    using buffer = device.uploadBuffer("view", values);
    using texture = device.createTexture("target", width / 4 + 1, rows + 1, "rgba32float");
    using plan = new WatchedPlan(device);
    fillTexture(plan, texture, { view: { buffer, offset, stride }, rows, columns, width });
    assert.equal(plan.names.length, 1 - copies, what);
    await plan.run();
    const found = await readTexture(device, texture.raw, [width / 4, rows]);
    const wanted = Float32Array.from({ length: rows * width }, (_, i) => {
      const column = i % width, at = offset + Math.floor(i / width) * stride + column;
      return column < columns ? values[at] ?? NaN : 0;
    });
    assert.deepEqual(found, wanted, what);
  }
});

Deno.test("a product from buffers of more groups than a grid is wide goes on in the next row of the grid", async () => {
  const SIDE = 4100, a = random(SIDE, 8), b = random(SIDE, 9); // 1025² tiles of 4×4, 32 in a group: 32,833 groups
  using bufferA = device.uploadBuffer("a", a);
  using bufferB = device.uploadBuffer("b", b);
  using bufferC = device.createBuffer("c", 4 * SIDE * SIDE);
  using plan = new Plan(device);
  recordMatmul(plan, {
    a: { buffer: bufferA, stride: 1 },
    b: { buffer: bufferB, stride: SIDE },
    c: { buffer: bufferC, stride: SIDE },
    ...{ m: SIDE, n: SIDE, k: 1 },
  });
  await plan.run();
  const product = await device.readFloats(bufferC, SIDE * SIDE);
  // Of one term the product in f32 is exact.
  const wrong = product.findIndex((value, at) =>
    value !== Math.fround((a[Math.floor(at / SIDE)] ?? NaN) * (b[at % SIDE] ?? NaN))
  );
  assert.equal(wrong, -1);
});

Deno.test("products leave no buffer or texture behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
