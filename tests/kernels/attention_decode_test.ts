// Decoding attention over both kinds of caches, and what fills them, against the f64 oracle.
import assert from "node:assert/strict";
import { CACHE_KEYS, rotateAppend } from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../../lib/gpu/types.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { recordDecodeAttention, recordTextureDecodeAttention } from "../../lib/nn/decode/attention.ts";
import { createPageTable } from "./helpers/pages.ts";
import { createCaches, type DecodeCache, mostPages, pagesOf, recordCacheFill } from "../../lib/nn/decode/cache.ts";
import type { PageTable } from "../../lib/nn/products/matvec.ts";
import { headStride, strideOf } from "../../lib/nn/padding.ts";
import { ropeTable } from "../../lib/spec/rope.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import { SPEC } from "../formats/models.ts";
import { attentionOracle } from "./helpers/attention_oracle.ts";
import { assertCells, type Cell, random, ROUND, STALE } from "./helpers/cells.ts";
import { sharedDevice, withoutSubgroups } from "../device.ts";

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
      using caches = createCaches(device, spec, { pages: pagesOf(capacity), placement });
      using pages = createPageTable(device, capacity);
      using start = device.createBuffer("start", 4);
      using plan = new Plan(device);
      recordCacheFill(plan, { caches, capacity, pages, position: start }, { spec, layer: 0, k, v, rows: seq });
      const cache = caches.layers[0] ?? assert.fail();
      const shape = { heads, kvHeads, headDim, window, capacity };
      if (cache.placement === "buffer") {
        recordDecodeAttention(plan, shape, { q, kCache: cache.k, vCache: cache.v, position, pages, z, o });
      } else {
        const { k: kCache, v: vCache } = cache;
        recordTextureDecodeAttention(plan, shape, { q, kCache, vCache, position, pages, z, o: { buffer: o } });
      }
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

Deno.test("decoding attention over a texture has the same bits with and without subgroups", async () => {
  for (const window of [undefined, 61]) {
    const plain = await inTwoParts("texture", window, withoutSubgroups);
    assert.deepEqual(await inTwoParts("texture", window), plain);
  }
});

