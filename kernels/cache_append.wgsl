// Appends one row of keys and one row of values to the cache of each sequence: kCache[r, position[0]] = k[r] and
// vCache[r, position[0]] = v[r]. Writes nothing past the capacity.
// Shapes: k, v [sequences, 4·stride4]; kCache, vCache [sequences, capacity, 4·stride4]; position one u32.
// Grid: x = stride4 / 64, y = sequences. Writes (=).
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
  let source = id.y * params.stride4 + id.x;
  let cached = (id.y * params.capacity + row) * params.stride4 + id.x;
  kCache[cached] = k[source];
  vCache[cached] = v[source];
}
