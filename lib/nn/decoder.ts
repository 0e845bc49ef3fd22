// One decoder layer, forward and backward, recorded into a plan.
import { existing } from "../core/guards.ts";
import { type AttentionBuffers, type AttentionShape, recordAttention, recordAttentionBackward } from "./attention.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { LayerActivations } from "./activations.ts";
import type { DecoderContext } from "./context.ts";
import { headStride, strideOf } from "./padding.ts";
import { recordLinear } from "./products/linear.ts";
import { type Operand, operand } from "./products/operand.ts";
import { type OperandActivation, recordProjection, recordProjectionBackward } from "./projection.ts";
import { recordExperts } from "./experts.ts";
import { recordShortConv, recordShortConvBackward } from "./short_conv.ts";
import { gradientSlices, slotSlice } from "./mask_slots.ts";
import {
  recordEmbedding,
  recordGated,
  recordGatedBackward,
  recordMultiply,
  recordPositions,
  recordResidual,
  recordScale,
  recordScaleBackward,
} from "./ops.ts";
import {
  type Heads,
  type NormWeights,
  recordHeadNorm,
  recordHeadNormBackward,
  recordNorm,
  recordNormBackward,
  recordOutputNorm,
  recordOutputNormBackward,
} from "./norm.ts";
import { layerTable, recordRope } from "./rope.ts";
import {
  type ConvMatrix,
  type DecoderSpec,
  hasRope,
  headDimOf,
  type LayerSpec,
  type Projection,
} from "../spec/decoder.ts";
import type { Matrix } from "./products/matrix.ts";
import { headWidths, type LayerWeights } from "./weights.ts";

/** x[0] = act.embedded ∘ z_hidden, see {@link recordEmbedded}. */
export function recordInput(context: DecoderContext): void {
  const { plan, weights, act } = context;
  const { rows, x, embedded } = act;
  recordEmbedded(context);
  const width = weights.spec.hidden;
  recordScale(plan, { x: embedded, z: hiddenMask(context), y: existing(x[0], "input of layer 0") }, {
    rows,
    width,
    groupWidth: 1,
  });
}

/** act.embedded = embedding(tokens) · scale + positions, where an embedding of another width is projected first. */
function recordEmbedded({ plan, weights, act, ranges, position, positions }: DecoderContext): void {
  const { rows, tokens, looked, embedded, shape: { seq } } = act, { spec, positions: table, projectIn } = weights;
  plan.section("embedding");
  recordEmbedding(plan, weights.embedding, { tokens, x: looked ?? embedded }, { rows, scale: spec.scales?.embedding });
  if (projectIn && looked) {
    const x = operand(plan, act.operands, looked, { rows, stride: strideOf(projectIn.cols) });
    recordLinear(plan, x, projectIn, { buffer: embedded, stride: strideOf(spec.hidden) }, {
      rows,
      direction: "forward",
    });
  }
  if (!table || !spec.positions) return;
  recordPositions(plan, { table, x: embedded }, {
    rows,
    width: spec.hidden,
    offset: spec.positions.offset,
    seq,
    positionBuffer: position,
    positions: ranges?.positions ?? positions,
  });
}

/** dz_hidden += the embedding's share; dx is the gradient of x[0]. */
export function recordInputBackward(context: DecoderContext): void {
  const { act } = context;
  if (!act.backward || !context.maskGrads.has("hidden")) return;
  recordEmbedded(context);
  recordHiddenBackward(context, act.embedded);
}

/** x[index + 1] = layer(x[index]). */
export function recordLayer(context: DecoderContext, index: number): void {
  const { plan, weights, act } = context, { rows } = act, { hidden } = weights.spec;
  const { layer, x, forward } = partsOf(context, index), end = existing(act.x[index + 1], `output of layer ${index}`);
  const out = layer.scale ? existing(act.unscaled, "stream before the factor of its layer") : end;
  let middle = x;
  if (layer.attention ?? layer.conv) {
    if (layer.conv) recordConvPart(context, index, { x, again: false });
    else recordAttentionPart(context, index, { x, again: false });
    middle = layer.ffn ? forward.x1 : out;
    recordWrite(context, { x, ...attentionWrite(context, index), out: middle });
    context.observeStates?.(context, index, { of: "attention", before: x, after: middle });
  }
  if (layer.ffn) {
    recordFfnPart(context, index, { x: weights.spec.parallel ? x : middle, again: false });
    recordWrite(context, { x: middle, ...ffnWrite(context, index), out });
  }
  if (!layer.attention && !layer.conv && !layer.ffn) {
    plan.copy(x, out, { bytes: rows * strideOf(hidden) * 4 });
  }
  if (layer.scale) recordScale(plan, { x: out, z: layer.scale, y: end }, { rows, ...wholeOf(hidden) });
  context.observeStates?.(context, index, { of: "layer", before: x, after: end });
}

