// The KV cache: keys and values of the tokens read so far, by layer, in pages that sequences share.
import { existing } from "../../core/guards.ts";
import { CACHE_KEYS, cacheAppend, cacheFill } from "../../../kernels/mod.ts";
import type { DeviceBuffer, DeviceLimits, DeviceTexture } from "../../gpu/types.ts";
import { type Device, TEXEL_BYTES } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { type Plan, u32 } from "../../gpu/plan.ts";
import { headStride, strideOf } from "../padding.ts";
import type { MatrixPlacement } from "../products/matrix.ts";
import type { PageTable } from "../products/matvec.ts";
import { cacheWindow, type DecoderSpec, type LayerSpec } from "../../spec/decoder.ts";
import { headWidths } from "../weights.ts";
import type { ByWindow } from "./windows.ts";

/**
 * Keys after RoPE and values of a layer: buffers [pages, CACHE_KEYS, strideOf(kvHeads·hs)] f32, or textures in the
 * layout of `decodeAttentionTexture`. Null for layers without attention.
 */
export type DecodeCache =
  | { readonly placement: "buffer"; readonly k: DeviceBuffer; readonly v: DeviceBuffer }
  | { readonly placement: "texture"; readonly k: DeviceTexture; readonly v: DeviceTexture }
  | null;

/** The caches of all layers. A page holds the keys and values, or the inputs of a convolution, of CACHE_KEYS tokens of one sequence. */
export interface DecodeCaches extends Disposable {
  readonly layers: readonly DecodeCache[];
  /** Inputs of the convolution of each layer, [pages, CACHE_KEYS, strideOf(hidden)] f32; null for a layer without one. */
  readonly convolutions: readonly (DeviceBuffer | null)[];
}

/** Largest number of workgroups along y. */
const GRID_HEIGHT = 32768;

/** Pages that a sequence of this many tokens takes. */
export function pagesOf(tokens: number): number {
  return Math.ceil(tokens / CACHE_KEYS);
}

/** Tokens that this many pages hold. */
export function tokensOf(pages: number): number {
  return pages * CACHE_KEYS;
}

/** Size in bytes of one page of a buffer, for each layer: of its keys, its values, or the inputs of its convolution. */
export function pageBytes(spec: DecoderSpec): readonly number[] {
  return spec.layers.map((layer) => {
    const width = layer.conv ? spec.hidden : headWidths(spec, layer).kv;
    return 4 * CACHE_KEYS * strideOf(width);
  });
}

/** Buffers or textures of a layer's cache. */
export function cacheParts({ conv, kvHeads }: Pick<LayerSpec, "conv" | "kvHeads">): number {
  return conv ? 1 : kvHeads > 0 ? 2 : 0;
}

