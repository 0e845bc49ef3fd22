// A device that only counts: the code of a run allocates and records on it, and the memory that it would have taken is the memory plan.
import type { CompressoError } from "../core/errors.ts";
import { type DeviceLimits } from "./types.ts";
import { Device } from "./device.ts";

/** Options of {@link openDryDevice}. */
export interface DryDeviceOptions {
  /** Limits to plan for; default {@link DEFAULT_LIMITS}. */
  readonly limits?: DeviceLimits;
  /** Whether a CPU runs the shaders: operands and weights are then textures. */
  readonly isCpu: boolean;
  /** Name of the adapter that is planned for. */
  readonly description?: string;
  /** A budget in bytes: what is beyond it, or a limit, is thrown as by other devices. Default: none, and excesses are listed. */
  readonly memoryLimit?: number;
}

/** What every WebGPU adapter grants (WebGPU, section 3.6.2 "Limits"). */
export const DEFAULT_LIMITS: DeviceLimits = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxTextureDimension2D: 8192,
  maxStorageTexturesPerShaderStage: 4,
  maxComputeWorkgroupsPerDimension: 65535,
};

/**
 * Opens a device that allocates nothing, runs nothing and reads zeros, but counts as {@link Device} does: `peakBytes` and
 * `peakUsage()` are what the same calls take on an adapter with these limits. What is beyond a limit is not thrown but
 * listed in {@link Device.excesses}, as a plan is to tell how much is needed; with a `memoryLimit` it is thrown.
 */
export function openDryDevice(options: DryDeviceOptions): Device {
  const { limits = DEFAULT_LIMITS, isCpu, description = "none", memoryLimit } = options;
  // The toolkit uses a small part of WebGPU; a call outside of it fails at once as no function.
  const gpu = dryGpu(limits) as unknown as GPUDevice;
  const facts = { description, vendor: "", isCpu };
  if (memoryLimit === undefined) return new Device(gpu, facts, { isDry: true });
  return new StrictDevice(gpu, facts, { isDry: true, memoryLimit });
}

/** A dry device that gives up where another does. */
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

/** What a buffer reads: parts of it are made when they are asked for. */
const zeros = (size: number): Pick<ArrayBuffer, "byteLength" | "slice"> => ({
  byteLength: size,
  slice: (start = 0, end = size) => new ArrayBuffer(Math.max(0, end - start)),
});

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
  createBuffer: ({ size }: GPUBufferDescriptor) => ({
    destroy: nothing,
    mapAsync: done,
    getMappedRange: () => zeros(size),
    unmap: nothing,
  }),
  createTexture: () => ({ destroy: nothing, createView: none }),
  createBindGroupLayout: none,
  createPipelineLayout: none,
  createShaderModule: none,
  createComputePipeline: none,
  createBindGroup: none,
  createQuerySet: () => ({ destroy: nothing }),
  createCommandEncoder: () => ENCODER,
};
