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
import { type CompressoError, refusal } from "../core/errors.ts";
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

const LANES = 64;
/** Least saliency that counts as more than 0. */
const LEAST_SALIENCY = 1e-30;

/** Length of {@link MaskLearner.moments}. */
export function momentFloats({ count }: UnitTable): number {
  return 4 * count + 2;
}

/** Buffers that only the learner's kernels use. */
interface MaskBuffers {
  /** [units, 4] of the samples of a step. */
  readonly draws: DeviceBuffer;
  /** See kernels/shared/mask_tables.wgsl. */
  readonly tables: DeviceBuffer;
  /** Unit and gate of each slot. */
  readonly owners: DeviceBuffer;
  readonly goals: DeviceBuffer;
  readonly bounds: DeviceBuffer;
  /** Terms of the gates of layers; null if no layer is a unit. */
  readonly gateTerms: DeviceBuffer | null;
}

/**
 * Buffers of the learned masks of one model. A negative target means no target: λ stays, and only units with goals are
 * shifted. Holds and goals are not part of a checkpoint; they are set again on resuming.
 */
export class MaskLearner implements Disposable {
  readonly table: UnitTable;
  /** log α of every unit; 0 until it is written. */
  readonly logAlpha: DeviceBuffer;
  /** {@link momentFloats}: (m, v) of Adam for each unit, then what {@link MaskLearner.follow} sets. */
  readonly moments: DeviceBuffer;
  readonly constraint: DeviceBuffer;
  /** Kinds of masks that the units need gradients of. */
  readonly maskGrads: ReadonlySet<MaskKind>;
  readonly #device: Device;
  readonly #owned: DisposableStack;
  readonly #buffers: MaskBuffers;
  /** The words of `tables`. */
  readonly #words: Uint32Array<ArrayBuffer>;
  /** Goals of each layer: of the whole, of attention, of the FFN; −1 for none. */
  readonly #goals: Float32Array<ArrayBuffer>;
  #held: Uint8Array;
  /** Fewest gates that stay, and whether any rule limits a range. */
  readonly #least: { readonly gates: number; readonly isLimited: boolean };

