// Prelude: limits a shift so that it cannot move all units that follow it beyond ±SATURATED, or beyond a smaller bound
// if the limit of log α is near, so that the clamp of log α does not change their order. A target that would need more
// (0, all, or more than the following units can give) is met as well, or as nearly, with all of them at this bound.
// Needs the prelude of pairs, logAlpha, `follows` and a state. Uniform: all lanes call it with the same arguments.
const SATURATED = 50.0;

/// Largest and smallest log α of those units that follow the shift; where none does, the largest is below the smallest.
fn extremes(shift: f32, first: u32, count: u32, lane: u32) -> vec2f {
  var largest = -1e30;
  var smallest = 1e30;
  for (var u = lane; u < count; u += GROUP) {
    if (!follows(first + u, shift)) { continue; }
    largest = max(largest, logAlpha[first + u]);
    smallest = min(smallest, logAlpha[first + u]);
  }
  let most = pair_max(vec2f(largest, -smallest), lane);
  return vec2f(most.x, -most.y);
}

/// Where nothing follows, nothing holds the shift. Beyond `settled` one draw in a thousand is not what all others are.
fn short_of_saturation(shift: f32, edges: vec2f) -> f32 {
  let settled = 2.4 * state.temperature + 7.0 * max(state.noise, 0.05);
  let far = min(SATURATED, max(settled, state.limit - (edges.x - edges.y)));
  return select(clamp(shift, -far - edges.x, far - edges.y), shift, edges.x < edges.y);
}
