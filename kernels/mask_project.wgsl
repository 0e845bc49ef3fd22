// Projects log α onto the constraint: adds to all units the shift with which ŝ = ŝ0 + tracking · (target − ŝ0), found
// by bisection. In the bounded variant, units of a part move by the shift clamped to the bounds of the part, and held
// units do not move. Without a goal (state.goal < 0) the shift is 0.
// Shapes as in expected_size.wgsl. Grid: one workgroup. Updates logAlpha in place; constraint[6] = shift,
// constraint[7] = ŝ after the shift.
@group(0) @binding(0) var<storage, read_write> logAlpha: array<f32>;

@compute @workgroup_size(GROUP) fn main(@builtin(local_invocation_index) lane: u32) {
  let now = expected_size(PRESENT, lane);
  let present = 1.0 - now.x * now.y / params.total;
  var shift = 0.0;
  var reached = present;
  if (state.tracking > 0.0 && state.goal >= 0.0) {
    let wanted = present + state.tracking * (state.goal - present);
    var low = -250.0;
    var high = 250.0;
    for (var i = 0u; i < 40u; i++) {
      shift = 0.5 * (low + high);
      let size = expected_size(shift, lane);
      reached = 1.0 - size.x * size.y / params.total;
      if (reached > wanted) { low = shift; } else { high = shift; }
    }
    shift = short_of_saturation(shift, extremes(shift, 0u, params.units, lane));
  }
  if (BOUNDED || (state.tracking > 0.0 && state.goal >= 0.0)) {
    let size = expected_size(shift, lane);
    reached = 1.0 - size.x * size.y / params.total;
  }
  workgroupBarrier();
  storageBarrier();
  for (var u = lane; u < params.units; u += GROUP) { logAlpha[u] = moved(u, shift); }
  if (lane == 0u) {
    constraint[6] = shift;
    constraint[7] = reached;
  }
}
