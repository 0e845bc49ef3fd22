// Prelude: (R, H) of all masks with log α shifted by `shift`; see expected_size.wgsl. Declares bindings 1 to 5; needs
// logAlpha as binding 0 and GROUP.
struct Params { units: u32, hiddenFirst: u32, groupCount: u32, hiddenSize: f32, fixedR: f32, total: f32 }
@group(0) @binding(1) var<storage, read> units: array<vec4u>;
@group(0) @binding(2) var<storage, read> groups: array<vec4u>;
@group(0) @binding(3) var<storage, read> state: StepState;
@group(0) @binding(4) var<storage, read_write> constraint: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

fn expected_size(shift: f32, lane: u32) -> vec2f {
  var r = 0.0;
  var h = 0.0;
  for (var u = lane; u < params.hiddenFirst; u += GROUP) { r = fma(bitcast<f32>(units[u].x), alive(logAlpha[u] + shift), r); }
  for (var g = lane; g < params.groupCount; g += GROUP) {
    let group = groups[g];
    var dead = 1.0;
    for (var i = 0u; i < group.y; i++) { dead *= 1.0 - alive(logAlpha[group.x + i] + shift); }
    r += bitcast<f32>(group.z) * (1.0 - dead);
  }
  for (var u = params.hiddenFirst + lane; u < params.units; u += GROUP) { h += alive(logAlpha[u] + shift); }
  let rows = group_sum(r, lane) + params.fixedR;
  let dims = group_sum(h, lane);
  return vec2f(rows, select(params.hiddenSize, dims, params.units > params.hiddenFirst));
}
