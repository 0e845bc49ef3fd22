// Writes a strided f32 matrix to a texture.
import type { KernelSource } from "../source.ts";

/** Texels of a row, and rows, that a workgroup writes. */
export const PACK_TILE = { texels: 16, rows: 4 };

/**
 * target[c, r] = source[offset + r · stride + 4c + 0…3], 0 from column `columns` on, for c < texels and r < rows.
 * Bindings source, target, params. Grid: x texels, y rows, each by {@link PACK_TILE}.
 */
export const productPack: KernelSource = {
  name: "product-pack",
  bindings: ["read", "texture-store-f32", "uniform"],
  code: `struct Params { columns: u32, offset: u32, stride: u32, texels: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> source: array<f32>;
@group(0) @binding(1) var target_rows: texture_storage_2d<rgba32float, write>;
@group(0) @binding(2) var<uniform> p: Params;

fn at(row: u32, column: u32) -> f32 {
  if (column >= p.columns) { return 0.0; }
  return source[p.offset + row * p.stride + column];
}

@compute @workgroup_size(${PACK_TILE.texels}, ${PACK_TILE.rows}) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= p.texels || id.y >= p.rows) { return; }
  let c = 4u * id.x;
  textureStore(target_rows, id.xy, vec4f(at(id.y, c), at(id.y, c + 1u), at(id.y, c + 2u), at(id.y, c + 3u)));
}
`,
};
