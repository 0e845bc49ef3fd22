// Prelude: a unit moves by the shift clamped to the bounds of its part; held units do not move. See mask_bounds.wgsl.
@group(0) @binding(5) var<storage, read> bounds: array<vec2f>;
const BOUNDED = true;
const PRESENT = 1e9; // the shift with which nothing moves
fn moved(unit: u32, shift: f32) -> f32 {
  if (shift == PRESENT || is_held(unit)) { return logAlpha[unit]; }
  let bound = bounds[bound_of(unit)];
  return logAlpha[unit] + clamp(shift, bound.x, bound.y);
}
fn follows(unit: u32, shift: f32) -> bool {
  let bound = bounds[bound_of(unit)];
  return !is_held(unit) && bound.x < shift && shift < bound.y;
}
