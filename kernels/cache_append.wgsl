// Appends one row of keys and one of values to a cache: kCache[position[0]] = k[0] and vCache[position[0]] = v[0]; nothing past the capacity.
// Shapes: k, v [1, 4·stride4]; kCache, vCache [capacity, 4·stride4]; position one u32. Grid: x = stride4 / 64. Writes (=).
struct Params { stride4: u32, capacity: u32 }
@group(0) @binding(0) var<storage, read> k: array<vec4f>;
@group(0) @binding(1) var<storage, read> v: array<vec4f>;
@group(0) @binding(2) var<storage, read> position: array<u32>;
@group(0) @binding(3) var<storage, read_write> kCache: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> vCache: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = position[0];
  if (id.x >= params.stride4 || row >= params.capacity) { return; }
  kCache[row * params.stride4 + id.x] = k[id.x];
  vCache[row * params.stride4 + id.x] = v[id.x];
}
