// Mask values z in the layout of the decoder: one buffer of slots for hidden dims, heads and FFN columns.
import { existing } from "../core/guards.ts";
import { refuse } from "../core/errors.ts";
import { checkNames, type NamesOf } from "../core/check_options.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import type { BufferSlice } from "../gpu/plan.ts";
import { strideOf } from "./padding.ts";
import type { MaskGradients } from "./ops.ts";
import { type DecoderSpec, mixerMasks } from "../spec/decoder.ts";

/**
 * Offsets of the slots of each part, in f32. Every part starts at a multiple of 64 (256 bytes), so that it can be bound
 * separately.
 */
export interface SlotLayout {
  /** Total number of slots. */
  readonly count: number;
  /** First slot of the hidden dims. */
  readonly hidden: number;
  /** First slots of heads and FFN columns of each layer. */
  readonly layers: readonly { readonly head: number; readonly ffn: number }[];
}

/**
 * Mask values or their gradients by kind: head [Σ heads] and ffn [Σ ffn] over the layers in order, hidden [hidden]. A layer with a
 * convolution counts as one head.
 */
export interface MaskValues {
  /** z of heads. */
  readonly head?: Float32Array;
  /** z of FFN columns. */
  readonly ffn?: Float32Array;
  /** z of hidden dims. */
  readonly hidden?: Float32Array;
}

const KINDS: NamesOf<MaskValues> = { head: true, ffn: true, hidden: true };

/** Gradients of all slots. */
export interface SlotGradients {
  /** dL/dz. */
  readonly dz: Float32Array;
  /**
   * Σ over blocks of `ROW_BLOCK` rows of (the block's share of dL/dz)². With few batches this sum over rows is a better
   * measure than dz². For a hidden dim it is the sum over all writes to it, each squared separately.
   */
  readonly squares: Float32Array;
}

/** Kinds of masks. */
export type MaskKind = "head" | "ffn" | "hidden";

/** Slots of z and of its gradients on the GPU. */
export interface MaskSlots extends Disposable {
  readonly layout: SlotLayout;
  readonly z: DeviceBuffer;
  /** dL/dz of all slots, then for each slot Σ over blocks of `ROW_BLOCK` rows of (the block's share of dL/dz)². */
  readonly dz: DeviceBuffer;
}

/** Computes the slot layout of a model. */
export function slotLayout(spec: DecoderSpec): SlotLayout {
  let count = strideOf(spec.hidden);
  const layers = spec.layers.map((layer) => {
    const head = count, ffn = head + strideOf(mixerMasks(layer));
    count = ffn + strideOf(layer.ffn);
    return { head, ffn };
  });
  return { count, hidden: 0, layers };
}

/** Allocates slots with every z = 1. */
export function createMaskSlots(device: Device, spec: DecoderSpec): MaskSlots {
  const layout = slotLayout(spec);
  using stack = new DisposableStack();
  const z = stack.use(device.uploadBuffer("masks: z", packMasks(spec, layout, {})));
  const dz = stack.use(device.createBuffer("masks: dz", 2 * layout.count * 4));
  const owned = stack.move();
  return { layout, z, dz, [Symbol.dispose]: () => owned.dispose() };
}

/** Total number of heads and of FFN columns. */
export function maskSizes(spec: DecoderSpec): Readonly<Record<MaskKind, number>> {
  return {
    head: spec.layers.reduce((sum, layer) => sum + mixerMasks(layer), 0),
    ffn: spec.layers.reduce((sum, layer) => sum + layer.ffn, 0),
    hidden: spec.hidden,
  };
}

/**
 * Writes mask values to slots. A missing kind is all 1, padding is 0.
 *
 * @throws CompressoError("input") for a wrong length or a value that is not finite.
 * @throws CompressoError("usage") for unknown kinds.
 */
export function packMasks(spec: DecoderSpec, layout: SlotLayout, values: MaskValues): Float32Array<ArrayBuffer> {
  checkNames(values, KINDS, { whose: "masks" });
  const sizes = maskSizes(spec);
  for (const kind of ["head", "ffn", "hidden"] as const) check(kind, values[kind], sizes[kind]);
  const slots = new Float32Array(layout.count);
  forEachPart(spec, layout, (kind, slot, from, count) => {
    const given = values[kind];
    if (given) slots.set(given.subarray(from, from + count), slot);
    else slots.fill(1, slot, slot + count);
  });
  return slots;
}

/** Writes mask values to the slots; missing kinds keep their values. Throws like {@link packMasks}. */
export function writeMasks(device: Device, { z, layout }: MaskSlots, spec: DecoderSpec, values: MaskValues): void {
  const slots = packMasks(spec, layout, values);
  if (values.head && values.ffn && values.hidden) return device.write(z, slots);
  forEachPart(spec, layout, (kind, slot, _, count) => {
    if (values[kind] && count > 0) device.write(z, slots.subarray(slot, slot + count), 4 * slot);
  });
}

/** The inverse of {@link packMasks}. */
export function unpackMasks(
  spec: DecoderSpec,
  layout: SlotLayout,
  slots: Float32Array,
): Record<MaskKind, Float32Array<ArrayBuffer>> {
  const sizes = maskSizes(spec);
  const values = {
    head: new Float32Array(sizes.head),
    ffn: new Float32Array(sizes.ffn),
    hidden: new Float32Array(sizes.hidden),
  };
  forEachPart(spec, layout, (kind, slot, from, count) => values[kind].set(slots.subarray(slot, slot + count), from));
  return values;
}

/** Binding of a part of the slots. */
export function slotSlice(buffer: DeviceBuffer, offset: number, count: number): BufferSlice {
  return { buffer, byteOffset: offset * 4, bytes: strideOf(count) * 4 };
}

/** Bindings of a part of the gradients. */
export function gradientSlices(
  { dz, layout }: MaskSlots,
  offset: number,
  count: number,
): MaskGradients {
  return { dz: slotSlice(dz, offset, count), squares: slotSlice(dz, layout.count + offset, count) };
}

function forEachPart(
  spec: DecoderSpec,
  layout: SlotLayout,
  visit: (kind: MaskKind, slot: number, from: number, count: number) => void,
): void {
  visit("hidden", layout.hidden, 0, spec.hidden);
  let head = 0, ffn = 0;
  spec.layers.forEach((layer, index) => {
    const slots = existing(layout.layers[index], `masks of layer ${index}`);
    visit("head", slots.head, head, mixerMasks(layer));
    visit("ffn", slots.ffn, ffn, layer.ffn);
    head += mixerMasks(layer);
    ffn += layer.ffn;
  });
}

function check(kind: MaskKind, values: Float32Array | undefined, size: number): void {
  if (!values) return;
  const broken = values.length === size ? values.findIndex((value) => !Number.isFinite(value)) : -1;
  if (values.length === size && broken < 0) return;
  refuse("input", `cannot use the ${kind} mask`, {
    rule: `it has ${size} finite values for this model`,
    value: broken < 0 ? `${values.length} values` : `value ${broken} is ${values[broken]}`,
  });
}
