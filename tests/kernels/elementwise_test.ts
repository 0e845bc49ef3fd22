// Scale, residual, SwiGLU, their mask gradients and sums against f64 oracles.
import assert from "node:assert/strict";
import { reducePartials, sum } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import {
  partialFloats,
  recordGated,
  recordGatedBackward,
  recordMultiply,
  recordResidual,
  recordScale,
  recordScaleBackward,
} from "../../lib/nn/ops.ts";
import {
  assertActivation,
  assertGradient,
  assertValues,
  type Cell,
  type Dense,
  dense,
  lay,
  random,
  ROUND,
  STALE,
  staleActivation,
  stateBuffer,
  uploadActivation,
} from "./helpers/cells.ts";

const device: Device = await openDevice();

/** Rows around the block of 64 rows of a mask's gradient, widths around the stride and the 256 columns of a workgroup. */
const SIZES = [[1, 1], [3, 63], [63, 64], [64, 65], [65, 255], [130, 257], [200, 5], [2, 700]] as const;

/** Column sums in any order: n roundings of the partial sums, and `each` roundings of a term. */
function columnSum(rows: number, { each, term }: { each: number; term: (row: number) => number }): Cell {
  let value = 0, size = 0;
  for (let row = 0; row < rows; row++) {
    value += term(row);
    size += Math.abs(term(row));
  }
  return { value, bound: (rows + each) * ROUND * size + 1e-30 };
}

/** Mask values as slots: `strideOf(count)` of them, padding zero as lib/nn/mask_slots.ts says. */
function maskOf(count: number, seed: number): Float32Array<ArrayBuffer> {
  const values = random(count, seed).map((value) => value < -0.5 ? 0 : Math.abs(value));
  return lay(values, { rows: 1, cols: count, stride: strideOf(count) });
}

const silu = (x: number): number => x / (1 + Math.exp(-x));
const siluSlope = (x: number): number => {
  const s = 1 / (1 + Math.exp(-x));
  return s * (1 + x * (1 - s));
};

/** WGSL allows exp an error of (3 + 2·|x|) ulp and a division 2.5 ulp, an ulp being two roundings; products add less than 8 roundings. */
const siluRoundings = (x: number): number => 2 * (3 + 2 * Math.abs(x) + 2.5) + 8;

Deno.test("silu's slope is that of finite differences", () => {
  const x = random(50, 1).map((value) => 8 * value);
  assertGradient((moved) => moved.reduce((total, value) => total + silu(value), 0), x, {
    what: "silu",
    gradient: Array.from(x, siluSlope),
  });
});

Deno.test("recordGated() is silu(gate) · up · z for every size, with zero padding", async () => {
  for (const [rows, width] of SIZES) {
    const gate = dense(rows, width, { seed: 1, size: 8 }), up = dense(rows, width, { seed: 2 }), z = maskOf(width, 3);
    using gateBuffer = uploadActivation(device, gate);
    using upBuffer = uploadActivation(device, up);
    using zBuffer = device.uploadBuffer("z", z);
    using a = staleActivation(device, rows, width);
    using plan = new Plan(device);
    recordGated(plan, { gate: gateBuffer, up: upBuffer, z: zBuffer, a }, { rows, width });
    await plan.run();
    await assertActivation(device, a, {
      what: `swiglu ${rows} × ${width}`,
      rows,
      cols: width,
      want(row, column): Cell {
        const g = gate.at(row, column), value = silu(g) * up.at(row, column) * (z[column] ?? NaN);
        return { value, bound: siluRoundings(g) * ROUND * Math.abs(value) + 1e-30 };
      },
    });
  }
});

Deno.test("recordGated() and its backward stay finite for gates of ±1000", async () => {
  const gate = Float32Array.of(-1000, -90, 90, 1000), up = Float32Array.of(2, 2, 2, 2);
  using gateBuffer = uploadActivation(device, row(gate));
  using upBuffer = uploadActivation(device, row(up));
  using z = device.uploadBuffer("z", lay(Float32Array.of(1, 1, 1, 1), { rows: 1, cols: 4, stride: 64 }));
  using a = staleActivation(device, 1, 4);
  using da = uploadActivation(device, row(Float32Array.of(1, 1, 1, 1)));
  using partial = device.createBuffer("partial", 4 * 64);
  using plan = new Plan(device);
  recordGated(plan, { gate: gateBuffer, up: upBuffer, z, a }, { rows: 1, width: 4 });
  recordGatedBackward(plan, { da, z, gate: gateBuffer, up: upBuffer, partial, grads: null }, { rows: 1, width: 4 });
  await plan.run();
  // e⁻⁹⁰ is 1e-39: below the smallest normal f32, so it may be zero.
  const exact = (wanted: readonly number[]) => (_: number, column: number): Cell => ({
    value: wanted[column] ?? NaN,
    bound: 1e-36,
  });
  await assertActivation(device, a, { what: "a", rows: 1, cols: 4, want: exact([0, 0, 180, 2000]) });
  await assertActivation(device, gateBuffer, { what: "dgate", rows: 1, cols: 4, fill: 0, want: exact([0, 0, 2, 2]) });
  await assertActivation(device, upBuffer, { what: "dup", rows: 1, cols: 4, fill: 0, want: exact([0, 0, 90, 1000]) });
});

