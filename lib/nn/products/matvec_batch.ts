// Products of frozen matrices in textures with the vectors of several sequences.
import {
  type BatchMatvec,
  batchRowBytes,
  batchVectors,
  matvecBatchKernel,
  matvecPrepare,
  matvecRotate,
  texelOf,
  textureUnits,
} from "../../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import { type Bound, f32, type Plan, u32 } from "../../gpu/plan.ts";
import { headStride, roundUp, strideOf } from "../padding.ts";
import type { Matrix, MatrixDtype, MatrixShard } from "./matrix.ts";
import type { MatvecInput, RotatedTarget } from "./matvec.ts";
import { exchangesLanes } from "./variants.ts";

/** Minimum number of rows of a workgroup on a CPU: fewer take less time than reading x. */
const MIN_ROWS = 32;
/** Maximum number of rows of a workgroup, so that large matrices are divided evenly. */
const MOST_ROWS = 768;

/** Textures of vectors, which the products of a plan take turns with. */
export interface MatvecScratch extends Disposable {
  readonly vectors: number;
  /** The vectors, with this many texels each at least. */
  texture(texels: number): DeviceTexture;
  /** Factors of the norm [vectors]. */
  readonly factors: DeviceBuffer;
}

/** Allocates the scratch of a plan; textures when they are first needed. */
export function createMatvecScratch(device: Device, vectors: number): MatvecScratch {
  const stack = new DisposableStack(), textures = new Map<number, DeviceTexture>();
  return {
    vectors,
    factors: stack.use(device.createBuffer("factors", 4 * vectors)),
    texture(texels): DeviceTexture {
      const known = textures.get(texels);
      if (known) return known;
      const made = stack.use(device.createTexture("vectors", texels, vectors, "rgba32float"));
      textures.set(texels, made);
      return made;
    },
    [Symbol.dispose]: () => stack.dispose(),
  };
}

/** A shard of a matrix, and of the second matrix of a gated product. */
export interface BatchPart {
  readonly resources: MatrixShard["resources"];
  readonly rows: number;
  /** First value of the result of the first vector, and from one vector to the next. */
  readonly offset: number;
  readonly pitch: number;
}

/** Products with the vectors of x. */
export interface BatchProduct {
  /** One of the matrices; all have the same storage. */
  readonly matrix: Matrix;
  readonly ending: BatchMatvec["ending"];
  readonly parts: readonly BatchPart[];
  /** z for "swiglu" and "residual", then y. */
  readonly bound: readonly Bound[];
}

/** Vectors as the kernels read them. */
interface Prepared {
  readonly texture: DeviceTexture;
  readonly norm: boolean;
}

/** Records products whose order of summation is that of a single vector. */
export function recordBatch(plan: Plan, x: MatvecInput, scratch: MatvecScratch, product: BatchProduct): void {
  const { matrix: { dtype, stride }, ending, parts, bound } = product;
  const prepared = recordPrepare(plan, x, scratch, { dtype, stride });
  const each = parts[0]?.resources.length ?? 1, isPair = ending === "swiglu";
  const textures = Math.min(8, plan.device.limits.maxStorageTexturesPerShaderStage) - 1;
  const most = isPair ? 1 : Math.max(1, Math.floor(textures / each));
  const units = textureUnits(dtype, stride), isNormed = prepared.norm && ending !== "raw";
  const batch = Math.min(scratch.vectors, batchVectors(dtype, units));
  const shape = {
    dtype,
    ending,
    batch,
    norm: prepared.norm,
    units,
    exchange: exchangesLanes(plan.device),
  };
  for (let first = 0; first < parts.length; first += most) {
    const own = parts.slice(first, first + most), all = { ...shape, parts: own.length };
    const bytes = batchRowBytes(all), { maxComputeWorkgroupStorageSize: memory } = plan.device.limits;
    const rows = bytes === 0 ? MOST_ROWS : Math.min(MOST_ROWS, Math.floor(memory / bytes / 4) * 4);
    const source = sourceOf(matvecBatchKernel, {
      ...all,
      units: { ...units, rounds: Math.min(2, units.rounds) },
      rows,
    });
    const groupRows = rowsOfGroup(own, { most: rows });
    let groups = 0;
    const places = own.flatMap(({ rows, offset, pitch }) => {
      const from = groups;
      groups += Math.ceil(rows / groupRows);
      return [from, rows, offset, pitch];
    });
    plan.dispatch(
      compileKernel(plan.device, source),
      [
        ...own.flatMap(({ resources }) => resources),
        prepared.texture,
        ...(isNormed ? [scratch.factors] : []),
        ...bound,
        { params: [units.units, units.rounds, groupRows, ...places].map(u32) },
      ],
      {
        groups: [scratch.vectors / batch, groups],
        cost: (isPair ? 4 : 2) * stride * scratch.vectors * own.reduce((sum, { rows }) => sum + rows, 0),
      },
    );
  }
}

