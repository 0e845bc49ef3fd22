// Attention kernels against the f64 oracle, and the oracle's gradients against finite differences.
import assert from "node:assert/strict";
import { type DeviceBuffer } from "../../lib/gpu/types.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { createPageTable } from "./helpers/pages.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import {
  AttentionScratch,
  type AttentionShape,
  recordAttention,
  recordAttentionBackward,
} from "../../lib/nn/attention.ts";
import { rowSpans } from "../../lib/nn/key_ranges.ts";
import { recordDecodeAttention } from "../../lib/nn/decode/attention.ts";
import { headStride, paddedRows, strideOf } from "../../lib/nn/padding.ts";
import {
  type AttentionForward,
  attentionGradOracle,
  type AttentionInputs,
  attentionOracle,
} from "./helpers/attention_oracle.ts";

type Variant = "lanes" | "texture" | "workgroup";

const SHAPES: readonly AttentionShape[] = [
  { batch: 1, seq: 1, heads: 1, kvHeads: 1, headDim: 2 },
  { batch: 3, seq: 7, heads: 4, kvHeads: 2, headDim: 6 },
  { batch: 1, seq: 33, heads: 3, kvHeads: 1, headDim: 10 },
  { batch: 1, seq: 1, heads: 9, kvHeads: 3, headDim: 64 },
  { batch: 3, seq: 15, heads: 9, kvHeads: 3, headDim: 64 },
  { batch: 1, seq: 17, heads: 5, kvHeads: 1, headDim: 64 },
  { batch: 1, seq: 130, heads: 2, kvHeads: 2, headDim: 64 },
  { batch: 2, seq: 37, heads: 4, kvHeads: 2, headDim: 128 },
];

/** Itself alone, odd, around the steps and blocks of the tiles, all but one of the keys, all, and more. */
const WINDOWED: readonly AttentionShape[] = [
  ...[1, 5, 8, 15, 16, 17, 47, 63, 64, 65, 129, 130, 1000].map((window) => (
    { batch: 1, seq: 130, heads: 4, kvHeads: 2, headDim: 6, window }
  )),
  ...[1, 3, 36, 38].map((window) => ({ batch: 3, seq: 37, heads: 3, kvHeads: 3, headDim: 10, window })),
  { batch: 2, seq: 70, heads: 9, kvHeads: 3, headDim: 64, window: 33 },
];

/** Scores with a factor of their own, and with soft caps that bend many or few of them. */
const SCALED: readonly AttentionShape[] = [
  { batch: 2, seq: 37, heads: 4, kvHeads: 2, headDim: 6, scale: 0.9 },
  { batch: 3, seq: 7, heads: 4, kvHeads: 2, headDim: 6, softCap: 1.5 },
  { batch: 1, seq: 130, heads: 3, kvHeads: 1, headDim: 10, softCap: 4, scale: 0.7, window: 33 },
  { batch: 2, seq: 17, heads: 9, kvHeads: 3, headDim: 64, softCap: 50 },
];

/** Rows of a sequence: one, one of one token at each place, ends in the middle and at the edges of steps and blocks, and windows. */
const PACKED: readonly (AttentionShape & { readonly lengths: readonly (readonly number[])[] })[] = [
  { batch: 1, seq: 1, heads: 1, kvHeads: 1, headDim: 2, lengths: [[1]] },
  { batch: 3, seq: 7, heads: 4, kvHeads: 2, headDim: 6, lengths: [[7], [1, 6], [3, 3, 1]] },
  ...[undefined, 1, 5, 16].map((window) => (
    { batch: 2, seq: 130, heads: 4, kvHeads: 2, headDim: 6, window, lengths: [[1, 31, 1, 33, 64], [15, 17, 64, 34]] }
  )),
  { batch: 1, seq: 70, heads: 3, kvHeads: 1, headDim: 10, softCap: 4, scale: 0.7, window: 9, lengths: [[37, 1, 32]] },
  { batch: 2, seq: 45, heads: 9, kvHeads: 3, headDim: 64, lengths: [[20, 1, 24], [45]] },
];

