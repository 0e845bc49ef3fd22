// Prelude of mask_update.wgsl for layers without gates: no layer is cut whole.
fn gate_draw(layer: u32) -> vec4f { return vec4f(1.0, 0.0, 1.0, 0.0); }
fn layer_terms(layer: u32) -> vec2f { return vec2f(); }
