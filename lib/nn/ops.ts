// Elementwise and row-wise operations of a decoder, forward and backward, recorded into a plan.
import {
  activated,
  activatedBackward,
  addBias,
  columnStats,
  columnStatsMerge,
  copyRows,
  dropout,
  embeddingKernel,
  multiply,
  positionsKernel,
  reducePartials,
  residual,
  residualScaled,
  ROW_BLOCK,
  scale,
  scaleBackward,
  softCap,
  topLogits,
} from "../../kernels/mod.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { type Bound, type BufferSlice, f32, type Plan, u32 } from "../gpu/plan.ts";
import { strideOf } from "./padding.ts";
import type { Activation } from "../spec/decoder.ts";
import type { Matrix } from "./products/matrix.ts";

/** A buffer or part of one. */
export type Span = DeviceBuffer | BufferSlice;

/**
 * Size of an activation: rows are tokens, width counts the columns without padding. The buffer is [rows,
 * strideOf(width)].
 */
export interface Extent {
  readonly rows: number;
  readonly width: number;
}

/** Gradients of a part of the masks: dL/dz, and the sum over row blocks of the squared contribution of each block. */
export interface MaskGradients {
  readonly dz: Span;
  readonly squares: Span;
}

const LANES = 64;

/** Number of row blocks in the partial sums of a mask gradient. */
export function rowBlocks(rows: number): number {
  return Math.ceil(rows / ROW_BLOCK);
}

/** Size in f32 of a scratch buffer for partial sums. */
export function partialFloats({ rows, width }: Extent): number {
  return rowBlocks(rows) * strideOf(width);
}

/** x[m] = E[tokens[m]], times `scale` if given; writes (=). Shapes: tokens [rows] u32, x [rows, stride]. */
export function recordEmbedding(
  plan: Plan,
  table: Matrix,
  io: { tokens: Span; x: Span },
  { rows, scale }: { readonly rows: number; readonly scale?: number | undefined },
): void {
  const stride4 = table.stride / 4, isScaled = scale !== undefined;
  const kernel = compileKernel(plan.device, embeddingKernel(table, { isScaled }));
  for (const { row0, rows: count, resources } of table.shards) {
    plan.dispatch(
      kernel,
      [...resources, io.tokens, io.x, {
        params: [u32(rows), u32(stride4), u32(row0), u32(count), ...isScaled ? [f32(scale)] : []],
      }],
      { groups: [Math.ceil(stride4 / LANES), rows], cost: rows * table.stride },
    );
  }
}

/** Where a row of tokens is in its sequence; see `positionsKernel`. */
export interface RowPositions {
  /** Tokens of one sequence: the position of row m is m % seq. */
  readonly seq: number;
  /** One u32 that is added to every position. */
  readonly positionBuffer?: DeviceBuffer | undefined;
  /** The position of each row [rows] u32, instead of m % seq. */
  readonly positions?: DeviceBuffer | undefined;
}

/** x[m] += P[position(m) + offset]; adds (+=). Shapes: x [rows, stride], P [positions, stride] with zero padding. */
export function recordPositions(
  plan: Plan,
  io: { table: DeviceBuffer; x: Span },
  { rows, width, offset, seq, positionBuffer, positions }: Extent & RowPositions & { readonly offset: number },
): void {
  const stride4 = strideOf(width) / 4, given = positions ?? positionBuffer;
  const kernel = compileKernel(
    plan.device,
    sourceOf(positionsKernel, positions ? "rows" : given ? "offset" : "plain"),
  );
  const count = Math.floor(io.table.bytes / (16 * stride4));
  plan.dispatch(
    kernel,
    [io.table, ...(given ? [given] : []), io.x, { params: [u32(seq), u32(stride4), u32(count), u32(offset)] }],
    { groups: [Math.ceil(stride4 / LANES), rows], cost: 4 * rows * width },
  );
}

/** The columns of a gated activation. */
export interface GatedExtent extends Extent {
  /** Default: silu. */
  readonly activation?: Activation | undefined;
}

/**
 * a = f(gate)·up·z, or f(up)·z without a gate; writes (=). Shapes: gate, up, a [rows, stride]; z [stride]; curve [4] of
 * xIELU: a, b, beta and eps.
 */
export function recordGated(
  plan: Plan,
  io: { gate?: Span | undefined; up: Span; z: Span; a: Span; curve?: Span | null },
  { rows, width, activation = "silu" }: GatedExtent,
): void {
  const kernel = activated[activation][io.gate ? "gated" : "plain"], gate = io.gate ? [io.gate] : [];
  const inputs = [...gate, io.up, io.z, ...io.curve ? [io.curve] : []];
  columns(plan, compileKernel(plan.device, kernel), [...inputs, io.a], { rows, width, cost: 20 });
}

