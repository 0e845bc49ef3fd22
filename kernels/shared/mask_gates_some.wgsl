// Prelude: P(z > 0) of the gate of every layer, computed once for all units of the layer; 1 without a gate. Needs
// MOST_LAYERS.
var<workgroup> gate_alive: array<f32, MOST_LAYERS>;

fn gate_unit(layer: u32) -> u32 { return tables[params.units + params.groupCount + 5u * layer + 1u].w; }

fn fill_gates(shift: f32, lane: u32) {
  workgroupBarrier();
  for (var layer = lane; layer < params.layers; layer += GROUP) {
    let gate = gate_unit(layer);
    if (gate == NONE) { gate_alive[layer] = 1.0; } else { gate_alive[layer] = alive(moved(gate, shift)); }
  }
  workgroupBarrier();
}

fn gate_of(bound: u32) -> f32 { return gate_alive[bound / 3u]; }

/// What no unit but the gate of its layer cuts.
fn gated_rest(lane: u32) -> f32 {
  var r = 0.0;
  for (var layer = lane; layer < params.layers; layer += GROUP) {
    if (gate_unit(layer) == NONE) { continue; }
    let first = params.units + params.groupCount + 5u * layer;
    r = fma(bitcast<f32>(tables[first + 1u].x) + bitcast<f32>(tables[first + 3u].x), gate_alive[layer], r);
  }
  return r;
}
