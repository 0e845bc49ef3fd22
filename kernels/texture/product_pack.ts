// Copies a strided f32 matrix to rows that can be copied to a texture.
import type { KernelSource } from "../source.ts";

/** Invocations of a workgroup, along a row. */
export const PACK_GROUP = 64;

/**
 * target[r, c] = source[offset + r · stride + c] for c < columns, 0 up to targetStride.
 * Bindings source, target, params. Grid: x targetStride / {@link PACK_GROUP}, y rows. Writes (=).
 */
export const productPack: KernelSource = {
  name: "product-pack",
  bindings: ["read", "storage", "uniform"],
  code: `struct Params { columns: u32, offset: u32, stride: u32, targetStride: u32 }
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var<storage, read_write> target_rows: array<f32>;
@group(0) @binding(2) var<uniform> p: Params;

@compute @workgroup_size(${PACK_GROUP}) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.targetStride) { return; }
  var value = 0.0;
  if (id.x < p.columns) { value = source[p.offset + id.y * p.stride + id.x]; }
  target_rows[id.y * p.targetStride + id.x] = value;
}
`,
};