/**
 * Backward of {@link recordGated}, in place: gate := dgate, up := dup. The mask gradients [width] (=) are summed
 * through `partial`.
 */
export function recordGatedBackward(
  plan: Plan,
  io: {
    da: Span;
    z: Span;
    gate?: Span | undefined;
    up: Span;
    partial: Span;
    grads: MaskGradients | null;
    curve?: Span | null;
  },
  { rows, width, activation = "silu" }: GatedExtent,
): void {
  const stride4 = strideOf(width) / 4, gate = io.gate ? [io.gate] : [], curve = io.curve ? [io.curve] : [];
  plan.dispatch(
    compileKernel(plan.device, activatedBackward[activation][io.gate ? "gated" : "plain"]),
    [io.da, io.z, ...curve, ...gate, io.up, io.partial, { params: [u32(rows), u32(stride4)] }],
    { groups: [Math.ceil(stride4 / LANES), rowBlocks(rows)], cost: 30 * rows * width },
  );
  if (io.grads) recordPartialSums(plan, io.partial, io.grads, { rows, width, groupWidth: 1, accumulate: false });
}

/** y = x ∘ z by groups of `groupWidth` columns; writes (=). Shapes: z [width / groupWidth]. */
export function recordScale(
  plan: Plan,
  io: { x: Span; z: Span; y: Span },
  { rows, width, groupWidth }: Extent & { readonly groupWidth: number },
): void {
  const stride4 = strideOf(width) / 4;
  plan.dispatch(
    compileKernel(plan.device, scale),
    [io.x, io.z, io.y, { params: [u32(rows), u32(stride4), u32(width), u32(groupWidth)] }],
    { groups: [Math.ceil(stride4 / LANES), rows], cost: 8 * rows * width },
  );
}

/**
 * Backward of {@link recordScale}, in place: v (the unmasked values) := dy ∘ z. The mask gradients (=) or (+=) are
 * summed through `partial`.
 */
export function recordScaleBackward(
  plan: Plan,
  io: { dy: Span; z: Span; v: Span; partial: Span; grads: MaskGradients | null },
  { rows, width, groupWidth, accumulate }: Extent & { readonly groupWidth: number; readonly accumulate: boolean },
): void {
  const stride4 = strideOf(width) / 4;
  plan.dispatch(
    compileKernel(plan.device, scaleBackward),
    [io.dy, io.z, io.v, io.partial, { params: [u32(rows), u32(stride4), u32(width), u32(groupWidth)] }],
    { groups: [Math.ceil(stride4 / LANES), rowBlocks(rows)], cost: 12 * rows * width },
  );
  if (io.grads) recordPartialSums(plan, io.partial, io.grads, { rows, width, groupWidth, accumulate });
}

/** out = x + scale · y ∘ z, without the factor if it is not given; writes (=). Shapes: z [stride]. */
export function recordResidual(
  plan: Plan,
  io: { x: Span; y: Span; z: Span; out: Span },
  { rows, width, scale: factor }: Extent & { readonly scale?: number | undefined },
): void {
  const spans = [io.x, io.y, io.z, io.out], extent = { rows, width, cost: 8 };
  if (factor === undefined) columns(plan, compileKernel(plan.device, residual), spans, extent);
  else columns(plan, compileKernel(plan.device, residualScaled), spans, { ...extent, factor });
}

/** y = factor · x; writes (=). */
export function recordMultiply(
  plan: Plan,
  io: { x: Span; y: Span },
  { rows, width, factor }: Extent & { readonly factor: number },
): void {
  columns(plan, compileKernel(plan.device, multiply), [io.x, io.y], { rows, width, factor, cost: 4 });
}

/** y[m] += b; adds (+=). Shapes: b [stride], y [rows, stride]. */
export function recordBias(plan: Plan, io: { b: Span; y: Span }, { rows, width }: Extent): void {
  columns(plan, compileKernel(plan.device, addBias), [io.b, io.y], { rows, width, cost: 8 });
}

/**
 * Adds the rows with keep = 1 to running statistics of each column: the mean, and the sum of squared deviations from
 * it. Accumulates (+=).
 * Shapes: x [rows, stride]; keep [rows] u32; counts [1 + rowBlocks(rows)] u32: the number of rows added before, then
 * the number of kept rows of each block; partial at least 2 · partialFloats; stats [2, stride], initially zero.
 */
