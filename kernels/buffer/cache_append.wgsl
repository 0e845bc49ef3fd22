// Copies keys and values of tokens, from row params.first on, to the caches in buffers, a row each: key position[0] + r of one sequence, or with
// params.own = 1 key position[r] of the sequence of row r. Writes nothing past the capacity.
// Shapes: k, v [rows, 4·stride4]; kCache, vCache [pages, CACHE_KEYS, 4·stride4]; pages [rows or 1, perRow]: see
// attention_decode.ts.
// Grid: x = stride4 / 64, y and z rows. Writes (=).
struct Params { rows: u32, stride4: u32, capacity: u32, perRow: u32, own: u32, first: u32 }
@group(0) @binding(0) var<storage, read> k: array<vec4f>;
@group(0) @binding(1) var<storage, read> v: array<vec4f>;
@group(0) @binding(2) var<storage, read> position: array<u32>;
@group(0) @binding(3) var<storage, read> pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> kCache: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> vCache: array<vec4f>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) grid: vec3u,
) {
  let row = params.first + id.y + id.z * grid.y;
  if (id.x >= params.stride4 || row >= params.rows) { return; }
  let isOwn = params.own == 1u;
  let at = select(position[0] + row, position[row], isOwn);
  if (at >= params.capacity) { return; }
  let page = pages[select(0u, row * params.perRow, isOwn) + at / CACHE_KEYS];
  let source = row * params.stride4 + id.x;
  let cached = (page * CACHE_KEYS + at % CACHE_KEYS) * params.stride4 + id.x;
  kCache[cached] = k[source];
  vCache[cached] = v[source];
}
