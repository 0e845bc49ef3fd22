// Prelude: (R, H) of all masks with log α shifted by `shift`; see expected_size.wgsl. Needs logAlpha, units, groups, params and GROUP.
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
