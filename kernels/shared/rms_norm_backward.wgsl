// Backward of RMSNorm with frozen w: g = dy ∘ w;  dx = r · g − x · r³ · mean over `width` columns of (g · x).
// Shapes: dy, x, dx [rows, stride]; w [stride]; r [rows]. Grid: one workgroup per row.
// dx (+=) if params.accumulate is 1, otherwise (=).
struct Params { rows: u32, stride4: u32, width: f32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read> r: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let base = row * params.stride4;
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    sum = fma(dy[base + c] * w[c], x[base + c], sum);
  }
  let total = group_sum(sum.x + sum.y + sum.z + sum.w, lane);
  let inverse = r[row];
  let factor = inverse * inverse * inverse * total / params.width;
  for (var c = lane; c < params.stride4; c += GROUP) {
    let value = inverse * dy[base + c] * w[c] - factor * x[base + c];
    if (params.accumulate == 1u) { dx[base + c] += value; } else { dx[base + c] = value; }
  }
}