/** What attention or FFN adds to the residual stream, and the norm of that or of the stream after it. */
interface Write {
  readonly y: DeviceBuffer;
  readonly outputNorm: DeviceBuffer | null;
  readonly streamNorm: NormWeights | null;
  /** With a norm of the stream: the stream before it, and the factors of its rows. */
  readonly sum: DeviceBuffer;
  readonly r: DeviceBuffer;
}

function attentionWrite(context: DecoderContext, index: number): Write {
  const { layer, forward: { y1: y, h1: sum }, rms: [r] } = partsOf(context, index);
  if (layer.conv) return { y, outputNorm: null, streamNorm: null, sum, r };
  const { outputNorm, streamNorm } = existing(layer.attention, `attention of layer ${index}`);
  return { y, outputNorm, streamNorm, sum, r };
}

function ffnWrite(context: DecoderContext, index: number): Write {
  const { layer, forward: { y2: y, h2: sum }, rms: [, r] } = partsOf(context, index);
  const { outputNorm, streamNorm } = existing(layer.ffn, `FFN of layer ${index}`);
  return { y, outputNorm, streamNorm, sum, r };
}

/**
 * out = x + y ∘ z_hidden · scale, or x + RMSNorm(y ∘ z_hidden) with an output norm, or norm(x + y ∘ z_hidden) with one
 * of the stream.
 */
function recordWrite(context: DecoderContext, { outputNorm: w, streamNorm, sum, r, ...io }: Write & {
  readonly x: DeviceBuffer;
  readonly out: DeviceBuffer;
}): void {
  const { plan, act: { rows }, weights: { spec } } = context, extent = { rows, width: spec.hidden };
  const z = hiddenMask(context);
  plan.section("elementwise");
  if (w) return recordOutputNorm(plan, { ...io, w, z }, { ...extent, eps: spec.normEps });
  recordResidual(plan, { ...io, z, out: streamNorm ? sum : io.out }, { ...extent, scale: spec.scales?.residual });
  if (streamNorm) recordNorm(plan, streamNorm, { x: sum, y: io.out, r }, { rows, spec });
}

/**
 * y := dL/dy of {@link recordWrite} from dx, the gradient of `out`; dz_hidden += its share. With a norm of the stream,
 * dx becomes the gradient of `x`.
 */
function recordWriteBackward(context: DecoderContext, { y, outputNorm: w, streamNorm, sum, r }: Write): void {
  const { plan, act: { rows }, weights: { spec } } = context, { dx, dh } = backwardOf(context);
  if (streamNorm) {
    plan.section("elementwise");
    recordNormBackward(plan, streamNorm, { dy: dx, x: sum, r, dx: dh }, { rows, spec, accumulate: false });
    plan.copy(dh, dx, { bytes: rows * strideOf(spec.hidden) * 4 });
  }
  const factor = spec.scales?.residual;
  if (!w && factor === undefined) return recordHiddenBackward(context, y);
  plan.section("elementwise");
  if (factor !== undefined) recordMultiply(plan, { x: dx, y: dh }, { rows, width: spec.hidden, factor });
  const extent = { rows, width: spec.hidden, eps: spec.normEps };
  if (w) recordOutputNormBackward(plan, { dout: dx, y, z: hiddenMask(context), w, du: dh }, extent);
  recordHiddenBackward(context, y, dh);
}

/**
 * Recomputes what backward needs of a layer and forward did not keep. x[index] and x1 were kept; y1 and y2, and the
 * stream before its norms, were kept if needed.
 */
