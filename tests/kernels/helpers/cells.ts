// Compares stored matrices in kernel tests: every stored cell is checked, padding included.
import assert from "node:assert/strict";
import type { DeviceBuffer } from "../../../lib/gpu/types.ts";
import type { Device } from "../../../lib/gpu/device.ts";
import { headStride, paddedRows, strideOf } from "../../../lib/nn/padding.ts";
import { createStepState, IDLE_STATE, type StepState, writeStepState } from "../../../lib/nn/train/step_state.ts";

/** Relative error of one rounding to f32. */
export const ROUND = 2 ** -24;
/** What a test puts where a kernel must not write, or must overwrite. */
export const STALE = 7;

/** A wanted value and how far the actual one may be from it. */
export interface Cell {
  readonly value: number;
  readonly bound: number;
}

/** A matrix of values without padding. */
export interface Dense {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array<ArrayBuffer>;
  at(row: number, column: number): number;
}

/** A deterministic sequence in [-1, 1). */
export function random(count: number, seed: number): Float32Array<ArrayBuffer> {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

/** Deterministic values in [-size, size). */
export function dense(rows: number, cols: number, { seed, size = 1 }: { seed: number; size?: number }): Dense {
  return denseOf(rows, cols, random(rows * cols, seed).map((value) => value * size));
}

/** Names the rows and columns of values. */
export function denseOf(rows: number, cols: number, values: Float32Array<ArrayBuffer>): Dense {
  assert.equal(values.length, rows * cols);
  return { rows, cols, values, at: (row, column) => values[row * cols + column] ?? NaN };
}

/** Lays rows × cols values out at a stride, `fill` elsewhere. */
export function lay(
  values: Float32Array,
  options: { rows: number; cols: number; stride: number; total?: number; offset?: number; fill?: number },
): Float32Array<ArrayBuffer> {
  const { rows, cols, stride, offset = 0, fill = 0 } = options;
  const out = new Float32Array(options.total ?? offset + rows * stride).fill(fill);
  for (let r = 0; r < rows; r++) out.set(values.subarray(r * cols, (r + 1) * cols), offset + r * stride);
  return out;
}

/** Uploads values as an activation [paddedRows, strideOf(cols)]; padding holds `fill`. */
export function uploadActivation(
  device: Device,
  { rows, cols, values }: Dense,
  { fill = 0 }: { fill?: number } = {},
): DeviceBuffer {
  const stride = strideOf(cols);
  return device.uploadBuffer("activation", lay(values, { rows, cols, stride, total: paddedRows(rows) * stride, fill }));
}

/** An activation full of {@link STALE}. */
export function staleActivation(device: Device, rows: number, cols: number): DeviceBuffer {
  return device.uploadBuffer("stale", new Float32Array(paddedRows(rows) * strideOf(cols)).fill(STALE));
}

/** Reads an activation with its padding and compares rows and columns that mean something; padding columns are 0, padding rows `fill`. */
export async function assertActivation(device: Device, buffer: DeviceBuffer, options: {
  what: string;
  rows: number;
  cols: number;
  /** What padding rows hold; default {@link STALE}, as kernels leave them alone. */
  fill?: number;
  want: (row: number, column: number) => Cell;
}): Promise<void> {
  const { what, rows, cols, fill = STALE, want } = options;
  const stride = strideOf(cols), stored = paddedRows(rows);
  assertCells(await device.readFloats(buffer, stored * stride), {
    what,
    rows: stored,
    stride,
    want: (row, column) =>
      row >= rows ? { value: fill, bound: 0 } : column >= cols ? { value: 0, bound: 0 } : want(row, column),
  });
}

/** Asserts every cell of a stored matrix; the bound is 0 for a cell that must be untouched or zero. */
export function assertCells(got: Float32Array, options: {
  what: string;
  rows: number;
  stride: number;
  want: (row: number, column: number) => Cell;
}): void {
  const { what, rows, stride, want } = options;
  let worst = { ratio: -1, text: "" };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < stride; column++) {
      const { value, bound } = want(row, column);
      const actual = got[row * stride + column] ?? NaN;
      const distance = Math.abs(actual - value);
      const ratio = distance === 0 ? 0 : Number.isNaN(distance) ? Infinity : distance / bound;
      if (ratio > worst.ratio) {
        worst = { ratio, text: `[${row}, ${column}]: ${actual} instead of ${value}, ${ratio} bounds away` };
      }
    }
  }
  assert.ok(worst.ratio <= 1, `${what}: worst at ${worst.text}`);
}

/** {@link assertCells} for a vector. */
export function assertValues(
  got: Float32Array,
  options: { what: string; count?: number; want: (index: number) => Cell },
): void {
  const { what, count = got.length, want } = options;
  assertCells(got, { what, rows: 1, stride: count, want: (_, index) => want(index) });
}

/** A state buffer; what is left out is as in {@link IDLE_STATE}. */
export function stateBuffer(device: Device, state: Partial<StepState>): DeviceBuffer {
  const buffer = createStepState(device);
  writeStepState(device, buffer, { ...IDLE_STATE, ...state });
  return buffer;
}

/** Asserts that a gradient is that of a function, by central differences in f64. */
export function assertGradient(
  loss: (x: Float64Array) => number,
  x: ArrayLike<number>,
  options: { what: string; gradient: ArrayLike<number> },
): void {
  const { what, gradient } = options, step = 1e-5;
  assert.equal(gradient.length, x.length);
  const moved = Float64Array.from(x);
  for (let i = 0; i < moved.length; i++) {
    const at = moved[i] ?? NaN, analytic = gradient[i] ?? NaN;
    moved[i] = at + step;
    const above = loss(moved);
    moved[i] = at - step;
    const below = loss(moved);
    moved[i] = at;
    const numeric = (above - below) / (2 * step);
    // step² of the central difference, and 1e-16 · |loss| / step of rounding
    assert.ok(
      Math.abs(numeric - analytic) <= 1e-7 * (1 + Math.abs(analytic)),
      `${what}: d[${i}] is ${analytic}, by differences ${numeric}`,
    );
  }
}

/** Rows, heads and width of a head: one, odd, padded to 4, wider than a turn of 8 and of 64 lanes. */
export const HEADS = [[1, 1, 2], [3, 5, 6], [2, 3, 10], [33, 2, 64], [5, 7, 128], [2, 1, 258]] as const;

/** Heads of `width` columns, each at a stride of headStride, as rows of an activation. */
export function spread({ rows, cols, values }: Dense, width: number): Dense {
  const hs = headStride(width), heads = cols / width, out = new Float32Array(rows * heads * hs);
  values.forEach((value, i) => out[Math.floor(i / width) * hs + i % width] = value);
  return denseOf(rows, heads * hs, out);
}
