// RMSNorm: y[m, c] = x[m, c] · r[m] · w[c], r[m] = 1 / sqrt(mean over `width` columns of x² + ε).
// Shapes: x, y [rows, stride]; w [stride], padding zero; r [rows]. Padding columns of x are zero, so the sum may
// include them.
// Grid: one workgroup per row. Writes (=) y and r.
struct Params { rows: u32, stride4: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> r: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let base = row * params.stride4;
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let value = x[base + c];
    sum = fma(value, value, sum);
  }
  let total = group_sum(sum.x + sum.y + sum.z + sum.w, lane);
  let inverse = inverseSqrt(total / params.width + params.eps);
  if (lane == 0u) { r[row] = inverse; }
  for (var c = lane; c < params.stride4; c += GROUP) {
    y[base + c] = x[base + c] * inverse * w[c];
  }
}
