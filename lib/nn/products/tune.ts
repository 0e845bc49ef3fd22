// Autotuning: times the products of a decoder on this adapter with every candidate tile. A tile is used only if its
// results are bit-identical to the default, so only the speed changes.
import { isFileDtype } from "../../../kernels/mod.ts";
import { CompressoError } from "../../core/errors.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { openDryDevice } from "../../gpu/dry.ts";
import { compilingAnew } from "../../gpu/kernel.ts";
import { Plan } from "../../gpu/plan.ts";
import { tuningOf } from "../../gpu/tuning.ts";
import { headRowsFor } from "../head.ts";
import { paddedRows, strideOf } from "../padding.ts";
import { type Direction, linearProduct, recordLinear } from "./linear.ts";
import { type MatmulOptions, matmulProduct, recordMatmul } from "./matmul.ts";
import { createMatrix, type ValueDtype, writeRows } from "./matrix.ts";
import { type BufferView, operand, OperandPool } from "./operand.ts";
import {
  type DecoderSpec,
  EMBEDDING,
  embeddingWidth,
  HEAD,
  presentProjections,
  projectionName,
} from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import { candidateTiles, measuredSide, type Product, productKey, type Tile, tileName } from "./variants.ts";
import { type BaseDtype, matrixDtype, storedShape } from "../weights.ts";

/** Times one run of a plan that holds the product with a tile, in seconds. The minimum of several calls counts. */
export type Measure = (plan: Plan, product: Product, tile: Tile) => Promise<number>;

/** Options of {@link tuneProducts}. */
export interface TuneOptions {
  /** Tokens of a pass. */
  readonly rows: number;
  /** Storage of the frozen weights. Products of blocks of a file keep their default tiles. */
  readonly baseDtype: BaseDtype;
  /** For "file": the type of a matrix in the file. Default: of no matrix in blocks. */
  readonly storedDtype?: WeightSource["storedDtype"] | undefined;
  /** Default: both. */
  readonly directions?: readonly Direction[] | undefined;
  /** LoRA rank; its narrow products are measured too. Default: no LoRA. */
  readonly rank?: number | undefined;
  /** Time budget in seconds. Products not measured by then keep their default. Default 6. */
  readonly budgetSeconds?: number | undefined;
  /** Aborts the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the share of the products that is done, 0 to 1. */
  readonly onProgress?: ((done: number) => void) | undefined;
  /**
   * CPU time in seconds that the process has used so far. If given, it times CPU adapters: other processes disturb it
   * less than the wall clock.
   */
  readonly cpuTime?: (() => number) | undefined;
  /** Default: `cpuTime` on a CPU adapter, otherwise the timestamps of the GPU, or the wall clock. */
  readonly measure?: Measure | undefined;
}

/** Result of {@link tuneProducts}, in numbers of products. */
export interface TuneResult {
  readonly measured: number;
  /** Products that were already in the table of the device. */
  readonly known: number;
  /** Products that keep their defaults because the time or memory budget was used up. */
  readonly left: number;
}

/** A product of views: its sizes and the storage of the operands. */
type Thin = Pick<MatmulOptions, "m" | "n" | "k" | "transposeA" | "transposeB">;

/** A product to time. */
interface Work {
  readonly product: Product;
  /** The product that is timed: the same, or one with fewer rows. */
  readonly trial: Product;
  /** Time of one product, in floating-point operations of a large product. */
  readonly cost: number;
  /** Number of times that a pass computes it. */
  count: number;
  /** Allocates the operands into the stack. */
  readonly setup: (device: Device, stack: DisposableStack) => Trial;
}

/** A product to time, with its operands allocated. */
interface Trial {
  readonly record: (plan: Plan) => void;
  /** The result buffer and its number of values. */
  readonly target: DeviceBuffer;
  readonly count: number;
}

