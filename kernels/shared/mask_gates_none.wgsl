// Prelude for masks without gates: no layer is cut whole.
fn fill_gates(shift: f32, lane: u32) {}
fn gate_of(bound: u32) -> f32 { return 1.0; }
fn gated_rest(lane: u32) -> f32 { return 0.0; }
