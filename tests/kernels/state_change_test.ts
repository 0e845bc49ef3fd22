// How much the rows of a residual stream change, against f64 sums and cosines.
import assert from "node:assert/strict";
import { stateChangeKernel } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { distanceOf } from "../../lib/nn/state_changes.ts";
import { assertValues, type Cell, dense, denseOf, random, ROUND, STALE, uploadActivation } from "./helpers/cells.ts";

/** Rows of another measure before those of this one. */
const FIRST = 2;
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

for (const lanes of [8, 64] as const) {
  Deno.test(`changes of rows give 1 − cosine, of rows that hardly change too, ${lanes} lanes`, async () => {
    using device: Device = await openDevice();
    for (const [rows, width] of [[1, 1], [3, 63], [65, 64], [2, 65], [3, 257], [2, 1030]] as const) {
      for (const size of [1, 1e-3]) {
        const x = dense(rows, width, { seed: width, size: 5 }), moves = random(rows * width, 3);
        const y = denseOf(rows, width, x.values.map((value, i) => value + size * (moves[i] ?? NaN)));
        using before = uploadActivation(device, x);
        using after = uploadActivation(device, y);
        using changes = device.uploadBuffer("changes", new Float32Array(3 * (FIRST + rows)).fill(STALE));
        using plan = new Plan(device);
        const params = [strideOf(width) / 4, FIRST].map(u32);
        plan.dispatch(compileKernel(device, stateChangeKernel(lanes)), [before, after, changes, { params }], {
          groups: [rows],
        });
        await plan.run();
        const got = await device.readFloats(changes, 3 * (FIRST + rows)), what = `${rows} × ${width}, ${size}`;
        const pairs = (row: number): (readonly [number, number])[] =>
          Array.from({ length: width }, (_, column) => [x.at(row, column), y.at(row, column)]);
        assertValues(got, {
          what: `${what} (value index mod 3: Σd², Σd·(x + y), Σx²)`,
          want: (index): Cell => {
            const row = Math.floor(index / 3) - FIRST;
            if (row < 0) return { value: STALE, bound: 0 };
            const own = pairs(row),
              terms = own.map(([a, b]) => [(b - a) ** 2, (b - a) * (a + b), a * a][index % 3] ?? NaN);
            // Each term has some roundings, and each sum as many as its longest chain.
            return { value: sum(terms), bound: (8 + width / lanes) * ROUND * sum(terms.map(Math.abs)) };
          },
        });
        for (let row = 0; row < rows; row++) {
          const own = pairs(row), dot = sum(own.map(([a, b]) => a * b));
          const norms = Math.sqrt(sum(own.map(([a]) => a * a)) * sum(own.map(([, b]) => b * b)));
          const distance = distanceOf(got.subarray(3 * (FIRST + row))), wanted = 1 - dot / norms;
          const change = Math.sqrt(sum(own.map(([a, b]) => (b - a) ** 2)) / sum(own.map(([a]) => a * a)));
          // Two terms of the order of change² cancel; f64's own 1 − cosine errs by 2⁻⁵².
          const bound = 64 * ROUND * change ** 2 + 2 ** -50;
          assert.ok(Math.abs(distance - wanted) <= bound, `${what}, row ${row}: ${distance} instead of ${wanted}`);
        }
      }
    }
  });
}

Deno.test("rows of zeros are no nearer to others than a right angle", () => {
  assert.deepEqual([[0, 0, 0], [0, 0, 4], [4, 4, 0], [4, -4, 4], [NaN, 1, 1]].map(distanceOf), [0, 0, 1, 1, NaN]);
});