/** Minimum cost of a product to tune: all smaller ones together cost less than measuring one. */
const LEAST_COST = 5e7;
/** Cost factor per operation of a narrow product, as its operands are read for few operations. */
const THIN_COST = 4;
/** On a CPU, more rows than this give no new information. */
const CPU_ROWS = 512;
const ROUNDS = 4;
/** A tile this much slower than the best of a round is not measured again. */
const DROP = 1.15;
/** Minimum speedup to replace the default: less may be noise, and the choice would change from run to run. */
const GAIN = 1.03;
/** Rows of a matrix that are written at once. */
const FILL_ROWS = 1024;
/** Target duration of one measurement, in seconds. */
const SAMPLE_SECONDS = 0.01;
/** Number of values at either end of a result that are compared with those of the default. */
const COMPARED = 1 << 14;
/** Maximum number of runs of one measurement: more would not make it more precise. */
const MOST_REPEATS = 64;
/** The same for a GPU that only the wall clock can time, which cannot resolve a single run. */
const UNTIMED_REPEATS = 16;

/**
 * Fills the tuning table of the device with the fastest tiles for the products of a decoder. Products already in the
 * table are not measured again. Products with the most work come first.
 */
export async function tuneProducts(device: Device, spec: DecoderSpec, options: TuneOptions): Promise<TuneResult> {
  const { budgetSeconds = 6, signal, onProgress, measure = clockOf(device, options) } = options;
  if (device.isDry) return { measured: 0, known: 0, left: 0 };
  const all = worksOf(device, spec, options), tuning = tuningOf(device);
  const works = all.filter(({ product }) => !tuning.has(productKey(product)));
  const end = performance.now() + 1000 * budgetSeconds;
  const goesOn = (): boolean => (signal?.throwIfAborted(), performance.now() < end);
  let measured = 0;
  for (const [index, work] of works.entries()) {
    if (!goesOn()) break;
    const tile = await quickest(device, work, { measure, goesOn });
    if (tile) tuning.set(productKey(work.product), tileName(tile));
    measured += tile ? 1 : 0;
    onProgress?.((index + 1) / works.length);
  }
  return { measured, known: all.length - works.length, left: works.length - measured };
}

/** The fastest tile; null if time or memory ran out. */
async function quickest(
  device: Device,
  { product, trial, setup }: Work,
  { measure, goesOn }: { readonly measure: Measure; readonly goesOn: () => boolean },
): Promise<Tile | null> {
  using stack = new DisposableStack();
  const entries: Candidate[] = [];
  let wanted: Uint32Array | null = null;
  try {
    const { record, target, count } = setup(device, stack);
    for (const tile of candidateTiles(device, product)) {
      if (!goesOn()) return null; // some drivers take seconds to compile a kernel
      const plan = stack.use(new Plan(device));
      const recorded = (): void => recordWith(device, { product: trial, tile }, () => record(plan));
      if (!wanted) recorded();
      else if (!await compilingAnew(device, () => accepts(device, recorded))) continue;
      const bits = await endsAfter(plan, { device, target, count });
      wanted ??= bits;
      if (bits.every((value, index) => value === wanted?.[index])) entries.push({ tile, plan, seconds: Infinity });
    }
  } catch (error) {
    if (error instanceof CompressoError && error.code === "gpu" && !device.isBroken) return null; // over the limit
    throw error;
  }
  let left = entries;
  for (let round = 0; round < ROUNDS && left.length > 1; round++) {
    for (const entry of left) {
      if (!goesOn()) return null;
      entry.seconds = Math.min(entry.seconds, await measure(entry.plan, product, entry.tile));
    }
    const best = Math.min(...left.map(({ seconds }) => seconds));
    // The default gets a second chance, because all others are compared with it.
    left = left.filter(({ seconds, tile }) => seconds <= DROP * best || (tile === entries[0]?.tile && round === 0));
  }
  const [first] = entries, best = entries.reduce((a, b) => b.seconds < a.seconds ? b : a);
  return !first || best.seconds * GAIN < first.seconds ? best.tile : first.tile;
}

/** A tile to time. */
interface Candidate {
  readonly tile: Tile;
  readonly plan: Plan;
  seconds: number;
}

/** Records with a tile, then restores the tuning table. */
function recordWith(
  device: Device,
  { product, tile }: { readonly product: Product; readonly tile: Tile },
  record: () => void,
): void {
  const tuning = tuningOf(device), key = productKey(product), before = tuning.get(key);
  tuning.set(key, tileName(tile));
  try {
    record();
  } finally {
    if (before === undefined) tuning.delete(key);
    else tuning.set(key, before);
  }
}

