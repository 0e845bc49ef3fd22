// Backward of RMSNorm of each head with frozen w, in place: d := r · g − x · r³ · mean over the head's `width` columns
// of (g · x), g = d ∘ w.
// Shapes: d, x [rows, stride] with consecutive heads of head4 vec4; w [head4], padding zero. r = 1 / sqrt(mean x² + ε)
// is recomputed.
// Grid: one workgroup per head (x) and row (y). Writes (=) the heads of d.
struct Params { stride4: u32, head4: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> d: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let base = group.y * params.stride4 + group.x * params.head4;
  var squares = vec4f();
  var products = vec4f();
  for (var c = lane; c < params.head4; c += GROUP) {
    let value = x[base + c];
    squares = fma(value, value, squares);
    products = fma(d[base + c] * w[c], value, products);
  }
  let square = group_sum(squares.x + squares.y + squares.z + squares.w, lane);
  let dot = group_sum(products.x + products.y + products.z + products.w, lane);
  let inverse = inverseSqrt(square / params.width + params.eps);
  let factor = inverse * inverse * inverse * dot / params.width;
  for (var c = lane; c < params.head4; c += GROUP) {
    d[base + c] = inverse * d[base + c] * w[c] - factor * x[base + c];
  }
}