/** Checks both parts, and returns their values. */
async function inTwoParts(
  placement: "texture" | "buffer",
  window: number | undefined,
  as: typeof withoutSubgroups = (_, record) => record(),
): Promise<number[]> {
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
  using caches = createCaches(device, spec, { pages: pagesOf(capacity), placement });
  using pages = createPageTable(device, capacity);
  const all: number[] = [];
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
    recordCacheFill(plan, { caches, capacity, pages, position }, { spec, layer: 0, k: keys, v: values, rows });
    const cache = caches.layers[0] ?? assert.fail();
    const sizes = { heads, kvHeads, headDim, window, capacity, rows };
    if (cache.placement === "buffer") {
      recordDecodeAttention(plan, sizes, { q: queries, kCache: cache.k, vCache: cache.v, position, pages, o });
    } else {
      const buffers = { q: queries, position, pages, z, o: { buffer: o } };
      const { k: kCache, v: vCache } = cache;
      as(device, () => recordTextureDecodeAttention(plan, sizes, { ...buffers, kCache, vCache }));
    }
    await plan.run();
    const got = await device.readFloats(o, rows * wide);
    all.push(...got);
    assertCells(got, {
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
  return all;
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`rows of sequences of different lengths, in pages anywhere in a ${placement}, have the bits of each alone`, async () => {
    const device = await sharedDevice();
    for (const [shape, window] of [[SHAPES[1]], [SHAPES[2], 5], [SHAPES[4]]] as const) {
      const { heads, kvHeads, headDim } = shape, hs = headStride(headDim), lengths = [1, CACHE_KEYS, 150];
      const capacity = 200, stride = strideOf(kvHeads * hs), wide = strideOf(heads * hs), spec = specOf(shape);
      // The pages of the three sequences, which take turns.
      const places = [[5, 2, 9, 7], [0, 4, 1, 3], [6, 11, 8, 10]];
      using caches = createCaches(device, spec, { pages: 12, placement });
      const cache = caches.layers[0] ?? assert.fail();
      using z = device.uploadBuffer("z", new Float32Array(heads).fill(1));
      const queries = random(lengths.length * wide, 4).map((value) => 3 * value);
      const read = async (
        rows: readonly number[],
        target: { readonly pages: PageTable; readonly cache: NonNullable<DecodeCache> },
      ): Promise<string[]> => {
        using q = device.uploadBuffer("q", Float32Array.from(rows.flatMap((row) => [...rowAt(queries, row, wide)])));
        using position = device.uploadBuffer("position", Uint32Array.from(rows, (row) => (lengths[row] ?? 0) - 1));
        using o = device.createBuffer("o", 4 * rows.length * wide);
        using plan = new Plan(device);
        const sizes = { heads, kvHeads, headDim, window, capacity, rows: rows.length, ownCaches: rows.length > 1 };
        const { cache: { placement, k, v }, pages } = target;
        if (placement === "buffer") {
          recordDecodeAttention(plan, sizes, { q, kCache: k, vCache: v, position, pages, z, o });
        } else {
          const caches = { kCache: k, vCache: v };
          recordTextureDecodeAttention(plan, sizes, { q, ...caches, position, pages, z, o: { buffer: o } });
        }
        await plan.run();
        const all = await device.readFloats(o, rows.length * wide);
        return rows.map((_, index) => rowAt(all, index, wide).subarray(0, heads * hs).join());
      };
      const alone: string[] = [];
      for (const [row, length] of lengths.entries()) {
        using keys = device.uploadBuffer("k", random(length * stride, 10 + row));
        using values = device.uploadBuffer("v", random(length * stride, 20 + row));
        using start = device.createBuffer("start", 4);
        using table = device.uploadBuffer("pages", Uint32Array.from(places[row] ?? []));
        using own = createCaches(device, spec, { pages: pagesOf(capacity), placement });
        using plain = createPageTable(device, capacity);
        using plan = new Plan(device);
        for (const [target, pages] of [[caches, { buffer: table, perRow: 4 }], [own, plain]] as const) {
          const state = { caches: target, capacity, pages, position: start };
          recordCacheFill(plan, state, { spec, layer: 0, k: keys, v: values, rows: length });
        }
        await plan.run();
        alone.push(...await read([row], { pages: plain, cache: own.layers[0] ?? assert.fail() }));
      }
      using table = device.uploadBuffer("pages", Uint32Array.from(places.flat()));
      assert.deepEqual(await read([0, 1, 2], { pages: { buffer: table, perRow: 4 }, cache }), alone);
    }
  });
}

function rowAt(values: Float32Array, row: number, stride: number): Float32Array {
  return values.subarray(row * stride, (row + 1) * stride);
}

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
    const { capacity } = shape;
    using caches = createCaches(device, spec, { pages: pagesOf(capacity), placement: "texture" });
    using pages = createPageTable(device, capacity);
    using start = device.createBuffer("start", 4);
    const cache = caches.layers[0];
    assert.ok(cache?.placement === "texture");
    using plan = new Plan(device);
    recordCacheFill(plan, { caches, capacity, pages, position: start }, { spec, layer: 0, k, v, rows: seq });
    const buffers = { q, kCache: cache.k, vCache: cache.v, position, pages, z };
    recordTextureDecodeAttention(plan, shape, { ...buffers, o: { buffer: o } });
    await plan.run();
    assert.deepEqual([...await device.readFloats(o, 4)], [5, 5, 5, 5], `key ${top}`);
  }
});

