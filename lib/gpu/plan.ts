// A plan: a recorded list of dispatches and copies that is replayed without allocation.
import { refusal } from "../core/errors.ts";
import { BindGroups } from "./bind_groups.ts";
import { blockBytes, type Bound, packParams, type Params } from "./bound.ts";
import type { DeviceBuffer, DeviceTexture } from "./types.ts";
import type { Device } from "./device.ts";
import type { Kernel } from "./kernel.ts";

export { f32, u32 } from "./bound.ts";
export type { Bound, BufferSlice, Params } from "./bound.ts";

/** Options of {@link Plan.run}. */
export interface RunOptions {
  /** Aborts between two submits, by throwing the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Waited for before each submit, so that other work can take turns with this one. Default: no wait. */
  readonly turn?: (() => Promise<void>) | undefined;
  /** Number of replays in sequence, without waiting between them. Default 1. */
  readonly repeat?: number | undefined;
  /** Collects seconds by label. Requires the feature timestamp-query and slows the run down. */
  readonly profile?: Map<string, number> | undefined;
  /**
   * Called when all work is submitted, possibly before it is done. Work submitted in the callback follows without a
   * gap.
   */
  readonly onSubmitted?: () => void;
}

/** Whether a run includes a step. */
type Condition = () => boolean;

interface Dispatch {
  readonly kind: "dispatch";
  readonly isWanted: Condition | null;
  readonly kernel: Kernel;
  readonly bound: readonly Bound[];
  /** Block of params of each binding; see `Plan.#blockOf`. */
  readonly blocks: readonly number[];
  readonly groups: readonly [number, number, number];
  readonly label: string;
  readonly cost: number;
  /** Its resources, which dispatches of the same kernel and resources share. */
  bindGroup: GPUBindGroup | null;
  /** Byte offset in the arena of each of its params. */
  offsets: number[];
}
interface Other {
  readonly kind: "other";
  readonly isWanted: Condition | null;
  readonly label: string;
  readonly cost: number;
  encode(encoder: GPUCommandEncoder): void;
}
type Step = Dispatch | Other;
type Unconditional<T> = T extends Step ? Omit<T, "isWanted"> : never;

const UNIFORM_ALIGN = 256;
/** Target duration of one submit, so that signals and progress stay responsive. */
const SUBMIT_SECONDS = 0.04;
/** Number of submits in flight. */
const IN_FLIGHT = 2;

/**
 * A recorded sequence of GPU work. Record it once, call `finish()`, then `run()` it any number of times; dispose it at
 * the end. On a dry device it checks and counts the recorded work but does not keep it.
 */
export class Plan implements Disposable {
  readonly device: Device;
  readonly #steps: Step[] = [];
  #length = 0;
  /** Distinct params blocks in order, by their bytes as text, one character per byte. */
  readonly #blocks = new Map<string, number>();
  #blockBytes = UNIFORM_ALIGN;
  #arena: DeviceBuffer | null = null;
  #finished = false;
  /** Cost units (approximately floating-point operations) per second, measured during runs. */
  #rate: number;
  /** Range [first, end) of steps that {@link repeat} has recorded, by key. */
  readonly #repeated = new Map<string, readonly [number, number]>();
  #label = "";
  #condition: Condition | null = null;

  constructor(device: Device) {
    this.device = device;
    this.#rate = device.facts.isCpu ? 1e10 : 1e12;
  }

  /** Number of recorded steps. */
  get length(): number {
    return this.#length;
  }

  /** Names the section of the following records, for profiles. */
  section(label: string): void {
    this.#label = label;
  }

  /** Records steps that a run skips if the condition is false. A run evaluates the condition once, at its start. */
  optional(isWanted: () => boolean, record: () => void): void {
    if (this.#condition) throw new Error("Plan.optional: conditions do not nest");
    this.#condition = isWanted;
    try {
      record();
    } finally {
      this.#condition = null;
    }
  }

  /** Records steps, or repeats the steps recorded under this key. Saves the time of building them again. */
  repeat(key: string, record: () => void): void {
    const known = this.#repeated.get(key), first = this.#length;
    if (!known) {
      record();
      this.#repeated.set(key, [first, this.#length]);
    } else if (this.device.isDry) this.#length += known[1] - known[0];
    else this.#steps.slice(...known).forEach((step) => this.#record(step));
  }

  /**
   * Records a dispatch. `cost` is its number of floating-point operations; it only needs to be exact enough for
   * splitting submits.
   */
  dispatch(
    kernel: Kernel,
    bound: readonly Bound[],
    options: { readonly groups: readonly [number, number?, number?]; readonly cost?: number },
  ): void {
    const [x, y = 1, z = 1] = options.groups;
    if (bound.length !== kernel.source.bindings.length) {
      throw new Error(`${kernel.name}: ${bound.length} bindings given, ${kernel.source.bindings.length} declared`);
    }
    const limit = this.device.limits.maxComputeWorkgroupsPerDimension;
    if (x > limit || y > limit || z > limit) {
      this.device.refuse(
        refusal("gpu", `cannot run kernel '${kernel.name}'`, {
          rule: `at most ${limit} workgroups a dimension`,
          value: `${x} × ${y} × ${z}`,
          fix: "use a smaller batch or sequence",
        }),
      );
    }
    if (x === 0 || y === 0 || z === 0) return;
    this.#record({
      kind: "dispatch",
      kernel,
      bound,
      blocks: bound.map((part) => "params" in part ? this.#blockOf(part.params) : -1),
      groups: [x, y, z],
      label: this.#label || kernel.name,
      cost: options.cost ?? 1e5,
      bindGroup: null,
      offsets: [],
    });
  }

