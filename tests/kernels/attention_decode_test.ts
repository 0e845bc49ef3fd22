// Decoding attention over both kinds of caches, and what fills them, against the f64 oracle.
import assert from "node:assert/strict";
import { CACHE_KEYS, cacheAppend, rotateAppend } from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../../lib/gpu/types.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { cacheRows, recordDecodeAttention, recordTextureDecodeAttention } from "../../lib/nn/decode/attention.ts";
import { createCaches, fitsTextures, recordCacheFill } from "../../lib/nn/decode/cache.ts";
import { headStride, strideOf } from "../../lib/nn/padding.ts";
import { ropeTable } from "../../lib/spec/rope.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { SPEC } from "../formats/models.ts";
import { attentionOracle } from "./helpers/attention_oracle.ts";
import { assertCells, type Cell, random, ROUND, STALE } from "./helpers/cells.ts";
import { sharedDevice } from "../device.ts";

/** As in attention_test.ts. */
const TOLERANCE = 2e-5;

/** One key, a row of a cache texture less, just and more than full, odd head counts, heads narrower and wider than eight vec4. */
const SHAPES = [
  { seq: 1, heads: 1, kvHeads: 1, headDim: 2 },
  { seq: 5, heads: 4, kvHeads: 2, headDim: 6 },
  { seq: CACHE_KEYS - 1, heads: 9, kvHeads: 3, headDim: 64 },
  { seq: CACHE_KEYS, heads: 3, kvHeads: 1, headDim: 10 },
  { seq: CACHE_KEYS + 1, heads: 7, kvHeads: 1, headDim: 64 },
  { seq: 200, heads: 2, kvHeads: 2, headDim: 128 },
] as const;

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`decoding attention over a ${placement} equals the last row of full attention, times the heads' masks`, async () => {
    const device = await sharedDevice();
    // Kernels over buffers take long to compile; attention_test.ts has more shapes.
    const shapes: readonly (typeof SHAPES[number] & { window?: number })[] = placement === "buffer"
      ? SHAPES.slice(0, 3)
      : SHAPES;
    // Itself alone, odd, around the rows of a cache texture and the loads of a step, all keys, and more.
    const windows = placement === "buffer" ? [1, 3, 62] : [1, 2, 3, 63, 64, 65, 127, 199, 200, 201];
    const windowed = windows.map((window) => ({ ...SHAPES[placement === "buffer" ? 2 : 5], window }));
    for (const { seq, heads, kvHeads, headDim, window } of [...shapes, ...windowed]) {
      const hs = headStride(headDim), width = heads * headDim, capacity = seq + 3, stride = strideOf(kvHeads * hs);
      const values = (count: number, seed: number): Float64Array =>
        Float64Array.from(random(count, seed), (v) => 3 * v);
      const inputs = {
        q: values(seq * width, 1),
        k: values(seq * kvHeads * headDim, 2),
        v: values(seq * kvHeads * headDim, 3),
      };
      const mask = random(heads, 4);
      const want = attentionOracle({ batch: 1, seq, heads, kvHeads, headDim, window }, inputs).o.subarray(
        (seq - 1) * width,
      );
      const kv = { rows: seq, heads: kvHeads, headDim, stride };
      using k = device.uploadBuffer("k", padded(inputs.k, kv));
      using v = device.uploadBuffer("v", padded(inputs.v, kv));
      const query = inputs.q.subarray((seq - 1) * width);
      using q = device.uploadBuffer("q", padded(query, { rows: 1, heads, headDim, stride: strideOf(heads * hs) }));
      using z = device.uploadBuffer("z", mask);
      using position = device.uploadBuffer("position", Uint32Array.of(seq - 1));
      using o = device.uploadBuffer("o", new Float32Array(strideOf(heads * hs)).fill(STALE));
      const spec = specOf({ heads, kvHeads, headDim });
      using caches = createCaches(device, spec, { capacity, placement });
      using plan = new Plan(device);
      recordCacheFill(plan, caches, { spec, layer: 0, k, v, rows: seq });
      const cache = caches.layers[0] ?? assert.fail();
      const shape = { heads, kvHeads, headDim, window, capacity };
      if (cache.placement === "buffer") {
        recordDecodeAttention(plan, shape, { q, kCache: cache.k, vCache: cache.v, position, z, o });
      } else recordTextureDecodeAttention(plan, shape, { q, kCache: cache.k, vCache: cache.v, position, z, o });
      await plan.run();
      const padding = placement === "buffer" ? 0 : STALE;
      assertCells(await device.readFloats(o, strideOf(heads * hs)), {
        what: JSON.stringify({ seq, ...shape }),
        rows: 1,
        stride: strideOf(heads * hs),
        want(_, column): Cell {
          const h = Math.floor(column / hs), c = column % hs;
          if (h >= heads) return { value: padding, bound: 0 };
          if (c >= headDim) return { value: 0, bound: 0 };
          const value = (want[h * headDim + c] ?? NaN) * (mask[h] ?? NaN);
          return { value, bound: TOLERANCE * (1 + Math.abs(value)) };
        },
      });
    }
  });
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`decoding attention of several rows over a ${placement}, filled in two parts, equals full attention`, async () => {
    for (const window of [undefined, 1, 7, 61]) await inTwoParts(placement, window);
  });
}

