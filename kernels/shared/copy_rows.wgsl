// Copies rows by index: gather y[i] = x[order[first + i]], or scatter y[order[first + i]] = x[i], for i < rows.
// Shapes: x and y [·, stride4] vec4; order [·] u32; scatter requires that each row occurs at most once.
// Grid: x stride4 / 64, y rows. Writes (=).
struct Params { first: u32, stride4: u32, scatter: u32 }
@group(0) @binding(0) var<storage, read> order: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let row = order[params.first + id.y];
  let source = select(row, id.y, params.scatter == 1u);
  let target_row = select(id.y, row, params.scatter == 1u);
  y[target_row * params.stride4 + id.x] = x[source * params.stride4 + id.x];
}
