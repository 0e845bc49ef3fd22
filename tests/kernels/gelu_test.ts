// The gate with GELU in its tanh form, forward and backward, against an f64 oracle, and the oracle against finite differences.
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import { partialFloats, recordGated, recordGatedBackward } from "../../lib/nn/ops.ts";
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

const SIZES = [[1, 1], [3, 63], [63, 64], [64, 65], [65, 255], [130, 257], [200, 5], [2, 700]] as const;
const activation = "gelu_tanh";

const inner = (x: number): number => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const innerSlope = (x: number): number => Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x ** 2);
const gelu = (x: number): number => 0.5 * x * (1 + Math.tanh(inner(x)));
const geluSlope = (x: number): number =>
  0.5 * (1 + Math.tanh(inner(x))) + 0.5 * x * (1 - Math.tanh(inner(x)) ** 2) * innerSlope(x);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-2 * inner(x)));

/** exp is good to (3 + 2·|t|) ulp and a division to 2.5, an ulp being two roundings; t has 5 roundings, which exp turns into 5·|t|. */
const roundings = (x: number): number => 2 * (3 + 2 * Math.abs(2 * inner(x)) + 2.5) + 5 * Math.abs(2 * inner(x)) + 8;

Deno.test("the slope of GELU is that of finite differences", () => {
  const x = random(50, 1).map((value) => 5 * value);
  assertGradient((moved) => moved.reduce((total, value) => total + gelu(value), 0), x, {
    what: "gelu",
    gradient: Array.from(x, geluSlope),
  });
});

Deno.test("recordGated() with gelu_tanh and its backward match the oracle for every size, with zero padding", async () => {
  using device: Device = await openDevice();
  for (const [rows, width] of SIZES) {
    const gate = dense(rows, width, { seed: 1, size: 5 }), up = dense(rows, width, { seed: 2 });
    const da = dense(rows, width, { seed: 4 });
    const values = random(width, 3).map((value) => value < -0.5 ? 0 : Math.abs(value));
    const z = lay(values, { rows: 1, cols: width, stride: strideOf(width) });
    using gateBuffer = uploadActivation(device, gate, { fill: 0 });
    using upBuffer = uploadActivation(device, up);
    using daBuffer = uploadActivation(device, da);
    using zBuffer = device.uploadBuffer("z", z);
    using a = staleActivation(device, rows, width);
    using partial = device.uploadBuffer("partial", new Float32Array(partialFloats({ rows, width })).fill(STALE));
    using dz = device.uploadBuffer("dz", new Float32Array(strideOf(width)).fill(STALE));
    using squares = device.uploadBuffer("squares", new Float32Array(strideOf(width)).fill(STALE));
    using plan = new Plan(device);
    const extent = { rows, width, activation } as const, io = { z: zBuffer, gate: gateBuffer, up: upBuffer };
    recordGated(plan, { ...io, a }, extent);
    recordGatedBackward(plan, { ...io, da: daBuffer, partial, grads: { dz, squares } }, extent);
    await plan.run();
    const what = `${rows} × ${width}`, at = { rows, cols: width, fill: 0 };
    const cell = (value: number, size: number, g: number): Cell => ({
      value,
      bound: roundings(g) * ROUND * size + 1e-30,
    });
    await assertActivation(device, a, {
      what: `a ${what}`,
      rows,
      cols: width,
      want(row, column): Cell {
        const g = gate.at(row, column), size = Math.abs(g) * sigmoid(g) * Math.abs(up.at(row, column));
        return cell(gelu(g) * up.at(row, column) * (z[column] ?? NaN), size * (z[column] ?? NaN), g);
      },
    });
    await assertActivation(device, gateBuffer, {
      what: `dgate ${what}`,
      ...at,
      want(row, column): Cell {
        const g = gate.at(row, column), factor = da.at(row, column) * (z[column] ?? NaN) * up.at(row, column);
        // s and 1 − s: the error of the second is that of 1.
        const size = Math.abs(factor) * sigmoid(g) * (1 + 2 * Math.abs(g) * innerSlope(g));
        return cell(factor * geluSlope(g), size, g);
      },
    });
    await assertActivation(device, upBuffer, {
      what: `dup ${what}`,
      ...at,
      want(row, column): Cell {
        const g = gate.at(row, column), factor = da.at(row, column) * (z[column] ?? NaN);
        return cell(factor * gelu(g), Math.abs(factor * g) * sigmoid(g), g);
      },
    });
    assertValues(await device.readFloats(dz, strideOf(width)), {
      what: `dz ${what}`,
      want(column): Cell {
        if (column >= width) return { value: STALE, bound: 0 };
        let value = 0, size = 0;
        for (let row = 0; row < rows; row++) {
          const g = gate.at(row, column), term = da.at(row, column) * up.at(row, column);
          value += term * gelu(g);
          size += (rows + roundings(g)) * ROUND * Math.abs(term * g) * sigmoid(g);
        }
        return { value, bound: size + 1e-30 };
      },
    });
  }
});

Deno.test("GELU and its slope stay finite for gates of ±1000", async () => {
  using device: Device = await openDevice();
  const row = (values: readonly number[]): ReturnType<typeof denseOf> => denseOf(1, 4, Float32Array.from(values));
  using gate = uploadActivation(device, row([-1000, -90, 90, 1000]));
  using up = uploadActivation(device, row([2, 2, 2, 2]));
  using z = device.uploadBuffer("z", lay(Float32Array.of(1, 1, 1, 1), { rows: 1, cols: 4, stride: 64 }));
  using a = staleActivation(device, 1, 4);
  using da = uploadActivation(device, row([1, 1, 1, 1]));
  using partial = device.createBuffer("partial", 4 * 64);
  using plan = new Plan(device);
  const extent = { rows: 1, width: 4, activation } as const;
  recordGated(plan, { gate, up, z, a }, extent);
  recordGatedBackward(plan, { da, z, gate, up, partial, grads: null }, extent);
  await plan.run();
  const exact = (wanted: readonly number[]) => (_: number, column: number): Cell => ({
    value: wanted[column] ?? NaN,
    bound: 1e-36,
  });
  await assertActivation(device, a, { what: "a", rows: 1, cols: 4, want: exact([0, 0, 180, 2000]) });
  await assertActivation(device, gate, { what: "dgate", rows: 1, cols: 4, fill: 0, want: exact([0, 0, 2, 2]) });
  await assertActivation(device, up, { what: "dup", rows: 1, cols: 4, fill: 0, want: exact([0, 0, 90, 1000]) });
});
