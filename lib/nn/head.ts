// The final norm, output head and loss, in chunks of tokens: [tokens, vocab] is never stored whole.
import { existing } from "../core/guards.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { type DecoderSpec, embeddingWidth } from "../spec/decoder.ts";
import { roundUp, strideOf } from "./padding.ts";
import type { DecoderContext, Pass } from "./context.ts";
import { recordLinear } from "./products/linear.ts";
import { operand } from "./products/operand.ts";
import { recordNorm, recordNormBackward } from "./norm.ts";
import { recordBias, recordCopyRows, recordSoftCap, recordTopLogits } from "./ops.ts";
import { CROSS_ENTROPY, recordObjective } from "./train/objective.ts";

/** Rows of a product tile. */
const ROW_TILE = 16;

/**
 * Tokens per chunk so that its logits take about 32 MiB, at most `rows`. Chunks have nearly equal sizes, in whole tiles
 * of rows.
 */
export function headRowsFor(vocab: number, rows: number): number {
  const most = Math.max(1, Math.min(rows, 512, Math.floor((1 << 23) / strideOf(vocab))));
  const even = Math.ceil(rows / Math.ceil(rows / most));
  return even < rows && roundUp(even, ROW_TILE) <= roundUp(most, ROW_TILE) ? roundUp(even, ROW_TILE) : even;
}

/**
 * Writes next-token targets [rows], −1 for none. The head processes rows with a target first and skips chunks without
 * targets.
 */
export function writeTargets({ device, act }: Pick<Pass, "device" | "act">, targets: Int32Array): void {
  const order = new Uint32Array(targets.length), sorted = new Int32Array(targets.length).fill(-1);
  let at = 0;
  targets.forEach((target, row) => {
    if (target < 0) return;
    order[at] = row;
    sorted[at++] = target;
  });
  act.wanted.rows = at;
  targets.forEach((target, row) => {
    if (target < 0) order[at++] = row;
  });
  device.write(act.order, order);
  device.write(act.targets, sorted);
}

/** Output buffers of {@link recordTop}, both in head order. */
export interface TopBuffers {
  /** Log-probability of each target [rows]. */
  readonly chosen: DeviceBuffer;
  /** The most likely tokens [rows, top] u32 and their log-probabilities. The buffers hold at least one entry. */
  readonly ids: DeviceBuffer;
  readonly values: DeviceBuffer;
  /** Number of tokens per row, at most the vocabulary size. */
  readonly top: number;
}

/**
 * Records the log-probabilities of the target and of the most likely tokens, for every row with a target in the order
 * of {@link writeTargets}.
 */
export function recordTop(context: DecoderContext, { top, ...buffers }: TopBuffers): void {
  const { plan, weights: { spec }, act } = context;
  recordFinalNorm(context);
  plan.section("head");
  for (let first = 0; first < act.rows; first += act.shape.headRows) {
    const rows = Math.min(act.shape.headRows, act.rows - first);
    plan.optional(() => first < act.wanted.rows, () => {
      recordCopyRows(plan, { order: act.order, x: act.final, y: act.chunk }, {
        rows,
        width: embeddingWidth(spec),
        first,
        direction: "gather",
      });
      recordHead(context, { rows });
      recordTopLogits(plan, { targets: act.targets, logits: act.logits, ...buffers }, {
        rows,
        stride: strideOf(spec.vocab),
        vocab: spec.vocab,
        firstRow: first,
        top,
      });
    });
  }
}

/** Reorders act.loss from head order to row order; `order` is that of {@link writeTargets}. */
export function lossByRow(losses: Float32Array, targets: Int32Array): Float32Array<ArrayBuffer> {
  let at = 0;
  return Float32Array.from(targets, (target) => target < 0 ? 0 : losses[at++] ?? NaN);
}