/** Allocates zeroed caches. */
export function createCaches(
  device: Device,
  spec: DecoderSpec,
  { pages, placement }: {
    /** Pages of each layer, or of the layers with each window. */
    readonly pages: number | ByWindow<number>;
    readonly placement: MatrixPlacement;
  },
): DecodeCaches {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  const vectors = headStride(spec.headDim) / 4, bytes = pageBytes(spec);
  try {
    const countOf = (layer: LayerSpec, index: number): number =>
      typeof pages === "number" ? pages : existing(pages.get(cacheWindow(spec, layer)), `pages of layer ${index}`);
    const convolutions = spec.layers.map((layer, index) => {
      if (!layer.conv) return null;
      return own(device.createBuffer("inputs of a convolution", countOf(layer, index) * (bytes[index] ?? 0)));
    });
    const layers = spec.layers.map((layer, index): DecodeCache => {
      const { kvHeads } = layer;
      if (kvHeads === 0) return null;
      const count = countOf(layer, index);
      if (placement === "buffer") {
        const make = (label: string): DeviceBuffer => own(device.createBuffer(label, count * (bytes[index] ?? 0)));
        return { placement, k: make("k cache"), v: make("v cache") };
      }
      const make = (label: string): DeviceTexture =>
        own(device.createTexture(label, CACHE_KEYS * vectors, kvHeads * count, "rgba32float"));
      return { placement, k: make("k cache"), v: make("v cache") };
    });
    return { layers, convolutions, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Limits of a device that bound caches. */
export type CacheLimits = Pick<
  DeviceLimits,
  "maxStorageBufferBindingSize" | "maxBufferSize" | "maxTextureDimension2D"
>;

/** Largest number of pages that the limits of a device allow, by placement. */
export function mostPages(
  { limits }: { readonly limits: CacheLimits },
  spec: DecoderSpec,
  placement: MatrixPlacement,
): number {
  if (placement === "texture") {
    const { maxTextureDimension2D: most } = limits, heads = Math.max(1, ...spec.layers.map(({ kvHeads }) => kvHeads));
    return CACHE_KEYS * headStride(spec.headDim) / 4 <= most ? Math.floor(most / heads) : 0;
  }
  const bytes = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  return Math.floor(bytes / Math.max(1, ...pageBytes(spec)));
}

/**
 * Records the copy of rows `first` to `rows` − 1 of k and v, as a forward pass leaves them, to a layer's caches: row r to
 * key position[0] + r, or with `own` to key position[r] of the sequence of row r (only in buffers). No two rows may
 * have the same place in a ring.
 */
export function recordCacheFill(
  plan: Plan,
  { caches: { layers }, position, pages, capacity }: Omit<CacheState, "pages"> & { readonly pages: PageTable },
  { spec, layer: index, k, v, rows, first = 0, own = false }: {
    readonly spec: DecoderSpec;
    readonly layer: number;
    readonly k: DeviceBuffer;
    readonly v: DeviceBuffer;
    readonly rows: number;
    readonly first?: number;
    readonly own?: boolean;
  },
): void {
  const cache = existing(layers[index], `cache of layer ${index}`);
  const layer = existing(spec.layers[index], `layer ${index}`);
  const stride = strideOf(headWidths(spec, layer).kv), vectors = headStride(spec.headDim) / 4;
  const isBuffer = cache.placement === "buffer", width = isBuffer ? stride / 4 : layer.kvHeads * vectors;
  if (own && !isBuffer) throw new Error("caches in textures are filled from one sequence");
  const params = isBuffer
    ? [rows, stride / 4, capacity, pages.perRow, own ? 1 : 0, first]
    : [rows, stride / 4, vectors, layer.kvHeads, capacity, first];
  const count = rows - first, height = Math.min(count, GRID_HEIGHT);
  plan.dispatch(
    compileKernel(plan.device, isBuffer ? cacheAppend : cacheFill),
    [k, v, position, pages.buffer, cache.k, cache.v, { params: params.map(u32) }],
    { groups: [Math.ceil(width / 64), height, Math.ceil(count / height)], cost: 40 * count * stride },
  );
}

/** Copies pages to others, in the layers with each window. Pages of one texture cannot be copied directly. */
export function copyPages(
  device: Device,
  { layers, convolutions }: DecodeCaches,
  { spec, pages }: {
    readonly spec: DecoderSpec;
    readonly pages: ByWindow<readonly { readonly from: number; readonly to: number }[]>;
  },
): void {
  const bytes = pageBytes(spec), width = CACHE_KEYS * headStride(spec.headDim) / 4;
  const bytesPerRow = width * TEXEL_BYTES;
  using between = device.createBuffer("page", Math.max(...bytes));
  const encoder = device.gpu.createCommandEncoder();
  for (const [index, cache] of layers.entries()) {
    const layer = existing(spec.layers[index], `layer ${index}`), rows = layer.kvHeads, size = bytes[index] ?? 0;
    const inputs = convolutions[index],
      buffers = inputs ? [inputs] : cache?.placement === "buffer" ? [cache.k, cache.v] : [];
    for (const { from, to } of cacheParts(layer) > 0 ? pages.get(cacheWindow(spec, layer)) ?? [] : []) {
      if (cache?.placement !== "texture") {
        for (const { raw } of buffers) {
          encoder.copyBufferToBuffer(raw, from * size, between.raw, 0, size);
          encoder.copyBufferToBuffer(between.raw, 0, raw, to * size, size);
        }
      } else {
        const place = { buffer: between.raw, bytesPerRow };
        for (const { raw: texture } of [cache.k, cache.v]) {
          encoder.copyTextureToBuffer({ texture, origin: [0, from * rows] }, place, [width, rows]);
          encoder.copyBufferToTexture(place, { texture, origin: [0, to * rows] }, [width, rows]);
        }
      }
    }
  }
  device.gpu.queue.submit([encoder.finish()]);
}

/** The caches and the places in them of the sequences of a plan. */
export interface CacheState {
  readonly caches: DecodeCaches;
  /** Capacity of a sequence in tokens. */
  readonly capacity: number;
  /** Tokens of each sequence that were read, which is the position of its next token: [sequences] u32. */
  readonly position: DeviceBuffer;
  readonly pages: ByWindow<PageTable>;
}

/** The page table of a layer. */
export function pagesFor({ pages }: Pick<CacheState, "pages">, window: number | undefined): PageTable {
  return existing(pages.get(window), "pages of a window");
}