Deno.test("recordGatedBackward() gives dgate, dup and dz for every size, with zero padding", async () => {
  for (const [rows, width] of SIZES) {
    const gate = dense(rows, width, { seed: 1, size: 6 }), up = dense(rows, width, { seed: 2 });
    const da = dense(rows, width, { seed: 4 }), z = maskOf(width, 3);
    using gateBuffer = uploadActivation(device, gate, { fill: 0 });
    using upBuffer = uploadActivation(device, up);
    using daBuffer = uploadActivation(device, da);
    using zBuffer = device.uploadBuffer("z", z);
    using partial = device.uploadBuffer("partial", new Float32Array(partialFloats({ rows, width })).fill(STALE));
    using dz = device.uploadBuffer("dz", new Float32Array(strideOf(width)).fill(STALE));
    using squares = device.uploadBuffer("squares", new Float32Array(strideOf(width)).fill(STALE));
    const grads = { dz, squares };
    using plan = new Plan(device);
    recordGatedBackward(plan, { da: daBuffer, z: zBuffer, gate: gateBuffer, up: upBuffer, partial, grads }, {
      rows,
      width,
    });
    await plan.run();
    const what = `${rows} × ${width}`, at = { rows, cols: width, fill: 0 };
    await assertActivation(device, gateBuffer, {
      what: `dgate ${what}`,
      ...at,
      want(row, column): Cell {
        const g = gate.at(row, column), factor = da.at(row, column) * (z[column] ?? NaN) * up.at(row, column);
        const s = 1 / (1 + Math.exp(-g));
        // 1 + g − silu(g) cancels: the error is that of its largest term.
        const size = Math.abs(factor) * s * (1 + 2 * Math.abs(g));
        return { value: factor * siluSlope(g), bound: siluRoundings(g) * ROUND * size + 1e-30 };
      },
    });
    await assertActivation(device, upBuffer, {
      what: `dup ${what}`,
      ...at,
      want(row, column): Cell {
        const g = gate.at(row, column), value = da.at(row, column) * (z[column] ?? NaN) * silu(g);
        return { value, bound: siluRoundings(g) * ROUND * Math.abs(value) + 1e-30 };
      },
    });
    assertValues(await device.readFloats(dz, strideOf(width)), {
      what: `dz ${what}`,
      want: (column) =>
        column >= width ? { value: STALE, bound: 0 } : columnSum(rows, {
          each: siluRoundings(6),
          term: (row) => da.at(row, column) * silu(gate.at(row, column)) * up.at(row, column),
        }),
    });
  }
});

/** Masks of columns, and of heads: groupWidth is the head's stored width. */
const SCALES = [
  ...SIZES.map(([rows, width]) => ({ rows, units: width, groupWidth: 1 })),
  { rows: 1, units: 1, groupWidth: 4 },
  { rows: 65, units: 3, groupWidth: 12 },
  { rows: 130, units: 5, groupWidth: 64 },
  { rows: 7, units: 4, groupWidth: 128 },
  { rows: 300, units: 65, groupWidth: 8 },
];

Deno.test("recordScale() multiplies every group of columns by its mask, and makes padding zero", async () => {
  for (const { rows, units, groupWidth } of SCALES) {
    const width = units * groupWidth, x = dense(rows, width, { seed: 1 }), z = maskOf(units, 2);
    using xBuffer = uploadActivation(device, x, { fill: STALE });
    using zBuffer = device.uploadBuffer("z", z);
    using y = staleActivation(device, rows, width);
    using plan = new Plan(device);
    recordScale(plan, { x: xBuffer, z: zBuffer, y }, { rows, width, groupWidth });
    await plan.run();
    await assertActivation(device, y, {
      what: `scale ${rows} × ${units} · ${groupWidth}`,
      rows,
      cols: width,
      want(row, column): Cell {
        const value = x.at(row, column) * (z[Math.floor(column / groupWidth)] ?? NaN);
        return { value, bound: ROUND * Math.abs(value) };
      },
    });
  }
});

