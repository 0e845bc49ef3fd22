// Copies rows of 16-byte texels to and from the memory of a matrix.
import { type DeviceBuffer, type DeviceTexture } from "../../gpu/types.ts";
import { type Device, TEXEL_BYTES } from "../../gpu/device.ts";
import { roundUp } from "../padding.ts";

/** Memory of a matrix: a texture, or a buffer that holds its rows of texels in order. */
export type TexelStore = DeviceBuffer | DeviceTexture;

/** A band of rows of texels. */
export interface TexelBand {
  /** First row. */
  readonly row: number;
  readonly rows: number;
  /** Texels of a row that hold values. */
  readonly texels: number;
}

/**
 * A texture row is at least 4 texels (a cache line) longer than its values, so that it spans an odd number of cache
 * lines. Rows at a distance of a power of two would map to the same lines of a CPU cache.
 */
export function texelRow(texels: number): number {
  return 4 * (Math.ceil(texels / 4) + 1 - Math.ceil(texels / 4) % 2);
}

/**
 * Allocates zeroed rows.
 *
 * @throws CompressoError("gpu") over the memory budget or the limits of the adapter.
 */
export function createTexels(
  device: Device,
  label: string,
  { rows, texels, format }: {
    readonly rows: number;
    readonly texels: number;
    /** Format of a texture; absent for a buffer. */
    readonly format: "rgba32float" | "rgba32uint" | null;
  },
): TexelStore {
  if (format === null) return device.createBuffer(label, rows * texels * TEXEL_BYTES);
  return device.createTexture(label, texelRow(texels), rows, format);
}

/** Writes a band of rows. */
export function writeTexels(
  device: Device,
  store: TexelStore,
  { row, rows, texels, data }: TexelBand & { readonly data: ArrayBufferView<ArrayBuffer> },
): void {
  if (!isTexture(store)) return device.write(store, data, row * texels * TEXEL_BYTES);
  device.writeTexture(store, { row, rows, texels, data });
}

/** Reads a band of rows back without gaps. Waits for the GPU. */
export async function readTexels(device: Device, store: TexelStore, band: TexelBand): Promise<ArrayBuffer> {
  const { row, rows, texels } = band;
  const bytesPerRow = texels * TEXEL_BYTES;
  const pitch = isTexture(store) ? roundUp(bytesPerRow, 256) : bytesPerRow; // copies from textures require it
  using staging = device.createBuffer("rows", rows * pitch);
  const encoder = device.gpu.createCommandEncoder();
  if (isTexture(store)) {
    encoder.copyTextureToBuffer(
      { texture: store.raw, origin: [0, row] },
      { buffer: staging.raw, bytesPerRow: pitch },
      [texels, rows],
    );
  } else encoder.copyBufferToBuffer(store.raw, row * bytesPerRow, staging.raw, 0, rows * bytesPerRow);
  device.gpu.queue.submit([encoder.finish()]);
  const [bytes = new ArrayBuffer(0)] = await device.read([{ buffer: staging, bytes: rows * pitch }]);
  if (pitch === bytesPerRow) return bytes;
  const tight = new Uint8Array(rows * bytesPerRow);
  for (let r = 0; r < rows; r++) tight.set(new Uint8Array(bytes, r * pitch, bytesPerRow), r * bytesPerRow);
  return tight.buffer;
}

/** Whether the store is a texture. */
export function isTexture(store: TexelStore): store is DeviceTexture {
  return "createView" in store.raw;
}
