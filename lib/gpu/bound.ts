// What a dispatch binds: buffers, textures and params.
import type { DeviceBuffer, DeviceTexture } from "./types.ts";

/** Constant params of one dispatch, laid out as consecutive 4-byte scalars. */
export type Params = readonly ({ readonly u32: number } | { readonly i32: number } | { readonly f32: number })[];

/** Part of a buffer as a binding; the offset must be a multiple of 256. */
export interface BufferSlice {
  readonly buffer: DeviceBuffer;
  readonly byteOffset: number;
  readonly bytes: number;
}

/** Bindings of a dispatch, in the order of the kernel's bindings. Params fill a "uniform" binding. */
export type Bound = DeviceBuffer | DeviceTexture | BufferSlice | { readonly params: Params };

/** Shorthand for unsigned params. */
export function u32(value: number): { u32: number } {
  return { u32: value };
}
/** Shorthand for float params. */
export function f32(value: number): { f32: number } {
  return { f32: value };
}

/** Size of the uniform binding of params: whole vectors, at least one. */
export function blockBytes(params: Params): number {
  return Math.max(16, Math.ceil(params.length / 4) * 16);
}

/** The params block as text, one character per byte, for use as a map key. */
export function packParams(params: Params, size: number): string {
  const view = new DataView(new ArrayBuffer(size));
  params.forEach((param, index) => {
    if ("u32" in param) view.setUint32(4 * index, param.u32, true);
    else if ("i32" in param) view.setInt32(4 * index, param.i32, true);
    else view.setFloat32(4 * index, param.f32, true);
  });
  return Reflect.apply(String.fromCharCode, null, new Uint8Array(view.buffer));
}
