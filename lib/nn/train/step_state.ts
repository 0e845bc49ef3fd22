// The numbers that change from step to step, in the order of kernels/state.wgsl.
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";

/** See kernels/state.wgsl. */
export interface StepState {
  readonly seed: number;
  /** Steps done in the run. */
  readonly step: number;
  /** 1 / number of label tokens of the batch. */
  readonly lossScale: number;
  /** Target sparsity of the step. */
  readonly target: number;
  readonly loraRate: number;
  readonly maskRate: number;
  readonly lambdaRate: number;
  /** Scale τ of the hard-concrete noise. */
  readonly noise: number;
  /** β of hard concrete. */
  readonly temperature: number;
  /** Updates of LoRA and of the masks so far, this one included: Adam's bias correction. */
  readonly loraUpdates: number;
  readonly maskUpdates: number;
  readonly clipNorm: number;
  readonly weightDecay: number;
  readonly tracking: number;
  /** Largest |log α| after an update. */
  readonly limit: number;
  /** Whether λ moves by Adam, and not by its gradient alone. */
  readonly lambdaAdam: boolean;
  /** Share of the elements before LoRA's A that are dropped, in [0, 1), where the pass drops any. */
  readonly dropout: number;
}

const BYTES = 76;
/** Decay rates of Adam: kernels/adamw.wgsl, kernels/mask_update.wgsl and kernels/expected_size.wgsl. */
const LORA_BETAS = [0.9, 0.999] as const;
const MASK_BETAS = [0.9, 0.99] as const;

/** Allocates the state buffer. */
export function createStepState(device: Device): DeviceBuffer {
  return device.createBuffer("step state", BYTES);
}

/** Writes the state; takes effect for what is submitted from now on. */
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
    1 - LORA_BETAS[0] ** Math.max(1, state.loraUpdates),
    1 - LORA_BETAS[1] ** Math.max(1, state.loraUpdates),
    1 - MASK_BETAS[0] ** Math.max(1, state.maskUpdates),
    1 - MASK_BETAS[1] ** Math.max(1, state.maskUpdates),
    state.clipNorm,
    state.weightDecay,
    state.tracking,
    state.limit,
    state.lambdaAdam ? 1 : 0,
    state.dropout,
  ].forEach((value, index) => view.setFloat32(8 + 4 * index, value, true));
  device.write(buffer, new Uint8Array(bytes));
}

/** A state in which nothing moves: for evaluation. */
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