/** Tiles for other widths than 64: they compile fast, and their odd step leaves a rest of the keys. */
const SMALL = {
  forward: { lanes: 8, rows: 2, step: 3 },
  query: { lanes: 16, rows: 1, step: 3 },
  key: { lanes: 8, rows: 2, step: 1 },
};

/**
 * Scores are sums of up to 128 f32 products of size ≤ 12: their error of some 1e-6 is the relative error of every weight;
 * outputs and gradients are weighted sums of values of size ≤ 10.
 */
const TOLERANCE = 2e-5;

// One device for all tests: it keeps the compiled kernels, and compiling takes most of the time.
let device: Device;
Deno.test.beforeAll(async () => {
  device = await openDevice();
});
Deno.test.afterAll(() => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});

for (const variant of ["lanes", "texture", "workgroup"] as const) {
  Deno.test(`recordAttention() and its backward match the oracle with the variant '${variant}'`, async () => {
    using scratch = new AttentionScratch(device);
    for (const shape of SHAPES) {
      await compare(shape, { variant, scratch });
    }
  });

  Deno.test(`attention over a window and its backward match the oracle with the variant '${variant}'`, async () => {
    using scratch = new AttentionScratch(device);
    for (const shape of WINDOWED) await compare(shape, { variant, scratch });
  });

  Deno.test(`attention with a factor and a soft cap of scores and its backward match the oracle with the variant '${variant}'`, async () => {
    using scratch = new AttentionScratch(device);
    for (const shape of SCALED) await compare(shape, { variant, scratch });
  });

  Deno.test(`attention over packed rows and its backward match the oracle of each row alone with the variant '${variant}'`, async () => {
    using scratch = new AttentionScratch(device);
    // Kernels of wide heads take seconds to compile; the shape of the rows is not in them.
    const shapes = variant === "lanes" ? PACKED : PACKED.filter(({ headDim }) => headDim < 64);
    for (const { lengths, ...shape } of shapes) await compare(shape, { variant, scratch, lengths });
  });

  Deno.test(`a window of all keys has the bits of none, and one of one key no gradient of its score, with the variant '${variant}'`, async () => {
    using scratch = new AttentionScratch(device);
    const shape = { batch: 1, seq: 130, heads: 4, kvHeads: 2, headDim: 6 }, any = random(shape);
    const whole = await runBoth(shape, { variant, scratch, ...any });
    assert.deepEqual(await runBoth({ ...shape, window: 130 }, { variant, scratch, ...any }), whole);
    // A window of one: o is the value of the token itself, its softmax is 1, and neither q nor k matter.
    const own = await runBoth({ ...shape, window: 1 }, { variant, scratch, ...any });
    assert.ok([...own.dq, ...own.dk].every((value) => Math.abs(value) < 1e-4));
  });
}

Deno.test("attention over a window costs what its keys do, in fewer dispatches", () => {
  using buffer = device.createBuffer("any", 4 * paddedRows(130) * strideOf(4 * headStride(10)));
  const buffers = { q: buffer, k: buffer, v: buffer, o: buffer, lse: buffer };
  const dispatches = (window: number): number => {
    using plan = new Plan(device);
    const shape = { batch: 1, seq: 30_000, heads: 4, kvHeads: 2, headDim: 10, window };
    recordAttention(plan, shape, { ...buffers, variant: "workgroup", tiles: SMALL });
    return plan.length;
  };
  assert.equal(dispatches(30_000), 2 * Math.ceil(3750 / 520));
  assert.equal(dispatches(100), 1);
});

Deno.test("the oracle's gradients match finite differences", () => {
  const shape = { batch: 1, seq: 3, heads: 4, kvHeads: 2, headDim: 2 };
  for (const window of [1, 2, 3]) finiteDifferences({ ...shape, window });
  finiteDifferences({ ...shape, scale: 0.4, softCap: 2 });
});

