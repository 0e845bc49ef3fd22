// Norms of residual streams, heads and outputs, forward and backward, recorded into a plan.
import { type Norm, normKernel, type NormLanes } from "../../kernels/mod.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { type Bound, f32, type Plan, u32 } from "../gpu/plan.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { Extent, Span } from "./ops.ts";
import { headStride, strideOf } from "./padding.ts";

/** Weight [stride] of a norm and, for LayerNorm, its bias [stride]. */
export interface NormWeights {
  /** Weight. */
  readonly weight: DeviceBuffer;
  /** Null for RMSNorm. */
  readonly bias: DeviceBuffer | null;
}

/** How invocations share the work of a norm. */
interface Shared {
  /** Invocations of a workgroup. Default: {@link normLanes}. */
  readonly lanes?: NormLanes;
  /** Whether an invocation takes a whole head. Default: on a CPU, where barriers are slow, for LayerNorm and for heads. */
  readonly perLane?: boolean;
}

/** Rows of a residual stream. */
interface Rows extends Shared {
  readonly rows: number;
  readonly spec: Pick<DecoderSpec, "hidden" | "normEps">;
}

/** Invocations that share a row, unless the adapter determines the number. */
export function normLanes({ device }: Plan): NormLanes {
  return device.facts.isCpu ? 8 : 64;
}

/** y = norm(x) and r, the factor of each row [rows] that backward needs; writes (=). */
export function recordNorm(
  plan: Plan,
  { weight, bias }: NormWeights,
  io: { readonly x: Span; readonly y: Span; readonly r: Span },
  { rows, spec, ...shared }: Rows,
): void {
  const bound = bias ? [io.x, weight, bias, io.y, io.r] : [io.x, weight, io.y, io.r];
  record(plan, bound, { of: "row", centres: bias !== null, isBackward: false }, {
    ...wholeRows(rows, spec.hidden),
    eps: spec.normEps,
    cost: bias ? 12 : 8,
    ...shared,
  });
}

/** Gradient of {@link recordNorm} with respect to x: (+=) with `accumulate`, otherwise (=). */
export function recordNormBackward(
  plan: Plan,
  { weight, bias }: NormWeights,
  io: { readonly dy: Span; readonly x: Span; readonly r: Span; readonly dx: Span },
  { rows, spec, accumulate, ...shared }: Rows & { readonly accumulate: boolean },
): void {
  record(plan, [io.dy, io.x, weight, io.r, io.dx], { of: "row", centres: bias !== null, isBackward: true }, {
    ...wholeRows(rows, spec.hidden),
    eps: spec.normEps,
    accumulate,
    cost: bias ? 20 : 12,
    ...shared,
  });
}

/** Heads of an activation [rows, strideOf(heads·headStride(headDim))]. */
export interface Heads extends Shared {
  readonly rows: number;
  readonly heads: number;
  readonly headDim: number;
  readonly eps: number;
  /**
   * "head" (default): RMSNorm of each head, w [headStride]. "whole": one RMSNorm of all heads. "layer": LayerNorm of each
   * head without bias. Both have w [heads·headStride].
   */
  readonly norm?: "head" | "whole" | "layer" | undefined;
}

/** y = norm of the heads of x; writes (=), including the columns after the heads. */
export function recordHeadNorm(plan: Plan, io: { x: Span; w: Span; y: Span }, shape: Heads): void {
  recordHeads(plan, [io.x, io.w, io.y], shape, { isBackward: false, cost: 8 });
}

/** Gradient of {@link recordHeadNorm} with respect to x, in place: dy := dx. */
export function recordHeadNormBackward(plan: Plan, io: { x: Span; w: Span; dy: Span }, shape: Heads): void {
  recordHeads(plan, [io.x, io.w, io.dy], shape, { isBackward: true, cost: 14 });
}

function recordHeads(
  plan: Plan,
  bound: readonly Bound[],
  { rows, heads, headDim, norm = "head", ...rest }: Heads,
  { isBackward, cost }: { readonly isBackward: boolean; readonly cost: number },
): void {
  // A norm over the whole width is that of one head with the columns of all: padding columns are zeros in between.
  const together = norm === "whole" ? heads : 1, columns = headStride(headDim) * together;
  record(plan, bound, { of: "head", centres: norm === "layer", isBackward }, {
    rows,
    heads: heads / together,
    stride: strideOf(heads * headStride(headDim)),
    columns,
    weights: norm === "layer" ? columns : 0,
    width: headDim * together,
    perLane: plan.device.facts.isCpu && norm === "head",
    cost,
    ...rest,
  });
}

/** out = x + RMSNorm(y ∘ z)·w; writes (=). Shapes: z, w [stride]. */
export function recordOutputNorm(
  plan: Plan,
  io: { y: Span; z: Span; w: Span; x: Span; out: Span },
  { rows, width, ...rest }: Extent & Shared & { readonly eps: number },
): void {
  const bound = [io.y, io.z, io.w, io.x, io.out];
  record(plan, bound, { of: "output", centres: false, isBackward: false }, {
    ...wholeRows(rows, width),
    cost: 12,
    ...rest,
  });
}

/** Gradient of {@link recordOutputNorm} with respect to u = y ∘ z; writes (=) du. */
export function recordOutputNormBackward(
  plan: Plan,
  io: { dout: Span; y: Span; z: Span; w: Span; du: Span },
  { rows, width, ...rest }: Extent & Shared & { readonly eps: number },
): void {
  const bound = [io.dout, io.y, io.z, io.w, io.du];
  record(plan, bound, { of: "output", centres: false, isBackward: true }, {
    ...wholeRows(rows, width),
    cost: 16,
    ...rest,
  });
}

/** What of a row is normalised together. */
interface Parts {
  readonly rows: number;
  readonly heads: number;
  /** Columns of a row, of a head and of a head's weights (0 if all heads share them), with padding. */
  readonly stride: number;
  readonly columns: number;
  readonly weights: number;
  /** Columns that a mean counts. */
  readonly width: number;
}

function wholeRows(rows: number, width: number): Parts {
  return { rows, heads: 1, stride: strideOf(width), columns: strideOf(width), weights: 0, width };
}

/** Largest number of workgroups along x. */
const GRID_WIDTH = 32768;

function record(
  plan: Plan,
  bound: readonly Bound[],
  norm: Pick<Norm, "of" | "centres" | "isBackward">,
  {
    rows,
    heads,
    stride,
    columns,
    weights,
    width,
    eps,
    accumulate = false,
    cost,
    lanes = normLanes(plan),
    perLane = plan.device.facts.isCpu && norm.centres,
  }: Parts & Shared & {
    readonly eps: number;
    readonly accumulate?: boolean;
    /** Operations per value. */
    readonly cost: number;
  },
): void {
  const params = [
    ...[rows, heads, stride / 4, columns / 4, weights / 4, width].map(u32),
    f32(eps),
    u32(accumulate ? 1 : 0),
  ];
  const groups = Math.ceil(rows * heads / lanes), grid = Math.min(groups, GRID_WIDTH);
  plan.dispatch(
    compileKernel(plan.device, sourceOf(normKernel, { ...norm, lanes, perLane })),
    [...bound, { params }],
    { groups: perLane ? [grid, Math.ceil(groups / grid)] : [heads, rows], cost: cost * rows * heads * width },
  );
}
