// The KV cache: keys and values of the tokens read so far, by layer.
import { existing } from "../../core/guards.ts";
import { CACHE_KEYS, cacheFill } from "../../../kernels/mod.ts";
import type { DeviceBuffer, DeviceTexture } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { compileKernel } from "../../gpu/kernel.ts";
import { type Plan, u32 } from "../../gpu/plan.ts";
import { cacheRows } from "./attention.ts";
import { headStride, strideOf } from "../padding.ts";
import type { MatrixPlacement } from "../products/matrix.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { headWidths } from "../weights.ts";

/**
 * Keys after RoPE and values of a layer: buffers [sequences, capacity, strideOf(kvHeads·hs)] f32, or textures of one
 * sequence in the layout of `decodeAttentionTexture`. Null for layers without attention.
 */
export type DecodeCache =
  | { readonly placement: "buffer"; readonly k: DeviceBuffer; readonly v: DeviceBuffer }
  | { readonly placement: "texture"; readonly k: DeviceTexture; readonly v: DeviceTexture }
  | null;

/** The caches of all layers. */
export interface DecodeCaches extends Disposable {
  /** Capacity in tokens of a sequence. */
  readonly capacity: number;
  readonly layers: readonly DecodeCache[];
}

/** Largest number of workgroups along y. */
const GRID_HEIGHT = 32768;

/** Size in bytes of the keys, or the values, of one sequence of `capacity` tokens, for each layer. */
export function cacheBytes(spec: DecoderSpec, capacity: number): readonly number[] {
  return spec.layers.map((layer) => layer.kvHeads === 0 ? 0 : 4 * capacity * strideOf(headWidths(spec, layer).kv));
}

/** Allocates zeroed caches for `capacity` tokens of each of `sequences` (default 1; more than one only in buffers). */
export function createCaches(
  device: Device,
  spec: DecoderSpec,
  { capacity, placement, sequences = 1 }: {
    readonly capacity: number;
    readonly placement: MatrixPlacement;
    readonly sequences?: number;
  },
): DecodeCaches {
  const owned: Disposable[] = [];
  const own = <T extends Disposable>(resource: T): T => (owned.push(resource), resource);
  const dispose = (): void => owned.forEach((resource) => resource[Symbol.dispose]());
  const vectors = headStride(spec.headDim) / 4;
  try {
    const layers = spec.layers.map((layer): DecodeCache => {
      const { kvHeads } = layer;
      if (kvHeads === 0) return null;
      if (placement === "buffer") {
        const stride = strideOf(headWidths(spec, layer).kv);
        const make = (label: string): DeviceBuffer =>
          own(device.createBuffer(label, 4 * sequences * capacity * stride));
        return { placement, k: make("k cache"), v: make("v cache") };
      }
      const make = (label: string): DeviceTexture =>
        own(device.createTexture(label, CACHE_KEYS * vectors, kvHeads * cacheRows(capacity), "rgba32float"));
      return { placement, k: make("k cache"), v: make("v cache") };
    });
    return { capacity, layers, [Symbol.dispose]: dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Whether textures can hold caches of this many tokens. */
export function fitsTextures(device: Device, { headDim, layers }: DecoderSpec, capacity: number): boolean {
  const { maxTextureDimension2D } = device.limits;
  const heads = Math.max(0, ...layers.map(({ kvHeads }) => kvHeads));
  return CACHE_KEYS * headStride(headDim) / 4 <= maxTextureDimension2D &&
    heads * cacheRows(capacity) <= maxTextureDimension2D;
}

/**
 * Records the copy of the first `rows` rows of k and v, as a forward pass leaves them, to the cache rows of a layer
 * from `first` (default 0).
 */
export function recordCacheFill(
  plan: Plan,
  { capacity, layers }: DecodeCaches,
  { spec, layer: index, k, v, rows, first = 0 }: {
    readonly spec: DecoderSpec;
    readonly layer: number;
    readonly k: DeviceBuffer;
    readonly v: DeviceBuffer;
    readonly rows: number;
    readonly first?: number;
  },
): void {
  const cache = existing(layers[index], `cache of layer ${index}`);
  const layer = existing(spec.layers[index], `layer ${index}`);
  const stride = strideOf(headWidths(spec, layer).kv);
  if (cache.placement === "buffer") {
    const range = { bytes: 4 * rows * stride, targetOffset: 4 * first * stride };
    plan.copy(k, cache.k, range);
    plan.copy(v, cache.v, range);
    return;
  }
  const vectors = headStride(spec.headDim) / 4, height = Math.min(rows, GRID_HEIGHT);
  plan.dispatch(compileKernel(plan.device, cacheFill), [k, v, cache.k, cache.v, {
    params: [rows, stride / 4, vectors, layer.kvHeads, cacheRows(capacity), first].map(u32),
  }], {
    groups: [Math.ceil(layer.kvHeads * vectors / 64), height, Math.ceil(rows / height)],
    cost: 40 * rows * stride,
  });
}
