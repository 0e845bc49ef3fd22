// The activation of an FFN without gate and its backward against f64 oracles, slopes against finite differences.
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import type { DeviceBuffer } from "../../lib/gpu/types.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { partialFloats, recordGated, recordGatedBackward } from "../../lib/nn/ops.ts";
import type { Activation } from "../../lib/spec/decoder.ts";
import {
  assertActivation,
  assertGradient,
  assertValues,
  type Cell,
  dense,
  denseOf,
  lay,
  random,
  ROUND,
  STALE,
  staleActivation,
  uploadActivation,
} from "./helpers/cells.ts";
import { normal } from "./helpers/normal.ts";

const device: Device = await openDevice();

/** Rows around the block of 64 rows of a mask's gradient, widths around the stride and the 256 columns of a workgroup. */
const SIZES = [[1, 1], [3, 63], [63, 64], [64, 65], [65, 255], [130, 257], [200, 5], [2, 700]] as const;

interface Curve {
  readonly value: (x: number) => number;
  readonly slope: (x: number) => number;
  /** Roundings of the value and of the slope's largest term. */
  readonly roundings: (x: number) => number;
}

/** a, b, beta and eps of xIELU: an eps that values fall above and below. */
const XIELU = [0.75, 1.25, 0.5, -0.25] as const;
const [A, B, BETA, EPS] = XIELU;
/** The sum of the sizes of what xIELU adds up below 0. */
const addends = (x: number): number => B * (Math.abs(Math.expm1(Math.min(x, EPS))) + Math.abs(x)) + BETA * Math.abs(x);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const CURVES: Readonly<Record<Activation, Curve>> = {
  relu: { value: (x) => Math.max(x, 0), slope: (x) => x > 0 ? 1 : 0, roundings: () => 2 },
  relu2: { value: (x) => Math.max(x, 0) ** 2, slope: (x) => 2 * Math.max(x, 0), roundings: () => 4 },
  xielu: {
    value: (x) => x > 0 ? A * x * x + BETA * x : B * (Math.expm1(Math.min(x, EPS)) - x) + BETA * x,
    slope: (x) => x > 0 ? 2 * A * x + BETA : B * (x > EPS ? -1 : Math.expm1(x)) + BETA,
    // exp is good to (3 + 2·|x|) ulp, and the terms may cancel below 0.
    roundings: (x) => {
      const { value } = CURVES.xielu, parts = x > 0 ? 1 : addends(x) / Math.max(Math.abs(value(x)), 1e-30);
      return 8 + (4 * (3 + 2 * Math.abs(x)) + 8) * parts;
    },
  },
  gelu: {
    value: (x) => x * normal(x),
    slope: (x) => normal(x) + x * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI),
    // erfc's fit is good to 1.2e-7, two roundings; each exp to (3 + 2·|t|) ulp of an argument t with 3 roundings.
    roundings: (x) => 2 * (2 + 2 * (3 + x * x + 1.5 * x * x + 6) + 20),
  },
  gelu_tanh: {
    value: (x) => x * sigmoid(inner(x)),
    slope: (x) => sigmoid(inner(x)) * (1 + x * (1 - sigmoid(inner(x))) * innerSlope(x)),
    // As silu, of an argument with 5 roundings, which exp turns into 5 times its size.
    roundings: (x) => 2 * (4 * (3 + 2 * Math.abs(inner(x)) + 2.5) + 10 * Math.abs(inner(x)) + 8),
  },
  silu: {
    value: (x) => x * sigmoid(x),
    slope: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))),
    // WGSL allows exp an error of (3 + 2·|x|) ulp and a division 2.5 ulp, an ulp being two roundings.
    roundings: (x) => 4 * (3 + 2 * Math.abs(x) + 2.5) + 8,
  },
};
/** 2 · √(2/π) · (x + 0.044715 x³), the argument of the sigmoid of GELU's tanh form, and its slope. */
const inner = (x: number): number => 2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const innerSlope = (x: number): number => 2 * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x ** 2);
const KINDS = Object.keys(CURVES) as Activation[];

function maskOf(count: number): Float32Array<ArrayBuffer> {
  const values = random(count, 3).map((value) => value < -0.5 ? 0 : Math.abs(value));
  return lay(values, { rows: 1, cols: count, stride: strideOf(count) });
}

/** The numbers of an activation that has some. */
function curveOf(activation: Activation): DeviceBuffer | null {
  return activation === "xielu" ? device.uploadBuffer("curve", Float32Array.from(XIELU)) : null;
}