function finiteDifferences(shape: AttentionShape): void {
  const inputs = randomInputs(shape), dO = randomDense(shape.seq * shape.heads * shape.headDim, 99);
  const grads = attentionGradOracle(shape, inputs, dO);
  const loss = (): number =>
    attentionOracle(shape, inputs).o.reduce((sum, value, i) => sum + value * (dO[i] ?? NaN), 0);
  for (const name of ["q", "k", "v"] as const) {
    const x = inputs[name], epsilon = 1e-5;
    const numeric = x.map((value, i) => {
      x[i] = value + epsilon;
      const above = loss();
      x[i] = value - epsilon;
      const below = loss();
      x[i] = value;
      return (above - below) / (2 * epsilon);
    });
    assertClose(`d${name}`, grads[name], numeric, 1e-8); // ε² of the central difference, and 1e-16 / ε of rounding
  }
}

Deno.test("recordAttention() keeps large scores finite", async () => {
  using scratch = new AttentionScratch(device);
  const shape = { batch: 1, seq: 40, heads: 2, kvHeads: 1, headDim: 6 };
  const inputs = randomInputs(shape);
  for (const x of [inputs.q, inputs.k]) x.forEach((value, i) => x[i] = Math.fround(value * 12));
  // Scores reach some 600: their f32 error of 1e-7 · 600 · √6 is the relative error of the weights.
  for (const variant of ["lanes", "texture", "workgroup"] as const) {
    await compare(shape, { variant, scratch, inputs, tolerance: 1e-3 });
  }
});

Deno.test("recordAttention() and its backward match the oracle in several dispatches", async () => {
  using scratch = new AttentionScratch(device);
  const shape = { batch: 3, seq: 7, heads: 4, kvHeads: 2, headDim: 6 };
  for (const variant of ["lanes", "texture"] as const) {
    for (const dispatchCost of [1, 3500]) await compare(shape, { variant, scratch, dispatchCost }); // 1, and 1 to 2 pairs a dispatch
  }
});

Deno.test("attention over many rows goes in dispatches of some blocks of a head, with the bits of all at once", async () => {
  const shape = { batch: 1, seq: 130, heads: 4, kvHeads: 2, headDim: 10 }, any = random(shape);
  using scratch = new AttentionScratch(device);
  for (const variant of ["lanes", "texture", "workgroup"] as const) {
    const whole = await runBoth(shape, { variant, scratch, ...any });
    // The forward pass of a pair is 2 · 130 · 131 · 10 · 2 operations: all blocks alone, and a few at once.
    for (const dispatchCost of [1, 2e4]) {
      assert.deepEqual(await runBoth(shape, { variant, scratch, ...any, dispatchCost }), whole);
    }
  }
  using plan = new Plan(device);
  using buffer = device.createBuffer("any", 4 * paddedRows(130) * strideOf(4 * headStride(10)));
  const buffers = { q: buffer, k: buffer, v: buffer, o: buffer, lse: buffer };
  recordAttention(plan, shape, { ...buffers, variant: "workgroup", tiles: SMALL, dispatchCost: 1 });
  assert.equal(plan.length, 2 * Math.ceil(130 * 2 / 16)); // pairs, blocks of 8 · 2 rows
  using long = new Plan(device);
  // A pair takes 2 · 30,000² · 10 · 2 operations, in 3,750 blocks, of which 520 take 10¹⁰ where they see all rows.
  recordAttention(long, { ...shape, seq: 30_000 }, { ...buffers, variant: "workgroup", tiles: SMALL });
  assert.equal(long.length, 2 * Math.ceil(3750 / 520));
});

Deno.test("recordAttention() records nothing for a layer without heads", () => {
  using buffer = device.createBuffer("any", 16);
  using plan = new Plan(device);
  const shape = { batch: 1, seq: 4, heads: 0, kvHeads: 0, headDim: 8 };
  recordAttention(plan, shape, { q: buffer, k: buffer, v: buffer, o: buffer, lse: buffer });
  recordDecodeAttention(plan, { ...shape, capacity: 8 }, {
    q: buffer,
    kCache: buffer,
    vCache: buffer,
    o: buffer,
    position: buffer,
    pages: { buffer, perRow: 1 },
  });
  assert.equal(plan.length, 0);
});

