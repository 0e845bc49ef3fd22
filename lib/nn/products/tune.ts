// Autotuning: the products of a decoder are timed on this adapter, with each tile that could serve them. A tile is taken only if it gives the
// default's bits, so that only the speed changes.
import { CompressoError } from "../../core/errors.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { openDryDevice } from "../../gpu/dry.ts";
import { compilingAnew } from "../../gpu/kernel.ts";
import { Plan } from "../../gpu/plan.ts";
import { tuningOf } from "../../gpu/tuning.ts";
import { headRowsFor } from "../head.ts";
import { paddedRows, strideOf } from "../padding.ts";
import { type Direction, linearProduct, type MatmulOptions, recordLinear, recordMatmul } from "./linear.ts";
import { matmulProduct } from "./matmul.ts";
import { createMatrix, type MatrixDtype, writeRows } from "./matrix.ts";
import { type BufferView, operand, OperandPool } from "./operand.ts";
import { type DecoderSpec, presentProjections } from "../../spec/decoder.ts";
import { candidateTiles, measuredSide, type Product, productKey, type Tile, tileName } from "./variants.ts";
import { headDtype, storedShape } from "../weights.ts";

/** Seconds of one run of a plan that holds the product with a tile; the least of some calls counts. */
export type Measure = (plan: Plan, product: Product, tile: Tile) => Promise<number>;

/** Options of {@link tuneProducts}. */
export interface TuneOptions {
  /** Tokens of a pass. */
  readonly rows: number;
  /** Storage of the frozen weights. */
  readonly baseDtype: MatrixDtype;
  /** Default: both. */
  readonly directions?: readonly Direction[];
  /** Rank of LoRA, whose thin products are measured too. Default: no LoRA. */
  readonly rank?: number;
  /** What is not measured by then keeps its default. Default 6. */
  readonly budgetSeconds?: number;
  /** Stops the work. */
  readonly signal?: AbortSignal;
  /** Share of the products that is done, 0 to 1. */
  readonly onProgress?: (done: number) => void;
  /**
   * Seconds of CPU time that the process has used so far. Where a CPU runs the shaders, they are timed by it if it is given: other processes disturb
   * it less than the wall clock.
   */
  readonly cpuTime?: () => number;
  /** Default: `cpuTime` where a CPU runs the shaders, else the GPU's own timestamps or the wall clock. */
  readonly measure?: Measure;
}

/** What {@link tuneProducts} did, in products. */
export interface TuneResult {
  readonly measured: number;
  /** Were in the device's table before. */
  readonly known: number;
  /** Are left to their defaults, as the budget of time or memory was spent. */
  readonly left: number;
}

/** A product of views: sizes, and how the operands are stored. */
type Thin = Pick<MatmulOptions, "m" | "n" | "k" | "transposeA" | "transposeB">;

/** A product to time. */
interface Work {
  readonly product: Product;
  /** What is timed in its place: the same, or one with fewer rows. */
  readonly trial: Product;
  /** Time that one takes, in floating-point operations of a large product. */
  readonly cost: number;
  /** Times that a pass does it. */
  count: number;
  /** Allocates into the stack. */
  readonly setup: (device: Device, stack: DisposableStack) => Trial;
}

/** What is timed, once allocated. */
interface Trial {
  readonly record: (plan: Plan) => void;
  /** The buffer of the result, and its number of values. */
  readonly target: DeviceBuffer;
  readonly count: number;
}

/** Smaller products are left alone: all of them together cost less than to measure one. */
const LEAST_COST = 5e7;
/** An operation of a thin product takes so much longer, as its operands are read for few operations. */
const THIN_COST = 4;
/** On a CPU more rows than these give no new information. */
const CPU_ROWS = 512;
const ROUNDS = 4;
/** A tile that was this much slower than the best of a round is not measured again. */
const DROP = 1.15;
/** The default is left only for a tile this much quicker: less may be noise, and would change from run to run. */
const GAIN = 1.03;
/** Rows of a matrix that are written at once. */
const FILL_ROWS = 1024;
/** Target duration of one measurement, in seconds. */
const SAMPLE_SECONDS = 0.01;
/** Values at either end of a result that are compared with the default's. */
const COMPARED = 1 << 14;
/** Runs of one measurement, at most: what is shorter is timed as well as it will be. */
const MOST_REPEATS = 64;
/** The same where a GPU has no clock but the wall's, which cannot time a single run. */
const UNTIMED_REPEATS = 16;

