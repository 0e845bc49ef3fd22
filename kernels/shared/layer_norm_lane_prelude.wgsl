// Mean of a row of x by one lane. Needs x, params.stride4 and params.width.
fn lane_mean(base: u32) -> f32 {
  var sum = vec4f();
  for (var c = 0u; c < params.stride4; c++) { sum += x[base + c]; }
  return (sum.x + sum.y + sum.z + sum.w) / f32(params.width);
}
