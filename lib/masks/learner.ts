// Learned masks on the GPU: log α of every unit, its samples, its update and the constraint.
import {
  expectedSize,
  maskBounds,
  maskExpand,
  maskGates,
  maskProject,
  maskSample,
  maskUpdate,
  maskWritten,
  MOST_GATED_LAYERS,
} from "../../kernels/mod.ts";
import { CompressoError } from "../core/errors.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import type { Device } from "../gpu/device.ts";
import { compileKernel } from "../gpu/kernel.ts";
import { f32, type Params, type Plan, u32 } from "../gpu/plan.ts";
import type { MaskKind, MaskSlots } from "../nn/mask_slots.ts";
import { markHeld, ownersOfSlots, packTables } from "./tables.ts";
import { checkLayerTargets } from "../units/selection.ts";
import type { PartGoals } from "../units/uniform.ts";
import { recordOf } from "../units/kinds/all.ts";
import { livingLayers } from "../units/rules.ts";
import type { UnitTable } from "../units/table.ts";

/** f32 of the constraint: R, H, ŝ, λ1, λ2, force, shift, ŝ after the projection, (m, v) of λ1 and of λ2. See kernels/shared/expected_size.wgsl. */
export const CONSTRAINT_FLOATS = 12;

/**
 * Buffers of the learned masks of one model. A negative target means none: λ stays, and units without goals of their
 * own are not shifted. Holds and goals are not part of a checkpoint; they are set again on resuming.
 */
export interface MaskLearner extends Disposable {
  readonly table: UnitTable;
  readonly logAlpha: DeviceBuffer;
  /** {@link momentFloats}: (m, v) of Adam for each unit, then what {@link MaskLearner.follow} sets. */
  readonly moments: DeviceBuffer;
  readonly constraint: DeviceBuffer;
  /** Kinds of masks that the units need gradients of. */
  readonly maskGrads: ReadonlySet<MaskKind>;
  /**
   * Makes log α follow the logarithm of the units' saliency, times `drift`, from the next update. The saliency starts
   * from these values, which include the prior. It continues as the sum of two parts, each of which keeps
   * `saliencyDecay` of itself at each step: a running mean of the squares of dL/dz, see `MaskSlots.dz`, and the prior.
   * Until this is called log α follows no saliency.
   */
  follow(
    saliency: ArrayLike<number>,
    options: { readonly prior: ArrayLike<number>; readonly drift: number; readonly saliencyDecay: number },
  ): void;
  /** Share of itself that the saliency keeps at each update, from the next one on, in [0, 1]. */
  setSaliencyDecay(saliencyDecay: number): void;
  /** Holds the units with 1 in `held`: they do not move from the next update on. null releases all. */
  setHold(held: ArrayLike<number> | null): void;
  /**
   * Sets the expected share to cut of each layer's own linear weights, hidden dims not counted. null leaves a layer, or
   * all, without a goal; the target of the whole then moves only units without goals.
   *
   * @throws CompressoError("usage") for shares that the table's rules do not allow.
   */
  setLayerGoals(goals: readonly (number | null)[] | null): void;
  /**
   * Sets goals for attention and FFN of each layer, for the uniform layout. Throws `CompressoError("usage")` if goals
   * of layers are set.
   */
  setPartGoals(goals: PartGoals | null): void;
  /**
   * Records z ~ hard concrete(log α) into the slots. When the plan runs with `isWritten` set, the slots stay as they
   * are. The update then treats their z as chosen elsewhere: log α gets no gradient from them, but follows the saliency
   * there.
   */
  recordSample(
    plan: Plan,
    io: { readonly state: DeviceBuffer; readonly slots: MaskSlots; readonly isWritten?: () => boolean },
  ): void;
  /** Records λ ascent, one descent step on log α from the slots' gradients, and the projection onto the constraint. */
  recordUpdate(plan: Plan, io: { readonly state: DeviceBuffer; readonly slots: MaskSlots }): void;
}

const LANES = 64;
/** Least saliency that counts as more than 0. */
const LEAST_SALIENCY = 1e-30;

/** Length of {@link MaskLearner.moments}. */
export function momentFloats({ count }: UnitTable): number {
  return 4 * count + 2;
}

