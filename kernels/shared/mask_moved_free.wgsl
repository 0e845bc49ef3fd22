// Prelude: every unit moves by the shift.
const BOUNDED = false;
const PRESENT = 0.0; // the shift with which nothing moves
fn moved(unit: u32, shift: f32) -> f32 { return logAlpha[unit] + shift; }
fn follows(unit: u32, shift: f32) -> bool { return true; }
