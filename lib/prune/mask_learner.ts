// Learned masks on the GPU: log α of every unit, its samples, its update and the constraint. Owns these buffers and records; refuses the loop and its rates.
import { expectedSize, maskExpand, maskProject, maskSample, maskUpdate } from "../../kernels/mod.ts";
import type { Device, DeviceBuffer } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { f32, type Params, type Plan, u32 } from "../gpu/plan.ts";
import type { MaskKind, MaskSlots } from "../nn/masks.ts";
import type { UnitTable } from "./units.ts";

/** f32 of the constraint: R, H, ŝ, λ1, λ2, force, shift, ŝ after the projection. See kernels/expected_size.wgsl. */
export const CONSTRAINT_FLOATS = 8;

/** Buffers of the masks of one model. */
export interface MaskLearner extends Disposable {
  readonly table: UnitTable;
  readonly logAlpha: DeviceBuffer;
  /** (m, v) of Adam for each unit. */
  readonly moments: DeviceBuffer;
  readonly constraint: DeviceBuffer;
  /** Kinds of masks that the units need gradients of. */
  readonly maskGrads: ReadonlySet<MaskKind>;
  /** Records z ~ hard concrete(log α) into the slots. */
  recordSample(plan: Plan, io: { readonly state: DeviceBuffer; readonly slots: MaskSlots }): void;
  /** Records λ ascent, one descent step on log α from the slots' gradients, and the projection onto the constraint. */
  recordUpdate(plan: Plan, io: { readonly state: DeviceBuffer; readonly slots: MaskSlots }): void;
}

const LANES = 64;
const NONE = 0xffffffff;

/** Allocates the buffers; log α is 0 until it is written. */
export function createMaskLearner(device: Device, table: UnitTable): MaskLearner {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const units = table.count, slots = table.layout.count;
  const logAlpha = own(device.createBuffer("log alpha", 4 * units));
  const draws = own(device.createBuffer("mask draws", 16 * units));
  const moments = own(device.createBuffer("mask moments", 8 * units));
  const constraint = own(device.createBuffer("constraint", 4 * CONSTRAINT_FLOATS));
  const info = own(device.uploadBuffer("units", packUnits(table)));
  const groups = own(device.uploadBuffer("KV groups", packGroups(table)));
  const unitOf = own(device.uploadBuffer("unit of slot", unitOfSlots(table)));
  const sizes: Params = [
    u32(units),
    u32(table.hiddenFirst),
    u32(table.groups.length),
    f32(table.spec.hidden),
    f32(table.fixed),
    f32(table.total),
  ];
  const unitGroups = [Math.ceil(units / LANES)] as const;
  const maskGrads = new Set<MaskKind>();
  if (table.kinds.has("heads") || table.kinds.has("kv")) maskGrads.add("head");
  if (table.kinds.has("ffn")) maskGrads.add("ffn");
  if (table.kinds.has("hidden")) maskGrads.add("hidden");
  return {
    table,
    logAlpha,
    moments,
    constraint,
    maskGrads,
    recordSample(plan, { state, slots: { z } }): void {
      plan.section("masks");
      plan.dispatch(compileKernel(device, maskSample), [logAlpha, state, draws, { params: [u32(units)] }], {
        groups: unitGroups,
        cost: 60 * units,
      });
      plan.dispatch(compileKernel(device, maskExpand), [draws, unitOf, z, { params: [u32(slots)] }], {
        groups: [Math.ceil(slots / LANES)],
        cost: 10 * slots,
      });
    },
    recordUpdate(plan, { state, slots: { dz } }): void {
      plan.section("masks");
      plan.dispatch(
        compileKernel(device, expectedSize),
        [logAlpha, info, groups, state, constraint, { params: sizes }],
        { groups: [1], cost: 60 * units },
      );
      plan.dispatch(compileKernel(device, maskUpdate), [
        dz,
        draws,
        info,
        groups,
        constraint,
        state,
        logAlpha,
        moments,
        { params: [u32(units), u32(table.hiddenFirst), f32(table.total)] },
      ], { groups: unitGroups, cost: 80 * units });
      plan.dispatch(
        compileKernel(device, maskProject),
        [logAlpha, info, groups, state, constraint, { params: sizes }],
        { groups: [1], cost: 2400 * units },
      );
    },
    [Symbol.dispose]: () => owned.forEach((resource) => resource[Symbol.dispose]()),
  };
}

function packUnits(table: UnitTable): Uint32Array<ArrayBuffer> {
  const words = new Uint32Array(4 * table.count);
  words.set(
    bitsOf(table.cost).flatMap((bits, unit) => {
      const group = table.groupOf[unit] ?? -1;
      return [bits, table.slotFirst[unit] ?? 0, table.slotCount[unit] ?? 0, group < 0 ? NONE : group];
    }),
  );
  return words;
}

function packGroups(table: UnitTable): Uint32Array<ArrayBuffer> {
  const costs = bitsOf(Float32Array.from(table.groups, (group) => group.cost));
  const words = table.groups.flatMap(({ first, count }, index) => [first, count, costs[index] ?? 0, 0]);
  return Uint32Array.from(words.length > 0 ? words : [0, 0, 0, 0]);
}

function unitOfSlots(table: UnitTable): Uint32Array<ArrayBuffer> {
  const unitOf = new Uint32Array(table.layout.count).fill(NONE);
  for (let unit = 0; unit < table.count; unit++) {
    const first = table.slotFirst[unit] ?? 0;
    unitOf.fill(unit, first, first + (table.slotCount[unit] ?? 0));
  }
  return unitOf;
}

function bitsOf(values: Float32Array): number[] {
  return [...new Uint32Array(Float32Array.from(values).buffer)];
}
