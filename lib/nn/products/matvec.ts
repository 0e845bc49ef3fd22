// Products of frozen matrices with the vectors of a decoding step, one for each sequence.
import {
  fileTexels,
  isFileDtype,
  MATVEC_BUFFER_ROWS,
  type MatvecEnding,
  matvecKernel,
  type MatvecRole,
  texelOf,
  textureRows,
  textureUnits,
} from "../../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../../gpu/types.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import { type Bound, f32, type Plan, u32 } from "../../gpu/plan.ts";
import { headStride, strideOf } from "../padding.ts";
import type { Matrix } from "./matrix.ts";
import { type BatchPart, type MatvecScratch, recordBatch, rowsOfGroup } from "./matvec_batch.ts";
import type { Span } from "../ops.ts";

/** The vectors x [batch, strideOf(width)] that the matrices multiply. Values beyond the width are not used. */
export interface MatvecInput {
  readonly buffer: DeviceBuffer;
  readonly width: number;
  /** Number of vectors: up to {@link BATCH_ROWS}, or a multiple of it. Default 1. */
  readonly batch?: number;
  /** Scratch of the vectors; needed for several of them where matrices lie in textures. */
  readonly scratch?: MatvecScratch | undefined;
  /** With a scratch: x, times the weight of the norm, where it is already a texture of it. */
  readonly texture?: DeviceTexture | undefined;
  /** Applies RMSNorm to x first; weight [stride]. */
  readonly norm?: { readonly weight: DeviceBuffer; readonly eps: number };
}

/** Output of {@link recordRotatedProducts}. */
export interface RotatedTarget {
  readonly headDim: number;
  /** The first dims of each head that rotate. */
  readonly dims: number;
  /** See `ropeTable`. */
  readonly rope: DeviceBuffer;
  /** The position of each token [batch] u32: the key of its cache that is written. */
  readonly position: DeviceBuffer;
  /** See `DecodeCaches`. */
  readonly pages: PageTable;
  /** Capacity of a sequence in tokens; nothing is written past it. */
  readonly capacity: number;
  readonly kvHeads: number;
  /** [batch, strideOf of its width] */
  readonly q: DeviceBuffer;
  readonly kCache: DeviceTexture;
  readonly vCache: DeviceTexture;
}

/** The pages of the caches that each sequence of a step has: [sequences, perRow] u32. */
export interface PageTable {
  readonly buffer: DeviceBuffer;
  readonly perRow: number;
  /** Pages after which those of a sequence repeat. Default: they do not. */
  readonly ring?: number;
}

/** Vectors that share one reading of a matrix, at most. */
export const BATCH_ROWS = 8;
/** Maximum number of storage buffers of a kernel: the number that WebGPU guarantees. */
const MAX_BUFFERS = 8;
/** Maximum number of workgroups along x. */
const GRID_WIDTH = 32768;

/** Records y[offset + b·strideOf(rows) + n] (=) (W·x[b])[n] for each matrix. */
export function recordStoredProducts(
  plan: Plan,
  x: MatvecInput,
  { parts, y }: {
    readonly parts: readonly { readonly matrix: Matrix; readonly offset: number }[];
    readonly y: DeviceBuffer;
  },
): void {
  const all = parts.flatMap(({ matrix, offset }) =>
    partsOf(matrix).map((part) => ({ ...part, offset: offset + part.offset }))
  );
  recordEach(plan, x, { ending: "store", parts: all, bound: () => [y] });
}

/**
 * Records y[b, n] (=) silu((gate·x[b])[n])·(up·x[b])[n]·z[n]. With a scratch y is a texture of it. Both matrices have
 * the same dtype.
 */
export function recordGatedProducts(
  plan: Plan,
  x: MatvecInput,
  { gate, up, z, y }: {
    readonly gate: Matrix;
    readonly up: Matrix;
    readonly z: Span;
    readonly y: DeviceBuffer | DeviceTexture;
  },
): void {
  const second = partsOf(up);
  const parts = partsOf(gate).map((part, index) => ({
    ...part,
    resources: [...part.resources, ...second[index]?.resources ?? []],
  }));
  record(plan, x, { matrix: gate, ending: "swiglu", parts, bound: () => [z, y] });
}

/** Vectors times the weight of the norm that follows them, as the next products read them. */
export interface NextInput {
  /** [stride] */
  readonly norm: DeviceBuffer;
  readonly texture: DeviceTexture;
}

/** Records y[b, n] (+=) (W·x[b])[n]·z[n], and with a scratch `next`. */
export function recordResidualProduct(
  plan: Plan,
  x: MatvecInput,
  { matrix, z, y, next }: {
    readonly matrix: Matrix;
    readonly z: Span;
    readonly y: DeviceBuffer;
    readonly next?: NextInput | undefined;
  },
): void {
  const following = next ? [next.norm, next.texture] : [];
  record(plan, x, { matrix, ending: "residual", parts: partsOf(matrix), bound: () => [z, y, ...following] });
}

/**
 * Records q (=) RoPE(Wq·x), and key `position` of the caches (=) RoPE(Wk·x) and Wv·x. Only for matrices in textures
 * with one shard each.
 */
