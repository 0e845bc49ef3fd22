// LayerNorm and its backward against f64 oracles, the oracle against finite differences.
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { headStride, strideOf } from "../../lib/nn/padding.ts";
import { recordHeadNorm, recordHeadNormBackward, recordNorm, recordNormBackward } from "../../lib/nn/norm.ts";
import {
  assertActivation,
  assertGradient,
  assertValues,
  type Cell,
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

const LANES = [8, 64] as const;
const SIZES = [[1, 1], [2, 3], [65, 63], [3, 64], [5, 65], [4, 255], [3, 257], [2, 1030]] as const;
const EPS = 1e-5;

interface NormRow {
  readonly mean: number;
  /** Mean of |x|: the size of the rounding error of the mean. */
  readonly size: number;
  readonly r: number;
  /** (x − mean) · r. */
  readonly n: Float64Array;
}

function norm(x: ArrayLike<number>, eps: number): NormRow {
  const values = Float64Array.from(x), width = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / width;
  const size = values.reduce((sum, value) => sum + Math.abs(value), 0) / width;
  const r = 1 / Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width + eps);
  return { mean, size, r, n: values.map((value) => (value - mean) * r) };
}

/** dx of Σ dy · (norm(x) · w + b), and the size of the terms that are subtracted. */
function normGradient(
  dy: ArrayLike<number>,
  x: ArrayLike<number>,
  w: ArrayLike<number>,
): { readonly dx: Float64Array; readonly size: Float64Array } {
  const { r, n } = norm(x, EPS), width = n.length;
  const g = Float64Array.from({ length: width }, (_, c) => (dy[c] ?? NaN) * (w[c] ?? NaN));
  const mean = (of: (c: number) => number): number => g.reduce((sum, _, c) => sum + of(c), 0) / width;
  const offset = mean((c) => g[c] ?? NaN), factor = mean((c) => (g[c] ?? NaN) * (n[c] ?? NaN));
  const offsetSize = mean((c) => Math.abs(g[c] ?? NaN)),
    factorSize = mean((c) => Math.abs((g[c] ?? NaN) * (n[c] ?? NaN)));
  return {
    dx: g.map((value, c) => r * (value - offset - (n[c] ?? NaN) * factor)),
    size: g.map((value, c) => r * (Math.abs(value) + offsetSize + (1 + Math.abs(n[c] ?? NaN)) * factorSize)),
  };
}

/** Roundings of a sum over the row (turns of four, the tree of the lanes), of a root (2 ulp), and of a few products. */
const roundings = (width: number, lanes: number): number =>
  Math.ceil(width / (4 * lanes)) + 2 + Math.log2(lanes) + 3 * 4 + 8;

const rowOf = (values: Float32Array, row: number, width: number): Float32Array =>
  values.subarray(row * width, (row + 1) * width);

Deno.test("the gradient of LayerNorm is that of finite differences", () => {
  for (const width of [2, 3, 10]) {
    const x = random(width, 1), w = random(width, 2), dy = random(width, 3);
    assertGradient(
      (moved) => norm(moved, EPS).n.reduce((sum, n, c) => sum + n * (w[c] ?? NaN) * (dy[c] ?? NaN), 0),
      x,
      { what: `width ${width}`, gradient: normGradient(dy, x, w).dx },
    );
  }
});

