// Masks on the GPU for kernel tests: a learner with its slots, and the f64 oracle of hard concrete and expected size.
import type { DeviceBuffer } from "../../../lib/gpu/types.ts";
import type { Device } from "../../../lib/gpu/device.ts";
import { Plan } from "../../../lib/gpu/plan.ts";
import { createMaskSlots, type MaskSlots } from "../../../lib/nn/mask_slots.ts";
import { createStepState, IDLE_STATE, type StepState, writeStepState } from "../../../lib/nn/train/step_state.ts";
import { CONSTRAINT_FLOATS, MaskLearner, momentFloats } from "../../../lib/masks/learner.ts";
import type { UnitTable } from "../../../lib/units/table.ts";
import { uniform } from "../../../lib/core/random.ts";
import { sparsityOf } from "../../units/helpers/decoders.ts";

const LOW = -0.1, HIGH = 1.1;
/** Noise and temperature of hard concrete. */
export type Noise = Pick<StepState, "noise" | "temperature">;
/** The noise of most tests. */
export const NOISE: Noise = { noise: 0.7, temperature: 2 / 3 };

/** 1 / (1 + e^(−x)). */
export function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/** P(z > 0), with the floor of the noise that keeps it differentiable. */
export function aliveChance(logAlpha: number, { noise, temperature }: Noise): number {
  return sigmoid((logAlpha - temperature * Math.log(-LOW / HIGH)) / Math.max(noise, 0.05));
}

/** The stretched hard concrete value before its clamp, and its slope in log α. */
export function stretched(
  logAlpha: number,
  u: number,
  { noise, temperature }: Noise,
): { value: number; slope: number } {
  const s = sigmoid((noise * (Math.log(u) - Math.log(1 - u)) + logAlpha) / temperature);
  return { value: s * (HIGH - LOW) + LOW, slope: s * (1 - s) * (HIGH - LOW) / temperature };
}

/** The random number of a unit at a step, as the kernel clamps it. */
export function drawOf(seed: number, step: number, unit: number): number {
  return Math.min(1 - 1e-6, Math.max(1e-6, Math.fround(uniform(seed, step, 1, unit))));
}

/** A learner with its slots and state, and one plan of a sample and an update. */
export interface Rig extends Disposable {
  readonly learner: MaskLearner;
  readonly slots: MaskSlots;
  readonly state: DeviceBuffer;
  /** Runs a sample and an update from log α; returns what they leave. */
  step(options: {
    readonly state: Partial<StepState>;
    readonly logAlpha?: Float32Array<ArrayBuffer>;
    readonly dz?: Float32Array<ArrayBuffer>;
    readonly lambda?: readonly [number, number];
  }): Promise<After>;
}

/** What a step leaves. */
export interface After {
  readonly logAlpha: Float32Array;
  readonly moments: Float32Array;
  readonly constraint: Float32Array;
  readonly z: Float32Array;
}

/** Allocates the learner and records its plan. */
export function createRig(device: Device, table: UnitTable): Rig {
  const learner = new MaskLearner(device, table), slots = createMaskSlots(device, table.spec);
  const state = createStepState(device), plan = new Plan(device);
  learner.recordSample(plan, { state, slots });
  learner.recordUpdate(plan, { state, slots });
  return {
    learner,
    slots,
    state,
    async step({ state: wanted, logAlpha, dz, lambda }): Promise<After> {
      writeStepState(device, state, { ...IDLE_STATE, ...wanted });
      if (logAlpha) device.write(learner.logAlpha, logAlpha);
      if (dz) device.write(slots.dz, dz);
      if (lambda) device.write(learner.constraint, Float32Array.from(lambda), 12);
      await plan.run();
      return {
        logAlpha: await device.readFloats(learner.logAlpha, table.count),
        moments: await device.readFloats(learner.moments, momentFloats(table)),
        constraint: await device.readFloats(learner.constraint, CONSTRAINT_FLOATS),
        z: await device.readFloats(slots.z, table.layout.count),
      };
    },
    [Symbol.dispose]: () => [plan, state, slots, learner].forEach((resource) => resource[Symbol.dispose]()),
  };
}

/** A table in messages. */
export function nameOf(table: UnitTable): string {
  return `${[...table.kinds].join(",")} of ${JSON.stringify(table.spec.layers)}`;
}

/** Expected sparsity of log α, by spec arithmetic. */
export function expected(table: UnitTable, logAlpha: ArrayLike<number>, noise: Noise = NOISE): number {
  return sparsityOf(table, Float64Array.from(logAlpha, (alpha) => aliveChance(alpha, noise)));
}

/** Derivative of ŝ by each log α, by central differences. */
export function slopes(table: UnitTable, logAlpha: ArrayLike<number>): Float64Array {
  const moved = Float64Array.from(logAlpha), step = 1e-5;
  return moved.map((alpha, unit) => {
    moved[unit] = alpha + step;
    const above = expected(table, moved);
    moved[unit] = alpha - step;
    const below = expected(table, moved);
    moved[unit] = alpha;
    return (above - below) / (2 * step);
  });
}