Deno.test("recordScaleBackward() gives dv in place of v, and dz, set or accumulated", async () => {
  for (const accumulate of [false, true]) {
    for (const { rows, units, groupWidth } of SCALES) {
      const width = units * groupWidth, stored = strideOf(units);
      const v = dense(rows, width, { seed: 1 }), dy = dense(rows, width, { seed: 5 }), z = maskOf(units, 2);
      using vBuffer = uploadActivation(device, v, { fill: STALE });
      using dyBuffer = uploadActivation(device, dy, { fill: STALE });
      using zBuffer = device.uploadBuffer("z", z);
      using partial = device.uploadBuffer("partial", new Float32Array(partialFloats({ rows, width })).fill(STALE));
      using dz = device.uploadBuffer("dz", new Float32Array(stored).fill(STALE));
      using squares = device.uploadBuffer("squares", new Float32Array(stored));
      using plan = new Plan(device);
      recordScaleBackward(plan, { dy: dyBuffer, z: zBuffer, v: vBuffer, partial, grads: { dz, squares } }, {
        rows,
        width,
        groupWidth,
        accumulate,
      });
      await plan.run();
      const what = `${rows} × ${units} · ${groupWidth}${accumulate ? " (+=)" : ""}`;
      await assertActivation(device, vBuffer, {
        what: `dv ${what}`,
        rows,
        cols: width,
        want(row, column): Cell {
          const value = dy.at(row, column) * (z[Math.floor(column / groupWidth)] ?? NaN);
          return { value, bound: ROUND * Math.abs(value) };
        },
      });
      assertValues(await device.readFloats(dz, stored), {
        what: `dz ${what}`,
        want(unit): Cell {
          if (unit >= units) return { value: STALE, bound: 0 };
          const { value, bound } = columnSum(rows * groupWidth, {
            each: 4,
            term: (index) => product(dy, v, index % rows, unit * groupWidth + Math.floor(index / rows)),
          });
          const base = accumulate ? STALE : 0;
          return { value: base + value, bound: bound + rows * groupWidth * ROUND * base };
        },
      });
    }
  }
});

Deno.test("dz of y = v ∘ z is that of finite differences", () => {
  const rows = 5, units = 3, groupWidth = 4;
  const v = dense(rows, units * groupWidth, { seed: 1 }), dy = dense(rows, units * groupWidth, { seed: 2 });
  const sumOver = (weight: (unit: number) => number): number => {
    let total = 0;
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < v.cols; c++) total += product(dy, v, r, c) * weight(Math.floor(c / groupWidth));
    }
    return total;
  };
  assertGradient((z) => sumOver((unit) => z[unit] ?? NaN), random(units, 3), {
    what: "dz",
    gradient: Array.from({ length: units }, (_, wanted) => sumOver((unit) => unit === wanted ? 1 : 0)),
  });
});

Deno.test("reduce_partials sums any number of blocks and their squares, set or accumulated, and leaves what follows the units", async () => {
  for (const accumulate of [0, 1]) {
    for (const [blocks, units, groupWidth] of [[1, 1, 1], [2, 63, 1], [5, 64, 4], [17, 65, 3], [3, 300, 1]] as const) {
      const stride = strideOf(units * groupWidth), partial = dense(blocks, stride, { seed: 8 });
      using partialBuffer = device.uploadBuffer("partial", partial.values);
      using dz = device.uploadBuffer("dz", new Float32Array(units + 3).fill(STALE));
      using squares = device.uploadBuffer("squares", new Float32Array(units + 3).fill(STALE));
      using plan = new Plan(device);
      plan.dispatch(compileKernel(device, reducePartials), [partialBuffer, dz, squares, {
        params: [u32(blocks), u32(stride), u32(units), u32(groupWidth), u32(accumulate)],
      }], { groups: [Math.ceil(units / 64)] });
      await plan.run();
      assertValues(await device.readFloats(dz, units + 3), {
        what: `${blocks} blocks of ${units} · ${groupWidth}, accumulate ${accumulate}`,
        want(unit): Cell {
          if (unit >= units) return { value: STALE, bound: 0 };
          const { value, bound } = columnSum(blocks * groupWidth, {
            each: 1,
            term: (index) => partial.at(index % blocks, unit * groupWidth + Math.floor(index / blocks)),
          });
          const base = accumulate * STALE;
          return { value: base + value, bound: bound + blocks * groupWidth * ROUND * base };
        },
      });
      assertValues(await device.readFloats(squares, units + 3), {
        what: `squares of ${blocks} blocks of ${units} · ${groupWidth}, accumulate ${accumulate}`,
        want(unit): Cell {
          if (unit >= units) return { value: STALE, bound: 0 };
          const base = accumulate * STALE;
          let value = base, bound = blocks * ROUND * base;
          for (let block = 0; block < blocks; block++) {
            const of = columnSum(groupWidth, {
              each: 1,
              term: (index) => partial.at(block, unit * groupWidth + index),
            });
            value += of.value ** 2;
            bound += 2 * Math.abs(of.value) * of.bound + (blocks + 1) * ROUND * of.value ** 2;
          }
          return { value, bound };
        },
      });
    }
  }
});

