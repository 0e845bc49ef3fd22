// Textures read back.
import type { Device } from "../../../lib/gpu/device.ts";

/** The upper left of a texture of 4 f32 each texel, [rows, 4 · texels]. */
export async function readTexture(
  device: Device,
  texture: GPUTexture,
  [texels, rows]: readonly [texels: number, rows: number],
): Promise<Float32Array> {
  const pitch = Math.ceil(16 * texels / 256) * 256;
  using staging = device.createBuffer("read", pitch * rows);
  const encoder = device.gpu.createCommandEncoder();
  encoder.copyTextureToBuffer({ texture }, { buffer: staging.raw, bytesPerRow: pitch }, [texels, rows]);
  device.gpu.queue.submit([encoder.finish()]);
  const raw = await device.readFloats(staging, pitch * rows / 4), result = new Float32Array(4 * texels * rows);
  for (let r = 0; r < rows; r++) result.set(raw.subarray(r * pitch / 4, r * pitch / 4 + 4 * texels), 4 * texels * r);
  return result;
}