function recordLayerAgain(context: DecoderContext, index: number): void {
  const { layer, x, forward } = partsOf(context, index),
    out = existing(context.act.x[index + 1], `output of layer ${index}`);
  if (layer.conv) recordConvPart(context, index, { x, again: true });
  if (layer.attention) {
    recordAttentionPart(context, index, { x, again: true });
    recordStreamNormAgain(context, { ...attentionWrite(context, index), out: layer.ffn ? forward.x1 : out });
  }
  if (layer.ffn) {
    recordFfnPart(context, index, { x: ffnInput(context, index), again: true });
    recordStreamNormAgain(context, { ...ffnWrite(context, index), out });
  }
}

/** The factors of the rows again; the output, which was kept, is written as it was. */
function recordStreamNormAgain(
  { plan, act: { rows }, weights: { spec } }: DecoderContext,
  { streamNorm, sum: x, r, out: y }: Write & { readonly out: DeviceBuffer },
): void {
  if (streamNorm) recordNorm(plan, streamNorm, { x, y, r }, { rows, spec });
}

/** Backward of layer `index`: act.backward.dx holds dL/dx[index + 1] and becomes dL/dx[index]. */
export function recordLayerBackward(context: DecoderContext, index: number): void {
  const { weights, act } = context;
  const { layer, x } = partsOf(context, index), isParallel = isParallelLayer(context, index);
  // The values of the last layer are still in the buffers of forward.
  const isLast = index === weights.layers.length - 1;
  if (act.shape.recompute !== false && !isLast) recordLayerAgain(context, index);
  if (layer.scale) {
    const { dx, dh } = backwardOf(context), { rows } = act, { hidden } = weights.spec;
    context.plan.section("elementwise");
    recordScale(context.plan, { x: dx, z: layer.scale, y: dh }, { rows, ...wholeOf(hidden) });
    context.plan.copy(dh, dx, { bytes: rows * strideOf(hidden) * 4 });
  }
  // Before dx receives what the FFN adds: attention does not write what the FFN of a parallel layer reads.
  if (isParallel) recordWriteBackward(context, attentionWrite(context, index));
  if (layer.ffn) recordFfnBackward(context, index, ffnInput(context, index));
  if (!layer.attention && !layer.conv) return;
  if (!isParallel) recordWriteBackward(context, attentionWrite(context, index));
  if (layer.conv) recordConvPartBackward(context, index, x);
  else recordAttentionPartBackward(context, index, x);
}

/** Whether attention and FFN of a layer both read its input. */
function isParallelLayer({ weights: { spec, layers } }: DecoderContext, index: number): boolean {
  const layer = layers[index];
  return spec.parallel !== undefined && layer?.attention !== null && layer?.ffn !== null;
}

/** Whether the FFN of a layer reads the normalised input of its attention: h1 and h2 are one buffer then. */
function readsAttentionNorm(context: DecoderContext, index: number): boolean {
  return context.weights.spec.parallel === "shared" && isParallelLayer(context, index);
}

/** What the FFN of a layer reads. */
function ffnInput(context: DecoderContext, index: number): DeviceBuffer {
  const { layer, x, forward } = partsOf(context, index);
  return (layer.attention ?? layer.conv) && !isParallelLayer(context, index) ? forward.x1 : x;
}

/** o = causal attention among the rows of the pass. Rotates q and k in place (RoPE). */
export function recordSelfAttention(context: DecoderContext, index: number): void {
  const { plan, act } = context;
  const { layer, forward: f, lse } = partsOf(context, index);
  recordTurn(context, index, (part) => rotate(context, { ...part, layer: layer.spec, inverse: false }));
  recordAttention(plan, attentionShape(context, layer), {
    q: f.q,
    k: f.k,
    v: f.v,
    o: f.o,
    lse,
    ranges: attentionRanges(context, layer),
    scratch: act.attention,
  });
}

/** The queries or the keys that a layer rotates. */
interface Turned {
  readonly of: "q" | "k";
  readonly buffer: DeviceBuffer;
  readonly heads: number;
  readonly width: number;
}

/** RoPE of q and k in place, where the layer has it, and their norms, where these follow. `turn` rotates one of them. */
export function recordTurn(context: DecoderContext, index: number, turn: (part: Turned) => void): void {
  const { layer, forward: { q, q0, k, k0 } } = partsOf(context, index), { spec } = context.weights;
  const { heads, kvHeads } = layer.spec, widths = headWidths(spec, layer.spec), isAfter = spec.qkNormAfter;
  if (hasRope(spec, layer.spec)) {
    turn({ of: "q", buffer: isAfter ? q0 : q, heads, width: widths.q });
    turn({ of: "k", buffer: isAfter ? k0 : k, heads: kvHeads, width: widths.kv });
  }
  if (isAfter) recordHeadNorms(context, index);
}

