// GELU in its tanh form: g/2 · (1 + tanh t) = g · s with t = √(2/π) · (g + 0.044715 g³) and s = sigmoid(2t), which does
// not overflow; slope s + g · s · (1 − s) · 2 dt/dg.
struct Slope { value: vec4f, first: vec4f, second: vec4f }
const TWICE = 1.5957691216057308; // 2√(2/π)
fn activated(g: vec4f) -> vec4f { return g / (1.0 + exp(-TWICE * (g + 0.044715 * g * g * g))); }
fn activated_slope(g: vec4f) -> Slope {
  let squares = 0.044715 * g * g;
  let s = 1.0 / (1.0 + exp(-TWICE * (g + squares * g)));
  return Slope(g * s, s + g * s * (1.0 - s) * TWICE * (1.0 + 3.0 * squares), vec4f(1.0));
}
