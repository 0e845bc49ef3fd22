// Checks an adapter with small computations whose results are known.
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import { Plan } from "../gpu/plan.ts";
import { AttentionScratch, recordAttention } from "./attention.ts";
import { headStride, paddedRows, strideOf } from "./padding.ts";
import { recordLinear } from "./products/linear.ts";
import { recordMatmul } from "./products/matmul.ts";
import { createMatrix, writeRows } from "./products/matrix.ts";
import { operand, OperandPool } from "./products/operand.ts";
import { recordNorm } from "./norm.ts";
import { dequantizeRows, quantizeRows } from "../spec/quant.ts";

/** Result of one computation. */
export interface AdapterCheck {
  readonly name: string;
  /** Largest difference from the CPU result in f64; infinite if a value is not finite. */
  readonly largestError: number;
  /** Largest difference that f32 arithmetic in any order can cause. */
  readonly bound: number;
}

/** Product sizes that are not multiples of a tile. */
const M = 37, N = 70, K = 51;
/** Error bound of an f32 sum of K products of values in [−1, 1), in any order. */
const SUM_BOUND = (K + 3) * K * 2 ** -24;
/** Error factor of block formats: codes are summed at twice the size of a value, and their offset at its size. */
const BLOCK_FACTOR = 4;
const EPS = 1e-5;
/** Drivers compute inverseSqrt and exp2 to within a few units of 2⁻²³, for values between 1 and 2. */
const FUNCTION_BOUND = 4e-5;
const ATTENTION = { batch: 1, seq: 21, heads: 4, kvHeads: 2, headDim: 6 } as const;

/**
 * Runs the main kernels of a forward pass as this adapter runs them: an f32 product, products with f16 and
 * block-quantised weights, a norm and attention.
 */
export async function checkAdapter(device: Device): Promise<readonly AdapterCheck[]> {
  return [
    await checkProduct(device),
    await checkWeights(device, "f16"),
    await checkWeights(device, "q8"),
    await checkWeights(device, "q4"),
    await checkNorm(device),
    await checkAttention(device),
  ];
}

async function checkProduct(device: Device): Promise<AdapterCheck> {
  const a = values(M * K, 12.9898), b = values(K * N, 78.233);
  using bufferA = device.uploadBuffer("a", a);
  using bufferB = device.uploadBuffer("b", b);
  using bufferC = device.createBuffer("c", M * N * 4);
  using pool = new OperandPool(device);
  const [x, y, z] = [{ buffer: bufferA, stride: K }, { buffer: bufferB, stride: N }, { buffer: bufferC, stride: N }];
  const got = await ran(device, bufferC, (plan) => recordMatmul(plan, { a: x, b: y, c: z, m: M, n: N, k: K, pool }));
  const error = worst(
    M,
    N,
    (row, column) => got(row * N + column) - sumOf(K, (k) => at(a, row * K + k) * at(b, k * N + column)),
  );
  return { name: "product", largestError: error, bound: SUM_BOUND };
}

/** y = x·Wᵀ with a stored W [N, K]. */
async function checkWeights(device: Device, dtype: "f16" | "q8" | "q4"): Promise<AdapterCheck> {
  const w = values(N * K, 12.9898), stride = strideOf(K), width = strideOf(N);
  const stored = dtype === "f16"
    ? Float32Array.from(new Float16Array(w))
    : dequantizeRows(quantizeRows(w, { cols: K, dtype }), K);
  using matrix = createMatrix(device, "weights", { rows: N, cols: K, dtype });
  writeRows(device, matrix, 0, w);
  const x = spread(values(M * K, 78.233), { rows: M, width: K, stride });
  using input = device.uploadBuffer("x", x);
  using y = device.createBuffer("y", 4 * paddedRows(M) * width);
  using pool = new OperandPool(device);
  const got = await ran(device, y, (plan) => {
    const view = operand(plan, pool, input, { rows: M, stride });
    recordLinear(plan, view, matrix, { buffer: y, stride: width }, { rows: M, direction: "forward" });
  });
  const error = worst(
    M,
    N,
    (row, column) => got(row * width + column) - sumOf(K, (k) => at(x, row * stride + k) * at(stored, column * K + k)),
  );
  return { name: `${dtype} weights`, largestError: error, bound: (dtype === "f16" ? 1 : BLOCK_FACTOR) * SUM_BOUND };
}

