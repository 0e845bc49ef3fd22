// Backward of RMSNorm of each head with frozen w, in place, with a lane for each head (see head_norm_lanes.wgsl):
//   d := r · g − x · r³ · mean over the head's `width` columns of (g · x), g = d ∘ w.
// Shapes: d, x [rows, stride] with consecutive heads of head4 vec4; w [head4], padding zero. r = 1 / sqrt(mean x² + ε)
// is recomputed.
// Grid: x, y the heads of all rows / GROUP. Writes (=) the heads of d.
struct Params { stride4: u32, head4: u32, width: f32, eps: f32, heads: u32, rows: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> d: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(
  @builtin(global_invocation_id) id: vec3u,
  @builtin(num_workgroups) groups: vec3u,
) {
  let index = id.x + id.y * groups.x * GROUP;
  let row = index / params.heads;
  if (row >= params.rows) { return; }
  let base = row * params.stride4 + index % params.heads * params.head4;
  var squares = vec4f();
  var products = vec4f();
  for (var c = 0u; c < params.head4; c++) {
    let value = x[base + c];
    squares = fma(value, value, squares);
    products = fma(d[base + c] * w[c], value, products);
  }
  let square = squares.x + squares.y + squares.z + squares.w;
  let dot = products.x + products.y + products.z + products.w;
  let inverse = inverseSqrt(square / params.width + params.eps);
  let factor = inverse * inverse * inverse * dot / params.width;
  for (var c = 0u; c < params.head4; c++) {
    d[base + c] = inverse * d[base + c] * w[c] - factor * x[base + c];
  }
}
