// Matrix-vector products of a decoding step against an f64 oracle, in every storage and with every ending.
import assert from "node:assert/strict";
import { CACHE_KEYS, textureUnits } from "../../kernels/mod.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { createPageTable } from "./helpers/pages.ts";
import { headStride, strideOf } from "../../lib/nn/padding.ts";
import {
  createMatrix,
  type Matrix,
  type MatrixPlacement,
  type ValueDtype,
  writeRows,
} from "../../lib/nn/products/matrix.ts";
import {
  type MatvecInput,
  recordGatedProducts,
  recordResidualProduct,
  recordRotatedProducts,
  recordStoredProducts,
} from "../../lib/nn/products/matvec.ts";
import { createMatvecScratch } from "../../lib/nn/products/matvec_batch.ts";
import { ropeTable } from "../../lib/spec/rope.ts";
import { assertCells, type Cell, random, ROUND, STALE } from "./helpers/cells.ts";
import { withoutSubgroups } from "../device.ts";
import { DTYPES, stored } from "./helpers/stored.ts";
import { readTexture } from "./helpers/textures.ts";

const device: Device = await openDevice();
const EPS = 1e-5;

const storages = (["texture", "buffer"] as const).flatMap((placement) => DTYPES.map((dtype) => ({ placement, dtype })));
/** Rows and columns: one, odd, around the columns that the invocations of a workgroup load at once, and more than a kernel unrolls. */
const SIZES = [[1, 1], [3, 31], [4, 33], [65, 63], [127, 65], [70, 127], [66, 129], [200, 577], [130, 2100], [
  9,
  4099,
]] as const;

interface Storage {
  readonly dtype: ValueDtype;
  readonly placement: MatrixPlacement;
  readonly maxShardRows?: number;
}

interface Weights extends Disposable {
  readonly matrix: Matrix;
  /** What the matrix holds after rounding, row-major. */
  readonly values: Float32Array;
}

function weights(rows: number, cols: number, storage: Storage, seed: number): Weights {
  const values = random(rows * cols, seed), { dtype } = storage;
  const matrix = createMatrix(device, `w${seed}`, { rows, cols, ...storage });
  writeRows(device, matrix, 0, values);
  return { matrix, values: stored(values, { cols, dtype }), [Symbol.dispose]: () => matrix[Symbol.dispose]() };
}

interface Input extends Disposable {
  readonly input: MatvecInput;
  readonly values: Float64Array;
}

/** A vector, or one with a norm; its buffer holds other things beyond the columns. */
function vector(cols: number, { isNormed, size = 1 }: { readonly isNormed: boolean; readonly size?: number }): Input {
  const raw = random(cols, 2).map((value) => value * size), scale = random(cols, 3), stride = strideOf(cols) + 64;
  const padded = new Float32Array(stride).fill(STALE), norm = new Float32Array(strideOf(cols));
  padded.set(raw);
  norm.set(scale);
  const buffer = device.uploadBuffer("x", padded), weight = device.uploadBuffer("norm", norm);
  const mean = raw.reduce((sum, value) => sum + value * value, 0) / cols, factor = 1 / Math.sqrt(mean + EPS);
  return {
    input: { buffer, width: cols, ...(isNormed ? { norm: { weight, eps: EPS } } : {}) },
    values: Float64Array.from(raw, (value, c) => isNormed ? value * (scale[c] ?? 0) * factor : value),
    [Symbol.dispose]: () => [buffer, weight].forEach((resource) => resource[Symbol.dispose]()),
  };
}

/**
 * Σ w·x of a row in f64, with a rigorous bound of an f32 sum in any order; a norm adds the roundings of its factor. Codes are summed
 * without their scale, d·Σ q·x + m·Σ x, whose terms are larger than those of Σ w·x.
 */
function rowSum({ matrix: { cols, dtype }, values }: Weights, x: Float64Array, row: number): Cell {
  let value = 0, size = 0, least = 0, most = 0;
  for (let c = 0; c < cols; c++) {
    const w = values[row * cols + c] ?? 0;
    value += w * (x[c] ?? 0);
    size += Math.abs(w * (x[c] ?? 0));
    least = Math.min(least, w);
    most = Math.max(most, w);
  }
  const widest = dtype === "f32" || dtype === "f16"
    ? 0
    : 2 * Math.max(most, -least) * x.reduce((sum, factor) => sum + Math.abs(factor), 0);
  return { value, bound: (2 * cols + 20) * ROUND * (size + widest) + 1e-30 };
}

