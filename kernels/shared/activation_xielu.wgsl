// xIELU with curve = (a, b, beta, eps): f(g) = a·g² + beta·g above 0, otherwise b·(exp(m) − 1 − g) + beta·g, m = min(g, eps), eps < 0.
// Its slope is 2a·g + beta above 0, otherwise b·(exp(g) − 1) + beta, and beta − b between eps and 0, as torch has it.
struct Slope { value: vec4f, first: vec4f, second: vec4f }
// exp(m) − 1 − m for m ≤ 0: near 0 the terms of the series, where the difference would lose its digits.
fn remainder(m: vec4f) -> vec4f {
  let near = max(m, vec4f(-0.5));
  var sum = fma(near, vec4f(2.7557319e-6), vec4f(2.4801587e-5));
  sum = fma(near, sum, vec4f(1.984127e-4));
  sum = fma(near, sum, vec4f(1.3888889e-3));
  sum = fma(near, sum, vec4f(8.333333e-3));
  sum = fma(near, sum, vec4f(4.1666668e-2));
  sum = fma(near, sum, vec4f(0.16666667));
  sum = fma(near, sum, vec4f(0.5));
  return select(exp(m) - 1.0 - m, near * near * sum, m > vec4f(-0.5));
}
fn activated(g: vec4f) -> vec4f {
  let m = min(g, vec4f(curve.w));
  let below = curve.y * (remainder(m) + (m - g));
  return select(below, curve.x * g * g, g > vec4f()) + curve.z * g;
}
fn activated_slope(g: vec4f) -> Slope {
  let m = min(g, vec4f(curve.w));
  let r = remainder(m);
  let power = select(r + m, vec4f(-1.0), g > vec4f(curve.w));
  let value = select(curve.y * (r + (m - g)), curve.x * g * g, g > vec4f()) + curve.z * g;
  let slope = select(curve.y * power, 2.0 * curve.x * g, g > vec4f()) + curve.z;
  return Slope(value, slope, vec4f(1.0));
}