export function recordColumnStats(
  plan: Plan,
  io: { x: Span; keep: Span; counts: Span; partial: Span; stats: Span },
  { rows, width }: Extent,
): void {
  const stride4 = strideOf(width) / 4, blocks = rowBlocks(rows), lanes = Math.ceil(stride4 / LANES);
  plan.dispatch(
    compileKernel(plan.device, columnStats),
    [io.x, io.keep, io.counts, io.partial, { params: [u32(rows), u32(stride4)] }],
    { groups: [lanes, blocks], cost: 16 * rows * width },
  );
  plan.dispatch(
    compileKernel(plan.device, columnStatsMerge),
    [io.partial, io.counts, io.stats, { params: [u32(blocks), u32(stride4)] }],
    { groups: [lanes], cost: 16 * blocks * width },
  );
}

/** x := cap · tanh(x / cap) for the first `count` values. */
export function recordSoftCap(
  plan: Plan,
  x: Span,
  { count, cap }: { readonly count: number; readonly cap: number },
): void {
  const groups = Math.ceil(count / LANES), width = Math.min(groups, 32768);
  plan.dispatch(compileKernel(plan.device, softCap), [x, { params: [u32(count), f32(cap)] }], {
    groups: [width, Math.ceil(groups / width)],
    cost: 20 * count,
  });
}

/**
 * Log-probabilities of a chunk of rows: of each target, and of the `top` most likely tokens. Shapes: logits [rows,
 * stride]; targets, chosen [tokens]; ids, values [tokens, top], at least one entry.
 */
export function recordTopLogits(
  plan: Plan,
  io: { targets: Span; logits: Span; chosen: Span; ids: Span; values: Span },
  { rows, stride, vocab, firstRow, top }: {
    readonly rows: number;
    readonly stride: number;
    readonly vocab: number;
    readonly firstRow: number;
    readonly top: number;
  },
): void {
  plan.dispatch(
    compileKernel(plan.device, topLogits),
    [io.targets, io.logits, io.chosen, io.ids, io.values, {
      params: [u32(stride), u32(vocab), u32(firstRow), u32(top)],
    }],
    { groups: [rows], cost: (30 + 4 * top) * rows * vocab },
  );
}

/** Gather: y[i] (=) x[order[first + i]]. Scatter: y[order[first + i]] (=) x[i]. Rows have `width` values. */
export function recordCopyRows(
  plan: Plan,
  io: { order: Span; x: Span; y: Span },
  { rows, width, first, direction }: Extent & { readonly first: number; readonly direction: "gather" | "scatter" },
): void {
  const stride4 = strideOf(width) / 4;
  plan.dispatch(
    compileKernel(plan.device, copyRows),
    [io.order, io.x, io.y, { params: [u32(first), u32(stride4), u32(direction === "scatter" ? 1 : 0)] }],
    { groups: [Math.ceil(stride4 / LANES), rows], cost: 4 * rows * width },
  );
}

/**
 * y = dropout(x) at the rate in the step state: (+=) with `accumulate`, otherwise (=). The same `stream` drops the same
 * elements within one step.
 */
export function recordDropout(
  plan: Plan,
  io: { x: Span; state: Span; y: Span },
  { rows, width, stream, accumulate }: Extent & {
    readonly stream: number;
    readonly accumulate: boolean;
  },
): void {
  const stride4 = strideOf(width) / 4;
  plan.dispatch(
    compileKernel(plan.device, dropout),
    [io.x, io.state, io.y, {
      params: [u32(rows), u32(stride4), u32(stream), u32(accumulate ? 1 : 0)],
    }],
    { groups: [Math.ceil(stride4 / LANES), rows], cost: 30 * rows * width },
  );
}

/** Sums partials over their blocks, by groups of columns: the mask gradients, (=) or (+=). */
function recordPartialSums(
  plan: Plan,
  partial: Span,
  { dz, squares }: MaskGradients,
  { rows, width, groupWidth, accumulate }: Extent & { readonly groupWidth: number; readonly accumulate: boolean },
): void {
  const units = Math.floor(width / groupWidth);
  plan.dispatch(
    compileKernel(plan.device, reducePartials),
    [partial, dz, squares, {
      params: [u32(rowBlocks(rows)), u32(strideOf(width)), u32(units), u32(groupWidth), u32(accumulate ? 1 : 0)],
    }],
    { groups: [Math.ceil(units / LANES)], cost: rowBlocks(rows) * width },
  );
}

function columns(
  plan: Plan,
  kernel: ReturnType<typeof compileKernel>,
  spans: readonly Bound[],
  { rows, width, cost, factor }: Extent & { readonly cost: number; readonly factor?: number },
): void {
  const stride4 = strideOf(width) / 4, params = [u32(rows), u32(stride4), ...factor === undefined ? [] : [f32(factor)]];
  plan.dispatch(kernel, [...spans, { params }], {
    groups: [Math.ceil(stride4 / LANES), rows],
    cost: cost * rows * width,
  });
}
