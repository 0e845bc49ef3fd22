// Projects log α onto the constraint: adds to all units the shift with which ŝ = ŝ0 + tracking · (target − ŝ0), found
// by bisection. In the bounded variant, units of a part move by the shift clamped to the bounds of the part, and held
// units do not move. Without a goal (state.goal < 0) the shift is 0.
// Shapes as in expected_size.wgsl. Grid: one workgroup. Updates logAlpha in place; constraint[6] = shift,
// constraint[7] = ŝ after the shift.
@group(0) @binding(0) var<storage, read_write> logAlpha: array<f32>;

@compute @workgroup_size(GROUP) fn main(@builtin(local_invocation_index) lane: u32) {
  let isMoved = state.tracking > 0.0 && state.goal >= 0.0;
  let halvings = select(0u, 40u, isMoved);
  var low = -250.0;
  var high = 250.0;
  var shift = PRESENT;
  var reached = 0.0;
  var wanted = 0.0;
  // The present size, the halvings, and the size after the shift: in one loop, because every call is compiled separately.
  for (var i = 0u; i < halvings + 2u; i++) {
    if (i == halvings + 1u) {
      if (isMoved) { shift = short_of_saturation(shift, extremes(shift, 0u, params.units, lane)); } else { shift = 0.0; }
    }
    let size = expected_size(shift, lane);
    reached = 1.0 - size.x * size.y / params.total;
    if (i == 0u) {
      wanted = reached + state.tracking * (state.goal - reached);
    } else if (reached > wanted) { low = shift; } else { high = shift; }
    if (i < halvings) { shift = 0.5 * (low + high); }
  }
  workgroupBarrier();
  storageBarrier();
  for (var u = lane; u < params.units; u += GROUP) { logAlpha[u] = moved(u, shift); }
  if (lane == 0u) {
    constraint[6] = shift;
    constraint[7] = reached;
  }
}
