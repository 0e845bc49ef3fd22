// relu²(g) = max(g, 0)²; its slope is 2 · max(g, 0).
struct Slope { value: vec4f, first: vec4f, second: vec4f }
fn activated(g: vec4f) -> vec4f {
  let r = max(g, vec4f());
  return r * r;
}
fn activated_slope(g: vec4f) -> Slope {
  let r = max(g, vec4f());
  return Slope(r * r, 2.0 * r, vec4f(1.0));
}
