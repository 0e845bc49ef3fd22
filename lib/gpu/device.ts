// The GPU device: limits, error capture, memory budget and tracking of live resources.
import type {
  AdapterFacts,
  DeviceBuffer,
  DeviceOptions,
  DeviceTexture,
  MemoryUse,
  Resource,
  TexelRows,
} from "./types.ts";
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import type { MatrixUnits } from "../../kernels/mod.ts";
import { requestAdapter } from "./adapter.ts";
import { offeredUnits, requestUnits, unitsAreRight } from "./matrix_units.ts";
import { type BufferRange, readBack } from "./read_back.ts";
import { fixOf, type MemoryShortage } from "./shortage.ts";
import { probeSubgroups, requestSubgroups, type Subgroups } from "./subgroups.ts";

/** Bytes of one texel of the two formats that kernels read. */
export const TEXEL_BYTES = 16;

/** Number of written bytes after which {@link Device.settleWrites} waits. */
const SETTLE_BYTES = 2 ** 25;

const STORAGE_USAGE = 0x80 | 0x04 | 0x08; // STORAGE | COPY_SRC | COPY_DST

/** A GPU device that tracks its allocations. Opened by {@link openDevice}; dispose it to free everything. */
export class Device implements Disposable {
  /** The WebGPU device. */
  readonly gpu: GPUDevice;
  /** Properties of the adapter. */
  readonly facts: AdapterFacts;
  /** WebGPU features that were granted. */
  readonly features: ReadonlySet<string>;
  /**
   * WebGPU's entry point if it is not `navigator.gpu`, otherwise null. Dawn by Node-API crashes when it is collected
   * before the device.
   */
  readonly entry: GPU | null;
  /**
   * Subgroup support; null if kernels must not use subgroups.
   *
   * @internal
   */
  readonly subgroups: Subgroups | null;
  /**
   * Matrix units that compute right; null if kernels must not use any.
   *
   * @internal
   */
  readonly matrixUnits: MatrixUnits | null;
  /** Budget for all buffers and textures, in bytes; infinite without a budget. */
  readonly memoryLimit: number;
  /**
   * Whether this is a dry device: it counts allocations, but its objects hold no data and nothing runs; see
   * `planMemory`.
   */
  readonly isDry: boolean;
  readonly #live = new Map<Resource<{ destroy(): void }>, MemoryUse>();
  readonly #excesses: CompressoError[] = [];
  #bytes = 0;
  /** Bytes written since {@link settleWrites} last waited. */
  #written = 0;
  #peakBytes = 0;
  /** Live allocations at the peak; null while the current state is the peak. */
  #peakUsage: readonly MemoryUse[] | null = null;
  #failure: string | null = null;
  #shortage: MemoryShortage | null = null;
  /** Refused allocations over the limit. Their callers may have recovered. */
  readonly #overLimit = new WeakSet<Error>();
  #disposed = false;

