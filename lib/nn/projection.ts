// A projection with LoRA and bias, y = W·x + s·B·A·x + b, forward and backward.
import { existing } from "../core/guards.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { DecoderContext } from "./context.ts";
import { strideOf } from "./padding.ts";
import { recordLinear } from "./products/linear.ts";
import { type BufferView, type Operand, textured } from "./products/operand.ts";
import { recordMatmul } from "./products/matmul.ts";
import type { LoraEntry } from "./lora.ts";
import { recordBias, recordDropout } from "./ops.ts";
import type { Projection } from "../spec/decoder.ts";
import type { Matrix } from "./products/matrix.ts";
import { projectionMatrix } from "./weights.ts";

/** An activation of `width` columns. */
export interface Activation {
  readonly buffer: DeviceBuffer;
  readonly width: number;
}

/** An activation that is also an operand of the base product. */
export interface OperandActivation extends Activation {
  readonly operand: Operand;
}

/** Options of {@link recordProjection}. */
interface ForwardRecord {
  readonly layer: number;
  readonly projection: Projection;
  readonly input: OperandActivation;
  readonly output: DeviceBuffer;
  readonly again: boolean;
}

/** y = W·x + LoRA + bias (=). A·x is kept for backward. With `again`, A·x has already been computed. */
export function recordProjection(context: DecoderContext, record: ForwardRecord): void {
  recordProduct(context, record);
  const { plan, act, weights } = context, { layer, projection, output } = record;
  const bias = existing(weights.layers[layer], `layer ${layer}`).biases[projection];
  if (!bias) return;
  plan.section("elementwise");
  const width = matrixOf(context, layer, projection).rows;
  recordBias(plan, { b: bias, y: output }, { rows: act.rows, width });
}

function recordProduct(context: DecoderContext, { layer, projection, input, output, again }: ForwardRecord): void {
  const { plan, act, lora } = context;
  const matrix = matrixOf(context, layer, projection);
  const { rows, operands: pool } = act;
  const entry = lora?.find(layer, projection), kept = act.layers[layer]?.inner?.[projection];
  const target = { buffer: output, stride: strideOf(matrix.rows) };
  if (!lora || !entry || !kept) {
    plan.section("products");
    if (context.multiply) context.multiply(matrix, input, output);
    else recordLinear(plan, input.operand, matrix, target, { rows, direction: "forward" });
    return;
  }
  const { rank } = lora.config, inner = flat(kept, rank);
  if (!again) {
    plan.section("lora");
    recordMatmul(plan, {
      pool,
      a: context.dropout ? recordDropped(context, entry, input) : input.operand,
      b: { buffer: lora.params, offset: entry.aOffset, stride: entry.shape[1] },
      c: inner,
      m: rows,
      n: rank,
      k: input.width,
      transposeB: true,
    });
  }
  plan.section("products");
  recordLinear(plan, input.operand, matrix, target, {
    rows,
    direction: "forward",
    low: {
      h: inner,
      weight: { buffer: lora.params, offset: entry.bOffset, stride: rank },
      rank,
      alpha: lora.scale,
      pool,
    },
  });
}

/** dx (=) or (+=) from dy; dA and dB (=) into the flat gradients. */
export function recordProjectionBackward(
  context: DecoderContext,
  { layer, projection, input, gradient, output, accumulate }: {
    readonly layer: number;
    readonly projection: Projection;
    readonly input: Activation;
    readonly gradient: OperandActivation;
    readonly output: DeviceBuffer;
    readonly accumulate: boolean;
  },
): void {
  const { plan, act, lora } = context;
  const matrix = matrixOf(context, layer, projection);
  const { rows, operands: pool } = act, dy = gradient.operand;
  const x = flat(input.buffer, strideOf(input.width));
  context.observeWeights?.(context, { layer, projection, matrix, x, dy });
  const entry = lora?.find(layer, projection), kept = act.layers[layer]?.inner?.[projection];
  const target = { buffer: output, stride: strideOf(matrix.cols) };
  if (!lora || !entry || !kept || !act.dinner) {
    plan.section("products");
    recordLinear(plan, dy, matrix, target, { rows, direction: "backward", accumulate });
    return;
  }
  plan.section("lora");
  const { rank } = lora.config;
  const result = flat(act.dinner, rank);
  const a: BufferView = { buffer: lora.params, offset: entry.aOffset, stride: entry.shape[1] };
  recordMatmul(plan, {
    pool,
    a: dy,
    b: { buffer: lora.params, offset: entry.bOffset, stride: rank },
    c: result,
    m: rows,
    n: rank,
    k: matrix.rows,
    alpha: lora.scale,
  });
  const dinner = textured(plan, pool, { view: result, rows, columns: rank, slot: "lora-inner" });
  recordMatmul(plan, {
    pool,
    a: dy,
    b: flat(kept, rank),
    c: { buffer: lora.grads, offset: entry.bOffset, stride: rank },
    m: matrix.rows,
    n: rank,
    k: rows,
    transposeA: true,
    alpha: lora.scale,
  });
  recordMatmul(plan, {
    pool,
    a: dinner,
    b: recordDropped(context, entry, input),
    c: { buffer: lora.grads, offset: entry.aOffset, stride: entry.shape[1] },
    m: rank,
    n: matrix.cols,
    k: rows,
    transposeA: true,
  });
  const drops = context.dropout && act.dropped;
  plan.section("products");
  recordLinear(plan, dy, matrix, target, {
    rows,
    direction: "backward",
    accumulate,
    ...(drops ? {} : { low: { h: dinner, weight: a, rank, pool } }),
  });
  if (!drops) return;
  plan.section("lora");
  recordMatmul(plan, {
    pool,
    a: dinner,
    b: a,
    c: flat(drops, strideOf(input.width)),
    m: rows,
    n: matrix.cols,
    k: rank,
  });
  recordDropoutOf(context, entry, { from: drops, to: output, width: input.width, accumulate: true });
}

/** The input of A: x itself, or dropout(x) in a scratch buffer. */
function recordDropped(context: DecoderContext, entry: LoraEntry, input: Activation): BufferView {
  const { act } = context;
  if (!context.dropout || !act.dropped) return flat(input.buffer, strideOf(input.width));
  recordDropoutOf(context, entry, { from: input.buffer, to: act.dropped, width: input.width, accumulate: false });
  return flat(act.dropped, strideOf(input.width));
}

function recordDropoutOf(
  context: DecoderContext,
  entry: LoraEntry,
  { from, to, width, accumulate }: {
    readonly from: DeviceBuffer;
    readonly to: DeviceBuffer;
    readonly width: number;
    readonly accumulate: boolean;
  },
): void {
  const { plan, act, state, lora } = context;
  const stream = 0x100 + (lora?.entries.indexOf(entry) ?? 0);
  recordDropout(plan, { x: from, state, y: to }, { rows: act.rows, width, stream, accumulate });
}

function matrixOf({ weights }: DecoderContext, layer: number, projection: Projection): Matrix {
  const own = weights.layers[layer];
  return existing(own && projectionMatrix(own, projection), `${projection} of layer ${layer}`);
}

function flat(buffer: DeviceBuffer, stride: number): BufferView {
  return { buffer, offset: 0, stride };
}
