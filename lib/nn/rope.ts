// Rotary position embedding: the table for every kind of scaling, and the dispatch that rotates a buffer.
import { existing } from "../core/guards.ts";
import { ropeKernel } from "../../kernels/mod.ts";
import type { Device } from "../gpu/device.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../gpu/plan.ts";
import { type DecoderSpec, type LayerSpec, ropeDims } from "../spec/decoder.ts";
import { localRope, queryGrowth, ropeTable } from "../spec/rope.ts";
import { headStride } from "./padding.ts";

/**
 * Tables of {@link ropeTable}: of the model, of its queries where they grow with the position, of the layers with `rope: "local"`, and for the layers with `rope: "none"`
 * one row that rotates nothing, which holds for all positions.
 */
export interface RopeTables extends Disposable {
  readonly model: DeviceBuffer;
  readonly query: DeviceBuffer | null;
  readonly local: DeviceBuffer | null;
  readonly none: DeviceBuffer | null;
}

/** Uploads the tables of a model for `positions` positions. */
export function createRopeTables(device: Device, spec: DecoderSpec, positions: number): RopeTables {
  const upload = (rope: Pick<DecoderSpec, "headDim" | "rope">, of: "q" | "k" = "k"): DeviceBuffer =>
    device.uploadBuffer("rope", ropeTable(rope, positions, { of }));
  const own = localRope(spec), model = upload(spec), local = own ? upload(own) : null;
  const query = queryGrowth(spec.rope) === undefined ? null : upload(spec, "q");
  const still = Float32Array.from({ length: ropeDims(spec) }, (_, i) => i % 2 === 0 ? 1 : 0);
  const none = spec.layers.some(({ rope }) => rope === "none") ? device.uploadBuffer("rope", still) : null;
  return {
    model,
    query,
    local,
    none,
    [Symbol.dispose]: () => [model, query, local, none].forEach((table) => table?.[Symbol.dispose]()),
  };
}

/** The table of the queries or of the keys of a layer. */
export function layerTable(
  { model, query, local, none }: RopeTables,
  { rope }: LayerSpec,
  of: "q" | "k",
): DeviceBuffer {
  if (rope === "none") return existing(none, "table without RoPE");
  return rope === "local" ? existing(local, "local RoPE") : of === "q" && query ? query : model;
}

/** Operands of {@link recordRope}. */
export interface RopeOptions {
  readonly rows: number;
  /** Tokens of one sequence: the position of row m is m % seq. */
  readonly seq: number;
  readonly heads: number;
  readonly headDim: number;
  /** The first dims of each head that rotate; default all. */
  readonly dims?: number | undefined;
  /** Queries or keys [rows, stride] f32, rotated in place. */
  readonly buffer: DeviceBuffer;
  /** Row stride in f32. */
  readonly stride: number;
  /** The table of {@link ropeTable}. Positions past its end use its last row. */
  readonly cosSin: DeviceBuffer;
  /** Rotates by −θ: the backward of RoPE. */
  readonly inverse?: boolean;
  /** One u32 that is added to every position. */
  readonly positionBuffer?: DeviceBuffer;
  /** The position of each row [rows] u32, instead of m % seq. */
  readonly positions?: DeviceBuffer;
}

/** Records the rotation of all heads of a q or k buffer in place ("rotate half": pairs (i, i + dims / 2)). */
export function recordRope(plan: Plan, options: RopeOptions): void {
  const { rows, seq, heads, headDim, dims = headDim, buffer, stride, cosSin, inverse = false } = options;
  const { positions, positionBuffer } = options, given = positions ?? positionBuffer;
  if (heads === 0 || rows === 0) return;
  const half = dims / 2;
  const kernel = compileKernel(plan.device, sourceOf(ropeKernel, positions ? "rows" : given ? "offset" : "plain"));
  const params = [rows, seq, heads, half, headStride(headDim), stride, Math.floor(cosSin.bytes / (8 * half))].map(u32);
  const groups = Math.ceil(rows * half / 64), width = Math.min(groups, 32768);
  plan.dispatch(
    kernel,
    [cosSin, ...(given ? [given] : []), buffer, { params: [...params, f32(inverse ? -1 : 1)] }],
    { groups: [width, Math.ceil(groups / width)], cost: 20 * rows * half * heads },
  );
}
