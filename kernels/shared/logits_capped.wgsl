// Prelude of the cross-entropy of logits with a soft cap, cap · tanh(raw / cap).
struct Params { rows: u32, stride: u32, vocab: u32, firstRow: u32, gradient: u32, cap: f32 }
fn logits_of(raw: vec4f) -> vec4f { return params.cap * tanh(clamp(raw / params.cap, vec4f(-10.0), vec4f(10.0))); }
fn logit_slopes(raw: vec4f) -> vec4f {
  let bent = tanh(clamp(raw / params.cap, vec4f(-10.0), vec4f(10.0)));
  return 1.0 - bent * bent;
}
