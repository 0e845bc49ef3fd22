// Backward of LayerNorm with frozen w and b, with a lane for each row; see layer_norm_backward.wgsl. g = dy ∘ w,
//   n = (x − μ) · r;  dx = r · (g − mean of g − n · mean of (g · n)), means over `width` columns.
// Shapes: dy, x, dx [rows, stride]; w [stride], padding zero; r [rows]. Grid: rows / GROUP.
// dx (+=) if params.accumulate is 1, otherwise (=); its padding columns stay zero.
struct Params { rows: u32, stride4: u32, width: u32, accumulate: u32 }
@group(0) @binding(0) var<storage, read> dy: array<vec4f>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> w: array<vec4f>;
@group(0) @binding(3) var<storage, read> r: array<f32>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  if (row >= params.rows) { return; }
  let base = row * params.stride4;
  let mean = lane_mean(base);
  let inverse = r[row];
  var sum = vec4f();
  var dots = vec4f();
  // g is zero in padding columns, as w is.
  for (var c = 0u; c < params.stride4; c++) {
    let g = dy[base + c] * w[c];
    sum += g;
    dots = fma(g, (x[base + c] - mean) * inverse, dots);
  }
  let width = f32(params.width);
  let offset = (sum.x + sum.y + sum.z + sum.w) / width;
  let factor = (dots.x + dots.y + dots.z + dots.w) / width;
  for (var c = 0u; c < params.stride4; c++) {
    let n = (x[base + c] - mean) * inverse;
    let value = inverse * within(dy[base + c] * w[c] - offset - n * factor, c);
    if (params.accumulate == 1u) { dx[base + c] += value; } else { dx[base + c] = value; }
  }
}
