// LayerNorm with a lane for each row, for adapters where barriers cost more than loads far apart; see layer_norm.wgsl.
//   y[m, c] = (x[m, c] − μ[m]) · r[m] · w[c] + b[c], with μ and r = 1 / sqrt(variance + ε) over `width` columns.
// Shapes: x, y [rows, stride]; w, b [stride], padding zero; r [rows]. Padding columns of x are zero.
// Grid: rows / GROUP. Writes (=) y, with zeros in its padding columns, and r.
struct Params { rows: u32, stride4: u32, width: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> r: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= params.rows) { return; }
  let base = row * params.stride4;
  let mean = lane_mean(base);
  var sum = vec4f();
  for (var c = 0u; c < params.stride4; c++) {
    let value = centred(x[base + c], mean, c);
    sum = fma(value, value, sum);
  }
  let inverse = inverseSqrt((sum.x + sum.y + sum.z + sum.w) / f32(params.width) + params.eps);
  r[row] = inverse;
  // w and b are zero in padding columns.
  for (var c = 0u; c < params.stride4; c++) {
    y[base + c] = fma((x[base + c] - mean) * inverse, w[c], b[c]);
  }
}
