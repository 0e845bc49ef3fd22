// silu(g) = g · sigmoid(g), and its slope sigmoid(g) · (1 + g − silu(g)) as two factors.
struct Slope { value: vec4f, first: vec4f, second: vec4f }
fn activated(g: vec4f) -> vec4f { return g / (1.0 + exp(-g)); }
fn activated_slope(g: vec4f) -> Slope {
  let sigmoid = 1.0 / (1.0 + exp(-g));
  let value = g * sigmoid;
  return Slope(value, sigmoid, 1.0 + g - value);
}