async function check(
  what: string,
  y: { buffer: Parameters<Device["readFloats"]>[0]; length: number },
  want: (n: number) => Cell,
): Promise<void> {
  assertCells(await device.readFloats(y.buffer, y.length), {
    what,
    rows: 1,
    stride: y.length,
    want: (_, n) => want(n),
  });
}

for (const storage of storages) {
  const name = `a ${storage.placement} of ${storage.dtype}`;
  Deno.test(`products of ${name} with one vector match the oracle for any size, with and without norm`, async () => {
    for (const [rows, cols] of SIZES) {
      for (const isNormed of [false, true]) {
        using w = weights(rows, cols, storage, 1);
        using x = vector(cols, { isNormed, size: 3 });
        const before = new Float32Array(strideOf(rows) + 64).fill(STALE);
        using y = device.uploadBuffer("y", before);
        using plan = new Plan(device);
        recordStoredProducts(plan, x.input, { parts: [{ matrix: w.matrix, offset: 0 }], y });
        await plan.run();
        await check(
          `${name} ${rows} x ${cols} norm ${isNormed}`,
          { buffer: y, length: before.length },
          (n) => n < rows ? rowSum(w, x.values, n) : { value: STALE, bound: 0 },
        );
      }
    }
  });

  Deno.test(`products of ${name} go through shards and several matrices, each at its offset`, async () => {
    const cols = 100, sizes = [200, 37, 70], offsets = [0, 256, 320];
    const all = sizes.map((rows, i) => weights(rows, cols, { ...storage, maxShardRows: 64 }, i));
    using x = vector(cols, { isNormed: true });
    using y = device.uploadBuffer("y", new Float32Array(448).fill(STALE));
    using plan = new Plan(device);
    recordStoredProducts(plan, x.input, {
      parts: all.map(({ matrix }, i) => ({ matrix, offset: offsets[i] ?? 0 })),
      y,
    });
    await plan.run();
    await check(name, { buffer: y, length: 448 }, (n) => {
      const i = offsets.findLastIndex((offset) => offset <= n), w = all[i], row = n - (offsets[i] ?? 0);
      return w && row < w.matrix.rows ? rowSum(w, x.values, row) : { value: STALE, bound: 0 };
    });
    all.forEach((w) => w[Symbol.dispose]());
  });

  Deno.test(`gated products of ${name} are silu(gate)·up·z`, async () => {
    for (const [rows, cols, maxShardRows] of [[1, 5, 64], [67, 65, 64], [300, 200, 128], [513, 40, 1024]] as const) {
      using gate = weights(rows, cols, { ...storage, maxShardRows }, 4);
      using up = weights(rows, cols, { ...storage, maxShardRows }, 5);
      using x = vector(cols, { isNormed: true });
      const mask = random(rows, 6);
      using z = device.uploadBuffer("z", mask);
      using y = device.uploadBuffer("y", new Float32Array(strideOf(rows) + 64).fill(STALE));
      using plan = new Plan(device);
      recordGatedProducts(plan, x.input, { gate: gate.matrix, up: up.matrix, z, y });
      await plan.run();
      await check(`${name} ${rows} x ${cols}`, { buffer: y, length: strideOf(rows) + 64 }, (n) => {
        if (n >= rows) return { value: STALE, bound: 0 };
        const g = rowSum(gate, x.values, n), u = rowSum(up, x.values, n), masked = mask[n] ?? 0;
        const silu = g.value / (1 + Math.exp(-g.value)), value = silu * u.value * masked;
        // |silu'| is at most 1.1; exp and the products round a few times.
        const bound = Math.abs(masked) *
          (1.1 * g.bound * Math.abs(u.value) + Math.abs(silu) * u.bound + 2 * g.bound * u.bound);
        return { value, bound: bound + 16 * ROUND * Math.abs(value) + 1e-30 };
      });
    }
  });

  Deno.test(`residual products of ${name} add W·x·z`, async () => {
    for (const [rows, cols, maxShardRows] of [[1, 1, 64], [20, 33, 64], [130, 70, 64], [576, 150, 1024]] as const) {
      using w = weights(rows, cols, { ...storage, maxShardRows }, 7);
      using x = vector(cols, { isNormed: false });
      const mask = random(rows, 8), before = random(strideOf(rows) + 64, 9);
      using z = device.uploadBuffer("z", mask);
      using y = device.uploadBuffer("y", before);
      using plan = new Plan(device);
      recordResidualProduct(plan, x.input, { matrix: w.matrix, z, y });
      await plan.run();
      await check(`${name} ${rows} x ${cols}`, { buffer: y, length: before.length }, (n) => {
        const old = before[n] ?? 0;
        if (n >= rows) return { value: old, bound: 0 };
        const { value, bound } = rowSum(w, x.values, n), masked = mask[n] ?? 0, sum = old + value * masked;
        return { value: sum, bound: Math.abs(masked) * bound + 4 * ROUND * (Math.abs(old) + Math.abs(value)) };
      });
    }
  });
}