  /** Allocates the buffers. Throws `CompressoError("usage")` for gates of too many layers. */
  constructor(device: Device, table: UnitTable) {
    const { count, layers, ranges, rules: { minimum } } = table, gates = count - ranges.layers.first;
    if (gates > 0 && layers.length > MOST_GATED_LAYERS) throw tooManyLayers(layers.length);
    using stack = new DisposableStack();
    const buffer = (name: string, floats: number): DeviceBuffer =>
      stack.use(device.createBuffer(`masks: ${name}`, 4 * floats));
    this.table = table;
    this.maskGrads = new Set([...table.kinds].flatMap((kind) => recordOf(kind).masks));
    this.#device = device;
    this.#words = packTables(table);
    this.#goals = new Float32Array(3 * layers.length + 1).fill(-1);
    this.#held = new Uint8Array(count);
    const leastGates = gates > 0 ? Math.max(0, minimum.layers - (livingLayers(table.spec) - gates)) : 0;
    const isLimited = leastGates > 0 || (table.kinds.has("hidden") && minimum.hidden > 0) ||
      layers.some(({ attention, ffn }) => [attention, ffn].some((part) => part.count > 0 && part.least > 0));
    this.#least = { gates: leastGates, isLimited };
    this.logAlpha = buffer("log alpha", count);
    const draws = buffer("draws", 4 * count);
    this.moments = buffer("moments", momentFloats(table));
    this.constraint = buffer("constraint", CONSTRAINT_FLOATS);
    this.#buffers = {
      draws,
      tables: stack.use(device.uploadBuffer("masks: tables", this.#words)),
      owners: stack.use(device.uploadBuffer("masks: owners", ownersOfSlots(table))),
      goals: stack.use(device.uploadBuffer("masks: goals", this.#goals)),
      bounds: buffer("bounds", 2 * (3 * layers.length + 1)),
      gateTerms: gates > 0 ? buffer("gates", 2 * layers.length) : null,
    };
    this.#owned = stack.move();
  }

  /**
   * Makes log α follow the logarithm of the units' saliency, times `drift`, from the next update. The saliency starts
   * from these values, which include the prior. It continues as the sum of two parts: a running mean of the
   * squares of dL/dz, see `MaskSlots.dz`, and the prior. Each part keeps the share `saliencyDecay` of itself at each
   * step. Before this call log α follows no saliency.
   */
  follow(
    saliency: ArrayLike<number>,
    { prior, drift, saliencyDecay }: {
      readonly prior: ArrayLike<number>;
      readonly drift: number;
      readonly saliencyDecay: number;
    },
  ): void {
    const units = this.table.count, followed = new Float32Array(2 * units + 2);
    for (let unit = 0; unit < units; unit++) {
      followed[unit] = Math.max(LEAST_SALIENCY, saliency[unit] ?? 0);
      followed[units + unit] = prior[unit] ?? 0;
    }
    followed.set([drift, saliencyDecay], 2 * units);
    this.#device.write(this.moments, followed, 8 * units);
  }

  /** Share of itself that the saliency keeps at each update, from the next one on, in [0, 1]. */
  setSaliencyDecay(saliencyDecay: number): void {
    this.#device.write(this.moments, Float32Array.of(saliencyDecay), 4 * (momentFloats(this.table) - 1));
  }

  /** Holds the units with 1 in `held`: they do not move from the next update on. null releases all. */
  setHold(held: ArrayLike<number> | null): void {
    const units = this.table.count, flags = Uint8Array.from({ length: units }, (_, unit) => held?.[unit] ? 1 : 0);
    if (flags.every((flag, unit) => flag === this.#held[unit])) return;
    this.#held = flags;
    markHeld(this.table, this.#words, flags);
    this.#device.write(this.#buffers.tables, this.#words.subarray(0, 4 * units));
  }

  /**
   * Sets the expected share to cut of each layer's own linear weights, hidden dims not counted. null leaves a layer, or
   * all, without a goal; the target of the whole then moves only units without goals.
   *
   * @throws CompressoError("usage") for shares that the table's rules do not allow.
   */
  setLayerGoals(goals: readonly (number | null)[] | null): void {
    if (goals) checkLayerTargets(this.table, goals);
    this.#setGoals((layer) => ({ 0: goals?.[layer] ?? null }));
  }

  /**
   * Sets goals for attention and FFN of each layer, for the uniform layout. Throws `CompressoError("usage")` if goals
   * of layers are set.
   */
  setPartGoals(goals: PartGoals | null): void {
    this.#setGoals((layer) => ({ 1: goals?.attention[layer] ?? null, 2: goals?.ffn[layer] ?? null }));
  }

  /**
   * Records z ~ hard concrete(log α) into the slots. When the plan runs with `isWritten` set, the slots stay as they
   * are. The update then treats their z as chosen elsewhere: log α gets no gradient from them, but follows the saliency
   * there.
   */
  recordSample(
    plan: Plan,
    { state, slots: { z }, isWritten = () => false }: {
      readonly state: DeviceBuffer;
      readonly slots: MaskSlots;
      readonly isWritten?: () => boolean;
    },
  ): void {
    const { draws, owners, tables } = this.#buffers, { count: units, layout: { count: slots } } = this.table;
    const params = { params: [u32(units)] }, groups = [Math.ceil(units / LANES)] as const;
    plan.section("masks");
    plan.dispatch(this.#compiled(maskSample), [this.logAlpha, state, draws, params], { groups, cost: 60 * units });
    plan.optional(
      () => !isWritten(),
      () =>
        plan.dispatch(this.#compiled(maskExpand), [draws, owners, z, { params: [u32(slots)] }], {
          groups: [Math.ceil(slots / LANES)],
          cost: 10 * slots,
        }),
    );
    plan.optional(
      isWritten,
      () => plan.dispatch(this.#compiled(maskWritten), [tables, z, draws, params], { groups, cost: 10 * units }),
    );
  }

  /** Records λ ascent, one descent step on log α from the slots' gradients, and the projection onto the constraint. */
  recordUpdate(
    plan: Plan,
    { state, slots: { dz } }: { readonly state: DeviceBuffer; readonly slots: MaskSlots },
  ): void {
    const { logAlpha, moments, constraint, table } = this, { draws, tables, goals, bounds, gateTerms } = this.#buffers;
    const { count: units, ranges, groups, layers, layout, rules: { minimum, fit } } = table;
    const variant = gateTerms ? "gated" : "plain", projection = maskProject[variant];
    const counts = [u32(units), u32(ranges.hidden.first), u32(ranges.layers.first), u32(groups.length)];
    const { spec, fixed, total, square } = table;
    const sizes: Params = [...counts, u32(layers.length), ...[spec.hidden, fixed, total, square].map(f32)];
    const sized = [logAlpha, tables, state, constraint, { params: sizes }];
    plan.section("masks");
    plan.dispatch(this.#compiled(expectedSize[variant]), sized, { groups: [1], cost: 60 * units });
    if (gateTerms) {
      const params = [u32(units), u32(groups.length)];
      plan.dispatch(this.#compiled(maskGates), [dz, draws, tables, gateTerms, { params }], {
        groups: [layers.length],
        cost: 10 * layout.count,
      });
    }
    const params = [...counts, u32(layout.count), f32(total), f32(square)];
    const shared = [dz, draws, tables, constraint, state, logAlpha, moments, { params }];
    plan.dispatch(this.#compiled(maskUpdate[variant]), gateTerms ? [...shared, gateTerms] : shared, {
      groups: [Math.ceil(units / LANES)],
      cost: 80 * units,
    });
    plan.optional(() => this.#isBounded, () => {
      const leastHidden = Math.ceil(minimum.hidden / fit.hidden) * fit.hidden;
      const params = [...counts, u32(layers.length), f32(leastHidden), f32(this.#least.gates), u32(2)];
      plan.dispatch(this.#compiled(maskBounds), [logAlpha, tables, state, goals, bounds, { params }], {
        groups: [layers.length + 1],
        cost: 2400 * units,
      });
      plan.dispatch(this.#compiled(projection.bounded), [...sized, bounds], { groups: [1], cost: 3600 * units });
    });
    plan.optional(
      () => !this.#isBounded,
      () => plan.dispatch(this.#compiled(projection.free), sized, { groups: [1], cost: 2400 * units }),
    );
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }

  get #isBounded(): boolean {
    return this.#least.isLimited || this.#held.includes(1) || this.#goals.some((goal) => goal >= 0);
  }

  #compiled(kernel: Parameters<typeof compileKernel>[1]): ReturnType<typeof compileKernel> {
    return compileKernel(this.#device, kernel);
  }

  #setGoals(entries: (layer: number) => Partial<Record<0 | 1 | 2, number | null>>): void {
    const goals = this.#goals, before = goals.slice(), layers = this.table.layers.length;
    for (let layer = 0; layer < layers; layer++) {
      for (const [at, goal] of Object.entries(entries(layer))) goals[3 * layer + Number(at)] = goal ?? -1;
    }
    const isSet = (at: number): boolean => goals.some((goal, i) => i < 3 * layers && i % 3 === at && goal >= 0);
    if (isSet(0) && (isSet(1) || isSet(2))) {
      goals.set(before);
      throw twofoldGoals();
    }
    if (goals.some((goal, index) => goal !== before[index])) this.#device.write(this.#buffers.goals, goals);
  }
}

/** The error of targets for single layers with a layout that cuts all layers alike. */
export function twofoldGoals(): CompressoError {
  return refusal("usage", "cannot aim at targets of single layers", {
    rule: "either single layers have targets, or all layers are cut alike",
    value: 'the layout "uniform", and targets of single layers',
    fix: "take another layout, or leave `layers` out of the schedule",
  });
}

function tooManyLayers(layers: number): CompressoError {
  return refusal("usage", "cannot cut whole layers of this model", {
    rule: `it has at most ${MOST_GATED_LAYERS} layers`,
    value: `${layers} layers`,
  });
}