/** Allocates the buffers; log α is 0 until it is written. Throws `CompressoError("usage")` for gates of too many layers. */
export function createMaskLearner(device: Device, table: UnitTable): MaskLearner {
  using stack = new DisposableStack();
  let owned = stack;
  const own = <T extends Disposable>(resource: T): T => owned.use(resource);
  const units = table.count, slotCount = table.layout.count, layers = table.layers.length;
  const gates = units - table.ranges.layers.first, { minimum, fit } = table.rules;
  if (gates > 0 && layers > MOST_GATED_LAYERS) throw tooManyLayers(layers);
  const words = packTables(table), goals = new Float32Array(3 * layers + 1).fill(-1);
  const logAlpha = own(device.createBuffer("masks: log alpha", 4 * units));
  const draws = own(device.createBuffer("masks: draws", 16 * units));
  const moments = own(device.createBuffer("masks: moments", 4 * momentFloats(table)));
  const constraint = own(device.createBuffer("masks: constraint", 4 * CONSTRAINT_FLOATS));
  const tables = own(device.uploadBuffer("masks: tables", words));
  const owners = own(device.uploadBuffer("masks: owners", ownersOfSlots(table)));
  const goalBuffer = own(device.uploadBuffer("masks: goals", goals));
  const bounds = own(device.createBuffer("masks: bounds", 8 * (3 * layers + 1)));
  const gateTerms = gates > 0 ? own(device.createBuffer("masks: gates", 8 * layers)) : null;
  const { projection, kernels } = kernelsOf(gates > 0);
  const leastGates = gates > 0 ? Math.max(0, minimum.layers - (livingLayers(table.spec) - gates)) : 0;
  const hasLeast = leastGates > 0 || (table.kinds.has("hidden") && minimum.hidden > 0) ||
    table.layers.some(({ attention, ffn }) => [attention, ffn].some((part) => part.count > 0 && part.least > 0));
  let held = new Uint8Array(units);
  const isBounded = (): boolean => hasLeast || held.includes(1) || goals.some((goal) => goal >= 0);
  const counts = [u32(units), u32(table.ranges.hidden.first), u32(table.ranges.layers.first), u32(table.groups.length)];
  const sizes: Params = [...counts, u32(layers), f32(table.spec.hidden), f32(table.fixed), f32(table.total)];
  const unitGroups = [Math.ceil(units / LANES)] as const;
  const setGoals = (entries: (layer: number) => Partial<Record<0 | 1 | 2, number | null>>): void => {
    const before = goals.slice();
    for (let layer = 0; layer < layers; layer++) {
      for (const [at, goal] of Object.entries(entries(layer))) goals[3 * layer + Number(at)] = goal ?? -1;
    }
    const isSet = (at: number): boolean =>
      goals.some((goal, index) => index < 3 * layers && index % 3 === at && goal >= 0);
    if (isSet(0) && (isSet(1) || isSet(2))) {
      goals.set(before);
      throw twofoldGoals();
    }
    if (goals.some((goal, index) => goal !== before[index])) device.write(goalBuffer, goals);
  };
  owned = stack.move();
  return {
    table,
    logAlpha,
    moments,
    constraint,
    maskGrads: new Set([...table.kinds].flatMap((kind) => recordOf(kind).masks)),
    follow(saliency, { prior, drift, saliencyDecay }): void {
      const followed = new Float32Array(2 * units + 2);
      for (let unit = 0; unit < units; unit++) {
        followed[unit] = Math.max(LEAST_SALIENCY, saliency[unit] ?? 0);
        followed[units + unit] = prior[unit] ?? 0;
      }
      followed.set([drift, saliencyDecay], 2 * units);
      device.write(moments, followed, 8 * units);
    },
    setSaliencyDecay: (saliencyDecay) =>
      device.write(moments, Float32Array.of(saliencyDecay), 4 * (momentFloats(table) - 1)),
    setHold(wanted): void {
      const flags = Uint8Array.from({ length: units }, (_, unit) => wanted?.[unit] ? 1 : 0);
      if (flags.every((flag, unit) => flag === held[unit])) return;
      held = flags;
      markHeld(table, words, held);
      device.write(tables, words.subarray(0, 4 * units));
    },
    setLayerGoals(wanted): void {
      if (wanted) checkLayerTargets(table, wanted);
      setGoals((layer) => ({ 0: wanted?.[layer] ?? null }));
    },
    setPartGoals(wanted): void {
      setGoals((layer) => ({ 1: wanted?.attention[layer] ?? null, 2: wanted?.ffn[layer] ?? null }));
    },
    recordSample(plan, { state, slots: { z }, isWritten = () => false }): void {
      plan.section("masks");
      plan.dispatch(compileKernel(device, maskSample), [logAlpha, state, draws, { params: [u32(units)] }], {
        groups: unitGroups,
        cost: 60 * units,
      });
      plan.optional(
        () => !isWritten(),
        () =>
          plan.dispatch(compileKernel(device, maskExpand), [draws, owners, z, { params: [u32(slotCount)] }], {
            groups: [Math.ceil(slotCount / LANES)],
            cost: 10 * slotCount,
          }),
      );
      plan.optional(
        isWritten,
        () =>
          plan.dispatch(compileKernel(device, maskWritten), [tables, z, draws, { params: [u32(units)] }], {
            groups: unitGroups,
            cost: 10 * units,
          }),
      );
    },
    recordUpdate(plan, { state, slots: { dz } }): void {
      plan.section("masks");
      plan.dispatch(compileKernel(device, kernels.expected), [logAlpha, tables, state, constraint, { params: sizes }], {
        groups: [1],
        cost: 60 * units,
      });
      if (gateTerms) {
        const params = [u32(units), u32(table.groups.length)];
        plan.dispatch(compileKernel(device, maskGates), [dz, draws, tables, gateTerms, { params }], {
          groups: [layers],
          cost: 10 * slotCount,
        });
      }
      const shared = [dz, draws, tables, constraint, state, logAlpha, moments, {
        params: [...counts, u32(table.layout.count), f32(table.total)],
      }];
      plan.dispatch(compileKernel(device, kernels.update), [...shared, ...gateTerms ? [gateTerms] : []], {
        groups: unitGroups,
        cost: 80 * units,
      });
      plan.optional(isBounded, () => {
        const params = [
          ...counts,
          u32(layers),
          f32(Math.ceil(minimum.hidden / fit.hidden) * fit.hidden),
          f32(leastGates),
          u32(2),
        ];
        plan.dispatch(compileKernel(device, maskBounds), [logAlpha, tables, state, goalBuffer, bounds, { params }], {
          groups: [layers + 1],
          cost: 2400 * units,
        });
        plan.dispatch(
          compileKernel(device, projection.bounded),
          [logAlpha, tables, state, constraint, { params: sizes }, bounds],
          { groups: [1], cost: 3600 * units },
        );
      });
      plan.optional(() => !isBounded(), () =>
        plan.dispatch(
          compileKernel(device, projection.free),
          [logAlpha, tables, state, constraint, { params: sizes }],
          { groups: [1], cost: 2400 * units },
        ));
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

function kernelsOf(gated: boolean): {
  readonly kernels: { readonly expected: typeof expectedSize.plain; readonly update: typeof maskUpdate.plain };
  readonly projection: typeof maskProject.plain;
} {
  const variant = gated ? "gated" : "plain";
  return {
    kernels: { expected: expectedSize[variant], update: maskUpdate[variant] },
    projection: maskProject[variant],
  };
}

/** The error of targets for single layers with a layout that cuts all layers alike. */
export function twofoldGoals(): CompressoError {
  return new CompressoError("usage", {
    what: "cannot aim at targets of single layers",
    rule: "layers have targets of their own, or are all cut alike",
    value: 'the layout "uniform", and targets of single layers',
    fix: "take another layout, or leave `layers` out of the schedule",
  });
}

function tooManyLayers(layers: number): CompressoError {
  return new CompressoError("usage", {
    what: "cannot cut whole layers of this model",
    rule: `it has at most ${MOST_GATED_LAYERS} layers`,
    value: `${layers} layers`,
    fix: "take layers out of the units",
  });
}
