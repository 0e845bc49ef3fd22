// Prelude: the four mask values of columns 4·c4 … 4·c4 + 3. Needs z and params.{width, groupWidth}.
fn mask_of(c4: u32) -> vec4f {
  let c = 4u * c4;
  if (params.groupWidth > 1u) {
    return vec4f(select(0.0, z[min(c, params.width - 1u) / params.groupWidth], c < params.width));
  }
  let last = params.width - 1u;
  return vec4f(
    select(0.0, z[min(c, last)], c < params.width),
    select(0.0, z[min(c + 1u, last)], c + 1u < params.width),
    select(0.0, z[min(c + 2u, last)], c + 2u < params.width),
    select(0.0, z[min(c + 3u, last)], c + 3u < params.width),
  );
}
