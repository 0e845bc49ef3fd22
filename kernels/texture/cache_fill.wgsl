// Copies keys and values of tokens of one sequence to cache textures, row r to key position[0] + r, from row params.first on. Writes nothing past the
// capacity.
// Shapes: k, v [rows, 4·stride4], head h from 4·h·vectors; pages [perRow]; see attention_decode.ts for the
// caches.
// Grid: x = kvHeads·vectors / 64, y and z rows. Writes (=).
struct Params { rows: u32, stride4: u32, vectors: u32, kvHeads: u32, capacity: u32, first: u32 }
@group(0) @binding(0) var<storage, read> k: array<vec4f>;
@group(0) @binding(1) var<storage, read> v: array<vec4f>;
@group(0) @binding(2) var<storage, read> position: array<u32>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var kCache: texture_storage_2d<rgba32float, write>;
@group(0) @binding(5) var vCache: texture_storage_2d<rgba32float, write>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let row = params.first + id.y + id.z * grid.y;
  let j = position[0] + row;
  if (id.x >= params.kvHeads * params.vectors || row >= params.rows || j >= params.capacity) { return; }
  let place = vec2u(
    j % CACHE_KEYS * params.vectors + id.x % params.vectors,
    pages[j / CACHE_KEYS] * params.kvHeads + id.x / params.vectors,
  );
  textureStore(kCache, place, k[row * params.stride4 + id.x]);
  textureStore(vCache, place, v[row * params.stride4 + id.x]);
}
