// A dry device: a run allocates and records on it as on a real one, which gives its memory plan without using memory.
import type { CompressoError } from "../core/errors.ts";
import { type DeviceLimits } from "./types.ts";
import { Device } from "./device.ts";

/** Options of {@link openDryDevice}. */
export interface DryDeviceOptions {
  /** Limits to plan for; default {@link DEFAULT_LIMITS}. */
  readonly limits?: DeviceLimits;
  /** Whether to plan for a CPU adapter: operands and weights are then textures. */
  readonly isCpu: boolean;
  /** Size of the subgroups that kernels of a CPU adapter use; default null: none. */
  readonly subgroupSize?: number | null;
  /** Name of the adapter to plan for. */
  readonly description?: string;
  /**
   * Budget in bytes. With a budget, exceeding it or a limit throws as on other devices. Default: no budget, and
   * excesses are listed.
   */
  readonly memoryLimit?: number | undefined;
}

/** Limits that every WebGPU adapter grants (WebGPU, section 3.6.2 "Limits"). */
export const DEFAULT_LIMITS: DeviceLimits = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxTextureDimension2D: 8192,
  maxStorageTexturesPerShaderStage: 4,
  maxComputeWorkgroupsPerDimension: 65535,
};

/**
 * Opens a device that allocates nothing, runs nothing and reads zeros, but counts like {@link Device}: `peakBytes` and
 * `peakUsage()` are what the same calls use on an adapter with these limits. A request beyond a limit does not throw
 * but is listed in {@link Device.excesses}, so that a plan can report how much is needed; with a `memoryLimit` it
 * throws.
 */
export function openDryDevice(options: DryDeviceOptions): Device {
  const { limits = DEFAULT_LIMITS, isCpu, subgroupSize = null, description = "none", memoryLimit } = options;
  // The toolkit uses a small part of WebGPU; a call to anything else fails at once because the function does not exist.
  const gpu = dryGpu(limits) as unknown as GPUDevice;
  const facts = { description, vendor: "", isCpu };
  const subgroups = isCpu && subgroupSize !== null ? { size: subgroupSize, directive: "" } : null;
  if (memoryLimit === undefined) return new Device(gpu, facts, { isDry: true, subgroups });
  return new StrictDevice(gpu, facts, { isDry: true, subgroups, memoryLimit });
}

/** A dry device that throws where a real one does. */
class StrictDevice extends Device {
  override refuse(error: CompressoError): void {
    throw error;
  }
}

function dryGpu(limits: DeviceLimits): Record<keyof typeof MEMBERS, unknown> {
  return { ...MEMBERS, limits, lost: new Promise<never>(() => {}) };
}

const nothing = (): void => undefined;
const none = (): object => ({});
const done = (): Promise<void> => Promise.resolve();

const PASS = { setPipeline: nothing, setBindGroup: nothing, dispatchWorkgroups: nothing, end: nothing };

const ENCODER = {
  beginComputePass: () => PASS,
  copyBufferToBuffer: nothing,
  copyBufferToTexture: nothing,
  copyTextureToBuffer: nothing,
  clearBuffer: nothing,
  resolveQuerySet: nothing,
  finish: none,
};

const MEMBERS = {
  limits: null,
  lost: null,
  features: new Set<string>(),
  addEventListener: nothing,
  destroy: nothing,
  queue: { writeBuffer: nothing, writeTexture: nothing, submit: nothing, onSubmittedWorkDone: done },
  createBuffer: () => ({ destroy: nothing }),
  createTexture: () => ({ destroy: nothing, createView: none }),
  createBindGroupLayout: none,
  createPipelineLayout: none,
  createShaderModule: none,
  createComputePipeline: none,
  createBindGroup: none,
  createQuerySet: () => ({ destroy: nothing }),
  createCommandEncoder: () => ENCODER,
};
