// Mean of a row of x. Needs x, params.stride4, params.width and reduce.wgsl.
fn row_mean(base: u32, lane: u32) -> f32 {
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) { sum += x[base + c]; }
  return group_sum(sum.x + sum.y + sum.z + sum.w, lane) / f32(params.width);
}
