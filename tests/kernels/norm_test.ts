// RMSNorm and its backward against f64 oracles, the oracle against finite differences.
import assert from "node:assert/strict";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { headStride, strideOf } from "../../lib/nn/padding.ts";
import {
  recordHeadNorm,
  recordHeadNormBackward,
  recordNorm,
  recordNormBackward,
  recordOutputNorm,
  recordOutputNormBackward,
} from "../../lib/nn/norm.ts";
import {
  assertActivation,
  assertGradient,
  assertValues,
  type Cell,
  type Dense,
  dense,
  denseOf,
  HEADS,
  lay,
  random,
  ROUND,
  spread,
  STALE,
  staleActivation,
  uploadActivation,
} from "./helpers/cells.ts";

const device: Device = await openDevice();

/** Invocations of a row; 64 of them sum 256 columns a turn. */
const LANES = [8, 64] as const;
const SIZES = [[1, 1], [2, 3], [65, 63], [3, 64], [5, 65], [4, 255], [3, 257], [2, 1030]] as const;
const EPS = 1e-5;

const specOf = (hidden: number, normEps: number) => ({ hidden, normEps });

interface NormRow {
  /** 1 / rms. */
  readonly r: number;
  readonly y: Float64Array;
}

function norm(x: ArrayLike<number>, w: ArrayLike<number>, eps: number): NormRow {
  let squares = 0;
  for (let c = 0; c < x.length; c++) squares += (x[c] ?? NaN) ** 2;
  const r = 1 / Math.sqrt(squares / x.length + eps);
  return { r, y: Float64Array.from(x, (value, c) => value * r * (w[c] ?? NaN)) };
}

/** dx of Σ dy·norm(x), and the size of the two terms that are subtracted, for the error's bound. */
function normGradient(
  dy: ArrayLike<number>,
  x: ArrayLike<number>,
  { w, eps }: { w: ArrayLike<number>; eps: number },
): { dx: Float64Array; size: Float64Array } {
  const { r } = norm(x, w, eps), width = x.length;
  let dot = 0, dotSize = 0;
  for (let c = 0; c < width; c++) {
    const term = (dy[c] ?? NaN) * (w[c] ?? NaN) * (x[c] ?? NaN);
    dot += term;
    dotSize += Math.abs(term);
  }
  const first = (c: number): number => r * (dy[c] ?? NaN) * (w[c] ?? NaN);
  const factor = r ** 3 / width;
  return {
    dx: Float64Array.from(x, (value, c) => first(c) - value * factor * dot),
    size: Float64Array.from(x, (value, c) => Math.abs(first(c)) + Math.abs(value) * factor * dotSize),
  };
}

/** Roundings of the sum (turns of four, the tree of the lanes), of its root (2 ulp), and of a few products. */
const roundings = (width: number, lanes: number): number =>
  Math.ceil(width / (4 * lanes)) + 2 + Math.log2(lanes) + 3 * 4 + 8;

Deno.test("the gradient of RMSNorm is that of finite differences", () => {
  for (const width of [1, 3, 10]) {
    const x = random(width, 1), w = random(width, 2), dy = random(width, 3);
    assertGradient((moved) => norm(moved, w, EPS).y.reduce((sum, y, c) => sum + y * (dy[c] ?? NaN), 0), x, {
      what: `width ${width}`,
      gradient: normGradient(dy, x, { w, eps: EPS }).dx,
    });
  }
});

