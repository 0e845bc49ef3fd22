// Residual stream plus a masked, normalised output: out[m, c] = x[m, c] + u[m, c] · r[m] · w[c], u = y ∘ z,
// r[m] = 1 / sqrt(mean over `width` columns of u² + ε).
// Shapes: y, x, out [rows, stride]; z, w [stride]. Padding columns of y are zero. Grid: one workgroup per row.
// Writes (=) out.
struct Params { rows: u32, stride4: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read> z: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.stride4;
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let value = y[base + c] * z[c];
    sum = fma(value, value, sum);
  }
  let total = group_sum(sum.x + sum.y + sum.z + sum.w, lane);
  let inverse = inverseSqrt(total / params.width + params.eps);
  for (var c = lane; c < params.stride4; c += GROUP) {
    out[base + c] = x[base + c] + y[base + c] * z[c] * inverse * w[c];
  }
}