/** What the head reads at each target [rows with a target, embeddingWidth], of a pass that has run. */
export async function targetStates(
  { device, act, weights: { spec } }: Pick<Pass, "device" | "act" | "weights">,
  targets: Int32Array,
): Promise<Float32Array<ArrayBuffer>> {
  const width = embeddingWidth(spec), stride = strideOf(width);
  const all = await device.readFloats(act.final, targets.length * stride);
  const rows = [...targets.keys()].filter((row) => (targets[row] ?? -1) >= 0);
  const states = new Float32Array(rows.length * width);
  rows.forEach((row, at) => states.set(all.subarray(row * stride, row * stride + width), at * width));
  return states;
}

/** act.final = norm(output of the last layer), projected to the width of the head where it has another one. */
export function recordFinalNorm({ plan, weights, act }: DecoderContext): void {
  const { spec, finalNorm, projectOut } = weights,
    { rows, final, normed, rmsFinal: r } = act,
    x = lastOutput(act, spec);
  plan.section("elementwise");
  if (finalNorm) recordNorm(plan, finalNorm, { x, y: normed ?? final, r }, { rows, spec });
  if (projectOut) {
    const stride = strideOf(spec.hidden), input = operand(plan, act.operands, normed ?? x, { rows, stride });
    plan.section("head");
    recordLinear(plan, input, projectOut, { buffer: final, stride: strideOf(projectOut.rows) }, {
      rows,
      direction: "forward",
    });
  } else if (!finalNorm) plan.copy(x, final, { bytes: rows * strideOf(spec.hidden) * 4 });
}

/** dx = dL/d(output of the last layer) from act.dfinal. */
function recordFinalNormBackward({ plan, weights, act }: DecoderContext): void {
  const { spec, finalNorm, projectOut } = weights, { rows, rmsFinal: r } = act, stride = strideOf(spec.hidden);
  const dfinal = existing(act.dfinal, "gradient of the final norm"),
    { dx, dh } = existing(act.backward, "buffers of backward");
  const dy = projectOut ? finalNorm ? dh : dx : dfinal;
  if (projectOut) {
    const input = operand(plan, act.operands, dfinal, { rows, stride: strideOf(projectOut.rows) });
    recordLinear(plan, input, projectOut, { buffer: dy, stride }, { rows, direction: "backward" });
  }
  plan.section("elementwise");
  const io = { dy, x: lastOutput(act, spec), r, dx };
  if (finalNorm) recordNormBackward(plan, finalNorm, io, { rows, spec, accumulate: false });
  else if (!projectOut) plan.copy(dfinal, dx, { bytes: rows * stride * 4 });
}

/** act.logits = head(act.final rows first … first + rows − 1). */
export function recordLogits(
  context: DecoderContext,
  { first, rows }: { readonly first: number; readonly rows: number },
): void {
  const { plan, weights, act } = context;
  const stride = strideOf(embeddingWidth(weights.spec));
  plan.section("head");
  plan.copy(act.final, act.chunk, { bytes: rows * stride * 4, sourceOffset: first * stride * 4 });
  recordHead(context, { rows });
}

/** act.logits = head(act.chunk), with the model's soft cap. `of` names the head in a plan that records several. */
export function recordHead(context: DecoderContext, { rows, of }: RecordedHead): void {
  const { plan, weights: { spec }, act } = context, cap = spec.softCaps?.logits;
  recordRawHead(context, { rows, of });
  if (cap !== undefined) recordSoftCap(plan, act.logits, { count: rows * strideOf(spec.vocab), cap });
}

/** Rows of a chunk, and the name of the head. */
interface RecordedHead {
  readonly rows: number;
  /** Default "head". */
  readonly of?: string | undefined;
}

/** act.logits = head(act.chunk) and its bias, without a soft cap. */
function recordRawHead({ plan, weights, act, multiply }: DecoderContext, { rows, of = "head" }: RecordedHead): void {
  const width = embeddingWidth(weights.spec), stride = strideOf(width), { head, spec } = weights;
  if (multiply) multiply(head, { buffer: act.chunk, width }, act.logits);
  else {
    const target = { buffer: act.logits, stride: strideOf(spec.vocab) };
    plan.repeat(`${of} of ${rows} rows`, () => {
      const x = operand(plan, act.operands, act.chunk, { rows, stride });
      recordLinear(plan, x, head, target, { rows, direction: "forward" });
    });
  }
  if (weights.headBias) recordBias(plan, { b: weights.headBias, y: act.logits }, { rows, width: spec.vocab });
}

