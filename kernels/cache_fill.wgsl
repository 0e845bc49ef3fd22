// Copies the keys and values of tokens to cache textures: texel (j % CACHE_KEYS)·vectors + c of row h·cacheRows +
// ⌊j / CACHE_KEYS⌋ is vec4 c of head h of row j − first.
// Shapes: k, v [rows, 4·stride4], head h from 4·h·vectors; see attention_decode_texture.ts for the caches.
// Grid: x = kvHeads·vectors / 64, y and z rows. Writes (=).
struct Params { rows: u32, stride4: u32, vectors: u32, kvHeads: u32, cacheRows: u32, first: u32 }
@group(0) @binding(0) var<storage, read> k: array<vec4f>;
@group(0) @binding(1) var<storage, read> v: array<vec4f>;
@group(0) @binding(2) var kCache: texture_storage_2d<rgba32float, write>;
@group(0) @binding(3) var vCache: texture_storage_2d<rgba32float, write>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let row = id.y + id.z * grid.y;
  if (id.x >= params.kvHeads * params.vectors || row >= params.rows) { return; }
  let j = params.first + row;
  let place = vec2u(
    j % CACHE_KEYS * params.vectors + id.x % params.vectors,
    id.x / params.vectors * params.cacheRows + j / CACHE_KEYS,
  );
  textureStore(kCache, place, k[row * params.stride4 + id.x]);
  textureStore(vCache, place, v[row * params.stride4 + id.x]);
}
