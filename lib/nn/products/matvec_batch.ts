// Products of frozen matrices in textures with the vectors of several sequences.
import {
  type BatchMatvec,
  batchRows,
  batchVectors,
  matvecBatchKernel,
  matvecPrepare,
  type MatvecRole,
  texelOf,
  textureUnits,
} from "../../../kernels/mod.ts";
import type { DeviceTexture } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel, sourceOf } from "../../gpu/kernel.ts";
import { type Bound, f32, type Plan, u32 } from "../../gpu/plan.ts";
import { roundUp, strideOf } from "../padding.ts";
import { type Matrix, type MatrixShard, VALUE_DTYPES } from "./matrix.ts";
import type { MatvecInput } from "./matvec.ts";
import { exchangesLanes } from "./variants.ts";

/** Minimum number of rows of a workgroup on a CPU: fewer take less time than reading x. */
const MIN_ROWS = 32;

/** Textures of vectors, which the products of a plan read and write. */
export interface MatvecScratch extends Disposable {
  readonly vectors: number;
  /**
   * The texture of this name for vectors of `width` values, zero beyond them. Values of another width have another
   * texture.
   */
  texture(name: string, width: number): DeviceTexture;
}

/** Allocates the scratch of a plan; textures when they are first needed. */
export function createMatvecScratch(device: Device, vectors: number): MatvecScratch {
  const stack = new DisposableStack(), textures = new Map<string, DeviceTexture>();
  return {
    vectors,
    texture(name, width): DeviceTexture {
      const key = `${name} ${width}`, known = textures.get(key);
      if (known) return known;
      const made = stack.use(device.createTexture("vectors", texelsOf(width), vectors, "rgba32float"));
      textures.set(key, made);
      return made;
    },
    [Symbol.dispose]: () => stack.dispose(),
  };
}

/** Texels that the products read of a vector: the most over all storages of W. */
function texelsOf(width: number): number {
  // Blocks of a file have the units of q8 or q4.
  const columns = VALUE_DTYPES.map((dtype) => {
    const { units, half, rounds } = textureUnits(dtype, strideOf(width)), { columns, perScale } = texelOf(dtype);
    return 8 * columns * (perScale === 0 ? 1 : 2) * (units * rounds + (half ? 0.5 : 0));
  });
  return Math.max(...columns) / 4;
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
  /** The storage of the matrices. */
  readonly matrix: Pick<Matrix, "dtype" | "stride">;
  readonly ending: BatchMatvec["ending"];
  readonly parts: readonly (BatchPart & { readonly role?: MatvecRole })[];
  /** Number of consecutive rows that a workgroup must not split: those of a head of "rotate". */
  readonly align?: number | undefined;
  /** half, positions, kvHeads, capacity and perRow of "rotate". */
  readonly rotation?: readonly number[];
  /** Buffers and textures of the ending, see `batchEndingBindings`. */
  readonly bound: (roles: readonly MatvecRole[]) => readonly Bound[];
}

/** Records products whose order of summation is that of a single vector. */
export function recordBatch(plan: Plan, x: MatvecInput, scratch: MatvecScratch, product: BatchProduct): void {
  const { matrix: { dtype, stride }, ending, parts, align, rotation = [], bound } = product,
    { norm, buffer, width } = x;
  const texture = x.texture ?? recordVectors(plan, x, scratch.texture("other", width));
  const each = parts[0]?.resources.length ?? 1, { limits } = plan.device;
  const units = textureUnits(dtype, stride), batch = Math.min(scratch.vectors, batchVectors(dtype, units));
  const shape = {
    dtype,
    ending,
    batch,
    norm: norm !== undefined,
    units,
    exchange: exchangesLanes(plan.device),
    ...(ending === "rotate" && align !== undefined ? { headStride: align } : {}),
  };
  // One of x; two parts of "rotate" store to textures.
  const textures = Math.min(8, limits.maxStorageTexturesPerShaderStage) - (ending === "rotate" ? 3 : 1);
  const most = ending === "swiglu" ? 1 : Math.max(1, Math.floor(textures / each));
  for (let first = 0; first < parts.length; first += most) {
    const own = parts.slice(first, first + most), roles = own.flatMap(({ role }) => role ?? []);
    const all = { ...shape, parts: own.length, ...(roles.length > 0 ? { roles } : {}) };
    const rows = batchRows(all, limits.maxComputeWorkgroupStorageSize);
    const source = sourceOf(matvecBatchKernel, {
      ...all,
      units: { ...units, rounds: Math.min(2, units.rounds) },
      rows,
    });
    const groupRows = rowsOfGroup(own, { most: rows, align });
    let groups = 0;
    const places = own.flatMap(({ rows, offset, pitch }) => {
      const from = groups;
      groups += Math.ceil(rows / groupRows);
      return [from, rows, offset, pitch];
    });
    const sizes = [units.units, units.rounds, groupRows, width, strideOf(width) / 4].map(u32);
    plan.dispatch(
      compileKernel(plan.device, source),
      [
        ...own.flatMap(({ resources }) => resources),
        texture,
        ...(norm ? [buffer] : []),
        ...bound(roles),
        { params: [...sizes, f32(norm?.eps ?? 0), ...[...rotation, ...places].map(u32)] },
      ],
      {
        groups: [scratch.vectors / batch, groups],
        cost: (ending === "swiglu" ? 4 : 2) * stride * scratch.vectors * own.reduce((sum, { rows }) => sum + rows, 0),
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

/** Records target (=) x, times the weight of its norm if it has one, as the products read it. Returns target. */
export function recordVectors(
  plan: Plan,
  { buffer, width, norm, batch = 1 }: Pick<MatvecInput, "buffer" | "width" | "norm" | "batch">,
  target: DeviceTexture,
): DeviceTexture {
  plan.dispatch(
    compileKernel(plan.device, sourceOf(matvecPrepare, { norm: norm !== undefined })),
    [buffer, ...(norm ? [norm.weight] : []), target, { params: [u32(width), u32(strideOf(width) / 4)] }],
    { groups: [batch], cost: 20 * batch * width },
  );
  return target;
}
