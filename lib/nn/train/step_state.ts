// Values that change from step to step, in the order of kernels/shared/state.wgsl.
import { BETAS } from "../../../kernels/mod.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";

/** See kernels/shared/state.wgsl. */
export interface StepState {
  readonly seed: number;
  /** Completed steps of the run. */
  readonly step: number;
  /** 1 / number of label tokens of the batch. */
  readonly lossScale: number;
  /** Target sparsity of the step. */
  readonly target: number;
  readonly loraRate: number;
  readonly maskRate: number;
  readonly lambdaRate: number;
  /** Temperature τ of the hard-concrete noise. */
  readonly noise: number;
  /** β of hard concrete. */
  readonly temperature: number;
  /** Number of updates of LoRA and of the masks so far, including this one; for Adam's bias correction. */
  readonly loraUpdates: number;
  readonly maskUpdates: number;
  readonly clipNorm: number;
  readonly weightDecay: number;
  readonly tracking: number;
  /** Largest |log α| after an update. */
  readonly limit: number;
  /** Whether λ is updated by Adam instead of by its gradient alone. */
  readonly lambdaAdam: boolean;
  /** Dropout rate before LoRA's A, in [0, 1), for passes with dropout. */
  readonly dropout: number;
  /** Tokens, padding included, of the step's micro-batches before this one; default 0. */
  readonly firstRow?: number;
}

const BYTES = 80;

/** Allocates the state buffer. */
export function createStepState(device: Device): DeviceBuffer {
  return device.createBuffer("step state", BYTES);
}

/** Writes the state. It takes effect for all later submits. */
export function writeStepState(device: Device, buffer: DeviceBuffer, state: StepState): void {
  const bytes = new ArrayBuffer(BYTES);
  const view = new DataView(bytes);
  view.setUint32(0, state.seed >>> 0, true);
  view.setUint32(4, state.step >>> 0, true);
  [
    state.lossScale,
    state.target,
    state.loraRate,
    state.maskRate,
    state.lambdaRate,
    state.noise,
    state.temperature,
    1 - BETAS.adamw[0] ** Math.max(1, state.loraUpdates),
    1 - BETAS.adamw[1] ** Math.max(1, state.loraUpdates),
    1 - BETAS.masks[0] ** Math.max(1, state.maskUpdates),
    1 - BETAS.masks[1] ** Math.max(1, state.maskUpdates),
    state.clipNorm,
    state.weightDecay,
    state.tracking,
    state.limit,
    state.lambdaAdam ? 1 : 0,
    state.dropout,
  ].forEach((value, index) => view.setFloat32(8 + 4 * index, value, true));
  view.setUint32(BYTES - 4, (state.firstRow ?? 0) >>> 0, true);
  device.write(buffer, new Uint8Array(bytes));
}

/** A state that changes nothing, for evaluation. */
export const IDLE_STATE: StepState = {
  seed: 0,
  step: 0,
  lossScale: 1,
  target: 0,
  loraRate: 0,
  maskRate: 0,
  lambdaRate: 0,
  noise: 1,
  temperature: 2 / 3,
  loraUpdates: 1,
  maskUpdates: 1,
  clipNorm: 0,
  weightDecay: 0,
  tracking: 0,
  limit: 100,
  lambdaAdam: false,
  dropout: 0,
};
