// Backward of LayerNorm of each head with frozen w, in place: g = d ∘ w, n = (x − μ) · r;
//   d := r · (g − mean of g − n · mean of (g · n)), means over the head's `width` columns. μ and r are recomputed.
// Shapes: d, x [rows, stride] with consecutive heads of stride4 vec4; w as a row of x. Padding columns are zero in x and w.
// Grid: one workgroup per head (x) and row (y). Writes (=) the heads of d.
struct Params { row4: u32, stride4: u32, width: u32, eps: f32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> d: array<vec4f>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * params.stride4;
  let base = group.y * params.row4 + first;
  let width = f32(params.width);
  let mean = row_mean(base, lane);
  var squares = vec4f();
  var sum = vec4f();
  var dots = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let value = centred(x[base + c], mean, c);
    let g = d[base + c] * w[first + c];
    squares = fma(value, value, squares);
    sum += g;
    dots = fma(g, value, dots);
  }
  let square = group_sum(squares.x + squares.y + squares.z + squares.w, lane);
  let inverse = inverseSqrt(square / width + params.eps);
  let offset = group_sum(sum.x + sum.y + sum.z + sum.w, lane) / width;
  let factor = group_sum(dots.x + dots.y + dots.z + dots.w, lane) / width * inverse;
  for (var c = lane; c < params.stride4; c += GROUP) {
    let n = centred(x[base + c], mean, c) * inverse;
    d[base + c] = inverse * (centred(d[base + c] * w[first + c], offset, c) - n * factor);
  }
}