/**
 * Whether the driver accepts the recorded plan. Otherwise its error would end the run because of a tile that is not
 * needed.
 */
async function accepts({ gpu }: Device, record: () => void): Promise<boolean> {
  const kinds = ["out-of-memory", "internal", "validation"] as const;
  let errors: Promise<GPUError | null>[] = [];
  for (const kind of kinds) gpu.pushErrorScope(kind);
  try {
    record();
  } finally {
    errors = kinds.map(() => gpu.popErrorScope());
  }
  return (await Promise.all(errors)).every((error) => error === null);
}

/**
 * Both ends of a result, as bits, after a run that started with zeros there. This reveals values that a driver silently
 * does not write.
 */
async function endsAfter(
  plan: Plan,
  { device, target, count }: { readonly device: Device } & Pick<Trial, "target" | "count">,
): Promise<Uint32Array> {
  const length = Math.min(count, COMPARED), offsets = [0, 4 * (count - length)], zeros = new Float32Array(length);
  for (const offset of offsets) device.write(target, zeros, offset);
  await plan.run();
  const ends = await device.read(offsets.map((byteOffset) => ({ buffer: target, byteOffset, bytes: 4 * length })));
  return new Uint32Array(await new Blob(ends).arrayBuffer());
}

/** Distinct products worth measuring, the most work first. */
function worksOf(device: Device, spec: DecoderSpec, options: TuneOptions): Work[] {
  const { baseDtype, storedDtype = () => "f16", rank = 0, directions = ["forward", "backward"] } = options;
  const most = device.facts.isCpu ? CPU_ROWS : Infinity;
  const works = new Map<string, Work>();
  const add = (work: Work): void => {
    const key = productKey(work.product), known = works.get(key);
    if (known) known.count += work.count;
    else works.set(key, work);
  };
  // A dry device computes the shards of a matrix without allocating them.
  using dry = openDryDevice({ limits: device.limits, isCpu: device.facts.isCpu });
  const addLinear = (m: number, [out, cols]: readonly [number, number], name: string): void => {
    const dtype = matrixDtype(name, { baseDtype, storedDtype });
    if (isFileDtype(dtype)) return;
    const { placement, shards } = createMatrix(dry, "tuning", { rows: out, cols, dtype });
    for (const { rows: shardRows } of shards) {
      for (const direction of directions) {
        const shape = {
          rows: Math.min(m, most),
          out: measuredSide(shardRows),
          cols: measuredSide(cols),
          dtype,
          direction,
        };
        add({
          product: linearProduct({ placement, dtype, cols }, { rows: m, direction, shardRows }),
          trial: linearProduct({ placement, dtype, cols: shape.cols }, { ...shape, shardRows: shape.out }),
          cost: 2 * m * shardRows * cols,
          count: 1,
          setup: (device, stack) => setupLinear(device, stack, shape),
        });
      }
    }
  };
  const addThin = (shape: Thin): void => {
    const product = matmulProduct(new OperandPool(dry).placement, shape);
    add({
      product,
      trial: product,
      cost: THIN_COST * 2 * shape.m * shape.n * shape.k,
      count: 1,
      setup: (device, stack) => setupThin(device, stack, shape),
    });
  };
  for (const [index, layer] of spec.layers.entries()) {
    for (const projection of presentProjections(spec, layer)) {
      const shape = storedShape(spec, layer, projection), [out, cols] = shape, m = options.rows;
      addLinear(m, shape, projectionName(index, projection));
      if (rank === 0) continue;
      // Same products as in projection.ts: A·x, Bᵀ·dy and the gradients of B and A.
      addThin({ m, n: rank, k: cols, transposeB: true });
      if (!directions.includes("backward")) continue;
      addThin({ m, n: rank, k: out });
      addThin({ m: out, n: rank, k: m, transposeA: true });
      addThin({ m: rank, n: cols, k: m, transposeA: true });
    }
  }
  addLinear(headRowsFor(spec.vocab, options.rows), [spec.vocab, embeddingWidth(spec)], spec.tied ? EMBEDDING : HEAD);
  return [...works.values()]
    .filter(({ cost, product }) => cost >= LEAST_COST && candidateTiles(device, product).length > 1)
    .sort((first, second) => second.cost * second.count - first.cost * first.count);
}

