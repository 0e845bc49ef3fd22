// Types of the GPU device: options, limits, buffers and textures.

/** Options of `openDevice`. */
export interface DeviceOptions {
  /** WebGPU's entry point. Default: `navigator.gpu`. */
  readonly gpu?: GPU;
  /** Budget for all buffers and textures, in bytes; the adapter's own memory is not reported by WebGPU. Default: no budget. */
  readonly memoryLimit?: number;
  /** Whether kernels may use subgroups; they are quicker with them and compute the same. Default: on CPU adapters that have them; no kernel for GPUs uses them. */
  readonly subgroups?: false;
  /** Which adapter to prefer where there are several. Default "high-performance". */
  readonly powerPreference?: "low-power" | "high-performance";
}

/** What is known of the adapter; written to records and benchmarks. */
export interface AdapterFacts {
  /** Name that the driver gives. */
  readonly description: string;
  /** Vendor as WebGPU reports it. */
  readonly vendor: string;
  /** Whether a CPU executes the shaders (lavapipe, SwiftShader): products then read their operands from storage textures. */
  readonly isCpu: boolean;
}

/** A GPU allocation that is counted and must be disposed. */
export interface Resource<T> extends Disposable {
  /** The WebGPU object. */
  readonly raw: T;
  /** Size in bytes. */
  readonly bytes: number;
  /** Name in error messages. */
  readonly label: string;
}

/** One live allocation, as `Device.peakUsage` lists it. */
export interface MemoryUse {
  /** What the allocation is for. */
  readonly label: string;
  /** Size in bytes. */
  readonly bytes: number;
  /** What it is, and so which limits hold: a buffer that kernels bind as storage, another buffer, or a texture. */
  readonly kind: "storage" | "buffer" | "texture";
}

/** The limits that decide what fits and how matrices are cut to shards. */
export type DeviceLimits = Readonly<
  Record<
    | "maxBufferSize"
    | "maxStorageBufferBindingSize"
    | "maxTextureDimension2D"
    | "maxStorageTexturesPerShaderStage"
    | "maxComputeWorkgroupsPerDimension",
    number
  >
>;

/** Rows of a texture, as `Device.writeTexture` takes them. */
export interface TexelRows {
  /** The first of them. */
  readonly row: number;
  /** How many. */
  readonly rows: number;
  /** Texels of a row. */
  readonly texels: number;
  /** 16 bytes a texel, without gaps. */
  readonly data: ArrayBufferView<ArrayBuffer>;
}

/** A counted GPU buffer. */
export type DeviceBuffer = Resource<GPUBuffer>;

/** A counted 2D texture of one mip level. */
export type DeviceTexture = Resource<GPUTexture>;