async function checkNorm(device: Device): Promise<AdapterCheck> {
  const rows = 3, stride = strideOf(N), x = spread(values(rows * N, 12.9898), { rows, width: N, stride });
  const w = spread(values(N, 78.233), { rows: 1, width: N, stride });
  using input = device.uploadBuffer("x", x);
  using weight = device.uploadBuffer("w", w);
  using y = device.createBuffer("y", 4 * paddedRows(rows) * stride);
  using r = device.createBuffer("r", 4 * paddedRows(rows));
  const spec = { hidden: N, normEps: EPS };
  const got = await ran(
    device,
    y,
    (plan) => recordNorm(plan, { weight, bias: null }, { x: input, y, r }, { rows, spec }),
  );
  const error = worst(rows, N, (row, column) => {
    const square = sumOf(N, (k) => at(x, row * stride + k) ** 2) / N;
    return got(row * stride + column) - at(x, row * stride + column) * at(w, column) / Math.sqrt(square + EPS);
  });
  return { name: "norm", largestError: error, bound: FUNCTION_BOUND };
}

async function checkAttention(device: Device): Promise<AdapterCheck> {
  const { seq, heads, kvHeads, headDim } = ATTENTION, hs = headStride(headDim);
  const filled = (count: number, seed: number): Float32Array<ArrayBuffer> =>
    spread(values(seq * count * headDim, seed), {
      rows: seq,
      width: count * headDim,
      stride: strideOf(count * hs),
      part: headDim,
    });
  const q = filled(heads, 12.9898), k = filled(kvHeads, 78.233), v = filled(kvHeads, 37.719);
  const [qStride, kvStride] = [strideOf(heads * hs), strideOf(kvHeads * hs)];
  using bufferQ = device.uploadBuffer("q", q);
  using bufferK = device.uploadBuffer("k", k);
  using bufferV = device.uploadBuffer("v", v);
  using o = device.createBuffer("o", 4 * paddedRows(seq) * qStride);
  using lse = device.createBuffer("lse", 4 * heads * seq);
  using scratch = new AttentionScratch(device);
  const buffers = { q: bufferQ, k: bufferK, v: bufferV, o, lse, scratch };
  const got = await ran(device, o, (plan) => recordAttention(plan, ATTENTION, buffers));
  const error = worst(seq, heads * headDim, (row, column) => {
    const head = Math.floor(column / headDim), d = column % headDim, kv = Math.floor(head / (heads / kvHeads)) * hs;
    const weights = Array.from(
      { length: row + 1 },
      (_, j) =>
        Math.exp(
          sumOf(headDim, (e) => at(q, row * qStride + head * hs + e) * at(k, j * kvStride + kv + e)) /
            Math.sqrt(headDim),
        ),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return got(row * qStride + head * hs + d) -
      sumOf(row + 1, (j) => at(weights, j) / total * at(v, j * kvStride + kv + d));
  });
  return { name: "attention", largestError: error, bound: FUNCTION_BOUND };
}

/** Runs the recorded plan and reads a buffer back. */
async function ran(
  device: Device,
  buffer: DeviceBuffer,
  record: (plan: Plan) => void,
): Promise<(index: number) => number> {
  using plan = new Plan(device);
  record(plan);
  await plan.finish().run();
  const got = await device.readFloats(buffer, buffer.bytes / 4);
  return (index) => at(got, index);
}

/** Values in [−1, 1], different for each seed. */
function values(count: number, seed: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, (_, index) => Math.sin(index * seed));
}

/** Rows without padding. On the device, rows are `stride` apart and consist of parts, each padded like a head. */
function spread(
  dense: Float32Array,
  { rows, width, stride, part = width }: {
    readonly rows: number;
    readonly width: number;
    readonly stride: number;
    readonly part?: number;
  },
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(paddedRows(rows) * stride), pitch = part === width ? width : headStride(part);
  dense.forEach((value, index) => {
    const row = Math.floor(index / width), column = index % width;
    out[row * stride + Math.floor(column / part) * pitch + column % part] = value;
  });
  return out;
}

function at(array: ArrayLike<number>, index: number): number {
  return array[index] ?? NaN;
}

function sumOf(count: number, term: (index: number) => number): number {
  let sum = 0;
  for (let index = 0; index < count; index++) sum += term(index);
  return sum;
}

/** Largest absolute difference; infinite if a difference is not a number. */
function worst(rows: number, columns: number, difference: (row: number, column: number) => number): number {
  let most = 0;
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const size = Math.abs(difference(row, column));
      if (!(size <= most)) most = Number.isNaN(size) ? Infinity : size;
    }
  }
  return most;
}