async function inTwoParts(placement: "texture" | "buffer", window: number | undefined): Promise<void> {
  const device = await sharedDevice();
  const { seq, heads, kvHeads, headDim } = { seq: CACHE_KEYS + 6, heads: 4, kvHeads: 2, headDim: 6 };
  const hs = headStride(headDim), capacity = seq + 1, stride = strideOf(kvHeads * hs), wide = strideOf(heads * hs);
  const shape = { batch: 1, seq, heads, kvHeads, headDim, window };
  const [q, k, v] = [heads, kvHeads, kvHeads].map((count, i) =>
    Float64Array.from(random(seq * count * headDim, i + 1))
  );
  assert.ok(q && k && v);
  const want = attentionOracle(shape, { q, k, v }).o;
  const spec = specOf({ heads, kvHeads, headDim });
  using caches = createCaches(device, spec, { capacity, placement });
  for (const [first, end] of [[0, 60], [60, seq]] as const) {
    const rows = end - first;
    const part = (values: Float64Array, count: number, stride: number): Float32Array<ArrayBuffer> =>
      padded(values.subarray(first * count * headDim, end * count * headDim), {
        rows,
        heads: count,
        headDim,
        stride,
      });
    using queries = device.uploadBuffer("q", part(q, heads, wide));
    using keys = device.uploadBuffer("k", part(k, kvHeads, stride));
    using values = device.uploadBuffer("v", part(v, kvHeads, stride));
    using z = device.uploadBuffer("z", new Float32Array(heads).fill(1));
    using position = device.uploadBuffer("position", Uint32Array.of(first));
    using o = device.createBuffer("o", 4 * rows * wide);
    using plan = new Plan(device);
    recordCacheFill(plan, caches, { spec, layer: 0, k: keys, v: values, rows, first });
    const cache = caches.layers[0] ?? assert.fail();
    const sizes = { heads, kvHeads, headDim, window, capacity, rows };
    if (cache.placement === "buffer") {
      recordDecodeAttention(plan, sizes, { q: queries, kCache: cache.k, vCache: cache.v, position, o });
    } else {recordTextureDecodeAttention(plan, sizes, {
        q: queries,
        kCache: cache.k,
        vCache: cache.v,
        position,
        z,
        o,
      });}
    await plan.run();
    assertCells(await device.readFloats(o, rows * wide), {
      what: `window ${window}, rows ${first} to ${end}`,
      rows,
      stride: wide,
      want(row, column): Cell {
        const h = Math.floor(column / hs), c = column % hs;
        if (h >= heads || c >= headDim) return { value: 0, bound: 0 };
        const value = want[((first + row) * heads + h) * headDim + c] ?? NaN;
        return { value, bound: TOLERANCE * (1 + Math.abs(value)) };
      },
    });
  }
}

