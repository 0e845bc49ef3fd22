// Types of the GPU device: options, limits, buffers and textures.

/** Options of `openDevice`. */
export interface DeviceOptions {
  /**
   * WebGPU's entry point, of any implementation: the one of a browser, or Dawn by the npm package `webgpu`. Default:
   * `navigator.gpu`.
   */
  readonly gpu?: GPU | undefined;
  /**
   * Budget for all buffers and textures, in bytes. WebGPU does not report the memory of the adapter. Default: no
   * budget.
   */
  readonly memoryLimit?: number | undefined;
  /**
   * Whether kernels may use subgroups. They are faster with them and compute the same values. Default: on CPU adapters
   * that support them. On a GPU only the products on its matrix units use them, where the adapter offers subgroup
   * matrices (Dawn with unsafe APIs); these sum in an order of their own.
   */
  readonly subgroups?: false | undefined;
  /** Which of several adapters to prefer. Default "high-performance". */
  readonly powerPreference?: "low-power" | "high-performance" | undefined;
}

/** Properties of the adapter; written to records and benchmarks. */
export interface AdapterFacts {
  /** Name reported by the driver. */
  readonly description: string;
  /** Vendor reported by WebGPU. */
  readonly vendor: string;
  /**
   * Whether a CPU executes the shaders (lavapipe, SwiftShader). Products then read their operands from storage
   * textures.
   */
  readonly isCpu: boolean;
}

/** A tracked GPU allocation that must be disposed. */
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
  /** Purpose of the allocation. */
  readonly label: string;
  /** Size in bytes. */
  readonly bytes: number;
  /**
   * Kind of allocation, which determines its limits: a buffer that kernels bind as storage, another buffer, or a
   * texture.
   */
  readonly kind: "storage" | "buffer" | "texture";
}

/** The limits that determine what fits and how matrices are split into shards. */
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

/** Rows of a texture, for `Device.writeTexture`. */
export interface TexelRows {
  /** First row. */
  readonly row: number;
  /** Number of rows. */
  readonly rows: number;
  /** Texels per row. */
  readonly texels: number;
  /** 16 bytes per texel, without gaps. */
  readonly data: ArrayBufferView<ArrayBuffer>;
}

/** A tracked GPU buffer. */
export type DeviceBuffer = Resource<GPUBuffer>;

/** A tracked 2D texture with one mip level. */
export type DeviceTexture = Resource<GPUTexture>;