for (const lanes of LANES) {
  Deno.test(`recordNorm() takes the mean over the width, not the stride, for every size, with ${lanes} lanes`, async () => {
    for (const [rows, width] of SIZES) {
      for (const [size, eps] of [[3, EPS], [1e-3, 0.25], [1e6, EPS]] as const) {
        const x = dense(rows, width, { seed: 1, size }), w = random(width, 2);
        using xBuffer = uploadActivation(device, x);
        using wBuffer = device.uploadBuffer("w", lay(w, { rows: 1, cols: width, stride: strideOf(width) }));
        using y = staleActivation(device, rows, width);
        using r = device.uploadBuffer("r", new Float32Array(rows + 2).fill(STALE));
        using plan = new Plan(device);
        recordNorm(plan, { weight: wBuffer, bias: null }, { x: xBuffer, y, r }, {
          rows,
          spec: specOf(width, eps),
          lanes,
        });
        await plan.run();
        const wanted = Array.from({ length: rows }, (_, row) => norm(rowOf(x.values, row, width), w, eps));
        const what = `${rows} × ${width}, size ${size}, ε ${eps}`;
        await assertActivation(device, y, {
          what,
          rows,
          cols: width,
          want(row, column): Cell {
            const value = wanted[row]?.y[column] ?? NaN;
            return { value, bound: roundings(width, lanes) * ROUND * Math.abs(value) };
          },
        });
        assertValues(await device.readFloats(r, rows + 2), {
          what: `r of ${what}`,
          want(row): Cell {
            if (row >= rows) return { value: STALE, bound: 0 };
            const value = wanted[row]?.r ?? NaN;
            return { value, bound: roundings(width, lanes) * ROUND * value };
          },
        });
      }
    }
  });
}
Deno.test("recordNorm() of a row of zeros is zero", async () => {
  using x = uploadActivation(device, denseOf(2, 5, Float32Array.of(0, 0, 0, 0, 0, 1, 1, 1, 1, 1)));
  using w = device.uploadBuffer("w", lay(Float32Array.of(1, 1, 1, 1, 1), { rows: 1, cols: 5, stride: 64 }));
  using y = staleActivation(device, 2, 5);
  using r = device.createBuffer("r", 8);
  using plan = new Plan(device);
  recordNorm(plan, { weight: w, bias: null }, { x, y, r }, { rows: 2, spec: specOf(5, EPS), lanes: 64 });
  await plan.run();
  await assertActivation(device, y, {
    what: "zeros",
    rows: 2,
    cols: 5,
    want: (row) => ({ value: row / Math.sqrt(1 + EPS), bound: row * roundings(5, 64) * ROUND }),
  });
});

for (const lanes of LANES) {
  Deno.test(`recordNormBackward() gives dx for every size, set or accumulated, with ${lanes} lanes`, async () => {
    for (const accumulate of [false, true]) {
      for (const [rows, width] of SIZES) {
        const x = dense(rows, width, { seed: 1, size: 2 }), dy = dense(rows, width, { seed: 3 }), w = random(width, 2);
        const before = dense(rows, width, { seed: 4 });
        const oneRow = (row: number): Float32Array => rowOf(x.values, row, width);
        using xBuffer = uploadActivation(device, x);
        using dyBuffer = uploadActivation(device, dy);
        using wBuffer = device.uploadBuffer("w", lay(w, { rows: 1, cols: width, stride: strideOf(width) }));
        using r = device.uploadBuffer(
          "r",
          Float32Array.from({ length: rows }, (_, row) => norm(oneRow(row), w, EPS).r),
        );
        using dx = accumulate ? uploadActivation(device, before) : staleActivation(device, rows, width);
        using plan = new Plan(device);
        recordNormBackward(plan, { weight: wBuffer, bias: null }, { dy: dyBuffer, x: xBuffer, r, dx }, {
          rows,
          spec: specOf(width, EPS),
          accumulate,
          lanes,
        });
        await plan.run();
        const wanted = Array.from(
          { length: rows },
          (_, row) => normGradient(rowOf(dy.values, row, width), oneRow(row), { w, eps: EPS }),
        );
        await assertActivation(device, dx, {
          what: `${rows} × ${width}${accumulate ? " (+=)" : ""}`,
          rows,
          cols: width,
          fill: accumulate ? 0 : STALE,
          want(row, column): Cell {
            const { dx: values, size } = wanted[row] ?? { dx: [], size: [] };
            const base = accumulate ? before.at(row, column) : 0;
            const bound = roundings(width, lanes) * ROUND * (size[column] ?? NaN) + 2 * ROUND * Math.abs(base);
            return { value: base + (values[column] ?? NaN), bound };
          },
        });
      }
    }
  });
}

