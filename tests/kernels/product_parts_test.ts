// Products of many dispatches, so that none takes long (the same bits as of one), or as a texture has fewer rows than an operand.
import assert from "node:assert/strict";
import { Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { paddedRows, strideOf } from "../../lib/nn/padding.ts";
import { recordLinear } from "../../lib/nn/products/linear.ts";
import { operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { recordMatmul, rowParts } from "../../lib/nn/products/matmul.ts";
import { createMatrix, writeRows } from "../../lib/nn/products/matrix.ts";
import { assertCells, type Cell, lay, random } from "./helpers/cells.ts";
import { DTYPES, stored } from "./helpers/stored.ts";
import { sharedDevice } from "../device.ts";

/** Texels of a side: whole parts have 128 rows. */
const LIMIT = 150;

/** A device that does with small textures. */
class NarrowDevice extends Device {
  readonly #limits = new Proxy(this.gpu.limits, {
    get: (limits, name) => name === "maxTextureDimension2D" ? LIMIT : Reflect.get(limits, name, limits),
  });

  override get limits(): GPUSupportedLimits {
    return this.#limits;
  }
}

/** It frees what {@link openDevice} opened. */
async function openNarrow(): Promise<Device> {
  const { gpu, facts, subgroups } = await openDevice();
  return new NarrowDevice(gpu, facts, { subgroups });
}

/** Σ of the terms in f64, with the bound of an f32 sum in any order. */
function sumOf(count: number, term: (index: number) => number): Cell {
  let value = 0, size = 0;
  for (let index = 0; index < count; index++) {
    const part = term(index);
    value += part;
    size += Math.abs(part);
  }
  return { value, bound: (count + 3) * 2 ** -24 * size };
}

Deno.test("rows fall into parts of whole tiles, each at most as long as is asked for where a tile allows it", () => {
  const parts = (rows: number, dispatchCost: number): number[] =>
    rowParts(rows, { cost: 10, tileRows: 4, dispatchCost }).map(({ rows }) => rows);
  assert.deepEqual(parts(13, 1e10), [13]);
  assert.deepEqual(parts(13, 80), [8, 5]);
  assert.deepEqual(parts(13, 119), [8, 5]);
  for (const least of [1, 40, 79]) assert.deepEqual(parts(13, least), [4, 4, 4, 1]);
  assert.deepEqual(rowParts(9, { cost: 10, tileRows: 4, dispatchCost: 40 }).map(({ first }) => first), [0, 4, 8]);
  assert.deepEqual(
    rowParts(4096, { cost: 2 * 11008 * 4096, tileRows: 64 }).map(({ rows }) => rows),
    Array(64).fill(64),
  );
  assert.deepEqual(rowParts(0, { cost: 10, tileRows: 4 }), []);
});

Deno.test("a product from buffers in many dispatches has the bits of one in one, in both directions and added", async () => {
  const device = await sharedDevice();
  const m = 150, rows = 130, cols = 70;
  for (const direction of ["forward", "backward"] as const) {
    for (const accumulate of [false, true]) {
      const [depth, width] = direction === "forward" ? [cols, rows] : [rows, cols];
      const strideX = strideOf(depth), stride = strideOf(width) + 64, columnOffset = 64;
      using matrix = createMatrix(device, "w", { rows, cols, dtype: "f16", placement: "buffer" });
      writeRows(device, matrix, 0, random(rows * cols, 1));
      const values = random(paddedRows(m) * strideX, 2).map((value, at) => at % strideX < depth ? value : 0);
      using x = device.uploadBuffer("x", values);
      using pool = new OperandPool(device, "buffer");
      const product = async (dispatchCost?: number): Promise<{ dispatches: number; y: Float32Array }> => {
        using y = device.uploadBuffer("y", random(paddedRows(m) * stride, 3));
        using plan = new Plan(device);
        const given = { rows: m, direction, accumulate, ...(dispatchCost ? { dispatchCost } : {}) };
        const view = operand(plan, pool, x, { rows: m, stride: strideX });
        recordLinear(plan, view, matrix, { buffer: y, stride, columnOffset }, given);
        await plan.run();
        return { dispatches: plan.length, y: await device.readFloats(y, paddedRows(m) * stride) };
      };
      const whole = await product(), parted = await product(1);
      assert.equal(whole.dispatches, 1);
      assert.ok(parted.dispatches >= 2, `${parted.dispatches} dispatches`);
      assert.deepEqual(parted.y, whole.y);
    }
  }
});