Deno.test("decoding attention of sequences with caches of their own equals the last row of full attention of each", async () => {
  const device = await sharedDevice();
  for (const [lanes, shape, window] of [[8, SHAPES[1]], [64, SHAPES[2], 5], [8, SHAPES[4]]] as const) {
    const { heads, kvHeads, headDim } = shape, seq = Math.min(shape.seq, 20), sequences = 3, hs = headStride(headDim);
    const capacity = seq + 2, stride = strideOf(kvHeads * hs), wide = strideOf(heads * hs);
    const [q, k, v] = [heads, kvHeads, kvHeads].map((count, i) =>
      Float64Array.from(random(sequences * seq * count * headDim, i + 1), (value) => 3 * value)
    );
    assert.ok(q && k && v);
    const want = attentionOracle({ batch: sequences, seq, heads, kvHeads, headDim, window }, { q, k, v }).o;
    using caches = createCaches(device, specOf(shape), { capacity, placement: "buffer", sequences });
    const cache = caches.layers[0] ?? assert.fail();
    if (cache.placement !== "buffer") assert.fail();
    using position = device.uploadBuffer("position", Uint32Array.of(0));
    using o = device.uploadBuffer("o", new Float32Array(sequences * wide).fill(STALE));
    for (let t = 0; t < seq; t++) {
      const rowsOf = (values: Float64Array, count: number, stride: number): Float32Array<ArrayBuffer> => {
        const width = count * headDim, rows = new Float64Array(sequences * width);
        for (let s = 0; s < sequences; s++) {
          const from = (s * seq + t) * width;
          rows.set(values.subarray(from, from + width), s * width);
        }
        return padded(rows, { rows: sequences, heads: count, headDim, stride });
      };
      using queries = device.uploadBuffer("q", rowsOf(q, heads, wide));
      using keys = device.uploadBuffer("k", rowsOf(k, kvHeads, stride));
      using values = device.uploadBuffer("v", rowsOf(v, kvHeads, stride));
      device.write(position, Uint32Array.of(t));
      using plan = new Plan(device);
      plan.dispatch(compileKernel(device, cacheAppend), [keys, values, position, cache.k, cache.v, {
        params: [u32(stride / 4), u32(capacity)],
      }], { groups: [Math.ceil(stride / 256), sequences] });
      const sizes = { heads, kvHeads, headDim, window, capacity, rows: sequences, ownCaches: true, lanes };
      recordDecodeAttention(plan, sizes, { q: queries, kCache: cache.k, vCache: cache.v, position, o });
      await plan.run();
    }
    assertCells(await device.readFloats(o, sequences * wide), {
      what: JSON.stringify({ lanes, ...shape, seq }),
      rows: sequences,
      stride: wide,
      want(row, column): Cell {
        const h = Math.floor(column / hs), c = column % hs;
        if (h >= heads || c >= headDim) return { value: 0, bound: 0 };
        const value = want[((row * seq + seq - 1) * heads + h) * headDim + c] ?? NaN;
        return { value, bound: TOLERANCE * (1 + Math.abs(value)) };
      },
    });
  }
});

Deno.test("large scores stay finite, whichever row of the cache they lie in", async () => {
  const device = await sharedDevice();
  const shape = { heads: 1, kvHeads: 1, headDim: 4, capacity: 140 }, seq = 130;
  for (const top of [0, 63, 64, 129]) {
    const keys = new Float64Array(seq * 4).fill(-1000), marks = new Float64Array(seq * 4);
    keys.fill(1000, 4 * top, 4 * top + 4);
    marks.fill(5, 4 * top, 4 * top + 4);
    const row = { rows: seq, heads: 1, headDim: 4, stride: 64 };
    using k = device.uploadBuffer("k", padded(keys, row));
    using v = device.uploadBuffer("v", padded(marks, row));
    using q = device.uploadBuffer("q", new Float32Array(64).fill(1000));
    using z = device.uploadBuffer("z", Float32Array.of(1));
    using position = device.uploadBuffer("position", Uint32Array.of(seq - 1));
    using o = device.createBuffer("o", 256);
    const spec = specOf(shape);
    using caches = createCaches(device, spec, { capacity: shape.capacity, placement: "texture" });
    const cache = caches.layers[0];
    assert.ok(cache?.placement === "texture");
    using plan = new Plan(device);
    recordCacheFill(plan, caches, { spec, layer: 0, k, v, rows: seq });
    recordTextureDecodeAttention(plan, shape, { q, kCache: cache.k, vCache: cache.v, position, z, o });
    await plan.run();
    assert.deepEqual([...await device.readFloats(o, 4)], [5, 5, 5, 5], `key ${top}`);
  }
});