for (const scale of [undefined, 0.7]) {
  Deno.test(`recordResidual() is x + y ∘ z${scale ? " · scale" : ""} for every size`, async () => {
    for (const [rows, width] of SIZES) {
      const x = dense(rows, width, { seed: 1 }), y = dense(rows, width, { seed: 2 }), z = maskOf(width, 3);
      using xBuffer = uploadActivation(device, x);
      using yBuffer = uploadActivation(device, y);
      using zBuffer = device.uploadBuffer("z", z);
      using out = staleActivation(device, rows, width);
      using plan = new Plan(device);
      recordResidual(plan, { x: xBuffer, y: yBuffer, z: zBuffer, out }, { rows, width, scale });
      await plan.run();
      await assertActivation(device, out, {
        what: `residual ${rows} × ${width}`,
        rows,
        cols: width,
        want(row, column): Cell {
          const added = y.at(row, column) * (z[column] ?? NaN) * Math.fround(scale ?? 1), kept = x.at(row, column);
          // A fused product rounds once, each further operation once more.
          return { value: kept + added, bound: (scale ? 3 : 2) * ROUND * (Math.abs(kept) + Math.abs(added)) };
        },
      });
    }
  });
}

Deno.test("recordMultiply() is factor · x for every size, the gradient of what recordResidual() adds", async () => {
  const factor = 0.7;
  for (const [rows, width] of SIZES) {
    const x = dense(rows, width, { seed: 1 });
    using xBuffer = uploadActivation(device, x);
    using y = staleActivation(device, rows, width);
    using plan = new Plan(device);
    recordMultiply(plan, { x: xBuffer, y }, { rows, width, factor });
    await plan.run();
    await assertActivation(device, y, {
      what: `product ${rows} × ${width}`,
      rows,
      cols: width,
      want(row, column): Cell {
        const value = Math.fround(factor) * x.at(row, column);
        return { value, bound: ROUND * Math.abs(value) };
      },
    });
  }
  // d/dy Σ w·(x + s·y∘z) = s·w∘z: the product, then the backward of the mask.
  const x = random(40, 1), y = random(40, 2), z = random(40, 3), w = random(40, 4);
  const sum = (moved: ArrayLike<number>): number =>
    w.reduce((total, weight, i) => total + weight * ((x[i] ?? NaN) + factor * (moved[i] ?? NaN) * (z[i] ?? NaN)), 0);
  assertGradient(sum, y, { what: "residual", gradient: Array.from(w, (weight, i) => factor * weight * (z[i] ?? NaN)) });
});

Deno.test("sum adds blocks of values or squares, scaled or not, at its offset only", async () => {
  const lossScale = 0.125;
  using state = stateBuffer(device, { lossScale });
  for (const [count, perGroup] of [[1, 1], [63, 63], [257, 256], [1000, 129], [5000, 640], [65, 100]] as const) {
    for (
      const { square, scaled, offset } of [{ square: 0, scaled: 1, offset: 0 }, { square: 1, scaled: 0, offset: 3 }]
    ) {
      const x = random(count, count), groups = Math.ceil(count / perGroup);
      using xBuffer = device.uploadBuffer("x", lay(x, { rows: 1, cols: count, stride: count + 9, fill: NaN }));
      using partial = device.uploadBuffer("partial", new Float32Array(offset + groups + 2).fill(STALE));
      using plan = new Plan(device);
      plan.dispatch(compileKernel(device, sum), [xBuffer, state, partial, {
        params: [u32(count), u32(perGroup), u32(square), u32(scaled), u32(offset)],
      }], { groups: [groups] });
      await plan.run();
      assertValues(await device.readFloats(partial, offset + groups + 2), {
        what: `sum of ${count} in blocks of ${perGroup}, square ${square}, scaled ${scaled}`,
        want(index): Cell {
          const group = index - offset;
          if (group < 0 || group >= groups) return { value: STALE, bound: 0 };
          const from = group * perGroup, n = Math.min(perGroup, count - from);
          const { value, bound } = columnSum(n, { each: 2, term: (i) => (x[from + i] ?? NaN) ** (1 + square) });
          const scale = scaled === 1 ? lossScale : 1;
          return { value: value * scale, bound: bound * scale };
        },
      });
    }
  }
});

Deno.test("elementwise operations leave no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});

function row(values: Float32Array<ArrayBuffer>): Dense {
  return { rows: 1, cols: values.length, values, at: (_, column) => values[column] ?? NaN };
}

function product(a: Dense, b: Dense, row: number, column: number): number {
  return a.at(row, column) * b.at(row, column);
}