/** Norms of the q, k and v heads of a layer, where the model has them. */
function recordHeadNorms(context: DecoderContext, index: number): void {
  for (const { x, w, y, heads } of headNorms(context, index)) {
    recordHeadNorm(context.plan, { x, w, y }, headShape(context, index, heads));
  }
}

/** y1 from x. With `again`, recomputes only what backward needs. */
function recordAttentionPart(
  context: DecoderContext,
  index: number,
  { x, again }: { readonly x: DeviceBuffer; readonly again: boolean },
): void {
  const { plan, weights, act } = context;
  const { layer, forward: f, rms } = partsOf(context, index);
  const { spec } = weights, { rows } = act, { norm } = existing(layer.attention, `attention of layer ${index}`);
  plan.section("elementwise");
  if (norm) recordNorm(plan, norm, { x, y: f.h1, r: rms[0] }, { rows, spec });
  const h = norm ? f.h1 : x, input = { buffer: h, operand: asOperand(context, h, spec.hidden), width: spec.hidden };
  if (!again) context.observe?.(context, index, { of: "attention", buffer: h, width: spec.hidden });
  for (const [projection, output] of [["q", f.q0], ["k", f.k0], ["v", f.v0]] as const) {
    recordProjection(context, { layer: index, projection, input, output, again });
  }
  if (!spec.qkNormAfter) recordHeadNorms(context, index);
  plan.section("attention");
  (context.attend ?? recordSelfAttention)(context, index);
  if (again && !needsInput(context, index, "o")) return;
  const width = headWidths(spec, layer.spec).q;
  plan.section("elementwise");
  recordScale(plan, { x: f.o, z: headMask(context, index), y: f.om }, {
    rows,
    width,
    groupWidth: headStride(headDimOf(spec, layer.spec)),
  });
  if (again) return;
  context.observe?.(context, index, { of: "o", buffer: f.om, width });
  const masked = { buffer: f.om, operand: asOperand(context, f.om, width), width };
  recordProjection(context, { layer: index, projection: "o", input: masked, output: f.y1, again });
}

/** y1 from x through a short convolution. With `again`, recomputes only what backward needs. */
function recordConvPart(
  context: DecoderContext,
  index: number,
  { x, again }: { readonly x: DeviceBuffer; readonly again: boolean },
): void {
  const { plan, weights: { spec }, act } = context, { layer, forward: f, rms } = partsOf(context, index);
  const { norm, in: inner, out } = convOf(layer, index), { bcx, c, cz, cm } = convolvedOf(context, index);
  const { rows } = act, width = spec.hidden;
  plan.section("elementwise");
  recordNorm(plan, norm, { x, y: f.h1, r: rms[0] }, { rows, spec });
  if (!again) context.observe?.(context, index, { of: "attention", buffer: f.h1, width });
  recordOwnProduct(context, inner, { x: f.h1, y: bcx });
  plan.section("convolution");
  (context.convolve ?? recordOwnShortConv)(context, index);
  plan.section("elementwise");
  recordScale(plan, { x: c, z: hiddenMask(context), y: cz }, { rows, width, groupWidth: 1 });
  if (again && !context.observeWeights) return;
  recordScale(plan, { x: cz, z: convMask(context, index), y: cm }, { rows, ...wholeOf(width) });
  if (again) return;
  context.observe?.(context, index, { of: "o", buffer: cm, width });
  recordOwnProduct(context, out, { x: cm, y: f.y1 });
}

/** c from bcx, among the rows of the pass. */
function recordOwnShortConv(context: DecoderContext, index: number): void {
  const { plan, act: { rows, shape: { seq } }, ranges, weights: { spec } } = context;
  const { taps } = convOf(partsOf(context, index).layer, index), { bcx, c } = convolvedOf(context, index);
  recordShortConv(plan, { bcx, taps, y: c }, { rows, width: spec.hidden, ...lengthOf(spec), seq, ranges });
}