Deno.test("so has a general product, whichever operand is transposed", async () => {
  const device = await sharedDevice();
  const m = 37, n = 29, k = 23;
  for (const [transposeA, transposeB] of [[false, false], [true, false], [false, true], [true, true]] as const) {
    const [strideA, strideB, strideC] = [transposeA ? m + 3 : k + 3, transposeB ? k + 5 : n + 5, n + 7];
    using a = device.uploadBuffer("a", random(3 + (transposeA ? k : m) * strideA, 1));
    using b = device.uploadBuffer("b", random((transposeB ? n : k) * strideB, 2));
    const product = async (dispatchCost?: number): Promise<{ dispatches: number; c: Float32Array }> => {
      using c = device.uploadBuffer("c", random(5 + m * strideC, 3));
      using plan = new Plan(device);
      recordMatmul(plan, {
        ...{
          m,
          n,
          k,
          transposeA,
          transposeB,
          alpha: 0.75,
          accumulate: true,
          ...(dispatchCost ? { dispatchCost } : {}),
        },
        a: { buffer: a, offset: 3, stride: strideA },
        b: { buffer: b, stride: strideB },
        c: { buffer: c, offset: 5, stride: strideC },
      });
      await plan.run();
      return { dispatches: plan.length, c: await device.readFloats(c, 5 + m * strideC) };
    };
    const whole = await product(), parted = await product(4 * 2 * n * k);
    assert.equal(whole.dispatches, 1);
    assert.ok(parted.dispatches > 4, `${parted.dispatches} dispatches`);
    assert.deepEqual(parted.c, whole.c);
  }
});

/** A product of textures, each operand with an offset, or A with a texture that is there already. */
interface TextureCase {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly accumulate: boolean;
  readonly isOperand: boolean;
}

/** Compares C with the oracle, and returns it and the number of steps. */
async function textureProduct(device: Device, test: TextureCase): Promise<{ steps: number; c: Float32Array }> {
  const { m, n, k, transposeA, transposeB, accumulate, isOperand } = test, alpha = 0.75;
  const [rowsA, colsA] = transposeA ? [k, m] : [m, k], [rowsB, colsB] = transposeB ? [n, k] : [k, n];
  const a = random(m * k, 1), b = random(n * k, 2);
  const offset = isOperand ? 0 : 3, strideA = isOperand ? strideOf(colsA) : colsA + 3;
  const strideB = colsB + 5, strideC = n + 7, before = random(5 + m * strideC, 3);
  const total = isOperand ? paddedRows(rowsA) * strideA : offset + rowsA * strideA;
  // What lies between the values must not matter.
  using bufferA = device.uploadBuffer(
    "a",
    lay(a, { rows: rowsA, cols: colsA, stride: strideA, offset, total, fill: NaN }),
  );
  using bufferB = device.uploadBuffer("b", lay(b, { rows: rowsB, cols: colsB, stride: strideB, fill: NaN }));
  using bufferC = device.uploadBuffer("c", before);
  using pool = new OperandPool(device, "texture");
  using plan = new Plan(device);
  recordMatmul(plan, {
    ...{ m, n, k, transposeA, transposeB, alpha, accumulate, pool },
    a: isOperand
      ? operand(plan, pool, bufferA, { rows: rowsA, stride: strideA })
      : { buffer: bufferA, offset, stride: strideA },
    b: { buffer: bufferB, stride: strideB },
    c: { buffer: bufferC, offset: 5, stride: strideC },
  });
  await plan.run();
  const c = await device.readFloats(bufferC, before.length);
  assertCells(c, {
    what: JSON.stringify(test),
    rows: 1,
    stride: before.length,
    want(_, index): Cell {
      const old = before[index] ?? NaN, row = Math.floor((index - 5) / strideC), column = (index - 5) % strideC;
      if (index < 5 || column >= n) return { value: old, bound: 0 };
      const { value, bound } = sumOf(k, (i) => {
        const [left, right] = [
          a[transposeA ? i * m + row : row * k + i],
          b[transposeB ? column * k + i : i * n + column],
        ];
        return (left ?? NaN) * (right ?? NaN);
      });
      const base = accumulate ? old : 0;
      // Each of up to three parts is added to C: a rounding of what is there by then.
      return { value: base + alpha * value, bound: 2 * alpha * bound + 2 ** -22 * (Math.abs(base) + Math.abs(value)) };
    },
  });
  return { steps: plan.length, c };
}