  /** Wraps a WebGPU device; use {@link openDevice}. */
  constructor(
    gpu: GPUDevice,
    facts: AdapterFacts,
    { memoryLimit = Infinity, isDry = false, subgroups = null, matrixUnits = null, entry = null }: {
      readonly memoryLimit?: number | undefined;
      readonly isDry?: boolean;
      readonly subgroups?: Subgroups | null;
      readonly matrixUnits?: MatrixUnits | null;
      readonly entry?: GPU | null;
    } = {},
  ) {
    this.gpu = gpu;
    this.facts = facts;
    this.features = new Set(gpu.features);
    this.memoryLimit = memoryLimit;
    this.isDry = isDry;
    this.subgroups = subgroups;
    this.matrixUnits = matrixUnits;
    this.entry = entry;
    gpu.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      const { error } = event as GPUUncapturedErrorEvent;
      // By name: another WebGPU implementation has other classes.
      if (error.constructor.name === "GPUOutOfMemoryError") this.#shortage ??= "adapter";
      this.#failure ??= error.message;
    });
    gpu.lost.then((info) => {
      if (this.#disposed) return;
      this.#shortage ??= "lost";
      this.#failure ??= `device lost: ${info.message}`;
    });
  }

  /** Limits of the device. */
  get limits(): GPUSupportedLimits {
    return this.gpu.limits;
  }

  /** Total size in bytes of all live buffers and textures. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Largest value of {@link bytes} since {@link resetPeak}. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  /**
   * How memory ran out, if that caused the error: over the budget, on the adapter, or through loss of the device, which
   * usually means that memory ran out. Null for other errors.
   *
   * @internal
   */
  shortageOf(error: Error): MemoryShortage | null {
    return this.#overLimit.has(error) ? "limit" : this.#shortage;
  }

  /** Whether the device has failed permanently; {@link check} then throws. */
  get isBroken(): boolean {
    return this.#failure !== null;
  }

  /**
   * Live allocations when {@link bytes} was {@link peakBytes}.
   *
   * @internal
   */
  peakUsage(): readonly MemoryUse[] {
    return this.#peakUsage ?? [...this.#live.values()];
  }

  /** Requests beyond the limits of a dry device, for which a real device throws. */
  get excesses(): readonly CompressoError[] {
    return this.#excesses;
  }

  /** Number of live buffers and textures; 0 after all owners are disposed. */
  get liveCount(): number {
    return this.#live.size;
  }

  /** Restarts the measurement of {@link peakBytes}. */
  resetPeak(): void {
    this.#peakBytes = this.#bytes;
    this.#peakUsage = null;
  }

  /** Throws the error of a request beyond the limits; a dry device only records it. */
  refuse(error: CompressoError): void {
    if (!this.isDry) throw error;
    this.#excesses.push(error);
  }

  /**
   * Allocates a zeroed storage buffer.
   *
   * @throws CompressoError("gpu") over the budget or the limits of the adapter.
   *
   * @internal
   */
  createBuffer(label: string, bytes: number, usage: number = STORAGE_USAGE): DeviceBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const limit = usage & 0x80
      ? Math.min(this.limits.maxBufferSize, this.limits.maxStorageBufferBindingSize)
      : this.limits.maxBufferSize;
    if (size > limit) this.#tooLarge(`buffer '${label}'`, `a buffer holds at most ${limit} bytes`, `${size} bytes`);
    this.#reserve(label, size);
    const kind = usage & 0x80 ? "storage" : "buffer";
    return this.#track({ label, bytes: size, kind }, this.gpu.createBuffer({ label, size, usage }));
  }

  /**
   * Allocates a buffer and fills it.
   *
   * @internal
   */
  uploadBuffer(label: string, data: ArrayBufferView<ArrayBuffer>, usage?: number): DeviceBuffer {
    const resource = this.createBuffer(label, data.byteLength, usage);
    this.write(resource, data);
    return resource;
  }

  /**
   * Allocates a texture that kernels read as a storage texture of 16-byte texels.
   *
   * @internal
   */
  createTexture(label: string, width: number, height: number, format: "rgba32float" | "rgba32uint"): DeviceTexture {
    const limit = this.limits.maxTextureDimension2D;
    if (width > limit || height > limit) {
      this.#tooLarge(`texture '${label}'`, `a side has at most ${limit} texels`, `${width} × ${height}`);
    }
    const size = width * height * TEXEL_BYTES;
    this.#reserve(label, size);
    const usage = 0x08 | 0x02 | 0x01; // STORAGE_BINDING | COPY_DST | COPY_SRC
    const texture = this.gpu.createTexture({ label, size: [width, height], format, usage });
    return this.#track({ label, bytes: size, kind: "texture" }, texture);
  }

  /**
   * Writes data to a buffer from a byte offset (a multiple of 4). The caller pads the length to a multiple of 4.
   *
   * @internal
   */
  write(target: DeviceBuffer, data: ArrayBufferView<ArrayBuffer>, byteOffset = 0): void {
    // Deno 2.9 panics on an empty write.
    if (data.byteLength === 0) return;
    this.gpu.queue.writeBuffer(target.raw, byteOffset, data.buffer, data.byteOffset, data.byteLength);
    this.#written += data.byteLength;
  }

  /**
   * Writes rows of texels to a texture, starting at a row; `data` has no gaps between rows.
   *
   * @internal
   */
  writeTexture(target: DeviceTexture, { row, rows, texels, data }: TexelRows): void {
    // Dawn 0.6 by Node-API takes a Float16Array for an empty array.
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const layout = { bytesPerRow: texels * TEXEL_BYTES };
    this.gpu.queue.writeTexture({ texture: target.raw, origin: [0, row] }, bytes, layout, [texels, rows]);
    this.#written += data.byteLength;
  }

  /**
   * Call between large writes. The adapter keeps a second copy of written data until the next submit. Submits and waits
   * once many bytes have been written, so that the copies are freed.
   */
  async settleWrites(): Promise<void> {
    this.check();
    if (this.#written < SETTLE_BYTES || this.isDry) return;
    this.#written = 0;
    this.gpu.queue.submit([]);
    await this.idle();
  }

  /**
   * Reads several buffer ranges: small amounts with a single wait (a wait costs at least 11 ms for any size),
   * larger ones in pieces.
   *
   * @internal
   */
  async read(ranges: readonly BufferRange[]): Promise<ArrayBuffer[]> {
    return await readBack(this, ranges);
  }

  /**
   * Reads f32 values of one buffer.
   *
   * @internal
   */
  async readFloats(buffer: DeviceBuffer, count: number, byteOffset = 0): Promise<Float32Array<ArrayBuffer>> {
    const [bytes] = await this.read([{ buffer, byteOffset, bytes: count * 4 }]);
    return new Float32Array(bytes ?? new ArrayBuffer(0));
  }

  /** Throws the errors of the device since it was opened; WebGPU does not throw them itself. */
  check(): void {
    if (this.#failure === null) return;
    refuse("gpu", "the GPU refused an operation", {
      rule: "every operation is valid and finds memory",
      value: this.#failure,
      fix: fixOf(this.#shortage),
    });
  }

  /** Waits for all submitted work. */
  async idle(): Promise<void> {
    await this.gpu.queue.onSubmittedWorkDone();
    this.check();
  }

  /** Frees all live resources and the device. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const resource of [...this.#live.keys()]) resource[Symbol.dispose]();
    this.gpu.destroy();
  }

  #tooLarge(name: string, rule: string, value: string): void {
    const what = `cannot allocate the GPU ${name}`, fix = "use a smaller batch or sequence, or another adapter";
    this.refuse(refusal("gpu", what, { rule: `${rule} on this adapter`, value, fix }));
  }

  #reserve(label: string, bytes: number): void {
    if (!(this.#bytes + bytes <= this.memoryLimit)) {
      const error = refusal("gpu", `cannot allocate '${label}' (${bytes} bytes)`, {
        rule: `the memory limit is ${this.memoryLimit} bytes`,
        value: `${this.#bytes} bytes are in use`,
        fix: fixOf("limit"),
      });
      this.#overLimit.add(error);
      throw error;
    }
    this.#bytes += bytes;
    if (this.#bytes <= this.#peakBytes) return;
    this.#peakBytes = this.#bytes;
    this.#peakUsage = null;
  }

  #track<T extends { destroy(): void }>(use: MemoryUse, raw: T): Resource<T> {
    const { label, bytes } = use;
    let live = true;
    const resource: Resource<T> = {
      raw,
      bytes,
      label,
      [Symbol.dispose]: () => {
        if (!live) return;
        live = false;
        if (this.#bytes === this.#peakBytes) this.#peakUsage ??= [...this.#live.values()];
        this.#live.delete(resource);
        this.#bytes -= bytes;
        raw.destroy();
      },
    };
    this.#live.set(resource, use);
    return resource;
  }
}

/**
 * Opens the GPU with the size limits of the adapter, and at most 16 storage buffers and 8 storage textures per stage.
 *
 * @throws CompressoError("gpu") if there is no adapter.
 * @throws CompressoError("usage") for unknown options.
 * @example
 * ```ts
 * import { openDevice } from "compresso";
 * using device = await openDevice();
 * if (device.limits.maxStorageBufferBindingSize < 1 << 27) throw new Error("too small");
 * ```
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  const { adapter, facts, limits, subgroupSize: size } = await requestAdapter(options);
  const descriptor = {
    requiredFeatures: (["timestamp-query"] as const).filter((feature) => adapter.features.has(feature)),
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: Math.min(16, adapter.limits.maxStorageBuffersPerShaderStage),
      maxStorageTexturesPerShaderStage: limits.maxStorageTexturesPerShaderStage,
      maxTextureDimension2D: limits.maxTextureDimension2D,
      maxComputeWorkgroupStorageSize: adapter.limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: adapter.limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupSizeX: adapter.limits.maxComputeWorkgroupSizeX,
    },
  };
  const withSubgroups = size === null ? null : await requestSubgroups(adapter, descriptor);
  const units = facts.isCpu || options.subgroups === false ? null : offeredUnits(adapter);
  const withUnits = units && await requestUnits(adapter, descriptor);
  const gpu = withSubgroups ?? withUnits ?? await adapter.requestDevice(descriptor);
  const subgroups = withSubgroups && size !== null ? await probeSubgroups(withSubgroups, size) : null;
  const { memoryLimit, gpu: entry = navigator.gpu } = options;
  return new Device(gpu, facts, {
    subgroups,
    matrixUnits: units && withUnits && await unitsAreRight(withUnits, units) ? units : null,
    entry: entry === navigator.gpu ? null : entry,
    memoryLimit,
  });
}
