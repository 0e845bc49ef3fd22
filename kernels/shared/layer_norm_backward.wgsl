// Backward of LayerNorm with frozen w and b: g = dy ∘ w, n = (x − μ) · r;
//   dx = r · (g − mean of g − n · mean of (g · n)), means over `width` columns.
// Shapes: dy, x, dx [rows, stride]; w [stride], padding zero; r [rows]. Grid: one workgroup per row.
// dx (+=) if params.accumulate is 1, otherwise (=); its padding columns stay zero.
struct Params { rows: u32, stride4: u32, width: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read> r: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  let base = row * params.stride4;
  let mean = row_mean(base, lane);
  let inverse = r[row];
  var sum = vec4f();
  var dots = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let g = dy[base + c] * w[c];
    sum += g;
    dots = fma(g, centred(x[base + c], mean, c) * inverse, dots);
  }
  let width = f32(params.width);
  let offset = group_sum(sum.x + sum.y + sum.z + sum.w, lane) / width;
  let factor = group_sum(dots.x + dots.y + dots.z + dots.w, lane) / width;
  for (var c = lane; c < params.stride4; c += GROUP) {
    let n = centred(x[base + c], mean, c) * inverse;
    let value = inverse * (centred(dy[base + c] * w[c], offset, c) - n * factor);
    if (params.accumulate == 1u) { dx[base + c] += value; } else { dx[base + c] = value; }
  }
}
