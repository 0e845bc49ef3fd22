// Short convolutions against their definition in f64: texts, packed rows, trees and cached tokens; gradients by finite differences.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { strideOf } from "../../lib/nn/padding.ts";
import {
  type ConvShape,
  recordCachedShortConv,
  recordShortConv,
  recordShortConvBackward,
} from "../../lib/nn/short_conv.ts";
import { createTreeBuilder, treeParents } from "../../lib/nn/token_tree.ts";
import { random } from "./helpers/cells.ts";

const device = await openDevice();
// f32 sums of at most nine products.
const TOLERANCE = 2e-6;

interface Values {
  /** [rows, 3 · width]: B, C and X. */
  readonly bcx: Float32Array;
  /** [width, length] */
  readonly taps: Float32Array;
}

function valuesOf({ rows, width, length }: ConvShape, seed: number): Values {
  return { bcx: random(rows * 3 * width, seed), taps: random(width * length, seed + 1) };
}

/** y of row m, whose earlier tokens are the rows `before(m)`, its own first. */
function oracle(
  { rows, width, length }: ConvShape,
  { bcx, taps }: Values,
  pathOf: (row: number) => readonly number[],
): Float64Array {
  const at = (row: number, part: number, c: number): number => bcx[(row * 3 + part) * width + c] ?? NaN;
  return Float64Array.from({ length: rows * width }, (_, place) => {
    const row = Math.floor(place / width), c = place % width;
    const sum = pathOf(row).slice(0, length).reduce(
      (total, own, d) => total + (taps[c * length + length - 1 - d] ?? NaN) * at(own, 0, c) * at(own, 2, c),
      0,
    );
    return at(row, 1, c) * sum;
  });
}

/** The rows of a text from `row` back, where position p is the p-th of its text. */
function backFrom(row: number, position: number): number[] {
  return Array.from({ length: position + 1 }, (_, d) => row - d);
}

function padded(values: Float32Array, width: number): Float32Array<ArrayBuffer> {
  const stride = strideOf(width), rows = values.length / width, out = new Float32Array(rows * stride);
  for (let row = 0; row < rows; row++) out.set(values.subarray(row * width, (row + 1) * width), row * stride);
  return out;
}

function tapsOf({ width, length }: ConvShape, taps: Float32Array): Float32Array<ArrayBuffer> {
  const out = new Float32Array(length * strideOf(width));
  taps.forEach((value, at) => out[at % length * strideOf(width) + Math.floor(at / length)] = value);
  return out;
}

function assertNear(actual: Float32Array, expected: Float64Array, width: number): void {
  const stride = strideOf(width), top = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expected.forEach((value, place) => {
    const row = Math.floor(place / width), got = actual[row * stride + place % width] ?? NaN;
    assert.ok(Math.abs(got - value) <= TOLERANCE * top, `row ${row}, column ${place % width}: ${got}, wanted ${value}`);
  });
  for (let row = 0; row < expected.length / width; row++) {
    assert.ok(actual.subarray(row * stride + width, (row + 1) * stride).every((value) => value === 0), "padding");
  }
}

const SHAPES = [
  { rows: 1, width: 1, length: 2, seq: 1 },
  { rows: 14, width: 63, length: 3, seq: 7 },
  { rows: 9, width: 65, length: 9, seq: 3 },
  { rows: 130, width: 64, length: 4, seq: 65 },
];

for (const shape of SHAPES) {
  const { rows, width, length, seq } = shape;
  Deno.test(`a convolution of ${length} tokens over ${rows} rows of ${width} channels, and its gradient`, async () => {
    const values = valuesOf(shape, 7), dy = random(rows * width, 3);
    const pathOf = (row: number): number[] => backFrom(row, row % seq);
    using bcx = device.uploadBuffer("bcx", padded(values.bcx, 3 * width));
    using taps = device.uploadBuffer("taps", tapsOf(shape, values.taps));
    using y = device.uploadBuffer("y", new Float32Array(rows * strideOf(width)).fill(NaN));
    using slope = device.uploadBuffer("dy", padded(dy, width));
    using dbcx = device.uploadBuffer("dbcx", new Float32Array(rows * strideOf(3 * width)).fill(NaN));
    using plan = new Plan(device);
    recordShortConv(plan, { bcx, taps, y }, shape);
    recordShortConvBackward(plan, { bcx, taps, dy: slope, dbcx }, shape);
    await plan.run();
    assertNear(await device.readFloats(y, rows * strideOf(width)), oracle(shape, values, pathOf), width);
    // Loss Σ dy · y, whose slopes finite differences in f64 give exactly but for rounding: it is a polynomial of degree two in each value.
    const exact = Float64Array.from(values.bcx), h = 2 ** -10;
    const loss = (): number =>
      oracle(shape, { ...values, bcx: exact as unknown as Float32Array }, pathOf).reduce(
        (sum, value, at) => sum + value * (dy[at] ?? NaN),
        0,
      );
    const wanted = Float64Array.from(exact, (value, at) => {
      // Some fifty of them.
      if (at % Math.ceil(exact.length / 50) !== 0) return NaN;
      exact[at] = value + h;
      const above = loss();
      exact[at] = value - h;
      const below = loss();
      exact[at] = value;
      return (above - below) / (2 * h);
    });
    const got = await device.readFloats(dbcx, rows * strideOf(3 * width)),
      top = Math.max(...wanted.filter(Number.isFinite).map(Math.abs));
    wanted.forEach((value, at) => {
      const place = Math.floor(at / (3 * width)) * strideOf(3 * width) + at % (3 * width);
      if (Number.isNaN(value)) return;
      assert.ok(Math.abs((got[place] ?? NaN) - value) <= 1e-5 * top, `gradient ${at}: ${got[place]}, wanted ${value}`);
    });
    assert.ok(got.every((value, at) => at % strideOf(3 * width) < 3 * width || value === 0), "padding of the gradient");
  });
}

