// GELU with the error function: g · P(g), P(g) = erfc(−g / √2) / 2 the normal distribution; slope P(g) + g · exp(−g² / 2) / √(2π).
// erfc is the Chebyshev fit of Numerical Recipes (section 6.2, erfcc): its relative error is below 1.2e-7 everywhere.
struct Slope { value: vec4f, first: vec4f, second: vec4f }
// erfc(z) / 2 for z ≥ 0, with bell = exp(−z²).
fn upper_tail(z: vec4f, bell: vec4f) -> vec4f {
  let t = 1.0 / (1.0 + 0.5 * z);
  var sum = fma(t, vec4f(0.17087277), vec4f(-0.82215223));
  sum = fma(t, sum, vec4f(1.48851587));
  sum = fma(t, sum, vec4f(-1.13520398));
  sum = fma(t, sum, vec4f(0.27886807));
  sum = fma(t, sum, vec4f(-0.18628806));
  sum = fma(t, sum, vec4f(0.09678418));
  sum = fma(t, sum, vec4f(0.37409196));
  sum = fma(t, sum, vec4f(1.00002368));
  return 0.5 * t * bell * exp(fma(t, sum, vec4f(-1.26551223)));
}
fn normal(g: vec4f, bell: vec4f) -> vec4f {
  let tail = upper_tail(abs(g) * 0.7071067811865476, bell);
  return select(tail, 1.0 - tail, g > vec4f());
}
fn activated(g: vec4f) -> vec4f { return g * normal(g, exp(-0.5 * g * g)); }
fn activated_slope(g: vec4f) -> Slope {
  let bell = exp(-0.5 * g * g);
  let p = normal(g, bell);
  return Slope(g * p, p + g * bell * 0.3989422804014327, vec4f(1.0));
}
