// Backward of the masked, normalised output u · r ∘ w, u = y ∘ z, with frozen w: g = dout ∘ w;
//   du = r · g − u · r³ · mean over `width` columns of (g · u),  r as in the forward kernel.
// Shapes: dout, y, du [rows, stride]; z, w [stride]. Grid: one workgroup per row. Writes (=) du.
struct Params { rows: u32, stride4: u32, width: f32, eps: f32 }
@group(0) @binding(0) var<storage, read> dout: array<vec4f>;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read> z: array<vec4f>;
@group(0) @binding(3) var<storage, read> w: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> du: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.stride4;
  var squares = vec4f();
  var products = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let u = y[base + c] * z[c];
    squares = fma(u, u, squares);
    products = fma(dout[base + c] * w[c], u, products);
  }
  let square = group_sum(squares.x + squares.y + squares.z + squares.w, lane);
  let product = group_sum(products.x + products.y + products.z + products.w, lane);
  let inverse = inverseSqrt(square / params.width + params.eps);
  let factor = inverse * inverse * inverse * product / params.width;
  for (var c = lane; c < params.stride4; c += GROUP) {
    du[base + c] = inverse * dout[base + c] * w[c] - factor * y[base + c] * z[c];
  }
}