/**
 * Computes act.loss of every row with a target, in the order of {@link writeTargets}; 0 for the others. With
 * `gradient`, act.backward.dx = dL/d(output of the last layer), L = state.lossScale · Σ loss.
 */
export function recordLoss(context: DecoderContext, { gradient }: { readonly gradient: boolean }): void {
  const { plan, weights: { spec }, act, state, objective = CROSS_ENTROPY, dense } = context;
  recordFinalNorm(context);
  plan.section("head");
  plan.clear(act.loss);
  if (gradient && act.dfinal) plan.clear(act.dfinal);
  for (let first = 0; first < act.rows; first += act.shape.headRows) {
    const rows = Math.min(act.shape.headRows, act.rows - first), width = embeddingWidth(spec);
    plan.optional(() => first < act.wanted.rows, () => {
      const recordLogitsOf = (x: DeviceBuffer): void => {
        recordCopyRows(plan, { order: act.order, x, y: act.chunk }, { rows, width, first, direction: "gather" });
        recordRawHead(context, { rows });
      };
      if (dense) {
        recordLogitsOf(dense.final);
        plan.copy(act.logits, dense.logits, { bytes: 4 * rows * strideOf(spec.vocab) });
      }
      recordLogitsOf(act.final);
      const io = { targets: act.targets, state, logits: act.logits, loss: act.loss, dense: dense?.logits };
      recordObjective(plan, objective, io, {
        rows,
        vocab: spec.vocab,
        firstRow: first,
        gradient,
        cap: spec.softCaps?.logits,
      });
      if (gradient) recordLogitsBackward(context, { first, rows });
    });
  }
  if (gradient) recordFinalNormBackward(context);
}

function recordLogitsBackward(
  context: DecoderContext,
  { first, rows }: { readonly first: number; readonly rows: number },
): void {
  const { plan, weights: { spec }, act } = context, { order } = act;
  const dchunk = existing(act.dchunk, "gradient of a chunk"),
    dfinal = existing(act.dfinal, "gradient of the final norm");
  plan.repeat(`head backward of ${rows} rows`, () => recordHeadBackward(context, { dchunk, rows }));
  recordCopyRows(plan, { order, x: dchunk, y: dfinal }, {
    rows,
    width: embeddingWidth(spec),
    first,
    direction: "scatter",
  });
}

function lastOutput({ x }: DecoderContext["act"], { layers }: DecoderSpec): DeviceBuffer {
  return existing(x[layers.length], "output of the last layer");
}

/** dchunk = dL/d(act.chunk) from dL/d(act.logits). */
function recordHeadBackward(
  { plan, weights: { head, spec }, act }: DecoderContext,
  { dchunk, rows }: { readonly dchunk: DeviceBuffer; readonly rows: number },
): void {
  const target = { buffer: dchunk, stride: strideOf(embeddingWidth(spec)) };
  const stride = strideOf(spec.vocab);
  if (head.placement === "buffer" || head.shards.length === 1) {
    const x = operand(plan, act.operands, act.logits, { rows, stride });
    recordLinear(plan, x, head, target, { rows, direction: "backward" });
  } else {
    // One shard at a time: a texture is not as wide as a large vocabulary.
    head.shards.forEach((shard, index) => {
      const columns = [shard.row0, Math.min(roundUp(shard.rows, 64), stride - shard.row0)] as const;
      const x = operand(plan, act.operands, act.logits, { rows, stride, columns });
      recordLinear(plan, x, head, target, { rows, direction: "backward", shard: index, accumulate: index > 0 });
    });
  }
}