/**
 * Rows of a workgroup on a CPU adapter: one workgroup per core, since each reads x again, or a multiple if that exceeds
 * `most`. A workgroup does not split `align` consecutive rows.
 */
export function rowsOfGroup(
  parts: readonly Pick<BatchPart, "rows">[],
  { most, align = 4 }: { readonly most: number; readonly align?: number | undefined },
): number {
  const rows = parts.reduce((sum, part) => sum + part.rows, 0), cores = navigator.hardwareConcurrency;
  const highest = Math.floor(most / align) * align;
  const groups = roundUp(Math.max(1, rows / highest), cores);
  return Math.min(highest, roundUp(Math.max(MIN_ROWS, Math.ceil(rows / groups)), align));
}

/** Records the rotation and the caching of the queries, keys and values that a "raw" product has left in `qkv`. */
export function recordRotateAppend(
  plan: Plan,
  scratch: MatvecScratch,
  { headDim, dims, rope, position, pages, capacity, kvHeads, heads, q, kCache, vCache, qkv, k, v }: RotatedTarget & {
    readonly heads: number;
    readonly qkv: DeviceBuffer;
    /** First value of the keys and of the values. */
    readonly k: number;
    readonly v: number;
  },
): void {
  const hs = headStride(headDim), { vectors, factors } = scratch, groups = heads + 2 * kvHeads;
  const params = [
    ...[heads, hs, dims / 2, Math.floor(rope.bytes / (4 * dims)), kvHeads, capacity, pages.perRow],
    ...[k, v, strideOf(heads * hs), strideOf(kvHeads * hs)],
  ];
  plan.dispatch(
    compileKernel(plan.device, sourceOf(matvecRotate, { headStride: hs })),
    [qkv, factors, rope, position, pages.buffer, q, kCache, vCache, { params: params.map(u32) }],
    { groups: [groups, vectors], cost: 10 * vectors * groups * hs },
  );
}

/** Records x as the products read it: times the weight of the norm, in a texture. */
function recordPrepare(
  plan: Plan,
  { buffer, width, norm }: MatvecInput,
  scratch: MatvecScratch,
  { dtype, stride }: { readonly dtype: MatrixDtype; readonly stride: number },
): Prepared {
  const { units, half, rounds } = textureUnits(dtype, stride), { columns, perScale } = texelOf(dtype);
  const perUnit = 8 * (perScale === 0 ? 1 : 2) * columns / 4, all = units * rounds;
  const texture = scratch.texture(perUnit * (all + (half ? 0.5 : 0)));
  plan.dispatch(
    compileKernel(plan.device, sourceOf(matvecPrepare, { dtype, norm: norm !== undefined, half })),
    [
      buffer,
      ...(norm ? [norm.weight] : []),
      texture,
      ...(norm ? [scratch.factors] : []),
      { params: [u32(width), u32(strideOf(width) / 4), u32(all), f32(norm?.eps ?? 0)] },
    ],
    { groups: [scratch.vectors], cost: 20 * scratch.vectors * width },
  );
  return { texture, norm: norm !== undefined };
}
