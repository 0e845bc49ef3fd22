// How a part of a model changes the residual stream x to y, by token m; d = y − x:
//   changes[first + m] = (Σ d², Σ d·(x + y), Σ x²)
// With them 1 − cos(x, y) = (Σd² − (‖y‖ − ‖x‖)²) / (2·‖x‖·‖y‖) keeps its precision where y is nearly x, since
// Σ d·(x + y) = ‖y‖² − ‖x‖².
// Shapes: x, y [rows, stride4] vec4, padding columns 0; changes [count, 3]. Grid: one workgroup per row. Writes (=).
struct Params { stride4: u32, first: u32 }
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> changes: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(GROUP) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = group.x;
  var sums = vec3f();
  for (var c = lane; c < params.stride4; c += GROUP) {
    let before = x[row * params.stride4 + c];
    let after = y[row * params.stride4 + c];
    let d = after - before;
    sums += vec3f(dot(d, d), dot(d, before + after), dot(before, before));
  }
  let squares = group_sum(sums.x, lane);
  let growth = group_sum(sums.y, lane);
  let size = group_sum(sums.z, lane);
  if (lane != 0u) { return; }
  let at = 3u * (params.first + row);
  changes[at] = squares;
  changes[at + 1u] = growth;
  changes[at + 2u] = size;
}
