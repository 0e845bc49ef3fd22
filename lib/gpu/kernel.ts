// Kernels: WGSL text with an explicit binding layout, compiled once per device.
import type { KernelSource } from "../../kernels/source.ts";
import type { Device } from "./device.ts";

/** A compiled kernel. */
export interface Kernel {
  readonly name: string;
  readonly source: KernelSource;
  readonly pipeline: GPUComputePipeline;
  /** Its params have a dynamic offset. */
  readonly layout: GPUBindGroupLayout;
}

/** Values of WGSL `override` constants. */
export type Constants = Readonly<Record<string, number>>;

/** Compiled kernels of a device, by their text, and by their source object because texts are long. */
interface Cache {
  readonly byText: Map<string, Kernel>;
  readonly bySource: WeakMap<KernelSource, Kernel>;
}

/** Kernel texts by the function that generates them and its arguments. */
const written = new WeakMap<object, Map<string, KernelSource>>();

/**
 * The kernel that `write` generates for a variant, which must consist of plain values. Each text is generated only
 * once, since generating a long text takes longer than recording its dispatch.
 */
export function sourceOf<Variant extends readonly unknown[]>(
  write: (...variant: Variant) => KernelSource,
  ...variant: Variant
): KernelSource {
  let texts = written.get(write);
  if (!texts) written.set(write, texts = new Map());
  const key = JSON.stringify(variant);
  let source = texts.get(key);
  if (!source) texts.set(key, source = write(...variant));
  return source;
}

const caches = new WeakMap<Device, Cache>();
const NO_CONSTANTS: Constants = {};

/** Returns the kernel compiled for the device, cached by source and constants. */
export function compileKernel(device: Device, source: KernelSource, constants: Constants = NO_CONSTANTS): Kernel {
  let cache = caches.get(device);
  if (!cache) caches.set(device, cache = { byText: new Map(), bySource: new WeakMap() });
  if (constants !== NO_CONSTANTS) return compiled(device, cache, source, constants);
  let kernel = cache.bySource.get(source);
  if (!kernel) cache.bySource.set(source, kernel = compiled(device, cache, source, constants));
  return kernel;
}

/**
 * Runs work that compiles kernels, and removes these kernels from the cache if the work returns false. Otherwise the
 * cache would return a pipeline that the driver has refused, without an error.
 */
export async function compilingAnew(device: Device, work: () => Promise<boolean>): Promise<boolean> {
  const known = new Set(caches.get(device)?.byText.keys());
  const isOfUse = await work(), cache = caches.get(device);
  if (isOfUse || !cache) return isOfUse;
  for (const [key, { source }] of [...cache.byText]) {
    if (known.has(key)) continue;
    cache.byText.delete(key);
    cache.bySource.delete(source);
  }
  return false;
}

function compiled(device: Device, { byText }: Cache, source: KernelSource, constants: Constants): Kernel {
  const key = `${source.name}\n${JSON.stringify(constants)}\n${source.code}`;
  const known = byText.get(key);
  if (known) return known;
  const layout = device.gpu.createBindGroupLayout({
    label: source.name,
    entries: source.bindings.map((binding, index) => layoutEntry(binding, index)),
  });
  const module = device.gpu.createShaderModule({ label: source.name, code: codeFor(device, source) });
  const pipeline = device.gpu.createComputePipeline({
    label: source.name,
    layout: device.gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: "main", constants: { ...constants } },
  });
  const kernel: Kernel = { name: source.name, source, pipeline, layout };
  byText.set(key, kernel);
  return kernel;
}

function codeFor({ subgroups }: Device, { name, code, usesSubgroups }: KernelSource): string {
  if (!usesSubgroups) return code;
  if (!subgroups) throw new Error(`kernel '${name}' needs subgroups`);
  return subgroups.directive + code;
}

function layoutEntry(binding: KernelSource["bindings"][number], index: number): GPUBindGroupLayoutEntry {
  const base = { binding: index, visibility: 4 }; // COMPUTE
  switch (binding) {
    case "read":
      return { ...base, buffer: { type: "read-only-storage" } };
    case "storage":
      return { ...base, buffer: { type: "storage" } };
    case "uniform":
      return { ...base, buffer: { type: "uniform", hasDynamicOffset: true } };
    case "texture-f32":
      return { ...base, storageTexture: { access: "read-only", format: "rgba32float" } };
    case "texture-u32":
      return { ...base, storageTexture: { access: "read-only", format: "rgba32uint" } };
    case "texture-store-f32":
      return { ...base, storageTexture: { access: "write-only", format: "rgba32float" } };
  }
}
