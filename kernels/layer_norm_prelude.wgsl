// Mean of a row of x, and its values without the mean. Needs x, params.stride4, params.width and reduce.wgsl.
fn row_mean(base: u32, lane: u32) -> f32 {
  var sum = vec4f();
  for (var c = lane; c < params.stride4; c += GROUP) { sum += x[base + c]; }
  return group_sum(sum.x + sum.y + sum.z + sum.w, lane) / f32(params.width);
}

// value − mean; 0 in padding columns.
fn centred(value: vec4f, mean: f32, c: u32) -> vec4f {
  return select(vec4f(), value - mean, 4u * c + vec4u(0u, 1u, 2u, 3u) < vec4u(params.width));
}
