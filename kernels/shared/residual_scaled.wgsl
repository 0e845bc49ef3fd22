// Masked residual write with a factor: out[m, c] = x[m, c] + s · y[m, c] · z[c].
// Shapes: x, y, out [rows, stride]; z [stride]. Grid: x columns / 4, y rows. Writes (=) out.
struct Params { rows: u32, stride4: u32, s: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read> z: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  out[at] = fma(y[at], params.s * z[id.x], x[at]);
}
