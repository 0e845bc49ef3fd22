// The GPU adapter: which one is taken, what is known of it and what it offers.
import { CompressoError } from "../core/errors.ts";
import { checkNames, checkWord, type NamesOf } from "../core/check_options.ts";
import type { AdapterFacts, DeviceLimits, DeviceOptions } from "./types.ts";

/** What an adapter offers, known without opening a device. */
export interface AdapterOffer {
  /** What is known of the adapter. */
  readonly facts: AdapterFacts;
  /** Limits that {@link openDevice} would be granted. */
  readonly limits: DeviceLimits;
}

const NAMES: NamesOf<DeviceOptions> = { gpu: true, memoryLimit: "number", subgroups: "switch", powerPreference: true };

/** Workgroups a dimension; WebGPU's default, which no adapter is asked to exceed. */
const MAX_WORKGROUPS = 65535;

/** Tells what the adapter of {@link openDevice} offers. Throws `CompressoError("gpu")` where there is none. */
export async function describeAdapter(options: DeviceOptions = {}): Promise<AdapterOffer> {
  const { facts, limits } = await requestAdapter(options);
  return { facts, limits };
}

/**
 * The adapter that is preferred, by default the fastest, and what it offers.
 *
 * @throws CompressoError("gpu") where there is none.
 * @throws CompressoError("usage") for options that a device does not have.
 */
export async function requestAdapter(options: DeviceOptions): Promise<AdapterOffer & { adapter: GPUAdapter }> {
  checkNames(options, NAMES, { whose: "a device" });
  const { gpu = navigator.gpu, powerPreference = "high-performance" } = options;
  checkWord(powerPreference, ["low-power", "high-performance"], { what: "cannot prefer such an adapter" });
  // Without a preference it is the first that the driver names, which may be the slower one, or the CPU.
  const adapter = await gpu?.requestAdapter({ powerPreference });
  if (!adapter) {
    throw new CompressoError("gpu", {
      what: "no GPU adapter was found",
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