/** y = W·x (=) of a matrix without LoRA. */
function recordOwnProduct(
  context: DecoderContext,
  matrix: Matrix,
  { x, y }: { readonly x: DeviceBuffer; readonly y: DeviceBuffer },
): void {
  const { plan, act: { rows }, multiply } = context, { cols } = matrix;
  plan.section("products");
  if (multiply) return multiply(matrix, { buffer: x, width: cols }, y);
  const to = { buffer: y, stride: strideOf(matrix.rows) };
  recordLinear(plan, asOperand(context, x, cols), matrix, to, { rows, direction: "forward" });
}

/** Backward of {@link recordConvPart}: y1 holds dL/dy1; dx receives (+=) its share of dL/dx. */
function recordConvPartBackward(context: DecoderContext, index: number, x: DeviceBuffer): void {
  const { plan, weights: { spec }, act, masks, maskGrads, ranges } = context, { rows, shape: { seq } } = act;
  const { layer, forward: f, rms } = partsOf(context, index), { dx, dh } = backwardOf(context), width = spec.hidden;
  const { norm, in: inner, out, taps } = convOf(layer, index), { bcx, c, cz, cm } = convolvedOf(context, index);
  const { dcm, dbcx } = existing(act.convBackward, "buffers of a convolution's backward");
  const back = (part: ConvMatrix, { x, dy, dx }: Readonly<Record<"x" | "dy" | "dx", DeviceBuffer>>): void => {
    const matrix = part === "in" ? inner : out, stride = strideOf(matrix.cols);
    const own = asOperand(context, dy, matrix.rows), of = { buffer: x, offset: 0, stride };
    context.observeWeights?.(context, { layer: index, projection: part, matrix, x: of, dy: own });
    plan.section("products");
    recordLinear(plan, own, matrix, { buffer: dx, stride }, { rows, direction: "backward" });
  };
  back("out", { x: cm, dy: f.y1, dx: dcm });
  plan.section("elementwise");
  const { head } = existing(masks.layout.layers[index], `masks of layer ${index}`), { partial } = act;
  recordScaleBackward(plan, {
    dy: dcm,
    z: convMask(context, index),
    v: cz,
    partial,
    grads: maskGrads.has("head") ? gradientSlices(masks, head, 1) : null,
  }, { rows, ...wholeOf(width), accumulate: false });
  recordHiddenBackward(context, c, cz);
  plan.section("convolution");
  const shape = { rows, width, ...lengthOf(spec), seq, ranges };
  recordShortConvBackward(plan, { bcx, taps, dy: c, dbcx }, shape);
  back("in", { x: f.h1, dy: dbcx, dx: dh });
  plan.section("elementwise");
  recordNormBackward(plan, norm, { dy: dh, x, r: rms[0], dx }, { rows, spec, accumulate: true });
}

/** y2 from x. With `again`, recomputes only what backward needs. */
function recordFfnPart(
  context: DecoderContext,
  index: number,
  { x, again }: { readonly x: DeviceBuffer; readonly again: boolean },
): void {
  const { plan, weights, act } = context;
  const { layer, forward: f, rms } = partsOf(context, index);
  const { spec } = weights, { rows } = act, { norm } = existing(layer.ffn, `FFN of layer ${index}`);
  const width = layer.spec.ffn;
  plan.section("elementwise");
  if (norm && !readsAttentionNorm(context, index)) recordNorm(plan, norm, { x, y: f.h2, r: rms[1] }, { rows, spec });
  const h = norm ? f.h2 : x, input = { buffer: h, operand: asOperand(context, h, spec.hidden), width: spec.hidden };
  if (!again) context.observe?.(context, index, { of: "ffn", buffer: h, width: spec.hidden });
  if (width > 0) recordDenseFfn(context, index, { input, again });
  if (layer.ffn?.experts && layer.spec.experts && !again) {
    recordExperts(plan, layer.ffn.experts, {
      act: act.experts,
      spec,
      index,
      counts: layer.spec.experts,
      rows,
      h,
      y: f.y2,
      hasShared: width > 0,
      multiply: (matrix, y) => {
        const to = { buffer: y, stride: strideOf(matrix.rows) };
        if (context.multiply) context.multiply(matrix, input, y);
        // The shared expert's products have used the memory of the operand since.
        else recordLinear(plan, asOperand(context, h, spec.hidden), matrix, to, { rows, direction: "forward" });
      },
    });
    context.observeExperts?.(context, index);
  }
}