Deno.test("AttentionScratch shares textures among layers and frees them", () => {
  const live = device.liveCount;
  const scratch = new AttentionScratch(device);
  const first = scratch.texture("k", 32, 20);
  assert.equal(scratch.texture("k", 16, 20), first);
  assert.notEqual(scratch.texture("v", 16, 20), first);
  assert.notEqual(scratch.texture("k", 33, 20), first);
  scratch[Symbol.dispose]();
  assert.equal(device.liveCount, live);
});

Deno.test("recordAttentionBackward() gives the same bits twice", async () => {
  using scratch = new AttentionScratch(device);
  const shape = { batch: 2, seq: 130, heads: 6, kvHeads: 2, headDim: 10 };
  for (const variant of ["lanes", "texture"] as const) {
    const first = await runBoth(shape, { variant, scratch, ...random(shape) });
    assert.deepEqual(await runBoth(shape, { variant, scratch, ...random(shape) }), first);
  }
});

Deno.test("recordDecodeAttention() equals the last row of full attention", async () => {
  for (
    const [seq, heads, kvHeads, headDim] of [[1, 1, 1, 2], [5, 4, 2, 6], [63, 9, 3, 64], [65, 9, 3, 64], [
      130,
      2,
      2,
      128,
    ], [
      200,
      7,
      1,
      64,
    ], [9, 8, 2, 256]] as const
  ) {
    const shape = { batch: 1, seq, heads, kvHeads, headDim };
    const inputs = randomInputs(shape), width = heads * headDim;
    const want = attentionOracle(shape, inputs).o.subarray((seq - 1) * width);
    const capacity = seq + 3, kv = { rows: capacity, heads: kvHeads, headDim, fill: NaN };
    using q = device.uploadBuffer(
      "q",
      padded(inputs.q.subarray((seq - 1) * width), { rows: 1, heads, headDim, fill: 0 }),
    );
    using kCache = device.uploadBuffer("k", padded(inputs.k, kv)); // rows past the position are NaN: they must not be read
    using vCache = device.uploadBuffer("v", padded(inputs.v, kv));
    using position = device.uploadBuffer("position", new Uint32Array([seq - 1]));
    using o = device.uploadBuffer("o", new Float32Array(strideOf(heads * headStride(headDim))).fill(7));
    using pages = createPageTable(device, capacity);
    using plan = new Plan(device);
    recordDecodeAttention(plan, { heads, kvHeads, headDim, capacity }, { q, kCache, vCache, position, pages, o });
    await plan.run();
    const got = await device.readFloats(o, o.bytes / 4);
    assertClose(`o of ${JSON.stringify(shape)}`, dense(got, { rows: 1, heads, headDim }), want, TOLERANCE);
  }
});

interface Run {
  readonly variant: Variant;
  readonly scratch: AttentionScratch;
  readonly inputs: AttentionInputs;
  readonly dO: Float64Array;
  readonly dispatchCost?: number;
  /** Lengths of the rows of each sequence, which do not see each other. Default: one row. */
  readonly lengths?: readonly (readonly number[])[] | undefined;
}

async function compare(
  shape: AttentionShape,
  options: Omit<Run, "inputs" | "dO"> & { inputs?: AttentionInputs; tolerance?: number },
): Promise<void> {
  const { inputs, dO } = { ...random(shape), ...options };
  const got = await runBoth(shape, { ...options, inputs, dO });
  const { forward, grads } = oracleOfRows(shape, { inputs, dO, lengths: options.lengths });
  const delta = new Float64Array(forward.lse.length);
  forward.o.forEach((value, i) => {
    const at = Math.floor(i / shape.headDim) % shape.heads * shape.batch * shape.seq +
      Math.floor(i / (shape.headDim * shape.heads));
    delta[at] = (delta[at] ?? NaN) + value * (dO[i] ?? NaN);
  });
  const want = { o: forward.o, lse: forward.lse, delta, dq: grads.q, dk: grads.k, dv: grads.v };
  for (const name of ["o", "lse", "delta", "dq", "dk", "dv"] as const) {
    assertClose(`${name} of ${JSON.stringify(shape)}`, got[name], want[name], options.tolerance ?? TOLERANCE);
  }
}