Deno.test("rotateAppend turns the query in place, and writes one row of the caches, none past their end", async () => {
  const device = await sharedDevice();
  for (
    const { heads, kvHeads, headDim, dims = headDim } of [
      { heads: 1, kvHeads: 1, headDim: 2 },
      { heads: 3, kvHeads: 3, headDim: 6 },
      { heads: 9, kvHeads: 3, headDim: 64 },
      { heads: 4, kvHeads: 2, headDim: 18, dims: 10 },
    ]
  ) {
    for (const at of [0, 4, 5]) {
      const capacity = 5, hs = headStride(headDim), half = dims / 2, stride = strideOf(kvHeads * hs);
      const k0 = heads * hs, v0 = k0 + kvHeads * hs, values = random(v0 + kvHeads * hs, 1);
      // Padding of heads is zero, as that of the weights is.
      values.forEach((_, n) => n % hs >= headDim && (values[n] = 0));
      const table = ropeTable({ headDim, rope: { base: 50, scaling: { kind: "none" }, dims } }, capacity + 1);
      using rope = device.uploadBuffer("rope", table);
      using position = device.uploadBuffer("position", Uint32Array.of(at));
      using qkv = device.uploadBuffer("qkv", values);
      using kCache = device.uploadBuffer("k", new Float32Array(capacity * stride).fill(STALE));
      using vCache = device.uploadBuffer("v", new Float32Array(capacity * stride).fill(STALE));
      using plan = new Plan(device);
      const params = [heads, kvHeads, hs / 4, half, k0 / 4, v0 / 4, stride / 4, capacity, capacity + 1].map(u32);
      const threads = (heads + kvHeads) * half + kvHeads * hs;
      plan.dispatch(compileKernel(device, rotateAppend), [rope, position, qkv, kCache, vCache, { params }], {
        groups: [Math.ceil(threads / 64)],
      });
      await plan.run();
      const turned = (n: number): Cell => {
        const j = n % hs, pair = j % half, low = n - j + pair;
        if (j >= dims) return { value: values[n] ?? NaN, bound: 0 };
        const [a = NaN, b = NaN] = [values[low], values[low + half]],
          [cos = NaN, sin = NaN] = table.subarray(2 * (at * half + pair));
        return {
          value: j < half ? a * cos - b * sin : b * cos + a * sin,
          bound: 4 * ROUND * (Math.abs(a) + Math.abs(b)),
        };
      };
      const what = JSON.stringify({ heads, kvHeads, headDim, at });
      const read = (buffer: DeviceBuffer, length: number): Promise<Float32Array> => device.readFloats(buffer, length);
      assertCells(await read(qkv, values.length), {
        what: `${what}, qkv`,
        rows: 1,
        stride: values.length,
        want: (_, n) => n < k0 ? turned(n) : { value: values[n] ?? NaN, bound: 0 },
      });
      for (const [cache, from] of [[kCache, k0], [vCache, v0]] as const) {
        assertCells(await read(cache, capacity * stride), {
          what: `${what}, cache from ${from}`,
          rows: capacity,
          stride,
          want(row, n): Cell {
            if (row !== at || n >= kvHeads * hs) return { value: STALE, bound: 0 };
            return from === k0 ? turned(k0 + n) : { value: values[v0 + n] ?? NaN, bound: 0 };
          },
        });
      }
    }
  }
});

Deno.test("caches go to textures as far as these hold them", async () => {
  const device = await sharedDevice();
  const most = Math.floor(device.limits.maxTextureDimension2D / 2) * CACHE_KEYS; // two KV heads
  assert.equal(fitsTextures(device, SPEC, most), true);
  assert.equal(fitsTextures(device, SPEC, most + 1), false);
  assert.equal(cacheRows(CACHE_KEYS + 1), 2);
});

/** A model of one layer. */
function specOf(
  { heads, kvHeads, headDim }: { readonly heads: number; readonly kvHeads: number; readonly headDim: number },
): DecoderSpec {
  return { ...SPEC, headDim, layers: [{ heads, kvHeads, ffn: 0 }] };
}

/** Dense [rows, heads·headDim] as the padded layout. */
function padded(
  data: Float64Array,
  { rows, heads, headDim, stride }: {
    readonly rows: number;
    readonly heads: number;
    readonly headDim: number;
    readonly stride: number;
  },
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(rows * stride), hs = headStride(headDim);
  data.forEach((value, i) => {
    const row = Math.floor(i / (heads * headDim)), column = i % (heads * headDim);
    out[row * stride + Math.floor(column / headDim) * hs + column % headDim] = value;
  });
  return out;
}
