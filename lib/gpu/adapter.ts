// The GPU adapter: its selection, its properties and its limits.
import { option, refuse } from "../core/errors.ts";
import { checkNames, checkWord, type NamesOf } from "../core/check_options.ts";
import { subgroupSize } from "./subgroups.ts";
import type { AdapterFacts, DeviceLimits, DeviceOptions } from "./types.ts";

/** Capabilities of an adapter, available without opening a device. */
export interface AdapterOffer {
  /** Properties of the adapter. */
  readonly facts: AdapterFacts;
  /** Limits that {@link openDevice} would receive. */
  readonly limits: DeviceLimits;
  /** Size of the subgroups that kernels use if the device has them; null on a GPU, whose kernels use none. */
  readonly subgroupSize: number | null;
}

const NAMES: NamesOf<DeviceOptions> = { gpu: true, memoryLimit: "number", subgroups: "switch", powerPreference: true };

/** Workgroups per dimension: the WebGPU default. No higher limit is requested. */
const MAX_WORKGROUPS = 65535;

/**
 * Describes the adapter that {@link openDevice} would use.
 *
 * @throws CompressoError("gpu") if there is no adapter.
 */
export async function describeAdapter(options: DeviceOptions = {}): Promise<AdapterOffer> {
  const { adapter: _adapter, ...offer } = await requestAdapter(options);
  return offer;
}

/**
 * Selects the preferred adapter, by default the fastest, and describes it.
 *
 * @throws CompressoError("gpu") if there is no adapter.
 * @throws CompressoError("usage") for unknown options.
 */
export async function requestAdapter(options: DeviceOptions): Promise<AdapterOffer & { adapter: GPUAdapter }> {
  checkNames(options, NAMES, { whose: "a device" });
  const { gpu = navigator.gpu, powerPreference = "high-performance" } = options;
  checkWord(powerPreference, ["low-power", "high-performance"], { what: "cannot prefer such an adapter" });
  if (gpu === undefined) {
    refuse("gpu", "no WebGPU was found", {
      rule: `the runtime has navigator.gpu, or ${option("gpu")} is an implementation`,
      value: navigator.userAgent,
      fix: "in Node.js give create([]) of the package webgpu",
      option: "gpu",
    });
  }
  // Without a preference the driver's first adapter is used, which may be a slower GPU or the CPU.
  const adapter = await gpu.requestAdapter({ powerPreference });
  if (!adapter) {
    refuse("gpu", "no GPU adapter was found", {
      rule: "WebGPU needs a Vulkan, Metal or DirectX 12 driver",
      fix:
        "install your GPU's driver, or a Vulkan driver for the CPU (Debian and Ubuntu: apt-get install mesa-vulkan-drivers)",
      value: "the system offers none",
    });
  }
  const { limits, info } = adapter;
  const isCpu = info.isFallbackAdapter ||
    /llvmpipe|swiftshader|lavapipe/i.test(`${info.description} ${info.architecture}`);
  return {
    adapter,
    subgroupSize: isCpu && options.subgroups !== false ? subgroupSize(adapter) : null,
    facts: { description: info.description || info.architecture || "unnamed adapter", vendor: info.vendor, isCpu },
    limits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxTextureDimension2D: limits.maxTextureDimension2D,
      maxStorageTexturesPerShaderStage: Math.min(8, limits.maxStorageTexturesPerShaderStage),
      maxComputeWorkgroupsPerDimension: MAX_WORKGROUPS,
    },
  };
}
