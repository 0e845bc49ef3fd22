// Row sums of |W ∘ dW|: sums[into + m] (=) Σ over columns of |W[first + m, c] · gradient[m, c]|.
// Shapes: W [rows, stride]; gradient [chunk, stride], rows first … first + chunk − 1 of dL/dW; sums [rows]. Padding
// columns of W are zero.
// Grid: one workgroup per row of the chunk. weight_access.ts generates `load_weight4`, from binding 3.
struct Params { first: u32, stride4: u32, into: u32 }
@group(0) @binding(0) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    sum += abs(load_weight4(params.first + row, c, params.stride4) * gradient[row * params.stride4 + c]);
  }
  let total = group_sum(sum.x + sum.y + sum.z + sum.w, lane);
  if (lane == 0u) { sums[params.into + row] = total; }
}