Deno.test("rotateAppend turns the queries in place, and writes one key of each sequence, none past the capacity", async () => {
  const device = await sharedDevice();
  for (
    const { heads, kvHeads, headDim, dims = headDim } of [
      { heads: 1, kvHeads: 1, headDim: 2 },
      { heads: 3, kvHeads: 3, headDim: 6 },
      { heads: 9, kvHeads: 3, headDim: 64 },
      { heads: 4, kvHeads: 2, headDim: 18, dims: 10 },
    ]
  ) {
    for (const positions of [[0, 4], [4, 5], [5, 0]]) {
      // Two sequences, the first in page 1 and the second in page 0.
      const capacity = 5,
        hs = headStride(headDim),
        half = dims / 2,
        stride = strideOf(kvHeads * hs),
        wide = heads * hs;
      const k0 = 2 * wide, v0 = k0 + 2 * stride, values = random(v0 + 2 * stride, 1), places = [1, 0];
      // Padding of heads is zero, as that of the weights is.
      values.forEach((_, n) => n % hs >= headDim && (values[n] = 0));
      const table = ropeTable({ headDim, rope: { base: 50, scaling: { kind: "none" }, dims } }, capacity + 1);
      using rope = device.uploadBuffer("rope", table);
      using position = device.uploadBuffer("position", Uint32Array.from(positions));
      using pages = device.uploadBuffer("pages", Uint32Array.from(places));
      using qkv = device.uploadBuffer("qkv", values);
      using kCache = device.uploadBuffer("k", new Float32Array(2 * CACHE_KEYS * stride).fill(STALE));
      using vCache = device.uploadBuffer("v", new Float32Array(2 * CACHE_KEYS * stride).fill(STALE));
      using plan = new Plan(device);
      const params = [
        ...[heads, kvHeads, hs / 4, half, wide / 4, k0 / 4, v0 / 4, stride / 4, capacity, capacity + 1, 1],
      ].map(u32);
      const threads = (heads + kvHeads) * half + kvHeads * hs;
      plan.dispatch(compileKernel(device, rotateAppend), [rope, position, pages, qkv, kCache, vCache, { params }], {
        groups: [Math.ceil(threads / 64), 2],
      });
      await plan.run();
      /** Value n of a row that begins at `from`, turned. */
      const turned = (row: number, from: number, n: number): Cell => {
        const j = n % hs, pair = j % half, low = from + n - j + pair, at = positions[row] ?? NaN;
        if (j >= dims) return { value: values[from + n] ?? NaN, bound: 0 };
        const [a = NaN, b = NaN] = [values[low], values[low + half]],
          [cos = NaN, sin = NaN] = table.subarray(2 * (at * half + pair));
        return {
          value: j < half ? a * cos - b * sin : b * cos + a * sin,
          bound: 4 * ROUND * (Math.abs(a) + Math.abs(b)),
        };
      };
      const what = JSON.stringify({ heads, kvHeads, headDim, positions });
      const read = (buffer: DeviceBuffer, length: number): Promise<Float32Array> => device.readFloats(buffer, length);
      assertCells(await read(qkv, values.length), {
        what: `${what}, qkv`,
        rows: 1,
        stride: values.length,
        want(_, n): Cell {
          const row = Math.floor(n / wide);
          return n < k0 ? turned(row, row * wide, n % wide) : { value: values[n] ?? NaN, bound: 0 };
        },
      });
      for (const [cache, from] of [[kCache, k0], [vCache, v0]] as const) {
        assertCells(await read(cache, 2 * CACHE_KEYS * stride), {
          what: `${what}, cache from ${from}`,
          rows: 2 * CACHE_KEYS,
          stride,
          want(key, n): Cell {
            const row = places.indexOf(Math.floor(key / CACHE_KEYS)),
              at = key % CACHE_KEYS,
              start = from + row * stride;
            if (at !== positions[row] || at >= capacity || n >= kvHeads * hs) return { value: STALE, bound: 0 };
            return from === k0 ? turned(row, start, n) : { value: values[start + n] ?? NaN, bound: 0 };
          },
        });
      }
    }
  }
});

Deno.test("caches have as many pages as textures and bindings hold", async () => {
  const device = await sharedDevice(), { maxTextureDimension2D, maxStorageBufferBindingSize } = device.limits;
  assert.equal(mostPages(device, SPEC, "texture"), Math.floor(maxTextureDimension2D / 2)); // two KV heads
  const bytes = 4 * CACHE_KEYS * 64; // f32, rows padded to 64
  assert.equal(mostPages(device, SPEC, "buffer"), Math.floor(maxStorageBufferBindingSize / bytes));
  assert.equal(
    mostPages(
      { limits: { maxTextureDimension2D: 8, maxBufferSize: 1, maxStorageBufferBindingSize: 1 } },
      SPEC,
      "texture",
    ),
    0,
  );
  assert.deepEqual([1, CACHE_KEYS, CACHE_KEYS + 1].map(pagesOf), [1, 1, 2]);
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
