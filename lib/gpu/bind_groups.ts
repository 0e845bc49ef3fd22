// The bind groups of a plan: one for each kernel and its resources. Params do not count.
import { blockBytes, type Bound } from "./bound.ts";
import type { Device } from "./device.ts";
import type { Kernel } from "./kernel.ts";
import type { DeviceBuffer } from "./types.ts";

/** Bind groups by kernel and resources. */
export class BindGroups {
  readonly #device: Device;
  readonly #arena: DeviceBuffer;
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #views = new Map<GPUTexture, GPUTextureView>();
  readonly #numbers = new Map<object, number>();

  constructor(device: Device, arena: DeviceBuffer) {
    this.#device = device;
    this.#arena = arena;
  }

  of(kernel: Kernel, bound: readonly Bound[]): GPUBindGroup {
    const key = [this.#numberOf(kernel), ...bound.map((part) => this.#keyOf(part))].join();
    const known = this.#groups.get(key);
    if (known) return known;
    const group = this.#device.gpu.createBindGroup({
      label: kernel.name,
      layout: kernel.layout,
      entries: bound.map((part, binding) => ({ binding, resource: this.#resourceOf(part) })),
    });
    this.#groups.set(key, group);
    return group;
  }

  #keyOf(bound: Bound): string {
    if ("params" in bound) return `${blockBytes(bound.params)}`;
    if ("buffer" in bound) return `${this.#numberOf(bound.buffer.raw)}:${bound.byteOffset}:${bound.bytes}`;
    return `${this.#numberOf(bound.raw)}`;
  }

  #numberOf(object: object): number {
    const known = this.#numbers.get(object), number = known ?? this.#numbers.size;
    if (known === undefined) this.#numbers.set(object, number);
    return number;
  }

  #resourceOf(bound: Bound): GPUBindingResource {
    if ("params" in bound) return { buffer: this.#arena.raw, size: blockBytes(bound.params) };
    if ("buffer" in bound) return { buffer: bound.buffer.raw, offset: bound.byteOffset, size: bound.bytes };
    if (!("createView" in bound.raw)) return { buffer: bound.raw };
    const view = this.#views.get(bound.raw) ?? bound.raw.createView();
    this.#views.set(bound.raw, view);
    return view;
  }
}
