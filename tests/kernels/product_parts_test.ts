// Products of many dispatches, so that none takes long: the same bits as of one.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { paddedRows, strideOf } from "../../lib/nn/layout.ts";
import { operand, OperandPool, recordLinear, recordMatmul } from "../../lib/nn/linear.ts";
import { rowParts } from "../../lib/nn/matmul.ts";
import { createMatrix, writeRows } from "../../lib/nn/matrix.ts";
import { random } from "./helpers/cells.ts";

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
  using device = await openDevice();
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
  using device = await openDevice();
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