for (const dtype of DTYPES) {
  Deno.test(`rotated products of ${dtype} are RoPE of q and k, and v, at the token's position`, async () => {
    const capacity = 70, at = 66, storage = { dtype, placement: "texture" } as const;
    for (
      const { heads, kvHeads, headDim, cols, dims = headDim } of [
        { heads: 1, kvHeads: 1, headDim: 2, cols: 7 },
        { heads: 4, kvHeads: 2, headDim: 6, cols: 33 },
        { heads: 4, kvHeads: 2, headDim: 18, cols: 33, dims: 10 },
        { heads: 9, kvHeads: 3, headDim: 64, cols: 100 },
      ]
    ) {
      const width = headStride(headDim), pageCount = 2;
      using q = weights(heads * width, cols, storage, 1);
      using k = weights(kvHeads * width, cols, storage, 2);
      using v = weights(kvHeads * width, cols, storage, 3);
      using x = vector(cols, { isNormed: true });
      const table = ropeTable({ headDim, rope: { base: 100, scaling: { kind: "none" }, dims } }, capacity);
      using rope = device.uploadBuffer("rope", table);
      using position = device.uploadBuffer("position", Uint32Array.of(at));
      using pages = createPageTable(device, capacity);
      using turned = device.uploadBuffer("q", new Float32Array(heads * width + 64).fill(STALE));
      const size = [CACHE_KEYS * width / 4, kvHeads * pageCount] as const;
      using kCache = device.createTexture("k", ...size, "rgba32float");
      using vCache = device.createTexture("v", ...size, "rgba32float");
      for (const cache of [kCache, vCache]) {
        const stale = new Float32Array(4 * size[0] * size[1]).fill(STALE);
        device.gpu.queue.writeTexture({ texture: cache.raw }, stale, { bytesPerRow: 16 * size[0] }, [...size]);
      }
      using plan = new Plan(device);
      recordRotatedProducts(plan, x.input, { q: q.matrix, k: k.matrix, v: v.matrix }, {
        headDim,
        dims,
        rope,
        position,
        pages,
        capacity,
        kvHeads,
        q: turned,
        kCache,
        vCache,
      });
      await plan.run();
      const rotated = (w: Weights, n: number): Cell => {
        const j = n % width, half = dims / 2, pair = j % half;
        // Rows of padding too, which are zeros in a model.
        if (j >= dims) return rowSum(w, x.values, n);
        const low = rowSum(w, x.values, n - j + pair), high = rowSum(w, x.values, n - j + pair + half);
        const [cos = 0, sin = 0] = table.subarray(2 * (at * half + pair));
        const value = j < half ? low.value * cos - high.value * sin : high.value * cos + low.value * sin;
        const size = Math.abs(low.value) + Math.abs(high.value);
        return { value, bound: 1.5 * (low.bound + high.bound) + 4 * ROUND * size };
      };
      const what = `${dtype}, ${heads} heads of ${headDim}`;
      await check(
        what,
        { buffer: turned, length: heads * width + 64 },
        (n) => n < heads * width ? rotated(q, n) : { value: STALE, bound: 0 },
      );
      for (const [cache, w, role] of [[kCache, k, "k"], [vCache, v, "v"]] as const) {
        assertCells(await readTexture(device, cache.raw, size), {
          what: `${what}, ${role}`,
          rows: size[1],
          stride: 4 * size[0],
          want: (row, column) => {
            const key = Math.floor(row / kvHeads) * CACHE_KEYS + Math.floor(column / width);
            if (key !== at) return { value: STALE, bound: 0 };
            const n = row % kvHeads * width + column % width;
            return role === "k" ? rotated(w, n) : rowSum(w, x.values, n);
          },
        });
      }
    }
  });
}

