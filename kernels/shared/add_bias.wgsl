// Bias of a projection: y[m, c] += b[c].
// Shapes: y [rows, stride]; b [stride], 0 in the padding columns. Grid: x columns / 4, y rows. Adds (+=) to y.
struct Params { rows: u32, stride4: u32 }
@group(0) @binding(0) var<storage, read> b: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  y[at] += b[id.x];
}