for (const lanes of LANES) {
  Deno.test(`recordOutputNorm() and its backward norm the masked output for every size, with ${lanes} lanes`, async () => {
    for (const [rows, width] of SIZES) {
      for (const [size, eps] of [[3, EPS], [1e-3, 0.25]] as const) {
        const x = dense(rows, width, { seed: 1 }), y = dense(rows, width, { seed: 2, size }), w = random(width, 3);
        const dout = dense(rows, width, { seed: 4 }), z = random(width, 5).map((value) => value < -0.5 ? 0 : value);
        const vector = (values: Float32Array): ReturnType<typeof lay> =>
          lay(values, { rows: 1, cols: width, stride: strideOf(width) });
        using xBuffer = uploadActivation(device, x);
        using yBuffer = uploadActivation(device, y);
        using doutBuffer = uploadActivation(device, dout);
        using wBuffer = device.uploadBuffer("w", vector(w));
        using zBuffer = device.uploadBuffer("z", vector(Float32Array.from(z)));
        using out = staleActivation(device, rows, width);
        using du = staleActivation(device, rows, width);
        using plan = new Plan(device);
        const extent = { rows, width, eps, lanes }, io = { y: yBuffer, z: zBuffer, w: wBuffer };
        recordOutputNorm(plan, { ...io, x: xBuffer, out }, extent);
        recordOutputNormBackward(plan, { ...io, dout: doutBuffer, du }, extent);
        await plan.run();
        const wanted = Array.from({ length: rows }, (_, row) => {
          const u = Float64Array.from(rowOf(y.values, row, width), (value, c) => value * Math.fround(z[c] ?? NaN));
          return { ...norm(u, w, eps), ...normGradient(rowOf(dout.values, row, width), u, { w, eps }) };
        });
        const what = `${rows} × ${width}, size ${size}`, count = roundings(width, lanes);
        await assertActivation(device, out, {
          what,
          rows,
          cols: width,
          want(row, column): Cell {
            const normed = wanted[row]?.y[column] ?? NaN, base = x.at(row, column);
            return { value: base + normed, bound: (count * Math.abs(normed) + 2 * Math.abs(base)) * ROUND };
          },
        });
        await assertActivation(device, du, {
          what: `gradient of ${what}`,
          rows,
          cols: width,
          // As for heads: r is computed anew, and its third power.
          want: (row, column) => ({
            value: wanted[row]?.dx[column] ?? NaN,
            bound: 4 * count * ROUND * (wanted[row]?.size[column] ?? NaN),
          }),
        });
      }
    }
  });
}

for (const lanes of LANES) {
  for (const [kind, perLane] of [["head", false], ["head", true], ["whole", false]] as const) {
    const isWhole = kind === "whole";
    const what = isWhole ? "norm all heads together" : `norm each head by itself${perLane ? ", in a lane" : ""}`;
    Deno.test(`recordHeadNorm() and its backward ${what}, for every size, with ${lanes} lanes`, async () => {
      for (const [rows, heads, headDim] of HEADS) {
        for (const [size, eps] of [[3, EPS], [1e-3, 0.25]] as const) {
          const hs = headStride(headDim), cols = heads * hs, what = `${rows} × ${heads} × ${headDim}, size ${size}`;
          const x = dense(rows, heads * headDim, { seed: 1, size }), dy = dense(rows, heads * headDim, { seed: 3 });
          // The columns that are normalised together.
          const width = isWhole ? heads * headDim : headDim, w = random(width, 2);
          const shape = { rows, heads, headDim, eps, lanes, norm: kind, perLane };
          using xBuffer = uploadActivation(device, spread(x, headDim));
          using wBuffer = isWhole
            ? uploadActivation(device, spread(denseOf(1, width, w), headDim))
            : device.uploadBuffer("w", lay(w, { rows: 1, cols: headDim, stride: hs }));
          using y = staleActivation(device, rows, cols);
          using d = uploadActivation(device, spread(dy, headDim));
          using plan = new Plan(device);
          recordHeadNorm(plan, { x: xBuffer, w: wBuffer, y }, shape);
          recordHeadNormBackward(plan, { x: xBuffer, w: wBuffer, dy: d }, shape);
          await plan.run();
          const norms = heads * headDim / width;
          const of = (values: Dense, index: number): Float32Array =>
            values.values.subarray(index * width, (index + 1) * width);
          const wanted = Array.from({ length: rows * norms }, (_, i) => {
            const own = of(x, i);
            return { ...norm(own, w, eps), ...normGradient(of(dy, i), own, { w, eps }) };
          });
          const cell =
            (give: (own: typeof wanted[number], c: number) => Cell) => (row: number, column: number): Cell => {
              const head = Math.floor(column / hs), c = column % hs, at = (row * heads + head) * headDim + c;
              const own = wanted[Math.floor(at / width)];
              return own && head < heads && c < headDim ? give(own, at % width) : { value: 0, bound: 0 };
            };
          // The backward computes r anew, and its third power.
          const count = roundings(width, perLane ? 1 : lanes), forward = count * ROUND, backward = 4 * count * ROUND;
          await assertActivation(device, y, {
            what,
            rows,
            cols,
            want: cell((own, c) => ({ value: own.y[c] ?? NaN, bound: forward * Math.abs(own.y[c] ?? NaN) })),
          });
          await assertActivation(device, d, {
            what: `gradient of ${what}`,
            rows,
            cols,
            fill: 0,
            want: cell((own, c) => ({ value: own.dx[c] ?? NaN, bound: backward * (own.size[c] ?? NaN) })),
          });
        }
      }
    });
  }
}

Deno.test("norms leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});

function rowOf(values: Float32Array, row: number, width: number): Float32Array {
  return values.subarray(row * width, (row + 1) * width);
}