/** Half a unit, one, several, several rounds, and several passes. */
const BATCHES: readonly {
  readonly dtype: ValueDtype;
  readonly batch: number;
  readonly cols: number;
  readonly placement?: MatrixPlacement;
  /** Without subgroups. */
  readonly isPlain?: boolean;
}[] = [
  { dtype: "f16", batch: 4, cols: 70, isPlain: true },
  { dtype: "q4", batch: 8, cols: 190, isPlain: true },
  ...DTYPES.flatMap((dtype) => [{ dtype, batch: 2, cols: 70 }, { dtype, batch: 16, cols: 200 }]),
  { dtype: "q8", batch: 4, cols: 100 },
  { dtype: "q4", batch: 4, cols: 190 },
  { dtype: "f32", batch: 2, cols: 48 },
  { dtype: "f32", batch: 2, cols: 1100 },
  { dtype: "f16", batch: 8, cols: 1100 },
  { dtype: "q4", batch: 2, cols: 70, placement: "buffer" },
];
for (const { dtype, batch, cols, placement = "texture", isPlain = false } of BATCHES) {
  const name = `${dtype} in ${placement}s, ${cols} columns${isPlain ? ", without subgroups" : ""}`;
  Deno.test(`each of ${batch} vectors has the bits of one alone, ${name}`, async () => {
    const storage = { dtype, placement } as const,
      rows = 37,
      stride = strideOf(cols),
      pitch = strideOf(rows);
    using gate = weights(rows, cols, storage, 1);
    using up = weights(rows, cols, storage, 2);
    using z = device.uploadBuffer("z", random(rows, 3));
    using weight = device.uploadBuffer("norm", random(stride, 4));
    const scales = random(pitch, 6), all = random(batch * stride, 5), old = random(batch * pitch, 7);
    using scale = device.uploadBuffer("scale", scales);
    /** The vectors from `first`. */
    const run = async (first: number, count: number): Promise<Float32Array> => {
      using buffer = device.uploadBuffer("x", all.slice(first * stride, (first + count) * stride));
      using stored = device.createBuffer("stored", 4 * count * pitch);
      using gated = device.createBuffer("gated", 4 * count * pitch);
      using y = device.uploadBuffer("y", old.slice(first * pitch, (first + count) * pitch));
      using plan = new Plan(device);
      using scratch = createMatvecScratch(device, count);
      const textures = count > 1 && placement === "texture" ? { scratch } : undefined;
      const plain = { buffer, width: cols, batch: count, ...textures };
      const input = { ...plain, norm: { weight, eps: EPS } };
      const written = textures && { gated: scratch.texture("gated", rows), next: scratch.texture("next", rows) };
      const next = written && { norm: scale, texture: written.next };
      const record = (): void => {
        recordStoredProducts(plan, input, { parts: [{ matrix: gate.matrix, offset: 0 }], y: stored });
        recordGatedProducts(plan, input, { gate: gate.matrix, up: up.matrix, z, y: written?.gated ?? gated });
        recordResidualProduct(plan, plain, { matrix: up.matrix, z, y, next });
        recordResidualProduct(plan, input, { matrix: gate.matrix, z, y, next });
      };
      if (isPlain) withoutSubgroups(device, record);
      else record();
      await plan.run();
      /** A result of all vectors, without padding. */
      const own = (all: Float32Array, from: number): number[][] =>
        Array.from({ length: count }, (_, b) => [...all.subarray(b * from, b * from + rows)]);
      const sums = own(await device.readFloats(y, count * pitch), pitch);
      const read = [own(await device.readFloats(stored, count * pitch), pitch), sums];
      if (written) {
        const texels = written.next.bytes / 16 / count;
        const [gated = [], next = []] = await Promise.all(
          [written.gated, written.next].map(async ({ raw }) =>
            own(await readTexture(device, raw, [texels, count]), 4 * texels)
          ),
        );
        read.push(gated, next);
      } else {
        read.push(own(await device.readFloats(gated, count * pitch), pitch));
        read.push(sums.map((all) => all.map((value, n) => Math.fround(value * (scales[n] ?? 0)))));
      }
      return Float32Array.from(Array.from({ length: count }, (_, b) => read.flatMap((all) => all[b] ?? [])).flat());
    };
    const alone: number[] = [];
    for (let b = 0; b < batch; b++) alone.push(...await run(b, 1));
    assert.ok(alone.every((value) => value !== 0));
    assert.deepEqual([...await run(0, batch)], alone);
  });
}

