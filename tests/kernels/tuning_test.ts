// The choice of tiles: it never changes a value, it follows the measured times, and what is recorded follows it.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { Plan } from "../../lib/gpu/plan.ts";
import { tuningOf } from "../../lib/gpu/tuning.ts";
import { paddedRows, strideOf } from "../../lib/nn/padding.ts";
import { type Direction, linearProduct, recordLinear } from "../../lib/nn/products/linear.ts";
import { operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { matmulProduct, recordMatmul } from "../../lib/nn/products/matmul.ts";
import { createMatrix, type MatrixPlacement, type ValueDtype, writeRows } from "../../lib/nn/products/matrix.ts";
import { tuneProducts } from "../../lib/nn/products/tune.ts";
import { candidateTiles, type Product, productKey, productTile, tileName } from "../../lib/nn/products/variants.ts";
import { rejects } from "../refuses.ts";
import { random } from "./helpers/cells.ts";
import { BOTH, fakeClock, FORWARD, SPEC, tunedPlaces } from "./helpers/tuning.ts";
import { WatchedPlan } from "./helpers/watched_plan.ts";

const device: Device = await openDevice();

/** Runs what `record` records with every tile that could serve the product, and asserts the same bits. Returns the number of tiles. */
async function assertSameBits(
  product: Product,
  { count, record }: { count: number; record: (plan: Plan, target: ReturnType<Device["createBuffer"]>) => void },
): Promise<number> {
  const tuning = tuningOf(device), key = productKey(product), before = random(count, 9);
  const tiles = candidateTiles(device, product);
  let first: Uint32Array | null = null;
  for (const tile of tiles) {
    tuning.set(key, tileName(tile));
    using target = device.uploadBuffer("target", before);
    using plan = new Plan(device);
    record(plan, target);
    tuning.delete(key);
    await plan.run();
    const bits = new Uint32Array((await device.readFloats(target, count)).buffer);
    first ??= bits;
    const other = bits.findIndex((value, index) => value !== first?.[index]);
    assert.equal(other, -1, `${key}: tile ${tileName(tile)} differs from ${tileName(tiles[0] ?? tile)} at ${other}`);
    assert.notDeepEqual(bits.slice(0, 8), new Uint32Array(before.buffer).slice(0, 8), "the kernel wrote nothing");
  }
  return tiles.length;
}

async function assertLinearBits(shape: {
  m: number;
  out: number;
  cols: number;
  direction: Direction;
  dtype: ValueDtype;
  placement: MatrixPlacement;
  rank?: number;
  accumulate?: boolean;
}): Promise<number> {
  const { m: rows, out, cols, direction, dtype, placement, rank, accumulate = false } = shape;
  using matrix = createMatrix(device, "w", { rows: out, cols, dtype, placement });
  writeRows(device, matrix, 0, random(out * cols, 1));
  const [width, depth] = direction === "forward" ? [out, cols] : [cols, out], stride = strideOf(depth);
  const input = random(paddedRows(rows) * stride, 2);
  for (let i = 0; i < input.length; i++) if (i % stride >= depth) input[i] = 0;
  using x = device.uploadBuffer("x", input);
  using h = device.uploadBuffer("h", random(rows * (rank ?? 1), 3));
  using weight = device.uploadBuffer("low", random((rank ?? 1) * width, 4));
  using pool = new OperandPool(device, placement);
  const low = rank && {
    h: { buffer: h, stride: rank },
    weight: { buffer: weight, stride: direction === "forward" ? rank : width },
    rank,
    alpha: 0.5,
    pool,
  };
  const product = linearProduct(matrix, { rows, direction, shardRows: out });
  return await assertSameBits(product, {
    count: rows * strideOf(width),
    record: (plan, buffer) =>
      recordLinear(plan, operand(plan, pool, x, { rows, stride }), matrix, { buffer, stride: strideOf(width) }, {
        rows,
        direction,
        accumulate,
        ...(low ? { low } : {}),
      }),
  });
}

for (const placement of ["texture", "buffer"] as const) {
  Deno.test(`every tile of a linear product from a ${placement} gives the same bits, for awkward sizes`, async () => {
    const base = { m: 33, out: 131, cols: 77, placement } as const;
    const counts = [
      await assertLinearBits({ ...base, dtype: "f16", direction: "forward" }),
      await assertLinearBits({ ...base, dtype: "f32", direction: "backward", rank: 5 }),
      await assertLinearBits({ ...base, dtype: "q4", direction: "forward" }),
      await assertLinearBits({ ...base, dtype: "q8", direction: "backward" }),
    ];
    assert.ok(Math.min(...counts) >= 3, `${counts} tiles`);
    for (const m of [1, 3, 8, 17]) {
      const small = { ...base, m, direction: "forward", dtype: "f16", accumulate: true } as const;
      assert.ok(await assertLinearBits(small) >= 2);
    }
  });

  Deno.test(`every tile of a general product by ${placement} gives the same bits, for all transposes`, async () => {
    for (const [m, n, k] of [[37, 5, 75], [5, 37, 67]] as const) {
      for (const [transposeA, transposeB] of [[false, false], [false, true], [true, false], [true, true]] as const) {
        const shape = { m, n, k, transposeA, transposeB };
        using a = device.uploadBuffer("a", random(m * k, 5));
        using b = device.uploadBuffer("b", random(k * n, 6));
        using pool = new OperandPool(device, placement);
        const tiles = await assertSameBits(matmulProduct(placement, shape), {
          count: m * n,
          record: (plan, buffer) =>
            recordMatmul(plan, {
              ...shape,
              a: { buffer: a, stride: transposeA ? m : k },
              b: { buffer: b, stride: transposeB ? k : n },
              c: { buffer, stride: n },
              accumulate: true,
              pool,
            }),
        });
        assert.ok(tiles >= 3, `${tiles} tiles`);
      }
    }
  });
}

Deno.test("products are the same bits with and without subgroups", async () => {
  using plain = await openDevice({ subgroups: false });
  assert.equal(plain.subgroups, null);
  for (const dtype of ["f32", "f16", "q8", "q4"] as const) {
    for (const direction of ["forward", "backward"] as const) {
      const results: Uint32Array[] = [], rows = 77, out = 75, cols = 131;
      for (const own of [device, plain]) {
        using matrix = createMatrix(own, "w", { rows: out, cols, dtype, placement: "texture" });
        writeRows(own, matrix, 0, random(out * cols, 1));
        const [width, depth] = direction === "forward" ? [out, cols] : [cols, out], stride = strideOf(depth);
        using x = own.uploadBuffer("x", random(paddedRows(rows) * stride, 2));
        using h = own.uploadBuffer("h", random(rows * 5, 3)), weight = own.uploadBuffer("low", random(5 * 131, 4));
        using y = own.createBuffer("y", 4 * rows * strideOf(width));
        using pool = new OperandPool(own, "texture");
        using plan = new Plan(own);
        const low = { h: { buffer: h, stride: 5 }, weight: { buffer: weight, stride: 5 }, rank: 5, alpha: 0.5, pool };
        recordLinear(plan, operand(plan, pool, x, { rows, stride }), matrix, { buffer: y, stride: strideOf(width) }, {
          rows,
          direction,
          ...(direction === "forward" ? { low } : {}),
        });
        await plan.run();
        results.push(new Uint32Array((await own.readFloats(y, rows * strideOf(width))).buffer));
      }
      const [first, second] = results;
      assert.equal(first?.findIndex((value, index) => value !== second?.[index]), -1, `${direction} ${dtype}`);
      assert.ok(first?.some((value) => value !== 0));
    }
  }
});

Deno.test("recordLinear() and recordMatmul() record the tuned tile, the default for an unknown name, and only for its own product", () => {
  for (const isCpu of [true, false]) {
    using dry = openDryDevice({ isCpu });
    const names = (rows: number): string[] => {
      using matrix = createMatrix(dry, "w", { rows: 96, cols: 64, dtype: "f16" });
      using x = dry.createBuffer("x", 4 * rows * 64), y = dry.createBuffer("y", 4 * rows * 128);
      using pool = new OperandPool(dry);
      using plan = new WatchedPlan(dry);
      const view = operand(plan, pool, x, { rows, stride: 64 });
      recordLinear(plan, view, matrix, { buffer: y, stride: 128 }, { rows, direction: "forward" });
      recordMatmul(plan, {
        a: view,
        b: { buffer: b, stride: 64 },
        c: { buffer: c, stride: 64 },
        m: rows,
        n: 64,
        k: 64,
        pool,
      });
      return plan.names.filter((name) => name.startsWith("product-") && name !== "product-pack");
    };
    using b = dry.createBuffer("b", 4 * 64 * 64), c = dry.createBuffer("c", 4 * 512 * 64);
    const placement = isCpu ? "texture" : "buffer";
    const linear = linearProduct({ placement, dtype: "f16", cols: 64 }, {
      rows: 64,
      direction: "forward",
      shardRows: 96,
    });
    const general = matmulProduct(placement, { m: 64, n: 64, k: 64 });
    const before = names(64), tuning = tuningOf(dry);
    tuning.set(productKey(linear), "8x8");
    tuning.set(productKey(general), "8x8");
    assert.deepEqual(names(64).map(tileOfName), isCpu ? ["8x2", "8x2"] : ["8x8", "8x8"]);
    assert.notDeepEqual(names(64), before);
    assert.deepEqual(names(512).map(tileOfName), before.map(tileOfName));
    tuning.set(productKey(linear), "5x5");
    tuning.set(productKey(general), "");
    assert.deepEqual(names(64), before);
  }
});

function tileOfName(name: string): string {
  return /(\d+x\d+)/.exec(name)?.[1] ?? name;
}

Deno.test("tuneProducts() takes the tile of the least time for each product", async () => {
  using own = await openDevice();
  const seen: Product[] = [];
  const best = (product: Product): number => product.layout === "forward" ? 1 : 2;
  const measure = fakeClock(device, (product, place) => (seen.push(product), place === best(product) ? 1 : 2));
  const result = await tuneProducts(own, SPEC, { ...BOTH, measure });
  assert.deepEqual(tunedPlaces(own, seen), seen.map(best));
  // [512, 512], [1024, 512], [512, 1024] and the head, which has the key of [1024, 512], there and back.
  assert.deepEqual(result, { measured: 6, known: 0, left: 0 });
  assert.equal(tuningOf(own).size, 6);
  assert.equal(own.liveCount, 0);
});

Deno.test("tuneProducts() leaves the default only for a clear gain", async () => {
  for (const [slow, place] of [[1.02, 0], [1.04, 1]] as const) {
    using own = await openDevice();
    const seen: Product[] = [];
    const measure = fakeClock(device, (product, at) => (seen.push(product), [slow, 1][at] ?? 1.01));
    await tuneProducts(own, SPEC, { ...FORWARD, measure });
    assert.deepEqual(tunedPlaces(own, seen), seen.map(() => place));
  }
});

Deno.test("tuneProducts() counts the least of several times, and asks no more for a tile that was far behind", async () => {
  using own = await openDevice();
  const seen: Product[] = [], calls = new Map<string, number>();
  const measure = fakeClock(device, (product, place) => {
    seen.push(product);
    const key = `${productKey(product)}:${place}`, call = (calls.get(key) ?? 0) + 1;
    calls.set(key, call);
    if (place === 1) return call === 3 ? 0.5 : 1.1; // undisturbed but once
    return place === 0 ? 1 : 2;
  });
  await tuneProducts(own, SPEC, { ...FORWARD, measure });
  assert.deepEqual(tunedPlaces(own, seen), seen.map(() => 1));
  for (const [key, count] of calls) assert.equal(count > 1, /:[01]$/.test(key), `${key}: ${count}`);
});

Deno.test("tuneProducts() measures LoRA's thin products too, and nothing that is known", async () => {
  using own = await openDevice();
  const request = { ...BOTH, rows: 512, baseDtype: "f32", rank: 16 } as const;
  await tuneProducts(own, SPEC, { ...request, measure: fakeClock(device, () => 1) });
  assert.ok([...tuningOf(own).keys()].some((key) => key.startsWith("matmul-")));
  const again = fakeClock(device, () => 1);
  const { measured, known } = await tuneProducts(own, SPEC, { ...request, measure: again });
  assert.deepEqual([measured, known, again.asked.length], [0, tuningOf(own).size, 0]);
});

Deno.test("tuneProducts() leaves defaults when time or memory is spent, when products are small, and on a dry device", async () => {
  using own = await openDevice({ memoryLimit: 1 << 20 });
  const request = { ...BOTH, measure: fakeClock(device, () => 1) } as const;
  const spent = await tuneProducts(own, SPEC, { ...request, budgetSeconds: 0 });
  assert.deepEqual([spent.measured, spent.left], [0, 6]);
  const full = await tuneProducts(own, SPEC, request);
  assert.deepEqual([full.measured, full.left], [0, 6]);
  const small = await tuneProducts(own, SPEC, { ...request, rows: 2 });
  assert.deepEqual(small, { measured: 0, known: 0, left: 0 });
  using dry = openDryDevice({ isCpu: true });
  assert.deepEqual(await tuneProducts(dry, SPEC, request), { measured: 0, known: 0, left: 0 });
  assert.equal(tuningOf(own).size, 0);
  assert.equal(own.liveCount, 0);
});

Deno.test("tuneProducts() stops at an abort, and leaves no trial behind", async () => {
  using own = await openDevice();
  const controller = new AbortController();
  const measure = fakeClock(device, () => (controller.abort(new CompressoError("aborted", { what: "stopped" })), 1));
  await rejects(() => tuneProducts(own, SPEC, { ...BOTH, measure, signal: controller.signal }), "aborted");
  assert.equal(measure.asked.length, 1);
  assert.equal(tuningOf(own).size, 0);
  assert.equal(own.liveCount, 0);
});

Deno.test("tuneProducts() by the real clock chooses a tile for each product", async () => {
  using own = await openDevice();
  const shares: number[] = [];
  const spec = { ...SPEC, layers: SPEC.layers.slice(0, 1) };
  const { measured, left } = await tuneProducts(own, spec, {
    rows: 64,
    baseDtype: "f16",
    directions: ["forward"],
    budgetSeconds: 60,
    onProgress: (share) => shares.push(share),
  });
  assert.ok(measured >= 1);
  assert.equal(left, 0);
  assert.equal(shares.length, measured);
  assert.equal(shares.at(-1), 1);
  const product = linearProduct({ placement: own.facts.isCpu ? "texture" : "buffer", dtype: "f16", cols: 512 }, {
    rows: 64,
    direction: "forward",
    shardRows: 1024,
  });
  assert.equal(tuningOf(own).get(productKey(product)), tileName(productTile(own, product)));
});

Deno.test("a long or uneven side shares its key with the nearest power of √2, a short one is told apart", () => {
  const key = (m: number, n: number): string =>
    productKey({ family: "linear-texture", layout: "forward", dtype: "f16", m, n, k: 512 });
  assert.equal(key(256, 1000), key(256, 1024));
  assert.equal(key(256, 49152), key(256, 9000));
  assert.notEqual(key(256, 724), key(256, 1024));
  for (let m = 1; m < 16; m++) assert.notEqual(key(m, 512), key(m + 1, 512));
});

Deno.test("tuning leaves no buffer behind", () => {
  assert.equal(device.liveCount, 0);
  device[Symbol.dispose]();
});
