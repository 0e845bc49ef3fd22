// A value of a row, and one minus the mean; 0 in padding columns. Needs params.width.
fn within(value: vec4f, c: u32) -> vec4f {
  return select(vec4f(), value, 4u * c + vec4u(0u, 1u, 2u, 3u) < vec4u(params.width));
}

fn centred(value: vec4f, mean: f32, c: u32) -> vec4f {
  return within(value - mean, c);
}