for (const activation of KINDS) {
  const { value, slope, roundings } = CURVES[activation];

  Deno.test(`the slope of ${activation} is that of finite differences`, () => {
    const x = random(50, 1).map((at) => 8 * at);
    assertGradient((moved) => moved.reduce((total, at) => total + value(at), 0), x, {
      what: activation,
      gradient: Array.from(x, slope),
    });
  });

  Deno.test(`recordGated() without gate is ${activation}(up) · z for every size, with zero padding`, async () => {
    for (const [rows, width] of SIZES) {
      const up = dense(rows, width, { seed: 1, size: 8 }), z = maskOf(width);
      using upBuffer = uploadActivation(device, up);
      using zBuffer = device.uploadBuffer("z", z);
      using a = staleActivation(device, rows, width);
      using curve = curveOf(activation);
      using plan = new Plan(device);
      recordGated(plan, { up: upBuffer, z: zBuffer, a, curve }, { rows, width, activation });
      await plan.run();
      await assertActivation(device, a, {
        what: `${activation} ${rows} × ${width}`,
        rows,
        cols: width,
        want(row, column): Cell {
          const x = up.at(row, column), wanted = value(x) * (z[column] ?? NaN);
          return { value: wanted, bound: roundings(x) * ROUND * Math.abs(wanted) + 1e-30 };
        },
      });
    }
  });

  Deno.test(`recordGatedBackward() without gate gives dup and dz of ${activation} for every size, with zero padding`, async () => {
    for (const [rows, width] of SIZES) {
      const up = dense(rows, width, { seed: 1, size: 6 }), da = dense(rows, width, { seed: 4 }), z = maskOf(width);
      using upBuffer = uploadActivation(device, up, { fill: 0 });
      using daBuffer = uploadActivation(device, da);
      using zBuffer = device.uploadBuffer("z", z);
      using partial = device.uploadBuffer("partial", new Float32Array(partialFloats({ rows, width })).fill(STALE));
      using dz = device.uploadBuffer("dz", new Float32Array(strideOf(width)).fill(STALE));
      using squares = device.uploadBuffer("squares", new Float32Array(strideOf(width)).fill(STALE));
      using curve = curveOf(activation);
      using plan = new Plan(device);
      recordGatedBackward(
        plan,
        { da: daBuffer, z: zBuffer, up: upBuffer, partial, grads: { dz, squares }, curve },
        { rows, width, activation },
      );
      await plan.run();
      const what = `${activation} ${rows} × ${width}`;
      await assertActivation(device, upBuffer, {
        what: `dup ${what}`,
        rows,
        cols: width,
        fill: 0,
        want(row, column): Cell {
          const x = up.at(row, column), factor = da.at(row, column) * (z[column] ?? NaN);
          return {
            value: factor * slope(x),
            bound: roundings(x) * ROUND * Math.abs(factor) * (1 + Math.abs(x)) + 1e-30,
          };
        },
      });
      assertValues(await device.readFloats(dz, width), {
        what: `dz ${what}`,
        want(column): Cell {
          let sum = 0, size = 0, most = 0;
          for (let row = 0; row < rows; row++) {
            const term = da.at(row, column) * value(up.at(row, column));
            sum += term;
            size += Math.abs(term);
            most = Math.max(most, roundings(up.at(row, column)));
          }
          return { value: sum, bound: (rows + most) * ROUND * size + 1e-30 };
        },
      });
    }
  });
}

Deno.test("activations and their backward stay finite for inputs of ±1000", async () => {
  for (const activation of KINDS) {
    using up = uploadActivation(device, denseOf(1, 2, Float32Array.of(-1000, 1000)));
    using z = device.uploadBuffer("z", lay(Float32Array.of(1, 1), { rows: 1, cols: 2, stride: 64 }));
    using da = uploadActivation(device, denseOf(1, 2, Float32Array.of(1, 1)));
    using a = staleActivation(device, 1, 2);
    using partial = device.createBuffer("partial", 4 * 64);
    using curve = curveOf(activation);
    using plan = new Plan(device);
    recordGated(plan, { up, z, a, curve }, { rows: 1, width: 2, activation });
    recordGatedBackward(plan, { da, z, up, partial, grads: null, curve }, { rows: 1, width: 2, activation });
    await plan.run();
    const { value, slope } = CURVES[activation];
    const exact = (curve: (x: number) => number) => (_: number, column: number): Cell => ({
      value: curve(column === 0 ? -1000 : 1000),
      bound: 1e-36,
    });
    await assertActivation(device, a, { what: `${activation} a`, rows: 1, cols: 2, want: exact(value) });
    await assertActivation(device, up, { what: `${activation} dup`, rows: 1, cols: 2, fill: 0, want: exact(slope) });
  }
});