/** y2 from the normalised input of an FFN; that of the shared expert in a layer with experts. */
function recordDenseFfn(
  context: DecoderContext,
  index: number,
  { input, again }: { readonly input: OperandActivation; readonly again: boolean },
): void {
  const { plan, weights: { spec }, act: { rows } } = context;
  const { layer, forward: f } = partsOf(context, index), { spec: { ffn: width } } = layer;
  for (const projection of ffnInputs(spec)) {
    recordProjection(context, { layer: index, projection, input, output: f[projection], again });
  }
  if (again && !needsInput(context, index, "down")) return;
  plan.section("elementwise");
  const z = ffnMask(context, index), { activation } = spec;
  const gate = spec.ungated ? undefined : f.gate, curve = layer.ffn?.curve ?? null;
  recordGated(plan, { gate, up: f.up, z, a: f.a, curve }, { rows, width, activation });
  if (again) return;
  context.observe?.(context, index, { of: "down", buffer: f.a, width });
  const activated = { buffer: f.a, operand: asOperand(context, f.a, width), width };
  recordProjection(context, { layer: index, projection: "down", input: activated, output: f.y2, again });
}

/** With a norm that attention shares, dh receives (=) the FFN's part of the gradient of h1, and dx nothing. */
function recordFfnBackward(context: DecoderContext, index: number, x: DeviceBuffer): void {
  const { plan, weights, act } = context;
  const { layer, forward: f, rms } = partsOf(context, index), b = backwardOf(context);
  const { rows } = act, { norm } = existing(layer.ffn, `FFN of layer ${index}`);
  const { spec } = weights, width = layer.spec.ffn, { hidden, activation } = spec;
  recordWriteBackward(context, ffnWrite(context, index));
  recordProjectionBackward(context, {
    layer: index,
    projection: "down",
    input: { buffer: f.a, width },
    gradient: { buffer: f.y2, operand: asOperand(context, f.y2, hidden), width: hidden },
    output: b.da,
    accumulate: false,
  });
  plan.section("elementwise");
  const slots = existing(context.masks.layout.layers[index], `masks of layer ${index}`);
  const io = {
    da: b.da,
    z: ffnMask(context, index),
    up: f.up,
    partial: act.partial,
    grads: context.maskGrads.has("ffn") ? gradientSlices(context.masks, slots.ffn, width) : null,
    curve: layer.ffn?.curve ?? null,
  };
  recordGatedBackward(plan, { ...io, gate: spec.ungated ? undefined : f.gate }, { rows, width, activation });
  for (const [nth, projection] of ffnInputs(spec).entries()) {
    const buffer = f[projection];
    recordProjectionBackward(context, {
      layer: index,
      projection,
      input: { buffer: norm ? f.h2 : x, width: hidden },
      gradient: { buffer, operand: asOperand(context, buffer, width), width },
      output: norm ? b.dh : b.dx,
      accumulate: !norm || nth > 0,
    });
  }
  if (!norm || readsAttentionNorm(context, index)) return;
  plan.section("elementwise");
  recordNormBackward(plan, norm, { dy: b.dh, x, r: rms[1], dx: b.dx }, { rows, spec, accumulate: true });
}

