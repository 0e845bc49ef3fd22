// Prelude: the hard concrete distribution (Louizos et al. 2018), stretched to (γ, ζ) = (−0.1, 1.1), with noise scaled
// by τ = state.noise.
//   s = sigmoid((τ · logit(u) + log α) / β);  z = clamp(s · (ζ − γ) + γ, 0, 1);
//   P(z > 0) = sigmoid((log α − β · log(−γ / ζ)) / τ).
const GAMMA = -0.1;
const ZETA = 1.1;
const LOG_RATIO = 2.3978952727983707; // −log(−γ / ζ)

fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }

/// P(z > 0) of a mask; τ is kept off 0 so that the expectation stays differentiable.
fn alive(logAlpha: f32) -> f32 {
  return sigmoid((logAlpha + state.temperature * LOG_RATIO) / max(state.noise, 0.05));
}

/// d P(z > 0) / d log α.
fn alive_slope(p: f32) -> f32 { return p * (1.0 - p) / max(state.noise, 0.05); }