for (
  const { dtype, batch, headDim, isPlain } of [
    { dtype: "f16", batch: 8, headDim: 6, isPlain: false },
    { dtype: "q4", batch: 2, headDim: 18, isPlain: false },
    { dtype: "q8", batch: 4, headDim: 6, isPlain: true },
  ] as const
) {
  const name = `${dtype}, heads of ${headDim}${isPlain ? ", without subgroups" : ""}`;
  Deno.test(`rotated products of ${batch} vectors have the bits of each alone, ${name}`, async () => {
    const heads = 4, kvHeads = 2, width = headStride(headDim), cols = 70, capacity = CACHE_KEYS + 9;
    const storage = { dtype, placement: "texture" } as const, stride = strideOf(cols), pitch = strideOf(heads * width);
    using q = weights(heads * width, cols, storage, 1);
    using k = weights(kvHeads * width, cols, storage, 2);
    using v = weights(kvHeads * width, cols, storage, 3);
    using weight = device.uploadBuffer("norm", random(stride, 4));
    const table = ropeTable({ headDim, rope: { base: 100, scaling: { kind: "none" } } }, capacity);
    using rope = device.uploadBuffer("rope", table);
    const all = random(batch * stride, 5), size = [CACHE_KEYS * width / 4, 2 * kvHeads * batch] as const;
    using kCache = device.createTexture("k", ...size, "rgba32float");
    using vCache = device.createTexture("v", ...size, "rgba32float");
    /** The vectors from `first`, whose pages and positions differ; the last one is beyond the capacity. */
    const run = async (first: number, count: number): Promise<Float32Array[]> => {
      const own = Array.from({ length: count }, (_, b) => first + b);
      using buffer = device.uploadBuffer("x", all.slice(first * stride, (first + count) * stride));
      using position = device.uploadBuffer(
        "position",
        Uint32Array.from(own, (b) => b + 1 === batch ? capacity : CACHE_KEYS - 1 + b),
      );
      using pages = device.uploadBuffer("pages", Uint32Array.from(own.flatMap((b) => [2 * b + 1, 2 * b])));
      using turned = device.createBuffer("q", 4 * count * pitch);
      using scratch = createMatvecScratch(device, count);
      using plan = new Plan(device);
      const input = {
        buffer,
        width: cols,
        batch: count,
        ...(count > 1 ? { scratch } : {}),
        norm: { weight, eps: EPS },
      };
      const target = { headDim, dims: headDim, rope, position, pages: { buffer: pages, perRow: 2 }, capacity, kvHeads };
      const record = (): void =>
        recordRotatedProducts(plan, input, { q: q.matrix, k: k.matrix, v: v.matrix }, {
          ...target,
          q: turned,
          kCache,
          vCache,
        });
      if (isPlain) withoutSubgroups(device, record);
      else record();
      await plan.run();
      const read = await device.readFloats(turned, count * pitch);
      return own.map((_, b) => read.slice(b * pitch, b * pitch + heads * width));
    };
    const caches = (): Promise<Float32Array[]> =>
      Promise.all([kCache, vCache].map(({ raw }) => readTexture(device, raw, size)));
    const alone = [];
    for (let b = 0; b < batch; b++) alone.push(...await run(b, 1));
    const written = await caches();
    const zeros = new Float32Array(4 * size[0] * size[1]);
    for (const { raw } of [kCache, vCache]) {
      device.gpu.queue.writeTexture({ texture: raw }, zeros, { bytesPerRow: 16 * size[0] }, [...size]);
    }
    assert.deepEqual(await run(0, batch), alone);
    assert.deepEqual(await caches(), written);
    for (const values of written) {
      assert.equal(values.filter((value) => value !== 0).length, (batch - 1) * kvHeads * width);
    }
  });
}

