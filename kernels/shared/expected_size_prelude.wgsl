// Prelude: (R, H) of all masks with log α moved by `shift`; see expected_size.wgsl. Declares bindings 1 to 4. Needs
// logAlpha as binding 0, the preludes of pairs and tables, and a prelude that defines how a unit moves.
struct Params { units: u32, hiddenFirst: u32, layerFirst: u32, groupCount: u32, layers: u32, hiddenSize: f32, fixedR: f32, total: f32, square: f32 }
@group(0) @binding(1) var<storage, read> tables: array<vec4u>;
@group(0) @binding(2) var<storage, read> state: StepState;
@group(0) @binding(3) var<storage, read_write> constraint: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

fn expected_size(shift: f32, lane: u32) -> vec2f {
  var r = 0.0;
  var h = 0.0;
  fill_gates(shift, lane);
  for (var u = lane; u < params.hiddenFirst; u += GROUP) { r = fma(cost_of(u) * gate_of(bound_of(u)), alive(moved(u, shift)), r); }
  for (var g = lane; g < params.groupCount; g += GROUP) {
    let group = tables[params.units + g];
    var dead = 1.0;
    for (var i = 0u; i < group.y; i++) { dead *= 1.0 - alive(moved(group.x + i, shift)); }
    r += bitcast<f32>(group.z) * gate_of(3u * group.w) * (1.0 - dead);
  }
  for (var u = params.hiddenFirst + lane; u < params.layerFirst; u += GROUP) { h += alive(moved(u, shift)); }
  r += gated_rest(lane);
  let sums = pair_sum(vec2f(r, h), lane);
  let hidden = select(params.hiddenSize, sums.y, params.layerFirst > params.hiddenFirst);
  return vec2f(sums.x + params.fixedR - params.square * (params.hiddenSize - hidden), hidden);
}
