// Prelude of the cross-entropy of logits with a soft cap, cap · tanh(raw / cap).
struct Params { rows: u32, stride: u32, vocab: u32, firstRow: u32, gradient: u32, cap: f32 }
fn logit_of(raw: f32) -> f32 { return params.cap * tanh(clamp(raw / params.cap, -10.0, 10.0)); }
fn logit_slope(raw: f32) -> f32 {
  let bent = tanh(clamp(raw / params.cap, -10.0, 10.0));
  return 1.0 - bent * bent;
}