Deno.test("a convolution of packed rows reads no token of another row, forward and backward", async () => {
  const lengths = [1, 4, 2, 5], rows = 12, shape = { rows, width: 5, length: 3, seq: rows };
  const positions = Uint32Array.from(lengths.flatMap((count) => [...Array(count).keys()]));
  const values = valuesOf(shape, 11), dy = random(rows * shape.width, 5);
  using bcx = device.uploadBuffer("bcx", padded(values.bcx, 15));
  using taps = device.uploadBuffer("taps", tapsOf(shape, values.taps));
  using y = device.createBuffer("y", 4 * rows * strideOf(5));
  using slope = device.uploadBuffer("dy", padded(dy, 5));
  using dbcx = device.createBuffer("dbcx", 4 * rows * strideOf(15));
  using place = device.uploadBuffer("positions", positions);
  const ranges = { of: "rows", spans: new Map(), positions: place, parents: null, [Symbol.dispose]: () => {} } as const;
  using plan = new Plan(device);
  recordShortConv(plan, { bcx, taps, y }, { ...shape, ranges });
  recordShortConvBackward(plan, { bcx, taps, dy: slope, dbcx }, { ...shape, ranges });
  await plan.run();
  const wanted = oracle(shape, values, (row) => backFrom(row, positions[row] ?? 0));
  assertNear(await device.readFloats(y, rows * strideOf(5)), wanted, 5);
  const packed = await device.readFloats(dbcx, rows * strideOf(15));
  let first = 0;
  for (const count of lengths) {
    const part = (all: Float32Array, width: number): Float32Array => all.slice(first * width, (first + count) * width);
    using own = device.uploadBuffer("bcx", padded(part(values.bcx, 15), 15));
    using ownSlope = device.uploadBuffer("dy", padded(part(dy, 5), 5));
    using alone = device.createBuffer("dbcx", 4 * count * strideOf(15));
    using other = new Plan(device);
    recordShortConvBackward(other, { bcx: own, taps, dy: ownSlope, dbcx: alone }, {
      ...shape,
      rows: count,
      seq: count,
    });
    await other.run();
    assert.deepEqual(
      part(packed, strideOf(15)),
      await device.readFloats(alone, count * strideOf(15)),
      `row of ${count}`,
    );
    first += count;
  }
});

Deno.test("a convolution over trees reads the ancestors of a node", async () => {
  const builder = createTreeBuilder();
  for (const choice of [[4, 5, 6], [4, 7, 8, 9], [10, 1]]) {
    const sequence = { prefix: [1, 2, 3], choice };
    builder.add(sequence, builder.shared(sequence));
  }
  const tree = builder.finish(), nodes = tree.tokens.length, rows = nodes + 2;
  const shape = { rows, width: 3, length: 4, seq: rows },
    values = valuesOf(shape, 23),
    parents = treeParents(tree, rows);
  const depths = new Uint32Array(rows);
  depths.set(tree.positions);
  const pathOf = (row: number): number[] => depths[row] === 0 ? [row] : [row, ...pathOf(parents[row] ?? 0)];
  assert.ok(
    [...Array(nodes).keys()].some((row) => pathOf(row).some((own, d) => own !== row - d)),
    "a node has siblings",
  );
  using bcx = device.uploadBuffer("bcx", padded(values.bcx, 9));
  using taps = device.uploadBuffer("taps", tapsOf(shape, values.taps));
  using y = device.createBuffer("y", 4 * rows * strideOf(3));
  using positions = device.uploadBuffer("positions", depths);
  using before = device.uploadBuffer("parents", parents);
  using plan = new Plan(device);
  const ranges = { of: "trees", spans: new Map(), positions, parents: before, [Symbol.dispose]: () => {} } as const;
  recordShortConv(plan, { bcx, taps, y }, { ...shape, ranges });
  await plan.run();
  assertNear(await device.readFloats(y, rows * strideOf(3)), oracle(shape, values, pathOf), 3);
});

Deno.test("a convolution of tokens after cached ones is that of the whole text, through a ring of pages", async () => {
  const width = 6, length = 3, total = 300, shape = { rows: total, width, length }, values = valuesOf(shape, 31);
  const wanted = oracle(shape, values, (row) => backFrom(row, row)), stride = strideOf(width);
  using taps = device.uploadBuffer("taps", tapsOf(shape, values.taps));
  using cache = device.createBuffer("cache", 4 * 3 * 64 * stride);
  // Two pages in turn; the first of three is unused.
  using table = device.uploadBuffer("pages", Uint32Array.from({ length: 5 }, (_, page) => 1 + page % 2));
  const pages = { buffer: table, perRow: 5, ring: 2 }, got = new Float32Array(total * stride);
  for (const [start, end] of [[0, 150], [150, 151], [151, 190], [190, 191], [191, 255], [255, 300]] as const) {
    const rows = end - start, first = start === 0 ? 64 : 0;
    using bcx = device.uploadBuffer("bcx", padded(values.bcx.slice(start * 3 * width, end * 3 * width), 3 * width));
    using y = device.createBuffer("y", 4 * rows * stride);
    using position = device.uploadBuffer("position", Uint32Array.of(start));
    using plan = new Plan(device);
    const place = { cache, position, pages, capacity: 320, own: false, first };
    recordCachedShortConv(plan, { bcx, taps, y }, { rows, width, length, ...place });
    await plan.run();
    got.set(await device.readFloats(y, rows * stride), start * stride);
  }
  assertNear(got, wanted, width);
});
