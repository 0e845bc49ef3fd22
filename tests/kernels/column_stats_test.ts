// Biases and running statistics of columns against f64 oracles.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { partialFloats, recordBias, recordColumnStats, rowBlocks } from "../../lib/nn/ops.ts";
import { ROW_BLOCK } from "../../kernels/mod.ts";
import {
  assertActivation,
  assertValues,
  type Dense,
  dense,
  denseOf,
  lay,
  random,
  ROUND,
  STALE,
  uploadActivation,
} from "./helpers/cells.ts";

const device: Device = await openDevice();

/** Rows around the block of 64, widths around the stride and the 256 columns of a workgroup. */
const SIZES = [[1, 1], [3, 63], [63, 64], [64, 65], [65, 255], [130, 257], [200, 5], [2, 700]] as const;

/** A batch: values, and which rows count. */
interface Given {
  readonly x: Dense;
  readonly keep: Uint32Array<ArrayBuffer>;
}

/** Runs the batches one after another; returns mean and squared deviations of each column, padding included. */
async function statsOf(batches: readonly Given[]): Promise<{ mean: Float32Array; squares: Float32Array }> {
  const { rows, cols } = batches[0]?.x ?? { rows: 1, cols: 1 }, stride = strideOf(cols);
  using stats = device.createBuffer("stats", 8 * stride);
  let before = 0;
  for (const { x, keep } of batches) {
    const blocks = Array.from(
      { length: rowBlocks(rows) },
      (_, k) => keep.slice(k * ROW_BLOCK, (k + 1) * ROW_BLOCK).reduce((sum, flag) => sum + flag, 0),
    );
    // Rows beyond the last hold what must not count.
    using input = uploadActivation(device, x);
    using flags = device.uploadBuffer("keep", keep);
    using counts = device.uploadBuffer("counts", Uint32Array.of(before, ...blocks));
    using partial = device.uploadBuffer(
      "partial",
      new Float32Array(2 * partialFloats({ rows, width: cols })).fill(STALE),
    );
    using plan = new Plan(device);
    recordColumnStats(plan, { x: input, keep: flags, counts, partial, stats }, { rows, width: cols });
    await plan.run();
    before += blocks.reduce((sum, count) => sum + count, 0);
  }
  const values = await device.readFloats(stats, 2 * stride);
  return { mean: values.subarray(0, stride), squares: values.subarray(stride) };
}

/** Kept rows of all batches, column by column. */
function kept(batches: readonly Given[], column: number): number[] {
  return batches.flatMap(({ x, keep }) =>
    Array.from({ length: x.rows }, (_, row) => row).filter((row) => keep[row] === 1).map((row) => x.at(row, column))
  );
}

function oracle(values: readonly number[]): { mean: number; squares: number; largest: number; range: number } {
  const mean = values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
  return {
    mean,
    squares: values.reduce((sum, value) => sum + (value - mean) ** 2, 0),
    largest: Math.max(0, ...values.map(Math.abs)),
    range: Math.max(0, ...values) - Math.min(0, ...values),
  };
}

Deno.test("recordBias() adds the bias to every row for every size, and leaves padding rows alone", async () => {
  for (const [rows, cols] of SIZES) {
    const y = dense(rows, cols, { seed: 3 }), b = random(cols, 4);
    using output = uploadActivation(device, y);
    using bias = device.uploadBuffer("b", lay(b, { rows: 1, cols, stride: strideOf(cols) }));
    using plan = new Plan(device);
    recordBias(plan, { b: bias, y: output }, { rows, width: cols });
    await plan.run();
    await assertActivation(device, output, {
      what: `bias ${rows} × ${cols}`,
      rows,
      cols,
      fill: 0,
      want: (row, column) => {
        const value = y.at(row, column) + (b[column] ?? NaN);
        return { value, bound: ROUND * Math.abs(value) };
      },
    });
  }
});

Deno.test("recordColumnStats() gives mean and squared deviations of the kept rows over several batches, for every size", async () => {
  for (const [rows, cols] of SIZES) {
    const batches = [1, 2, 3].map((seed): Given => ({
      x: dense(rows, cols, { seed, size: seed }),
      keep: Uint32Array.from(random(rows, 10 + seed), (value) => value < 0.4 ? 1 : 0),
    }));
    const { mean, squares } = await statsOf(batches);
    // Roundings of a sum over a block, of the rows kept before in as many blocks, and of a few operations each.
    const steps = ROW_BLOCK + 6 * 3 * rowBlocks(rows) + 8;
    const column = (index: number): ReturnType<typeof oracle> & { error: number; count: number } => {
      const own = index < cols ? kept(batches, index) : [], found = oracle(own);
      return { ...found, count: own.length, error: steps * ROUND * found.largest };
    };
    assertValues(mean, {
      what: `mean ${rows} × ${cols}`,
      want: (index) => ({ value: column(index).mean, bound: column(index).error }),
    });
    assertValues(squares, {
      what: `squares ${rows} × ${cols}`,
      want: (index) => {
        const { squares, error, range, count } = column(index);
        return { value: squares, bound: 2 * steps * ROUND * squares + count * error * (error + 2 * range) };
      },
    });
  }
});

Deno.test("recordColumnStats() of a large mean and a small deviation does not cancel", async () => {
  const rows = 130, cols = 3;
  const batches = [1, 2].map((seed): Given => ({
    x: denseOf(rows, cols, random(rows * cols, seed).map((value) => 1000 + value)),
    keep: new Uint32Array(rows).fill(1),
  }));
  const { squares } = await statsOf(batches);
  for (let column = 0; column < cols; column++) {
    const wanted = oracle(kept(batches, column)).squares, actual = squares[column] ?? NaN;
    // Deviations from an f32 mean near 1000 are off by some 1e-4, which enters squared; Σx² − n·μ² in f32 would be off by more than the result.
    assert.ok(Math.abs(actual / wanted - 1) < 1e-4, `column ${column}: ${actual} instead of ${wanted}`);
  }
});

Deno.test("recordColumnStats() without a kept row changes nothing, at first and later", async () => {
  const x = dense(70, 5, { seed: 1 }), none = new Uint32Array(70), all = new Uint32Array(70).fill(1);
  const empty = await statsOf([{ x, keep: none }]);
  assert.ok([...empty.mean, ...empty.squares].every((value) => value === 0));
  const once = await statsOf([{ x, keep: all }]),
    again = await statsOf([{ x, keep: none }, { x, keep: all }, {
      x: dense(70, 5, { seed: 2 }),
      keep: none,
    }]);
  assert.deepEqual([...again.mean, ...again.squares], [...once.mean, ...once.squares]);
});
