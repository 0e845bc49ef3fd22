// Product with a number: y[m, c] = s · x[m, c].
// Shapes: x, y [rows, stride]. Grid: x columns / 4, y rows. Writes (=) y.
struct Params { rows: u32, stride4: u32, s: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  y[at] = params.s * x[at];
}