/** The oracle of each row alone, put together. */
function oracleOfRows(
  shape: AttentionShape,
  { inputs, dO, lengths = Array.from({ length: shape.batch }, () => [shape.seq]) }: Pick<
    Run,
    "inputs" | "dO" | "lengths"
  >,
): { readonly forward: AttentionForward; readonly grads: AttentionInputs } {
  const { batch, seq, heads, kvHeads, headDim } = shape, lse = new Float64Array(heads * batch * seq);
  const width = { q: heads * headDim, k: kvHeads * headDim, v: kvHeads * headDim };
  const { q, k, v } = inputs, o = new Float64Array(q.length);
  const grads = { q: new Float64Array(q.length), k: new Float64Array(k.length), v: new Float64Array(v.length) };
  for (const [sequence, own] of lengths.entries()) {
    let first = sequence * seq;
    for (const length of own) {
      const part = (data: Float64Array, size: number): Float64Array =>
        data.slice(first * size, (first + length) * size);
      const row = { q: part(inputs.q, width.q), k: part(inputs.k, width.k), v: part(inputs.v, width.v) };
      const alone = { ...shape, batch: 1, seq: length }, made = attentionOracle(alone, row);
      const back = attentionGradOracle(alone, row, part(dO, width.q));
      o.set(made.o, first * width.q);
      for (let h = 0; h < heads; h++) {
        lse.set(made.lse.subarray(h * length, (h + 1) * length), h * batch * seq + first);
      }
      for (const name of ["q", "k", "v"] as const) grads[name].set(back[name], first * width[name]);
      first += length;
    }
    assert.equal(first, (sequence + 1) * seq, "the rows fill their sequence");
  }
  return { forward: { o, lse }, grads };
}

/** Runs forward and backward on buffers whose outputs start as garbage. */
async function runBoth(
  shape: AttentionShape,
  { inputs, dO, lengths, ...options }: Run,
): Promise<Record<"o" | "lse" | "delta" | "dq" | "dk" | "dv", Float64Array>> {
  const { batch, seq, heads, kvHeads, headDim } = shape;
  const rows = batch * seq, queries = { rows, heads, headDim }, keys = { rows, heads: kvHeads, headDim };
  using pool = new DisposableStack();
  const upload = (data: Float32Array<ArrayBuffer>): DeviceBuffer => pool.use(device.uploadBuffer("test", data));
  const garbage = (floats: number): DeviceBuffer => upload(new Float32Array(floats).fill(7));
  const like = ({ heads }: { heads: number }): DeviceBuffer =>
    garbage(paddedRows(rows) * strideOf(heads * headStride(headDim)));
  const buffers = {
    q: upload(padded(inputs.q, { ...queries, fill: NaN })), // padding rows are NaN: they must not be read
    k: upload(padded(inputs.k, { ...keys, fill: NaN })),
    v: upload(padded(inputs.v, { ...keys, fill: NaN })),
    dO: upload(padded(dO, { ...queries, fill: NaN })),
    o: like(queries),
    dq: like(queries),
    dk: like(keys),
    dv: like(keys),
    lse: garbage(heads * rows),
    delta: garbage(heads * rows),
  };
  using plan = new Plan(device);
  const ranges = lengths && {
    of: "rows" as const,
    spans: pool.use(device.uploadBuffer("spans", rowSpans(positionsOf(lengths), { seq, window: shape.window }))),
  };
  const settings = { ...buffers, ...options, ranges, tiles: headDim === 64 ? {} : SMALL };
  recordAttention(plan, shape, settings);
  recordAttentionBackward(plan, shape, settings);
  await plan.run();
  const names = ["o", "dq", "dk", "dv", "lse", "delta"] as const;
  const [o, dq, dk, dv, lse, delta] = (await device.read(names.map((name) => ({ buffer: buffers[name] }))))
    .map((bytes) => new Float32Array(bytes));
  assert.ok(o && dq && dk && dv && lse && delta);
  return {
    o: dense(o, queries),
    dq: dense(dq, queries),
    dk: dense(dk, keys),
    dv: dense(dv, keys),
    lse: Float64Array.from(lse.subarray(0, heads * rows)),
    delta: Float64Array.from(delta.subarray(0, heads * rows)),
  };
}