function setupLinear(device: Device, stack: DisposableStack, shape: {
  readonly rows: number;
  readonly out: number;
  readonly cols: number;
  readonly dtype: ValueDtype;
  readonly direction: Direction;
}): Trial {
  const { rows, out, cols, dtype, direction } = shape;
  const matrix = stack.use(createMatrix(device, "tuning", { rows: out, cols, dtype }));
  const [width, depth] = direction === "forward" ? [out, cols] : [cols, out];
  const stride = strideOf(depth);
  const fill = noise(FILL_ROWS * cols);
  for (let row = 0; row < out; row += FILL_ROWS) {
    writeRows(device, matrix, row, fill.subarray(0, Math.min(FILL_ROWS, out - row) * cols));
  }
  const x = stack.use(device.uploadBuffer("tuning x", noise(paddedRows(rows) * stride)));
  const y = stack.use(device.createBuffer("tuning y", 4 * paddedRows(rows) * strideOf(width)));
  const pool = stack.use(new OperandPool(device));
  const record = (plan: Plan): void => {
    const view = operand(plan, pool, x, { rows, stride });
    recordLinear(plan, view, matrix, { buffer: y, stride: strideOf(width) }, { rows, direction });
  };
  return { record, target: y, count: rows * strideOf(width) };
}

function setupThin(device: Device, stack: DisposableStack, shape: Thin): Trial {
  const { m, n, k, transposeA = false, transposeB = false } = shape;
  const view = (label: string, rows: number, columns: number): BufferView => {
    const stride = strideOf(columns);
    return { buffer: stack.use(device.uploadBuffer(label, noise(paddedRows(rows) * stride))), stride };
  };
  const a = transposeA ? view("tuning a", k, m) : view("tuning a", m, k);
  const b = transposeB ? view("tuning b", n, k) : view("tuning b", k, n);
  const c = { ...view("tuning c", m, n), stride: n };
  const pool = stack.use(new OperandPool(device));
  return { record: (plan) => recordMatmul(plan, { ...shape, a, b, c, pool }), target: c.buffer, count: m * n };
}

/**
 * Values in [−1, 1). Memory that was never written would not do: a system may map it to one zero page, which always
 * stays in the cache.
 */
function noise(count: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let i = 0, state = 1; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 31 - 1;
  }
  return values;
}

/** The clock that other processes disturb least. */
function clockOf(device: Device, { cpuTime }: Pick<TuneOptions, "cpuTime">): Measure {
  const { isCpu } = device.facts, hasTimestamps = device.features.has("timestamp-query");
  const cpuSeconds = cpuTime && (async (plan: Plan, repeat: number): Promise<number> => {
    const before = cpuTime();
    await plan.run({ repeat });
    return cpuTime() - before;
  });
  const time = isCpu ? cpuSeconds ?? wallSeconds : hasTimestamps ? gpuSeconds : wallSeconds;
  const known = new WeakMap<Plan, number>();
  const repeats = async (plan: Plan): Promise<number> => {
    // By the wall clock, a GPU run takes as long as the polling interval of the runtime: some 10 ms.
    if (!isCpu && !hasTimestamps) return UNTIMED_REPEATS;
    const seconds = await (isCpu ? wallSeconds : gpuSeconds)(plan, 1);
    return Math.min(MOST_REPEATS, Math.max(1, Math.ceil(SAMPLE_SECONDS / seconds)));
  };
  return async (plan) => {
    const repeat = known.get(plan) ?? await repeats(plan);
    known.set(plan, repeat);
    return await time(plan, repeat) / repeat;
  };
}

async function wallSeconds(plan: Plan, repeat: number): Promise<number> {
  const start = performance.now();
  await plan.run({ repeat });
  return (performance.now() - start) / 1000;
}

async function gpuSeconds(plan: Plan, repeat: number): Promise<number> {
  const profile = new Map<string, number>();
  await plan.run({ repeat, profile });
  return [...profile.values()].reduce((sum, seconds) => sum + seconds, 0);
}