export function recordRotatedProducts(
  plan: Plan,
  x: MatvecInput,
  matrices: Readonly<Record<MatvecRole, Matrix>>,
  target: RotatedTarget,
): void {
  const { headDim, dims, rope, position, pages, kvHeads, capacity } = target;
  const out = { q: target.q, k: target.kCache, v: target.vCache };
  const parts = (["q", "k", "v"] as const).flatMap((role) =>
    partsOf(matrices[role]).map((part) => ({ ...part, role }))
  );
  recordEach(plan, x, {
    ending: "rotate",
    parts,
    align: headStride(headDim),
    rotation: [dims / 2, Math.floor(rope.bytes / (4 * dims)), kvHeads, capacity, pages.perRow],
    bound: (roles) => [rope, position, pages.buffer, ...roles.map((role) => out[role])],
  });
}

/** A shard of a matrix, and of the second matrix of a gated product. */
interface Part extends BatchPart {
  readonly matrix: Matrix;
  readonly role?: MatvecRole;
}

interface Product {
  /** The storage of the matrices. */
  readonly matrix: Pick<Matrix, "dtype" | "placement" | "stride">;
  readonly ending: MatvecEnding;
  readonly parts: readonly Part[];
  /** Number of consecutive rows that a workgroup must not split. Default 4. */
  readonly align?: number;
  /** half, positions, kvHeads, capacity and perRow. */
  readonly rotation?: readonly number[];
  readonly bound: (roles: readonly MatvecRole[]) => readonly Bound[];
}

function partsOf(matrix: Matrix): Part[] {
  const pitch = strideOf(matrix.rows);
  return matrix.shards.map(({ row0, rows, resources }) => ({ matrix, resources, rows, offset: row0, pitch }));
}

/** Records products of matrices that may differ in their dtypes: a kernel has matrices of one. */
function recordEach(plan: Plan, x: MatvecInput, product: Omit<Product, "matrix">): void {
  for (const parts of Map.groupBy(product.parts, ({ matrix }) => matrix.dtype).values()) {
    const [first] = parts;
    if (first) record(plan, x, { ...product, matrix: first.matrix, parts });
  }
}

/** Records as many parts in each dispatch as the binding limits allow. */
function record(plan: Plan, x: MatvecInput, product: Product): void {
  if (x.scratch) return recordBatch(plan, x, x.scratch, product);
  const most = partsOfDispatch(plan, x, product);
  for (let first = 0; first < product.parts.length; first += most) {
    recordDispatch(plan, x, { ...product, parts: product.parts.slice(first, first + most) });
  }
}

function partsOfDispatch(plan: Plan, x: MatvecInput, { matrix, ending, parts }: Product): number {
  const each = parts[0]?.resources.length ?? 1;
  if (ending === "swiglu") return 1;
  if (matrix.placement === "buffer") {
    return Math.max(1, Math.floor((MAX_BUFFERS - (x.norm ? 2 : 1) - (ending === "store" ? 1 : 2)) / each));
  }
  const textures = Math.min(8, plan.device.limits.maxStorageTexturesPerShaderStage);
  // Two parts of "rotate" store to textures.
  return Math.max(1, Math.floor((ending === "rotate" ? textures - 2 : textures) / each));
}

function recordDispatch(plan: Plan, x: MatvecInput, product: Product): void {
  const { matrix, ending, parts, align, rotation = [0, 0, 0, 0, 0], bound } = product;
  const { dtype, placement, stride } = matrix, { norm, batch: vectors = 1 } = x;
  const units = textureUnits(dtype, stride);
  const batch = Math.min(vectors, BATCH_ROWS), most = textureRows(plan.device.limits.maxComputeWorkgroupStorageSize);
  if (vectors % batch !== 0) throw new Error(`matvec: ${vectors} vectors are not whole batches of ${batch}`);
  if (batch > 1 && placement === "texture") throw new Error("matvec: several vectors, and a matrix in a texture");
  const roles = parts.flatMap(({ role }) => role ?? []);
  const source = sourceOf(matvecKernel, {
    storage: { placement, dtype },
    ending,
    parts: parts.length,
    roles,
    norm: norm !== undefined,
    ...(placement === "texture" ? { units, rows: most } : {}),
    ...(batch > 1 ? { batch } : {}),
  });
  const groupRows = placement === "buffer"
    ? MATVEC_BUFFER_ROWS
    : rowsOfGroup(parts, { most: ending === "swiglu" ? most / 2 : most, align });
  let groups = 0;
  const places = parts.flatMap(({ rows, offset, pitch }) => {
    const first = groups;
    groups += Math.ceil(rows / groupRows);
    return [first, rows, offset, pitch];
  });
  const texel = texelOf(dtype), pitch = stride / texel.columns;
  const scalePitch = isFileDtype(dtype)
    ? fileTexels(dtype, stride).scales
    : texel.perScale === 0
    ? 0
    : pitch / texel.perScale;
  const params = [
    ...[x.width, pitch, scalePitch, units.rounds, units.units, groupRows].map(u32),
    u32(strideOf(x.width) / 4),
    f32(norm?.eps ?? 0),
    ...[align ?? 0, ...rotation, ...places].map(u32),
  ];
  const width = Math.min(groups, GRID_WIDTH);
  plan.dispatch(
    compileKernel(plan.device, source),
    [
      ...parts.flatMap(({ resources }) => resources),
      x.buffer,
      ...(norm ? [norm.weight] : []),
      ...bound(roles),
      { params },
    ],
    {
      groups: [width, Math.ceil(groups / width), vectors / batch],
      cost: (ending === "swiglu" ? 4 : 2) * stride * vectors * parts.reduce((sum, { rows }) => sum + rows, 0),
    },
  );
}