/** Positions of tokens in their rows. */
function positionsOf(lengths: readonly (readonly number[])[]): Uint32Array<ArrayBuffer> {
  return Uint32Array.from(lengths.flat().flatMap((length) => Array.from({ length }, (_, position) => position)));
}

interface Matrix {
  readonly rows: number;
  readonly heads: number;
  readonly headDim: number;
}

/** Dense [rows, heads·headDim] as the padded layout; rows past the data hold `fill`. */
function padded(
  data: Float64Array,
  { rows, heads, headDim, fill }: Matrix & { fill: number },
): Float32Array<ArrayBuffer> {
  const hs = headStride(headDim), stride = strideOf(heads * hs);
  const out = new Float32Array(paddedRows(rows) * stride);
  out.fill(fill, data.length / (heads * headDim) * stride);
  data.forEach((value, i) => {
    const row = Math.floor(i / (heads * headDim)), column = i % (heads * headDim);
    out[row * stride + Math.floor(column / headDim) * hs + column % headDim] = value;
  });
  return out;
}

/** The inverse of {@link padded}; fails where a padding column is not zero. */
function dense(data: Float32Array, { rows, heads, headDim }: Matrix): Float64Array {
  const hs = headStride(headDim), stride = strideOf(heads * hs);
  const out: number[] = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < stride; column++) {
      const value = data[row * stride + column] ?? NaN;
      if (column < heads * hs && column % hs < headDim) out.push(value);
      else assert.equal(Math.abs(value), 0, `padding column ${column} of row ${row} is not zero`);
    }
  }
  return Float64Array.from(out);
}

function random(shape: AttentionShape): { inputs: AttentionInputs; dO: Float64Array } {
  return { inputs: randomInputs(shape), dO: randomDense(shape.batch * shape.seq * shape.heads * shape.headDim, 4) };
}

function randomInputs({ batch, seq, heads, kvHeads, headDim }: AttentionShape): AttentionInputs {
  const rows = batch * seq;
  return {
    q: randomDense(rows * heads * headDim, 1),
    k: randomDense(rows * kvHeads * headDim, 2),
    v: randomDense(rows * kvHeads * headDim, 3),
  };
}

/** About normal values that f32 holds exactly, from a fixed seed. */
function randomDense(length: number, seed: number): Float64Array {
  let state = seed * 2654435761 >>> 0;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Float64Array.from({ length }, () => Math.fround((uniform() + uniform() + uniform() - 1.5) * 2));
}

/** Fails with the worst index where |got − want| > tolerance · (1 + |want|). */
function assertClose(what: string, got: Float64Array, want: Float64Array, tolerance: number): void {
  assert.equal(got.length, want.length, `${what}: length`);
  let worst = -1, worstError = 0;
  got.forEach((value, i) => {
    const expected = want[i] ?? NaN;
    const error = Math.abs(value - expected) / (1 + Math.abs(expected));
    if (!(error <= worstError)) [worst, worstError] = [i, error];
  });
  assert.ok(
    worstError <= tolerance,
    `${what}: error ${worstError} > ${tolerance} at ${worst}: ${got[worst]} against ${want[worst]}`,
  );
}
