// RMSNorm of each head: y[m, h, c] = x[m, h, c] · r · w[c],
//   r = 1 / sqrt(mean over the head's `width` columns of x² + ε).
// Shapes: x, y [rows, stride] with consecutive heads of head4 vec4; w [head4], padding zero. Padding columns of a head
// are zero in x, so the sum may include them.
// Grid: one workgroup per head (x) and row (y). Writes (=) y, including zeros in the columns after the heads.
struct Params { stride4: u32, head4: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  let base = group.y * params.stride4 + group.x * params.head4;
  var sum = vec4f();
  for (var c = lane; c < params.head4; c += GROUP) {
    let value = x[base + c];
    sum = fma(value, value, sum);
  }
  let total = group_sum(sum.x + sum.y + sum.z + sum.w, lane);
  let inverse = inverseSqrt(total / params.width + params.eps);
  for (var c = lane; c < params.head4; c += GROUP) {
    y[base + c] = x[base + c] * inverse * w[c];
  }
  if (group.x + 1u < groups.x) { return; }
  for (var c = groups.x * params.head4 + lane; c < params.stride4; c += GROUP) {
    y[group.y * params.stride4 + c] = vec4f();
  }
}