Deno.test("products of operands with more rows than a texture are the oracle's, whichever is transposed", async () => {
  using device = await openNarrow();
  for (const [transposeA, transposeB] of [[false, false], [true, false], [false, true], [true, true]] as const) {
    for (const [m, n, k] of [[37, 5, 333], [64, 9, 300], [5, 37, 257], [33, 300, 5], [7, 385, 260]] as const) {
      for (const [accumulate, isOperand] of [[false, true], [true, false]] as const) {
        // An operand of more rows than a texture has none.
        if (isOperand && transposeA && k > LIMIT) continue;
        await textureProduct(device, { m, n, k, transposeA, transposeB, accumulate, isOperand });
      }
    }
  }
});

Deno.test("what textures have room for is one product still, and columns in parts have the bits of all at once", async () => {
  using narrow = await openNarrow();
  const device = await sharedDevice();
  const shared = { transposeA: false, transposeB: true, accumulate: true, isOperand: true };
  for (const [n, k, isParted] of [[128, 128, false], [128, 300, false], [333, 60, true]] as const) {
    const test = { ...shared, m: 37, n, k }, whole = await textureProduct(device, test);
    const { steps, c } = await textureProduct(narrow, test);
    assert.equal(steps > whole.steps, isParted, `${n} × ${k}`);
    assert.deepEqual(c, whole.c);
  }
});

Deno.test("a low-rank product goes with a matrix of more rows than a texture, of every dtype and in both directions", async () => {
  using device = await openNarrow();
  const m = 6, rows = 300, cols = 70, rank = 3;
  for (const direction of ["forward", "backward"] as const) {
    for (const dtype of DTYPES) {
      const isForward = direction === "forward", [depth, width] = isForward ? [cols, rows] : [rows, cols];
      const values = random(rows * cols, 1), weight = stored(values, { cols, dtype });
      const input = random(m * depth, 2), h = random(m * rank, 3), low = random(rank * width, 4);
      const strideX = strideOf(depth), stride = strideOf(width);
      using matrix = createMatrix(device, "w", { rows, cols, dtype, placement: "texture" });
      writeRows(device, matrix, 0, values);
      using x = device.uploadBuffer(
        "x",
        lay(input, { rows: m, cols: depth, stride: strideX, total: paddedRows(m) * strideX }),
      );
      using bufferH = device.uploadBuffer("h", h);
      using bufferLow = device.uploadBuffer("low", low);
      using y = device.createBuffer("y", 4 * paddedRows(m) * stride);
      using pool = new OperandPool(device, "texture");
      using plan = new Plan(device);
      recordLinear(plan, operand(plan, pool, x, { rows: m, stride: strideX }), matrix, { buffer: y, stride }, {
        rows: m,
        direction,
        low: {
          h: { buffer: bufferH, stride: rank },
          weight: { buffer: bufferLow, stride: isForward ? rank : width },
          rank,
          pool,
        },
      });
      await plan.run();
      assertCells(await device.readFloats(y, m * stride), {
        what: `${direction} ${dtype}`,
        rows: m,
        stride,
        want: (row, column) =>
          column >= width ? { value: 0, bound: 0 } : sumOf(depth + rank, (i) => {
            const j = i - depth;
            if (j >= 0) {
              return (h[row * rank + j] ?? NaN) * (low[isForward ? column * rank + j : j * width + column] ?? NaN);
            }
            return (input[row * depth + i] ?? NaN) * (weight[isForward ? column * cols + i : i * cols + column] ?? NaN);
          }),
      });
    }
  }
});
