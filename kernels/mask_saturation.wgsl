// Prelude: keeps a shift from driving all units beyond ±SATURATED, where the clamp of log α would mix their order. Such a target (0, or all) is met
// as well with every unit at it. Needs GROUP and logAlpha. Uniform: all lanes call it with the same numbers.
const SATURATED = 50.0;

fn short_of_saturation(shift: f32, first: u32, count: u32, lane: u32) -> f32 {
  // Of a part without units nothing holds the shift.
  if (count == 0u) { return shift; }
  var largest = -1e30;
  var smallest = 1e30;
  for (var u = lane; u < count; u += GROUP) {
    largest = max(largest, logAlpha[first + u]);
    smallest = min(smallest, logAlpha[first + u]);
  }
  return clamp(shift, -SATURATED - group_max(largest, lane), SATURATED + group_max(-smallest, lane));
}
