// RMSNorm of each head with a lane for each head, for adapters where barriers cost more than loads far apart:
//   y[m, h, c] = x[m, h, c] · r · w[c], r = 1 / sqrt(mean over the head's `width` columns of x² + ε).
// Shapes: x, y [rows, stride] with consecutive heads of head4 vec4; w [head4], padding zero. Padding columns of a head
// are zero in x, so the sum may include them.
// Grid: x, y the heads of all rows / GROUP. Writes (=) y, including zeros in the columns after the heads.
struct Params { stride4: u32, head4: u32, width: f32, eps: f32, heads: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) groups: vec3u,
) {
  let index = id.x + id.y * groups.x * GROUP;
  let row = index / params.heads;
  let head = index % params.heads;
  if (row >= params.rows) { return; }
  let base = row * params.stride4 + head * params.head4;
  var sum = vec4f();
  for (var c = 0u; c < params.head4; c++) {
    let value = x[base + c];
    sum = fma(value, value, sum);
  }
  let inverse = inverseSqrt((sum.x + sum.y + sum.z + sum.w) / params.width + params.eps);
  for (var c = 0u; c < params.head4; c++) {
    y[base + c] = x[base + c] * inverse * w[c];
  }
  if (head + 1u < params.heads) { return; }
  for (var c = params.heads * params.head4; c < params.stride4; c++) { y[row * params.stride4 + c] = vec4f(); }
}