/**
 * Fills the device's tuning table with the quickest tiles for the products of a decoder. Products that are in the table already are not
 * measured again. Those that matter most come first.
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

/** The quickest tile; null if time or memory did not suffice. */
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
      if (!goesOn()) return null; // some drivers take seconds to compile one
      const plan = stack.use(new Plan(device));
      const recorded = (): void => recordWith(device, { product: trial, tile }, () => record(plan));
      if (!wanted) recorded();
      else if (!await compilingAnew(device, () => accepts(device, recorded))) continue;
      const bits = await endsAfter(plan, { device, target, count });
      wanted ??= bits;
      if (bits.every((value, index) => value === wanted?.[index])) entries.push({ tile, plan, seconds: Infinity });
    }
  } catch (error) {
    if (error instanceof CompressoError && error.code === "gpu" && !device.isBroken) return null; // over the memory limit
    throw error;
  }
  let left = entries;
  for (let round = 0; round < ROUNDS && left.length > 1; round++) {
    for (const entry of left) {
      if (!goesOn()) return null;
      entry.seconds = Math.min(entry.seconds, await measure(entry.plan, product, entry.tile));
    }
    const best = Math.min(...left.map(({ seconds }) => seconds));
    // The default has a second chance, as every other is compared with it.
    left = left.filter(({ seconds, tile }) => seconds <= DROP * best || (tile === entries[0]?.tile && round === 0));
  }
  const [first] = entries, best = entries.reduce((a, b) => b.seconds < a.seconds ? b : a);
  return !first || best.seconds * GAIN < first.seconds ? best.tile : first.tile;
}

/** A tile that is timed. */
interface Candidate {
  readonly tile: Tile;
  readonly plan: Plan;
  seconds: number;
}

/** Records with a tile, and leaves the table as it was. */
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

/** Whether the driver takes what is recorded: its error would else end the run, for a tile that it can do without. */
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

/** Both ends of a result, as bits, after a run that found zeros there: what a driver silently leaves undone shows. */
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

/** Distinct products worth measuring, those with the most work first. */
function worksOf(device: Device, spec: DecoderSpec, options: TuneOptions): Work[] {
  const { baseDtype, rank = 0, directions = ["forward", "backward"] } = options;
  const most = device.facts.isCpu ? CPU_ROWS : Infinity;
  const works = new Map<string, Work>();
  const add = (work: Work): void => {
    const key = productKey(work.product), known = works.get(key);
    if (known) known.count += work.count;
    else works.set(key, work);
  };
  // A dry device computes the shards of a matrix without allocating them.
  using dry = openDryDevice({ limits: device.limits, isCpu: device.facts.isCpu });
  const addLinear = (m: number, [out, cols]: readonly [number, number], dtype: MatrixDtype): void => {
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
  for (const layer of spec.layers) {
    for (const projection of presentProjections(layer)) {
      const shape = storedShape(spec, layer, projection), [out, cols] = shape, m = options.rows;
      addLinear(m, shape, baseDtype);
      if (rank === 0) continue;
      // As projection.ts records them: A·x, Bᵀ·dy and the gradients of B and A.
      addThin({ m, n: rank, k: cols, transposeB: true });
      if (!directions.includes("backward")) continue;
      addThin({ m, n: rank, k: out });
      addThin({ m: out, n: rank, k: m, transposeA: true });
      addThin({ m: rank, n: cols, k: m, transposeA: true });
    }
  }
  addLinear(headRowsFor(spec.vocab, options.rows), [spec.vocab, spec.hidden], headDtype(baseDtype));
  return [...works.values()]
    .filter(({ cost, product }) => cost >= LEAST_COST && candidateTiles(device, product).length > 1)
    .sort((first, second) => second.cost * second.count - first.cost * first.count);
}

function setupLinear(device: Device, stack: DisposableStack, shape: {
  readonly rows: number;
  readonly out: number;
  readonly cols: number;
  readonly dtype: MatrixDtype;
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

/** Values in [−1, 1). Memory that was never written would not do: a system may give it one page of zeros, which the cache always holds. */
function noise(count: number): Float32Array<ArrayBuffer> {
  const values = new Float32Array(count);
  for (let i = 0, state = 1; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 31 - 1;
  }
  return values;
}

/** The clock that other work disturbs least. */
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
    // By the wall clock a run on a GPU takes as long as the runtime waits before it looks again: some 10 ms.
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
