// Prelude of mask_update.wgsl for layers with gates: see mask_gates.wgsl.
@group(0) @binding(8) var<storage, read> gates: array<vec2f>;
fn gate_draw(layer: u32) -> vec4f {
  let gate = tables[params.units + params.groupCount + 5u * layer + 1u].w;
  if (gate == NONE) { return vec4f(1.0, 0.0, 1.0, 0.0); }
  return draws[gate];
}
fn layer_terms(layer: u32) -> vec2f { return gates[layer]; }