for (const [lanes, perLane] of [[8, false], [8, true], [64, false]] as const) {
  const how = `with ${lanes} lanes${perLane ? ", each with rows of its own" : ""}`, sharing = perLane ? 1 : lanes;
  Deno.test(`recordNorm() takes mean and variance over the width, not the stride, ${how}`, async () => {
    for (const [rows, width] of SIZES) {
      for (const [size, shift] of [[3, 0], [1, 100], [1e4, -1e4]] as const) {
        const plain = dense(rows, width, { seed: 1, size });
        const x = denseOf(rows, width, plain.values.map((value) => value + shift));
        const w = random(width, 2), b = random(width, 4), options = { rows: 1, cols: width, stride: strideOf(width) };
        using xBuffer = uploadActivation(device, x);
        using wBuffer = device.uploadBuffer("w", lay(w, options));
        using bBuffer = device.uploadBuffer("b", lay(b, options));
        using y = staleActivation(device, rows, width);
        using r = device.uploadBuffer("r", new Float32Array(rows + 2).fill(STALE));
        using plan = new Plan(device);
        recordNorm(plan, { weight: wBuffer, bias: bBuffer }, { x: xBuffer, y, r }, {
          rows,
          spec: { hidden: width, normEps: EPS },
          lanes,
          perLane,
        });
        await plan.run();
        const wanted = Array.from({ length: rows }, (_, row) => norm(rowOf(x.values, row, width), EPS));
        const what = `${rows} × ${width}, size ${size}, shift ${shift}`, each = roundings(width, sharing) * ROUND;
        // The mean is off by each · mean of |x|: so are all differences from it, and the root of their mean square.
        const shiftError = (row: number): number => each * (wanted[row]?.size ?? NaN) * (wanted[row]?.r ?? NaN);
        await assertActivation(device, y, {
          what,
          rows,
          cols: width,
          want(row, column): Cell {
            const n = wanted[row]?.n[column] ?? NaN, weight = w[column] ?? NaN, bias = b[column] ?? NaN;
            const off = shiftError(row) * (1 + Math.abs(n)) + each * (Math.abs(n) + 1);
            return { value: n * weight + bias, bound: off * Math.abs(weight) + ROUND * Math.abs(bias) + 1e-30 };
          },
        });
        assertValues(await device.readFloats(r, rows + 2), {
          what: `r of ${what}`,
          want(row): Cell {
            if (row >= rows) return { value: STALE, bound: 0 };
            const value = wanted[row]?.r ?? NaN;
            return { value, bound: (each + shiftError(row)) * value };
          },
        });
      }
    }
  });

  Deno.test(`recordNormBackward() gives dx for every size, added or not, ${how}`, async () => {
    for (const [rows, width] of SIZES) {
      for (const accumulate of [false, true]) {
        const x = dense(rows, width, { seed: 1, size: 3 }), dy = dense(rows, width, { seed: 5 });
        const before = dense(rows, width, { seed: 6 }), w = random(width, 2);
        const r = Float32Array.from({ length: rows }, (_, row) => norm(rowOf(x.values, row, width), EPS).r);
        using xBuffer = uploadActivation(device, x);
        using dyBuffer = uploadActivation(device, dy);
        using wBuffer = device.uploadBuffer("w", lay(w, { rows: 1, cols: width, stride: strideOf(width) }));
        using rBuffer = device.uploadBuffer("r", r);
        using dx = accumulate ? uploadActivation(device, before, { fill: 0 }) : staleActivation(device, rows, width);
        using plan = new Plan(device);
        recordNormBackward(plan, { weight: wBuffer, bias: wBuffer }, { dy: dyBuffer, x: xBuffer, r: rBuffer, dx }, {
          rows,
          spec: { hidden: width, normEps: EPS },
          accumulate,
          lanes,
          perLane,
        });
        await plan.run();
        const wanted = Array.from(
          { length: rows },
          (_, row) => normGradient(rowOf(dy.values, row, width), rowOf(x.values, row, width), w),
        );
        await assertActivation(device, dx, {
          what: `dx ${rows} × ${width}, accumulate ${accumulate}`,
          rows,
          cols: width,
          fill: accumulate ? 0 : STALE,
          want(row, column): Cell {
            const value = (wanted[row]?.dx[column] ?? NaN) + (accumulate ? before.at(row, column) : 0);
            const size = (wanted[row]?.size[column] ?? NaN) + (accumulate ? Math.abs(before.at(row, column)) : 0);
            // The error of the mean of x, relative to its deviation, is in every n.
            const off = norm(rowOf(x.values, row, width), EPS);
            return { value, bound: 2 * roundings(width, sharing) * ROUND * size * (1 + off.size * off.r) + 1e-30 };
          },
        });
      }
    }
  });
}

for (const lanes of LANES) {
  Deno.test(`recordHeadNorm() and its backward give LayerNorm of each head with its own weights, with ${lanes} lanes`, async () => {
    for (const [rows, heads, headDim] of HEADS) {
      const hs = headStride(headDim),
        cols = heads * hs,
        width = heads * headDim,
        what = `${rows} × ${heads} × ${headDim}`;
      const x = dense(rows, width, { seed: 1, size: 3 }), dy = dense(rows, width, { seed: 3 }), w = random(width, 2);
      using xBuffer = uploadActivation(device, spread(x, headDim));
      using wBuffer = uploadActivation(device, spread(denseOf(1, width, w), headDim));
      using y = staleActivation(device, rows, cols);
      using d = uploadActivation(device, spread(dy, headDim));
      using plan = new Plan(device);
      const shape = { rows, heads, headDim, eps: EPS, lanes, norm: "layer" } as const;
      recordHeadNorm(plan, { x: xBuffer, w: wBuffer, y }, shape);
      recordHeadNormBackward(plan, { x: xBuffer, w: wBuffer, dy: d }, shape);
      await plan.run();
      const wanted = Array.from({ length: rows * heads }, (_, at) => {
        const own = rowOf(x.values, at, headDim), weights = rowOf(w, at % heads, headDim);
        const { dx, size: gradientSize } = normGradient(rowOf(dy.values, at, headDim), own, weights);
        return { ...norm(own, EPS), dx, gradientSize, weights };
      });
      const each = roundings(headDim, lanes) * ROUND;
      const cell = (give: (own: typeof wanted[number], c: number) => Cell) => (row: number, column: number): Cell => {
        const head = Math.floor(column / hs), c = column % hs, own = wanted[row * heads + head];
        return own && head < heads && c < headDim ? give(own, c) : { value: 0, bound: 0 };
      };
      await assertActivation(device, y, {
        what,
        rows,
        cols,
        want: cell(({ n, r, size, weights }, c) => {
          const own = n[c] ?? NaN, off = each * size * r * (1 + Math.abs(own)) + each * (Math.abs(own) + 1);
          return { value: own * (weights[c] ?? NaN), bound: off * Math.abs(weights[c] ?? NaN) + 1e-30 };
        }),
      });
      await assertActivation(device, d, {
        what: `gradient of ${what}`,
        rows,
        cols,
        fill: 0,
        // r is computed anew: its error and that of the mean are in every n.
        want: cell(({ dx, r, size, gradientSize }, c) => ({
          value: dx[c] ?? NaN,
          bound: 4 * each * (gradientSize[c] ?? NaN) * (1 + size * r) + 1e-30,
        })),
      });
    }
  });
}