/** Backward of {@link recordAttentionPart}: y1 holds dL/dy1; dx receives (+=) its share of dL/dx. */
function recordAttentionPartBackward(context: DecoderContext, index: number, x: DeviceBuffer): void {
  const { plan, weights, act } = context;
  const { layer, forward: f, rms, lse } = partsOf(context, index), b = backwardOf(context);
  const { spec } = weights, { rows } = act, { norm } = existing(layer.attention, `attention of layer ${index}`);
  const { hidden } = spec;
  const widths = headWidths(spec, layer.spec);
  recordProjectionBackward(context, {
    layer: index,
    projection: "o",
    input: { buffer: f.om, width: widths.q },
    gradient: { buffer: f.y1, operand: asOperand(context, f.y1, hidden), width: hidden },
    output: b.dom,
    accumulate: false,
  });
  plan.section("elementwise");
  // The attention backward needs o itself, so its copy in om becomes dL/do.
  plan.copy(f.o, f.om, { bytes: rows * strideOf(widths.q) * 4 });
  const slots = existing(context.masks.layout.layers[index], `masks of layer ${index}`);
  recordScaleBackward(plan, {
    dy: b.dom,
    z: headMask(context, index),
    v: f.om,
    partial: act.partial,
    grads: context.maskGrads.has("head") ? gradientSlices(context.masks, slots.head, layer.spec.heads) : null,
  }, { rows, width: widths.q, groupWidth: headStride(headDimOf(spec, layer.spec)), accumulate: false });
  plan.section("attention");
  recordAttentionBackward(plan, attentionShape(context, layer), {
    q: f.q,
    k: f.k,
    v: f.v,
    o: f.o,
    dO: f.om,
    lse,
    delta: act.delta,
    dq: b.dq,
    dk: b.dk,
    dv: b.dv,
    ranges: attentionRanges(context, layer),
    scratch: act.attention,
  });
  if (spec.qkNormAfter) recordHeadNormsBackward(context, index);
  const { heads, kvHeads } = layer.spec, back = { layer: layer.spec, inverse: true };
  rotate(context, { ...back, of: "q", buffer: b.dq, heads, width: widths.q });
  rotate(context, { ...back, of: "k", buffer: b.dk, heads: kvHeads, width: widths.kv });
  if (!spec.qkNormAfter) recordHeadNormsBackward(context, index);
  for (const [projection, buffer] of [["q", b.dq], ["k", b.dk], ["v", b.dv]] as const) {
    const width = projection === "q" ? widths.q : widths.kv;
    recordProjectionBackward(context, {
      layer: index,
      projection,
      input: { buffer: norm ? f.h1 : x, width: hidden },
      gradient: { buffer, operand: asOperand(context, buffer, width), width },
      output: norm ? b.dh : b.dx,
      accumulate: !norm || projection !== "q" || readsAttentionNorm(context, index),
    });
  }
  if (!norm) return;
  plan.section("elementwise");
  recordNormBackward(plan, norm, { dy: b.dh, x, r: rms[0], dx: b.dx }, { rows, spec, accumulate: true });
}

/** dq, dk and dv become the gradients of q, k and v before their norms, where the model has these. */
function recordHeadNormsBackward(context: DecoderContext, index: number): void {
  for (const { x, w, dy, heads } of headNorms(context, index)) {
    if (dy) recordHeadNormBackward(context.plan, { x, w, dy }, headShape(context, index, heads));
  }
}

/**
 * Norms of the q, k and v heads of a layer: values before and after, weight, and the gradient buffer of a backward pass.
 * Empty without `qkNorm`.
 */
function headNorms(context: DecoderContext, index: number): readonly {
  readonly x: DeviceBuffer;
  readonly w: DeviceBuffer;
  readonly y: DeviceBuffer;
  readonly dy: DeviceBuffer | undefined;
  readonly heads: number;
}[] {
  const { layer, forward: f } = partsOf(context, index),
    { headNorms: weights = null, valueNorm = null } = layer.attention ?? {},
    { backward } = context.act;
  if (!weights) return [];
  const { heads, kvHeads } = layer.spec;
  return [
    { x: f.q0, w: weights.q, y: f.q, dy: backward?.dq, heads },
    { x: f.k0, w: weights.k, y: f.k, dy: backward?.dk, heads: kvHeads },
    ...valueNorm ? [{ x: f.v0, w: valueNorm, y: f.v, dy: backward?.dv, heads: kvHeads }] : [],
  ];
}

/** The projections of an FFN's input. */
function ffnInputs({ ungated }: DecoderSpec): readonly ("gate" | "up")[] {
  return ungated ? ["up"] : ["gate", "up"];
}

function headShape({ act, weights: { spec } }: DecoderContext, index: number, heads: number): Heads {
  const headDim = headDimOf(spec, spec.layers[index] ?? {});
  return { rows: act.rows, heads, headDim, eps: spec.normEps, norm: spec.qkNorm };
}

/** unmasked := dy ∘ z_hidden, and dz_hidden += Σ dy · unmasked; dy is dx if not given. */
function recordHiddenBackward(
  context: DecoderContext,
  unmasked: DeviceBuffer,
  dy: DeviceBuffer = backwardOf(context).dx,
): void {
  const { plan, weights, act, masks } = context;
  plan.section("elementwise");
  const width = weights.spec.hidden;
  recordScaleBackward(plan, {
    dy,
    z: hiddenMask(context),
    v: unmasked,
    partial: act.partial,
    grads: context.maskGrads.has("hidden") ? gradientSlices(masks, masks.layout.hidden, width) : null,
  }, { rows: act.rows, width, groupWidth: 1, accumulate: true });
}

