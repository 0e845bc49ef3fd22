// LayerNorm of each head without bias, each with weights of its own: y[m, h, c] = (x[m, h, c] − μ) · r · w[h, c],
//   μ and r = 1 / sqrt(variance + ε) over the head's `width` columns.
// Shapes: x, y [rows, stride] with consecutive heads of stride4 vec4; w as a row of x. Padding columns are zero in x and w.
// Grid: one workgroup per head (x) and row (y). Writes (=) y, including zeros in the columns after the heads.
struct Params { row4: u32, stride4: u32, width: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let first = group.x * params.stride4;
  let base = group.y * params.row4 + first;
  let mean = row_mean(base, lane);
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let value = centred(x[base + c], mean, c);
    sum = fma(value, value, sum);
  }
  let total = group_sum(sum.x + sum.y + sum.z + sum.w, lane);
  let inverse = inverseSqrt(total / f32(params.width) + params.eps);
  for (var c = lane; c < params.stride4; c += GROUP) {
    y[base + c] = centred(x[base + c], mean, c) * inverse * w[first + c];
  }
  if (group.x + 1u < groups.x) { return; }
  for (var c = groups.x * params.stride4 + lane; c < params.row4; c += GROUP) {
    y[group.y * params.row4 + c] = vec4f();
  }
}
