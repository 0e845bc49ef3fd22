// Σ|W ∘ dL/dW| by row and by column against an f64 oracle, from every storage of W, across shards and chunks.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { createMatrix, writeRows } from "../../lib/nn/products/matrix.ts";
import { slotSlice } from "../../lib/nn/mask_slots.ts";
import { recordWeightTerms, weightTermFloats } from "../../lib/nn/train/weight_terms.ts";
import { assertValues, type Cell, dense, denseOf, ROUND, STALE, uploadActivation } from "./helpers/cells.ts";
import { DTYPES, stored as storedValues } from "./helpers/stored.ts";

const device: Device = await openDevice();

/** W [rows, cols] and tokens, around strides, shards and the vectors of a workgroup. */
const SIZES = [[1, 1, 1], [3, 63, 5], [64, 65, 33], [65, 64, 70], [150, 130, 3], [130, 300, 40]] as const;

for (const placement of ["texture", "buffer"] as const) {
  for (const dtype of DTYPES) {
    Deno.test(`recordWeightTerms() sums |W ∘ dyᵀ·x| by row and column of a ${placement} of ${dtype}, for every size`, async () => {
      for (const [rows, cols, tokens] of SIZES) {
        for (const [maxShardRows, chunk, lanes] of [[1024, 1024, 8], [64, 1024, 64], [1024, 64, 8]] as const) {
          const table = dense(rows, cols, { seed: rows }), x = dense(tokens, cols, { seed: 1 });
          const dy = dense(tokens, rows, { seed: 2 }), stride = strideOf(cols);
          using matrix = createMatrix(device, "W", { rows, cols, dtype, placement, maxShardRows });
          writeRows(device, matrix, 0, table.values);
          const w = denseOf(rows, cols, storedValues(table.values, { cols, dtype }));
          using pool = new OperandPool(device, placement);
          using input = uploadActivation(device, x);
          using gradient = uploadActivation(device, dy);
          // What another matrix of another width left there.
          const floats = Math.min(weightTermFloats(matrix), chunk * stride);
          using scratch = device.uploadBuffer("scratch", new Float32Array(floats).fill(STALE));
          const count = strideOf(rows) + stride;
          using sums = device.uploadBuffer("sums", new Float32Array(count).fill(STALE));
          using plan = new Plan(device);
          recordWeightTerms(plan, matrix, {
            x: { buffer: input, stride },
            dy: operand(plan, pool, gradient, { rows: tokens, stride: strideOf(rows) }),
            scratch,
            rows: slotSlice(sums, 0, rows),
            columns: slotSlice(sums, strideOf(rows), cols),
          }, { tokens, pool, lanes });
          await plan.run();

          const term = (row: number, column: number): Cell => {
            let sum = 0, size = 0;
            for (let t = 0; t < tokens; t++) {
              const part = dy.at(t, row) * x.at(t, column);
              sum += part;
              size += Math.abs(part);
            }
            const weight = Math.abs(w.at(row, column));
            return { value: weight * Math.abs(sum), bound: weight * size };
          };
          const total = (of: (index: number) => Cell, length: number): Cell => {
            let value = 0, bound = 0;
            for (let index = 0; index < length; index++) {
              const own = of(index);
              value += own.value;
              bound += own.bound;
            }
            return { value, bound: (tokens + length + 2) * ROUND * bound };
          };
          const all = await device.readFloats(sums, count);
          const what = `${rows} × ${cols}, ${tokens} tokens, shards of ${maxShardRows}, chunks of ${chunk}`;
          assertValues(all.subarray(0, strideOf(rows)), {
            what: `${what}, rows`,
            want: (row) => row < rows ? total((column) => term(row, column), cols) : { value: STALE, bound: 0 },
          });
          assertValues(all.subarray(strideOf(rows)), {
            what: `${what}, columns`,
            want: (column) => column < cols ? total((row) => term(row, column), rows) : { value: 0, bound: 0 },
          });
        }
      }
    });
  }
}

Deno.test("the piece of dL/dW that is held stays within 32 MiB for matrices of any size, and holds 64 rows", () => {
  for (const [rows, cols] of [[11008, 4096], [28672, 8192], [8192, 28672], [64, 64], [70, 4_000_000]] as const) {
    const floats = weightTermFloats({ paddedRows: strideOf(rows), stride: strideOf(cols) });
    assert.ok(floats >= 64 * strideOf(cols) && (floats <= 8 << 20 || floats === 64 * strideOf(cols)), `${floats}`);
  }
});

Deno.test("recordWeightTerms() leaves no buffer or texture behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
