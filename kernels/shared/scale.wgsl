// Mask of column groups: y[m, c] = x[m, c] · z[c / groupWidth], zero in the columns from `width`.
// Shapes: x, y [rows, stride]; z [width / groupWidth]. Grid: x columns / 4, y rows. Writes (=) y. groupWidth is 1 or a
// multiple of 4.
struct Params { rows: u32, stride4: u32, width: u32, groupWidth: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.stride4) { return; }
  let at = id.y * params.stride4 + id.x;
  y[at] = x[at] * mask_of(id.x);
}