Deno.test("rotated products take several dispatches where an adapter binds few textures, with the same bits", async () => {
  const headDim = 6, heads = 4, kvHeads = 2, width = headStride(headDim), cols = 70, { limits } = device;
  for (const dtype of ["f16", "q4"] as const) {
    const results: Float32Array[][] = [], counts: number[] = [];
    for (const maxStorageTexturesPerShaderStage of [limits.maxStorageTexturesPerShaderStage, 4]) {
      const storage = { dtype, placement: "texture" } as const;
      using q = weights(heads * width, cols, storage, 1);
      using k = weights(kvHeads * width, cols, storage, 2);
      using v = weights(kvHeads * width, cols, storage, 3);
      using x = vector(cols, { isNormed: true });
      using rope = device.uploadBuffer(
        "rope",
        ropeTable({ headDim, rope: { base: 100, scaling: { kind: "none" } } }, 1),
      );
      using position = device.createBuffer("position", 4);
      using pages = createPageTable(device, 1);
      using turned = device.createBuffer("q", 4 * heads * width);
      const size = [CACHE_KEYS * width / 4, kvHeads] as const;
      using kCache = device.createTexture("k", ...size, "rgba32float");
      using vCache = device.createTexture("v", ...size, "rgba32float");
      using plan = new Plan(device);
      Object.defineProperty(device, "limits", {
        configurable: true,
        value: {
          maxStorageTexturesPerShaderStage,
          maxComputeWorkgroupStorageSize: 16384,
          maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
        },
      });
      recordRotatedProducts(plan, x.input, { q: q.matrix, k: k.matrix, v: v.matrix }, {
        headDim,
        dims: headDim,
        rope,
        position,
        pages,
        capacity: 1,
        kvHeads,
        q: turned,
        kCache,
        vCache,
      });
      Reflect.deleteProperty(device, "limits");
      counts.push(plan.length);
      await plan.run();
      results.push([
        await device.readFloats(turned, heads * width),
        await readTexture(device, kCache.raw, size),
        await readTexture(device, vCache.raw, size),
      ]);
    }
    assert.deepEqual(counts, [1, dtype === "f16" ? 2 : 3]);
    assert.ok(results[0]?.every((part) => part.some((value) => value !== 0)));
    assert.deepEqual(results[1], results[0]);
  }
});

Deno.test("a row of more columns than a texture kernel unrolls takes several rounds", async () => {
  for (const [dtype, cols] of [["f32", 1100], ["f16", 2100], ["q4", 4200]] as const) {
    assert.ok(textureUnits(dtype, cols).rounds > 1);
    using w = weights(9, cols, { dtype, placement: "texture" }, 1);
    using x = vector(cols, { isNormed: true });
    using y = device.createBuffer("y", 64);
    using plan = new Plan(device);
    recordStoredProducts(plan, x.input, { parts: [{ matrix: w.matrix, offset: 0 }], y });
    await plan.run();
    await check(`${dtype}, ${cols} columns`, { buffer: y, length: 9 }, (n) => rowSum(w, x.values, n));
  }
});

Deno.test("textureUnits() covers every width, and few of them for many widths", () => {
  for (const [dtype, span] of [["f32", 32], ["f16", 64], ["q8", 64], ["q4", 128]] as const) {
    const kernels = new Set<string>();
    for (let columns = 64; columns <= 8192; columns += 64) {
      const { units, half, rounds } = textureUnits(dtype, columns),
        covered = (units + (half ? 0.5 : 0)) * rounds * span;
      kernels.add(JSON.stringify({ units, half, isMany: rounds > 1 }));
      assert.ok(covered >= columns && covered < 1.25 * columns + span, `${dtype}: ${covered} for ${columns} columns`);
      assert.ok(units >= 1 && units <= 32, `${dtype}: ${units} units for ${columns} columns`);
    }
    assert.ok(kernels.size <= 40, `${dtype}: ${kernels.size} kernels`);
  }
});

Deno.test("the sums do not depend on how rows are cut into shards and workgroups", async () => {
  const rows = 150, cols = 70;
  for (const storage of storages) {
    const results: Float32Array[] = [];
    for (const maxShardRows of [64, 1024]) {
      using w = weights(rows, cols, { ...storage, maxShardRows }, 1);
      using x = vector(cols, { isNormed: true });
      using y = device.createBuffer("y", 4 * strideOf(rows));
      using plan = new Plan(device);
      recordStoredProducts(plan, x.input, { parts: [{ matrix: w.matrix, offset: 0 }], y });
      await plan.run();
      results.push(await device.readFloats(y, rows));
    }
    for (const result of results) {
      const at = result.findIndex((value, n) => value !== results[0]?.[n]);
      assert.equal(at, -1, `${storage.placement} ${storage.dtype}: row ${at} differs`);
    }
  }
});