/** A layer, its input, and the buffers that forward keeps for it. */
function partsOf(
  { weights, act }: DecoderContext,
  index: number,
): { readonly layer: LayerWeights; readonly x: DeviceBuffer } & LayerActivations {
  return {
    layer: existing(weights.layers[index], `layer ${index}`),
    x: existing(act.x[index], `input of layer ${index}`),
    ...existing(act.layers[index], `buffers of layer ${index}`),
  };
}

function backwardOf({ act }: DecoderContext): NonNullable<DecoderContext["act"]["backward"]> {
  return existing(act.backward, "buffers of backward");
}

/** Whether backward needs the input of the projection. */
function needsInput({ lora, observeWeights }: DecoderContext, index: number, projection: Projection): boolean {
  return observeWeights !== undefined || (lora !== null && lora.find(index, projection) !== null);
}

function hiddenMask({ masks, weights }: DecoderContext): ReturnType<typeof slotSlice> {
  return slotSlice(masks.z, masks.layout.hidden, weights.spec.hidden);
}

/** All columns, with their padding, as one group. */
function wholeOf(width: number): { readonly width: number; readonly groupWidth: number } {
  return { width: strideOf(width), groupWidth: strideOf(width) };
}

/** The mask of a layer's whole convolution. */
function convMask({ masks }: DecoderContext, index: number): ReturnType<typeof slotSlice> {
  return slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).head, 1);
}

function convOf({ conv }: LayerWeights, index: number): NonNullable<LayerWeights["conv"]> {
  return existing(conv, `convolution of layer ${index}`);
}

function convolvedOf(context: DecoderContext, index: number): NonNullable<LayerActivations["convolved"]> {
  return existing(partsOf(context, index).convolved, `buffers of the convolution of layer ${index}`);
}

function lengthOf({ convolution }: DecoderSpec): { readonly length: number } {
  return existing(convolution, "convolution of the model");
}

function headMask({ masks, weights }: DecoderContext, index: number): ReturnType<typeof slotSlice> {
  const layer = existing(weights.layers[index], `layer ${index}`);
  return slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).head, layer.spec.heads);
}

function ffnMask({ masks, weights }: DecoderContext, index: number): ReturnType<typeof slotSlice> {
  const layer = existing(weights.layers[index], `layer ${index}`);
  return slotSlice(masks.z, existing(masks.layout.layers[index], `masks of layer ${index}`).ffn, layer.spec.ffn);
}

function asOperand({ plan, act, multiply }: DecoderContext, buffer: DeviceBuffer, width: number): Operand {
  if (multiply) return { buffer, stride: strideOf(width), rows: act.rows, texture: null };
  return operand(plan, act.operands, buffer, { rows: act.rows, stride: strideOf(width) });
}

function attentionShape({ act, weights }: DecoderContext, { spec }: LayerWeights): AttentionShape {
  const { batch, seq } = act.shape;
  const { heads, kvHeads, window } = spec, { scales, softCaps } = weights.spec;
  const headDim = headDimOf(weights.spec, spec);
  return { batch, seq, heads, kvHeads, headDim, window, scale: scales?.attention, softCap: softCaps?.attention };
}

function attentionRanges({ ranges }: DecoderContext, { spec: { window } }: LayerWeights): AttentionBuffers["ranges"] {
  return ranges && { of: ranges.of, spans: existing(ranges.spans.get(window), "spans of a window") };
}

function rotate(
  { plan, act, weights, rope, ranges }: DecoderContext,
  { layer, of, buffer, heads, width, inverse }: Turned & { readonly layer: LayerSpec; readonly inverse: boolean },
): void {
  if (!hasRope(weights.spec, layer)) return;
  recordRope(plan, {
    rows: act.rows,
    seq: act.shape.seq,
    heads,
    headDim: headDimOf(weights.spec, layer),
    dims: weights.spec.rope.dims,
    buffer,
    stride: strideOf(width),
    cosSin: layerTable(rope, layer, of),
    inverse,
    ...(ranges ? { positions: ranges.positions } : {}),
  });
}