  /**
   * Records a copy of rows of 16-byte texels from a buffer to the upper left of a texture. The bytes of a row must be a
   * multiple of 256.
   */
  copyToTexture(source: DeviceBuffer, target: DeviceTexture, options: {
    readonly bytesPerRow: number;
    readonly rows: number;
    readonly byteOffset?: number;
    /** Texels of each row to copy. Default: all. */
    readonly texels?: number;
  }): void {
    const { bytesPerRow, rows, byteOffset = 0, texels = bytesPerRow / 16 } = options;
    if (bytesPerRow % 256 !== 0) throw new Error(`copyToTexture: ${bytesPerRow} bytes a row, not a multiple of 256`);
    if (rows === 0) return;
    this.#record({
      kind: "other",
      label: this.#label || "copy",
      cost: 16 * texels * rows,
      encode: (encoder) =>
        encoder.copyBufferToTexture(
          { buffer: source.raw, offset: byteOffset, bytesPerRow, rowsPerImage: rows },
          { texture: target.raw },
          [texels, rows],
        ),
    });
  }

  /** Records a copy between buffers. */
  copy(source: DeviceBuffer, target: DeviceBuffer, options: {
    readonly bytes: number;
    readonly sourceOffset?: number;
    readonly targetOffset?: number;
  }): void {
    const { bytes, sourceOffset = 0, targetOffset = 0 } = options;
    if (bytes === 0) return;
    this.#record({
      kind: "other",
      label: this.#label || "copy",
      cost: bytes,
      encode: (encoder) => encoder.copyBufferToBuffer(source.raw, sourceOffset, target.raw, targetOffset, bytes),
    });
  }

  /** Records the zeroing of a buffer. */
  clear(target: DeviceBuffer): void {
    this.#record({
      kind: "other",
      label: this.#label || "clear",
      cost: target.bytes / 4,
      encode: (encoder) => encoder.clearBuffer(target.raw),
    });
  }

  /** Finishes recording: writes the params and creates the bind groups. */
  finish(): this {
    if (this.#finished) return this;
    const stride = this.#blockBytes;
    const arena = this.device.createBuffer("params", Math.max(1, this.#blocks.size) * stride, 0x40 | 0x08); // UNIFORM | COPY_DST
    this.#arena = arena;
    if (!this.device.isDry) this.device.write(arena, this.#packBlocks(arena.bytes));
    const known = new BindGroups(this.device, arena);
    for (const step of this.#steps) {
      if (step.kind !== "dispatch") continue;
      step.bindGroup = known.of(step.kernel, step.bound);
      step.offsets = step.blocks.filter((block) => block >= 0).map((block) => block * stride);
    }
    this.#blocks.clear();
    this.#finished = true;
    this.device.check();
    return this;
  }

  /**
   * Replays the plan. Resolves when the GPU has finished; submits are short so that the event loop stays responsive.
   */
  async run(options: RunOptions = {}): Promise<void> {
    if (!this.#finished) this.finish();
    const { repeat = 1, profile } = options;
    if (this.device.isDry) { // a dry plan keeps no steps to submit
      options.signal?.throwIfAborted();
      return options.onSubmitted?.();
    }
    if (profile && this.device.features.has("timestamp-query")) {
      await this.#runProfiled(profile, { repeat, signal: options.signal });
      options.onSubmitted?.();
      return;
    }
    const pending: Promise<void>[] = [];
    const start = performance.now();
    const steps = this.#wanted();
    const end = repeat * steps.length;
    let total = 0;
    for (let at = 0; at < end;) {
      if (options.turn) await options.turn();
      options.signal?.throwIfAborted();
      let cost = 0;
      const from = at;
      while (at < end && (at === from || cost < this.#rate * SUBMIT_SECONDS)) {
        cost += steps[at % steps.length]?.cost ?? 0;
        at++;
      }
      this.#submit(steps, from, at);
      total += cost;
      pending.push(this.device.gpu.queue.onSubmittedWorkDone());
      if (at >= end) options.onSubmitted?.();
      if (pending.length >= IN_FLIGHT) await pending.shift();
    }
    await Promise.all(pending);
    const seconds = (performance.now() - start) / 1000;
    if (seconds > 0.1) this.#rate = 0.5 * this.#rate + 0.5 * Math.max(1e8, total / seconds);
    this.device.check();
  }

  [Symbol.dispose](): void {
    this.#arena?.[Symbol.dispose]();
    this.#steps.length = 0;
  }

  #record(step: Unconditional<Step>): void {
    if (this.#finished) throw new Error("the plan is finished");
    this.#length++;
    if (!this.device.isDry) this.#steps.push({ ...step, isWanted: this.#condition });
  }

  /** Index of the block that holds these params; equal params share a block. */
  #blockOf(params: Params): number {
    const bytes = blockBytes(params), key = packParams(params, bytes);
    const known = this.#blocks.get(key), block = known ?? this.#blocks.size;
    if (known === undefined) this.#blocks.set(key, block);
    this.#blockBytes = Math.max(this.#blockBytes, Math.ceil(bytes / UNIFORM_ALIGN) * UNIFORM_ALIGN);
    return block;
  }

  /** All blocks in the order of the arena. */
  #packBlocks(size: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(size);
    for (const [key, block] of this.#blocks) {
      for (let at = 0; at < key.length; at++) bytes[block * this.#blockBytes + at] = key.charCodeAt(at);
    }
    return bytes;
  }

  /** The steps of a run: those whose condition is true. */
  #wanted(): readonly Step[] {
    return this.#steps.some((step) => step.isWanted)
      ? this.#steps.filter((step) => step.isWanted?.() ?? true)
      : this.#steps;
  }

  #submit(steps: readonly Step[], from: number, to: number): void {
    const encoder = this.device.gpu.createCommandEncoder();
    let pass: GPUComputePassEncoder | null = null, kernel: Kernel | null = null;
    for (let index = from; index < to; index++) {
      const step = steps[index % steps.length];
      if (!step) continue;
      if (step.kind === "other") {
        pass?.end();
        pass = kernel = null;
        step.encode(encoder);
      } else {
        pass ??= encoder.beginComputePass();
        if (step.kernel !== kernel) pass.setPipeline(step.kernel.pipeline);
        encodeGroups(pass, step);
        kernel = step.kernel;
      }
    }
    pass?.end();
    this.device.gpu.queue.submit([encoder.finish()]);
  }

  /** Uses one pass per dispatch, with timestamps; copies are not timed. */
  async #runProfiled(
    profile: Map<string, number>,
    { repeat, signal }: { readonly repeat: number; readonly signal: AbortSignal | undefined },
  ): Promise<void> {
    using stack = new DisposableStack();
    const gpu = this.device.gpu, batch = 512;
    const querySet = stack.adopt(gpu.createQuerySet({ type: "timestamp", count: 2 * batch }), (set) => set.destroy());
    using resolved = this.device.createBuffer("timestamps", 16 * batch, 0x0200 | 0x04); // QUERY_RESOLVE | COPY_SRC
    const add = (label: string, seconds: number): void => void profile.set(label, (profile.get(label) ?? 0) + seconds);
    const steps = this.#wanted(), end = repeat * steps.length;
    for (let at = 0; at < end;) {
      signal?.throwIfAborted();
      const encoder = gpu.createCommandEncoder();
      const labels: string[] = [];
      for (let cost = 0; at < end && labels.length < batch && cost < this.#rate * SUBMIT_SECONDS; at++) {
        const step = steps[at % steps.length];
        if (!step) continue;
        cost += step.cost;
        if (step.kind === "other") {
          step.encode(encoder);
          continue;
        }
        const index = labels.push(step.label) - 1;
        const pass = encoder.beginComputePass({
          timestampWrites: { querySet, beginningOfPassWriteIndex: 2 * index, endOfPassWriteIndex: 2 * index + 1 },
        });
        pass.setPipeline(step.kernel.pipeline);
        encodeGroups(pass, step);
        pass.end();
      }
      if (labels.length > 0) encoder.resolveQuerySet(querySet, 0, 2 * labels.length, resolved.raw, 0);
      gpu.queue.submit([encoder.finish()]);
      const [bytes] = await this.device.read([{ buffer: resolved }]);
      const times = new BigUint64Array(bytes ?? new ArrayBuffer(0));
      labels.forEach((label, i) => add(label, secondsBetween(times[2 * i] ?? 0n, times[2 * i + 1] ?? 0n)));
    }
    this.device.check();
  }
}

/**
 * Difference of two timestamps in nanoseconds, or in ticks if the runtime does not convert them. If the counter was
 * reset the difference is unknown: no interval is that long.
 */
function secondsBetween(start: bigint, end: bigint): number {
  return end < start ? Infinity : Number(end - start) * 1e-9;
}

/** Dispatches the step's workgroups with its resources; its pipeline is set. */
function encodeGroups(pass: GPUComputePassEncoder, step: Dispatch): void {
  pass.setBindGroup(0, step.bindGroup, step.offsets);
  pass.dispatchWorkgroups(...step.groups);
}
