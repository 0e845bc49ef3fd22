// relu(g) = max(g, 0); its slope is 0 at 0.
struct Slope { value: vec4f, first: vec4f, second: vec4f }
fn activated(g: vec4f) -> vec4f { return max(g, vec4f()); }
fn activated_slope(g: vec4f) -> Slope {
  return Slope(max(g, vec4f()), select(vec4f(), vec4f(1.0), g > vec4f()), vec4f(1.0));
}
